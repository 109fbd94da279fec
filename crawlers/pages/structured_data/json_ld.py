"""Tolerant parser of a page's JSON-LD scripts into nodes with resolved references.

Like browsers and search engines, it accepts types with parameters and capitals, comments, CDATA, superfluous commas and
semicolons, and several objects in one script. A script that still cannot be parsed is counted. A reference by ``@id``
is replaced by its node (https://www.w3.org/TR/json-ld11/#node-identifiers).
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

MAX_SCRIPTS = 50  # scripts of a page
MAX_NODES = 2000  # nodes of a script
MAX_VALUES = 20  # consecutive JSON values in a script
NESTED = ("@graph", "mainEntity", "about", "itemOffered")  # properties whose nodes are read like top-level ones
DECODER = json.JSONDecoder(strict=False)
# A string, or text between strings that is not JSON. Each alternative matches up to the end of the text if it is not
# closed, which avoids backtracking.
PIECE = re.compile(
    r'"(?:[^"\\]|\\.)*+(?:"|\Z)|/\*.*?(?:\*/|\Z)|//[^\n]*|<!--|-->|<!\[CDATA\[|\]\]>|,(?=[\s,]{0,50}[}\]])|(?<=,)[\s,]*,',
    re.DOTALL,
)
BAD_ESCAPE = re.compile(r'\\(?:(u[0-9a-fA-F]{4}|["\\/bfnrt])|(.))', re.DOTALL)
BETWEEN = re.compile(r"[\s;,]*")  # between two objects


def json_ld(page: Document) -> tuple[list[Node], int]:
    """All JSON-LD nodes of a page, nested ones flattened; and the number of scripts that could not be parsed."""
    nodes: list[Node] = []
    unreadable = 0
    for script in [script for script in page.tagged("script") if is_json_ld(script)][:MAX_SCRIPTS]:
        text = script.text or ""
        values = parsed(text)
        unreadable += values is None
        nodes += islice(_flatten(values or []), MAX_NODES)
    _resolve_references(nodes, page)
    return nodes, unreadable


def is_json_ld(script: Element) -> bool:
    """Whether a script's MIME type is JSON-LD, ignoring parameters and case."""
    return script.get("type", "").partition(";")[0].strip().lower() == "application/ld+json"


def parsed(text: str) -> list[Any] | None:
    """The JSON values in ``text``; None if it cannot be parsed even after repairs."""
    if not text.strip():
        return []
    try:
        return [json.loads(text, strict=False)]
    except (ValueError, RecursionError):
        pass
    repaired = _repaired(html.unescape(text) if '"' not in text else text)
    found: list[Any] = []
    position = BETWEEN.match(repaired).end()  # type: ignore[union-attr]  # it matches nothing as well
    while position < len(repaired) and len(found) < MAX_VALUES:
        try:
            value, position = DECODER.raw_decode(repaired, position)
        except (ValueError, RecursionError):
            return None
        found.append(value)
        position = BETWEEN.match(repaired, position).end()  # type: ignore[union-attr]  # as before
    return found


def _repaired(text: str) -> str:
    return PIECE.sub(lambda piece: _repair_escapes(piece[0]) if piece[0][0] == '"' else "", text)


def _repair_escapes(text: str) -> str:
    r"""Remove the backslash of escapes that JSON lacks but browsers accept: ``\'`` is an apostrophe."""
    if "\\" not in text:
        return text
    return BAD_ESCAPE.sub(lambda found: found[0] if found[1] else found[2], text)


def _flatten(values: Any, depth: int = 0) -> Iterator[Node]:
    if depth >= MAX_DEPTH:
        return
    for value in values if isinstance(values, list) else [values]:
        if isinstance(value, list):
            yield from _flatten(value, depth + 1)
        elif isinstance(value, dict):
            yield value
            for name in NESTED:
                if name in value:
                    yield from _flatten(value[name], depth + 1)


def _resolve_references(nodes: list[Node], page: Document) -> None:
    """Replace each reference in ``nodes`` by the node with its ``@id``."""
    named: dict[str, Node] = {}
    inside = list(islice(_all_nodes(nodes), MAX_NODES))
    for node in inside:
        name = node.get("@id")
        if isinstance(name, str) and not _is_reference(node):
            named.setdefault(page.urljoin(name), node)
    if not named:
        return
    for node in inside:
        for key, value in node.items():
            if isinstance(value, list):
                node[key] = [_resolved(entry, named, page) for entry in value]
            else:
                node[key] = _resolved(value, named, page)


def _all_nodes(values: Any) -> Iterator[Node]:
    """All objects in ``values``, nested ones included, without duplicates."""
    waiting: list[tuple[Any, int]] = [(values, 0)]
    seen: set[int] = set()
    for value, depth in waiting:
        if depth > 2 * MAX_DEPTH or id(value) in seen or len(waiting) > 10 * MAX_NODES:
            continue
        if isinstance(value, dict):
            seen.add(id(value))
            yield value
            waiting += [(one, depth + 1) for one in value.values() if isinstance(one, dict | list)]
        elif isinstance(value, list):
            waiting += [(one, depth + 1) for one in value if isinstance(one, dict | list)]


def _is_reference(value: Any) -> bool:
    return isinstance(value, dict) and "@id" in value and value.keys() <= {"@id", "@type"}


def _resolved(value: Any, named: dict[str, Node], page: Document) -> Any:
    name = value["@id"] if _is_reference(value) else None
    return named.get(page.urljoin(name), value) if isinstance(name, str) else value
