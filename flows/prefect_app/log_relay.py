"""Output as lines for a log, and the level that each has there. Knows nothing of whose output, nor whose log."""

import io
import logging
from collections.abc import Callable
from typing import TextIO

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
    """A function that logs lines at the level that their first word names, INFO without one.

    An indented line belongs to the one above it, and has its level; so has the line that ends a traceback. What would
    steer a terminal does not, nor does a server get what is no text; a line without end is cut.
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
        log(level, printable(line[:LONGEST_LINE].expandtabs()))

    return relay


class Lines(io.TextIOBase):
    """A text stream whose lines ``on_line`` gets, bars of progress excepted.

    Args:
        on_line: gets each line that is not blank, without its end.
        stream: gets everything as well, and is what the stream says of itself; None: there is none.
    """

    def __init__(self, on_line: Callable[[str], None], stream: TextIO | None = None) -> None:
        self._on_line = on_line
        self._stream = stream
        self._begun = ""

    def write(self, text: str) -> int:
        """Take ``text``."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            shown = line.rpartition("\r")[2].rstrip()
            if shown:
                self._on_line(shown)
        return len(text) if self._stream is None else self._stream.write(text)

    def flush(self) -> None:
        """Pass on what can be."""
        if self._stream is not None:
            self._stream.flush()

    def isatty(self) -> bool:
        """Whether people watch."""
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        """The descriptor of the stream, for child processes."""
        return super().fileno() if self._stream is None else self._stream.fileno()
