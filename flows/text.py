"""Makes untrusted text safe to print on a terminal and to show in Markdown."""

import re


def printable(text: str) -> str:
    """``text`` without control characters: a file name or the title of a page may contain terminal escapes."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def printable_lines(text: str) -> str:
    """``text`` line by line as `printable`."""
    return "\n".join(map(printable, text.split("\n")))


# Characters that Markdown or HTML interprets. Those that mean something only at the start of a line are escaped only
# there: one of the two versions of Prefect's UI shows entities in tables literally, so few of them are used.
MARKUP = re.compile(r"[^\w\s.,'/():;%&=+>-]|_|&(?=\w+;)|:(?=//)|^[=+>-]")


def in_markdown(text: str) -> str:
    """``text`` as one line that Markdown (also in a cell of a table) and HTML show literally."""
    return MARKUP.sub(lambda found: f"&#{ord(found[0])};", printable(" ".join(text.split())))
