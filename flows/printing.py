"""Printing what strangers wrote. Knows nothing of what it is."""

import re


def printable(text: str) -> str:
    """``text`` without characters that steer a terminal: a file's name or a page's title may hold any."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def in_markdown(text: str) -> str:
    """``text`` as one line of Markdown (a table's cell, too) or HTML that shows it, and is neither itself."""
    return re.sub(r"[^\w\s.,'/-]|_", lambda found: f"&#{ord(found[0])};", printable(" ".join(text.split())))
