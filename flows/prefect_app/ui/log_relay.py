"""Turns the output of a program into log records with levels."""

import io
import logging
from collections.abc import Callable
from typing import TextIO

from atlas_model.core.errors import without_credentials
from flows.text import printable

LONGEST_LINE = 10_000  # characters
TRACEBACK = "Traceback"
CHAIN = ("During handling of the above exception", "The above exception was the direct cause")
LEVELS = {
    "critical": logging.CRITICAL,
    "error": logging.ERROR,
    "traceback": logging.ERROR,
    "warning": logging.WARNING,
}


def relay_to(log: Callable[[int, str], None]) -> Callable[[str], None]:
    """A function that logs each line at the level named by its first word, else at INFO.

    An indented line has the level of the line above, as has the last line of a traceback. Control characters and
    credentials of URLs are replaced, long lines are cut.
    """
    level, in_traceback = logging.INFO, False

    def relay(line: str) -> None:
        nonlocal level, in_traceback
        if not line[:1].isspace():
            ends_traceback, in_traceback = in_traceback, line.startswith(TRACEBACK)
            if ends_traceback or line.startswith(CHAIN):
                level = logging.ERROR
            else:
                level = LEVELS.get(line.partition(" ")[0].rstrip(":").lower(), logging.INFO)
        log(level, printable(without_credentials(line)[:LONGEST_LINE].expandtabs()))

    return relay


class Lines(io.TextIOBase):
    """A text stream that passes its lines to ``on_line``, except progress bars.

    Args:
        on_line: called with each line that is not blank, without the newline.
        stream: receives all text as well, and answers `isatty` and `fileno`; None: no such stream.
    """

    def __init__(self, on_line: Callable[[str], None], stream: TextIO | None = None) -> None:
        self._on_line = on_line
        self._stream = stream
        self._begun = ""

    def write(self, text: str) -> int:
        """Write ``text``."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            shown = line.rpartition("\r")[2].rstrip()
            if shown:
                self._on_line(shown)
        return len(text) if self._stream is None else self._stream.write(text)

    def flush(self) -> None:
        """Flush the stream."""
        if self._stream is not None:
            self._stream.flush()

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        """The descriptor of the stream, for child processes."""
        return super().fileno() if self._stream is None else self._stream.fileno()
