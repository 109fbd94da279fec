"""What a page or image asks of robots about itself: the header X-Robots-Tag, and ``<meta name="robots">``.

Knows no client, and not what follows from it: the caller says which directives it heeds.
"""

import re
from collections.abc import Collection, Iterable, Iterator

WITH_VALUE = {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}  # no robots' names
MEANS = {"none": ("noindex", "nofollow")}

# Comments and scripts first: what stands in them is no tag. Each alternative ends at the end of the page at the
# latest, so that no page makes the search go back.
_TAGS = re.compile(rb"<!--.*?(?:-->|\Z)|<script\b.*?(?:</script|\Z)|<meta\b([^<>]{0,1000})>", re.DOTALL | re.IGNORECASE)
_ATTRIBUTE = re.compile(rb"""(?<![a-z-])([a-z-]++)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""", re.IGNORECASE)


def forbidden(headers_values: Iterable[str], user_agent_token: str, unwanted: Collection[str]) -> str | None:
    """The first directive of X-Robots-Tag headers that keeps us out, if there is one.

    ``noindex`` is meant for all, ``otherbot: noindex, noai`` for that robot only.

    Args:
        headers_values: the values of all X-Robots-Tag headers.
        user_agent_token: the name under which robots know us, such as ``Atlas``.
        unwanted: directives that keep us out, in lower case.
    """
    for value in headers_values:
        for directive in _directives_for(user_agent_token.lower(), value.lower()):
            for meant in MEANS.get(directive, (directive,)):
                if meant in unwanted:
                    return meant
    return None


def meta_values(html: bytes, user_agent_token: str) -> list[str]:
    """What the ``<meta>`` tags for all robots and for us say, each as a value of X-Robots-Tag."""
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
    for_us = True
    for part in value.split(","):
        name, colon, rest = part.partition(":")
        if colon and name.strip() not in WITH_VALUE:
            for_us = name.strip() == token  # until another robot is named
            part = rest
        if for_us:
            yield part.strip()
