"""Printing what strangers wrote. Knows nothing of what it is."""


def printable(text: str) -> str:
    """``text`` without characters that steer a terminal: a file's name or a page's title may hold any."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
