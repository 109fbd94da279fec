"""Functions that read values of schema.org nodes, independent of their syntax."""

import html
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

Node = dict[str, Any]

MAX_DEPTH = 8  # levels of nested data that are examined
MAX_ESCAPES = 3  # times that a text may be HTML-escaped


def values_of(value: Any) -> list[Any]:
    """``value`` as a list without empty entries, because a property holds one value or several."""
    entries = value if isinstance(value, list) else [value]
    return [entry for entry in entries if entry not in (None, "", [], {})]


def nodes_in(node: Node, name: str) -> list[Node]:
    """The objects in the property ``name``."""
    return [entry for entry in values_of(node.get(name)) if isinstance(entry, dict)]


def kind(value: Any) -> str:
    """The lower-case part after the last ``/``, ``#`` or ``:`` of a name such as https://schema.org/Product."""
    text = str(text_in(value) or "").strip().rstrip("/")
    return text.replace("#", "/").replace(":", "/").rpartition("/")[2].lower()


def is_a(node: Node, *types: str) -> bool:
    """Whether ``node`` has one of ``types``, ignoring case."""
    wanted = {name.lower() for name in types}
    return any(kind(name) in wanted for name in values_of(node.get("@type")))


def of_type(nodes: list[Node], *types: str) -> Iterator[Node]:
    """Those of ``nodes`` that have one of ``types``."""
    return (node for node in nodes if is_a(node, *types))


def text_in(value: Any) -> Any:
    """The first text or number in ``value``; entities are resolved, because many shops escape JSON like HTML."""
    for entry in values_of(value):
        if isinstance(entry, dict):
            entry = entry.get("@value")
        if isinstance(entry, str):
            return unescaped(entry)
        if isinstance(entry, int | float) and not isinstance(entry, bool):
            return entry
    return None


def unescaped(text: str) -> str:
    """``text`` with its entities resolved, up to `MAX_ESCAPES` times."""
    for _ in range(MAX_ESCAPES):
        plain = html.unescape(text) if "&" in text else text
        if plain == text:
            break
        text = plain
    return text


def name_of(value: Any, depth: int = 0) -> Any:
    """The name of a brand, list element, ...: the text itself, its ``name``, or that of its ``item``."""
    for entry in values_of(value)[:1]:
        if isinstance(entry, dict) and depth < MAX_DEPTH:
            return text_in(entry.get("name")) or name_of(entry.get("item"), depth + 1) or text_in(entry.get("@value"))
        return text_in(entry)
    return None


def url_of(entry: Any, depth: int = 0) -> Any:
    """The URL of an image or list element."""
    if not isinstance(entry, dict):
        return text_in(entry)
    for name in ("contentUrl", "url", "item", "@id", "@value"):
        for value in values_of(entry.get(name))[:1]:
            return url_of(value, depth + 1) if depth < MAX_DEPTH else None
    return None


def image_urls_of(value: Any) -> list[Any]:
    """The URLs of all images in ``value``; an ``ImageObject`` may have several, or only a thumbnail."""
    found: list[Any] = []
    for entry in values_of(value):
        if isinstance(entry, dict):
            full = values_of(entry.get("contentUrl")) or values_of(entry.get("url"))
            found += [url_of(one) for one in full] or [url_of(entry) or url_of(entry.get("thumbnailUrl"))]
        else:
            found.append(text_in(entry))
    return found


def crumb_url(crumb: Any) -> Any:
    """The URL that a breadcrumb links to; its own ``@id`` is an identifier, not a link."""
    return url_of(crumb.get("item") or crumb.get("url")) if isinstance(crumb, dict) else None


def path_of(url: Any) -> str | None:
    """The path of ``url``; None if it is not a valid URL."""
    try:
        return urlsplit(url).path.rstrip("/") if isinstance(url, str) else None
    except ValueError:
        return None


def elements_of(collection: Node) -> list[Any]:
    """The entries of an ItemList or BreadcrumbList, sorted by position if all have one."""
    entries = values_of(collection.get("itemListElement"))
    try:
        return sorted(entries, key=lambda entry: float(entry["position"]))
    except (TypeError, KeyError, ValueError, OverflowError):
        return entries
