"""Incremental JSON parser: memory holds one element of a list, not the whole list.

It applies Python's own scanner to a moving window, so values and errors are those of `json.loads`. (ijson replaces a
lone surrogate by a question mark, and takes gigabytes of memory for 100,000 opening brackets.)
"""

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

WINDOW = 1_000_000  # characters read at once
MAX_VALUE = 16_000_000  # characters of one value

_MAY_GO_ON = ("", *"0123456789.eE+-")  # characters that may continue a number at the end of the window
_SPACE = re.compile(r"[ \t\r\n]*")


class JsonStream:
    """Parser over ``file``. All methods raise ValueError or RecursionError on invalid JSON."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._text, self._at, self._before = "", 0, 0  # window, position in it, number of characters before it
        self._ended = False
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is not white space; empty at the end of the file."""
        while True:
            found = _SPACE.match(self._text, self._at)
            assert found is not None  # the pattern matches the empty string
            self._at = found.end()
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def value(self) -> Any:
        """Parse the next value."""
        self.peek()
        while True:
            too_long = len(self._text) - self._at > MAX_VALUE
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if too_long or not self._more():
                    raise self._fault(error.msg, error.pos) from None
            else:
                whole = self._text[end : end + 1] not in _MAY_GO_ON
                if whole or too_long or not self._more():
                    self._at = end
                    return value

    def array(self) -> Iterator[Any]:
        """Parse the array that begins here, element by element."""
        for _ in self._parts("[", "]"):
            yield self.value()

    def members(self) -> Iterator[str]:
        """The keys of the object that begins here; the caller parses the value after each key."""
        for _ in self._parts("{", "}"):
            if self.peek() != '"':
                raise self._fault("Expecting property name enclosed in double quotes")
            key = self.value()
            self._take(":")
            yield key

    def end(self) -> None:
        """Check that the file ends here."""
        if self.peek():
            raise self._fault("Extra data")

    def _parts(self, opening: str, closing: str) -> Iterator[None]:
        self._take(opening)
        if self.peek() != closing:
            yield
            while self.peek() == ",":
                self._at += 1
                yield
        self._take(closing)

    def _take(self, character: str) -> None:
        if self.peek() != character:
            raise self._fault(f"Expecting {character!r}")
        self._at += 1

    def _more(self) -> bool:
        """Advance the window; returns whether there was more text."""
        read = "" if self._ended else self._file.read(WINDOW)
        self._ended = not read
        if read:
            self._before += self._at
            self._text, self._at = self._text[self._at :] + read, 0
        return bool(read)

    def _fault(self, text: str, at: int | None = None) -> ValueError:
        return ValueError(f"{text} at character {self._before + (self._at if at is None else at)}")
