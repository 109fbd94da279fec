"""Makes untrusted text safe to print on a terminal and to show in Markdown; formats numbers."""

import re


def printable(text: str) -> str:
    """``text`` without control characters: a file name or the title of a page may contain terminal escapes."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def printable_lines(text: str) -> str:
    """``text`` line by line as `printable`."""
    return "\n".join(map(printable, text.split("\n")))


# Characters that Markdown or HTML interprets. Those that mean something only at the start of a line are escaped only
# there: one of the two versions of Prefect's UI shows entities in tables literally, so few of them are used. An
# underscore between letters or digits means nothing.
MARKUP = re.compile(r"[^\w\s.,'/():;%&=+>-]|(?<![^\W_])_|_(?![^\W_])|&(?=\w+;)|:(?=//)|^[=+>-]")


def in_markdown(text: str) -> str:
    """``text`` as one line that Markdown (also in a cell of a table) and HTML show literally."""
    return MARKUP.sub(lambda found: f"&#{ord(found[0])};", printable(" ".join(text.split())))


def share(value: float, *, sign: bool = False) -> str:
    """Three decimal places, as in the README: .896."""
    text = f"{value:+.3f}" if sign else f"{value:.3f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def percent(value: float, *, sign: bool = False) -> str:
    """A share as percent with one decimal place: 89.6 %; with ``sign`` a difference, as +0.4."""
    return f"{value * 100:+.1f}" if sign else f"{value * 100:.1f}\N{NO-BREAK SPACE}%"
