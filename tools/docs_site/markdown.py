"""Text that is safe inside Markdown, and tables."""

import html
import re
from collections.abc import Iterable, Sequence


def plain(text: str) -> str:
    """Escape ``text``, so that Markdown shows it as it stands; what is in backticks stays code."""
    parts = re.split(r"(``.+?``|`[^`]+`)", " ".join(text.split()))
    return "".join(code(part.strip("`")) if part.startswith("`") else _escaped(part) for part in parts)


def _escaped(text: str) -> str:
    return re.sub(r"([\\*_\[\]|`$#~])", r"\\\1", html.escape(text, quote=False))


def code(text: str) -> str:
    """``text`` as a code span that may also stand in a table."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}".replace("|", r"\|")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the cells are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
