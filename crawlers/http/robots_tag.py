"""Parsing of the header X-Robots-Tag and of ``<meta name="robots">``."""

import re
from collections.abc import Collection, Iterable, Iterator

WITH_VALUE = {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}  # not names of robots
MEANS = {"none": ("noindex", "nofollow")}

# Comments and scripts come first, so that their content is not read as tags. Each alternative matches up to the end of
# the page if it is not closed, which avoids backtracking.
_TAGS = re.compile(rb"<!--.*?(?:-->|\Z)|<script\b.*?(?:</script|\Z)|<meta\b([^<>]{0,1000})>", re.DOTALL | re.IGNORECASE)
_ATTRIBUTE = re.compile(rb"""(?<![a-z-])([a-z-]++)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""", re.IGNORECASE)


def forbidden_directive(headers_values: Iterable[str], user_agent_token: str, unwanted: Collection[str]) -> str | None:
    """The first unwanted directive in X-Robots-Tag headers that applies to this robot; None if there is none.

    ``noindex`` applies to all robots, ``otherbot: noindex, noai`` to that robot only.

    Args:
        headers_values: values of all X-Robots-Tag headers.
        user_agent_token: name of this robot, such as ``Atlas``.
        unwanted: directives that forbid the page, in lower case.
    """
    for value in headers_values:
        for directive in _directives_for(user_agent_token.lower(), value.lower()):
            for meant in MEANS.get(directive, (directive,)):
                if meant in unwanted:
                    return meant
    return None


def meta_values(html: bytes, user_agent_token: str) -> list[str]:
    """The content of the ``<meta>`` tags for all robots and for this one, as values of X-Robots-Tag."""
    values = []
    for tag in _TAGS.finditer(html):
        attributes = {
            name.lower(): (double or single or bare).decode("latin-1")
            for name, double, single, bare in _ATTRIBUTE.findall(tag[1] or b"")
        }
        if attributes.get(b"name", "").strip().lower() in ("robots", user_agent_token.lower()):
            values.append(attributes.get(b"content", ""))
    return values


def _directives_for(token: str, value: str) -> Iterator[str]:
    applies = True
    for part in value.split(","):
        name, colon, rest = part.partition(":")
        if colon and name.strip() not in WITH_VALUE:
            applies = name.strip() == token  # up to the next name
            part = rest
        if applies:
            yield part.strip()
