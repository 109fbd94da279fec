"""Printing what strangers wrote. Knows nothing of what it is."""

import re


def printable(text: str) -> str:
    """``text`` without characters that steer a terminal: a file's name or a page's title may hold any."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def printable_lines(text: str) -> str:
    """``text`` line by line as `printable`."""
    return "\n".join(map(printable, text.split("\n")))


# What may stand as it is. A sign that means something at the start of a line only may stand elsewhere: one of the UI's
# two editions shows an entity in a table as it is written, so the fewer the better.
OBEYED = re.compile(r"[^\w\s.,'/():;%&=+>-]|_|&(?=\w+;)|:(?=//)|^[=+>-]")


def in_markdown(text: str) -> str:
    """``text`` as one line of Markdown (a table's cell, too) or HTML that shows it, and is neither itself."""
    return OBEYED.sub(lambda found: f"&#{ord(found[0])};", printable(" ".join(text.split())))
