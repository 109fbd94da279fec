"""JSON-LD as it stands in pages: from the text of scripts to nodes that refer to each other.

Scripts are read as browsers and search engines read them: a type may have parameters and capitals, and editors of
shops leave comments, CDATA, commas and semicolons too many, or several objects one after the other. A script that
stays unreadable is counted. References by ``@id`` lead to their node, wherever on the page it stands
(https://www.w3.org/TR/json-ld11/#node-identifiers). Knows neither shops nor fields.
"""

import html
import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from crawlers.pages.html.document import Document
from crawlers.pages.html.elements import Element
from crawlers.pages.structured_data.nodes import MAX_DEPTH, Node

MAX_SCRIPTS = 50  # of a page
MAX_NODES = 2000  # of a script
MAX_VALUES = 20  # one after the other in a script
BELOW = ("@graph", "mainEntity", "about", "itemOffered")  # properties whose nodes are read as if they stood alone
DECODER = json.JSONDecoder(strict=False)
# A string, or what may stand between strings and is no JSON. Each alternative ends at the text's end at the latest,
# so that no text is gone through twice.
PIECE = re.compile(
    r'"(?:[^"\\]|\\.)*+(?:"|\Z)|/\*.*?(?:\*/|\Z)|//[^\n]*|<!--|-->|<!\[CDATA\[|\]\]>|,(?=[\s,]{0,50}[}\]])|(?<=,)[\s,]*,',
    re.DOTALL,
)
BAD_ESCAPE = re.compile(r'\\(?:(u[0-9a-fA-F]{4}|["\\/bfnrt])|(.))', re.DOTALL)
BETWEEN = re.compile(r"[\s;,]*")  # objects


def json_ld(page: Document) -> tuple[list[Node], int]:
    """All JSON-LD objects of a page, those below others unfolded; and how many scripts could not be read."""
    nodes: list[Node] = []
    unreadable = 0
    for script in [script for script in page.tagged("script") if is_json_ld(script)][:MAX_SCRIPTS]:
        text = script.text or ""
        values = parsed(text)
        unreadable += values is None
        nodes += islice(_unfold(values or []), MAX_NODES)
    _follow(nodes, page)
    return nodes, unreadable


def is_json_ld(script: Element) -> bool:
    """Whether a script's type says so; MIME types have parameters and no case."""
    return script.get("type", "").partition(";")[0].strip().lower() == "application/ld+json"


def parsed(text: str) -> list[Any] | None:
    """The values in ``text``, which may be several; None where it is no JSON however kindly it is read."""
    if not text.strip():
        return []
    try:
        return [json.loads(text, strict=False)]
    except (ValueError, RecursionError):
        pass
    kinder = _mended(html.unescape(text) if '"' not in text else text)
    found: list[Any] = []
    position = BETWEEN.match(kinder).end()  # type: ignore[union-attr]  # it matches nothing as well
    while position < len(kinder) and len(found) < MAX_VALUES:
        try:
            value, position = DECODER.raw_decode(kinder, position)
        except (ValueError, RecursionError):
            return None
        found.append(value)
        position = BETWEEN.match(kinder, position).end()  # type: ignore[union-attr]  # as above
    return found


def _mended(text: str) -> str:
    return PIECE.sub(lambda piece: _string(piece[0]) if piece[0][0] == '"' else "", text)


def _string(text: str) -> str:
    r"""A string with the escapes that JSON does not know as browsers take them: ``\'`` is an apostrophe."""
    if "\\" not in text:
        return text
    return BAD_ESCAPE.sub(lambda found: found[0] if found[1] else found[2], text)


def _unfold(values: Any, depth: int = 0) -> Iterator[Node]:
    if depth >= MAX_DEPTH:
        return
    for value in values if isinstance(values, list) else [values]:
        if isinstance(value, list):
            yield from _unfold(value, depth + 1)
        elif isinstance(value, dict):
            yield value
            for name in BELOW:
                if name in value:
                    yield from _unfold(value[name], depth + 1)


def _follow(nodes: list[Node], page: Document) -> None:
    """Put, in place of each reference, the node that it names."""
    named: dict[str, Node] = {}
    inside = list(islice(_all_below(nodes), MAX_NODES))
    for node in inside:
        name = node.get("@id")
        if isinstance(name, str) and not _is_reference(node):
            named.setdefault(page.urljoin(name), node)
    if not named:
        return
    for node in inside:
        for key, value in node.items():
            if isinstance(value, list):
                node[key] = [_named(entry, named, page) for entry in value]
            else:
                node[key] = _named(value, named, page)


def _all_below(values: Any) -> Iterator[Node]:
    """All objects in ``values``, each once."""
    waiting: list[tuple[Any, int]] = [(values, 0)]
    met: set[int] = set()
    for value, depth in waiting:
        if depth > 2 * MAX_DEPTH or id(value) in met or len(waiting) > 10 * MAX_NODES:
            continue
        if isinstance(value, dict):
            met.add(id(value))
            yield value
            waiting += [(one, depth + 1) for one in value.values() if isinstance(one, dict | list)]
        elif isinstance(value, list):
            waiting += [(one, depth + 1) for one in value if isinstance(one, dict | list)]


def _is_reference(value: Any) -> bool:
    return isinstance(value, dict) and "@id" in value and value.keys() <= {"@id", "@type"}


def _named(value: Any, named: dict[str, Node], page: Document) -> Any:
    name = value["@id"] if _is_reference(value) else None
    return named.get(page.urljoin(name), value) if isinstance(name, str) else value
