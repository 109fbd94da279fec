"""The two manifests of the original project: JSON lists of pictures that somebody else has already found.

- Of products, for `crawl.source: manifest`: ``{"images": [{filename, title, sentences: [{tokens}], image_url,
  split}]}``; the tokens of the first sentence are the category path.
- Of labelled pictures, for ``atlas import-manifest``: ``[{filename, image_url, label: zoomed|normal, title}]``.

``filename`` is a name to remember, never a path to write. A file's faults are reported together; a URL that cannot
be fetched is none of them: it gets its status when the pictures are fetched, so that its row is still counted.

Knows nothing of how pictures are fetched.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from atlas_model.errors import InputError, MissingError
from atlas_model.records import LABELS, PRODUCTS

SITE = "manifest"
MAX_FAULTS_SHOWN = 20

FORM_OF_PRODUCTS = '{"images": [{filename, title, sentences: [{tokens: [...]}], image_url, split}]}'
FORM_OF_LABELLED = "[{filename, image_url, label: zoomed|normal, title}]"

Row = TypeVar("Row")


@dataclass(frozen=True)
class LabelledPicture:
    """A row of the zoomed/normal manifest."""

    filename: str
    image_url: str
    label: str  # zoomed, normal
    title: str


def read_manifest_products(path: Path) -> pa.Table:
    """Read a manifest of products: one product per row.

    Its id is ``manifest:<filename>``. Where a filename stands more than once, the later rows are products of
    their own, ``manifest:<filename>#2`` and so on: whether they show the same picture, and under which label, is
    decided where pictures are compared.

    Returns:
        A table of `records.PRODUCTS`, sorted by product_id.

    Raises:
        MissingError: no such file.
        InputError: it is not JSON of this form; the text counts all faults and shows the first ones.
    """
    content = _load(path)
    if _looks_labelled(content):
        raise InputError(
            f"{path}: expected {FORM_OF_PRODUCTS}, got a manifest of zoomed and normal pictures. "
            f"That one is for: atlas import-manifest {path}"
        )
    entries = content.get("images") if isinstance(content, dict) else None
    rows = _read_entries(path, entries, FORM_OF_PRODUCTS, _product)
    _number_repeats(rows)
    return pa.Table.from_pylist(rows, schema=PRODUCTS).sort_by("product_id")


def read_labelled_manifest(path: Path) -> list[LabelledPicture]:
    """Read a manifest of zoomed and normal pictures, in the file's order.

    Raises:
        MissingError: no such file.
        InputError: it is not JSON of this form; the text counts all faults and shows the first ones.
    """
    content = _load(path)
    if isinstance(content, dict) and "images" in content:
        raise InputError(
            f"{path}: expected {FORM_OF_LABELLED}, got a manifest of products. "
            "That one is for the stage crawl: set crawl.source to manifest and crawl.manifest to this file"
        )
    return _read_entries(path, content, FORM_OF_LABELLED, _labelled_picture)


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise MissingError(f"{path}: no such file; expected a manifest (JSON)") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, nested without end
        raise InputError(f"{path}: expected a manifest (JSON), got something else: {error}") from error


def _looks_labelled(content: Any) -> bool:
    return isinstance(content, list) and any(isinstance(entry, dict) and "label" in entry for entry in content)


def _read_entries(path: Path, entries: Any, form: str, read: Callable[[Any, list[str]], Row | None]) -> list[Row]:
    """``read`` each entry; it returns None and adds to the list of faults where the entry has some."""
    if not isinstance(entries, list):
        raise InputError(f"{path}: expected {form}, got other JSON")
    if not entries:
        raise InputError(f"{path}: expected at least one picture, got an empty list")
    faults: list[str] = []
    rows: list[Row] = []
    for index, entry in enumerate(entries):
        entry_faults: list[str] = []
        row = read(entry, entry_faults)
        if row is None:
            faults.append(f"picture {index}: {'; '.join(entry_faults)}")
        else:
            rows.append(row)
    if faults:
        hidden = len(faults) - MAX_FAULTS_SHOWN
        shown = [*faults[:MAX_FAULTS_SHOWN], f"... and {hidden} more"] if hidden > 0 else faults
        raise InputError("\n  - ".join([f"{path}: {len(faults)} of {len(entries)} pictures are faulty", *shown]))
    return rows


def _product(entry: Any, faults: list[str]) -> dict[str, Any] | None:
    texts = _texts(entry, ("filename", "title", "image_url"), faults)
    if not isinstance(entry, dict):
        return None
    tokens = _tokens(entry.get("sentences"))
    if tokens is None:
        faults.append("sentences: expected [{tokens: [names of levels, none empty]}, ...]")
    split = entry.get("split")
    if split is not None and not _is_text(split):
        faults.append(f"split: expected text or null, got {_brief(split)}")
    if faults:
        return None
    return {
        "product_id": f"{SITE}:{texts['filename']}",
        "site": SITE,
        "title": texts["title"],
        "breadcrumb": [],
        "taxonomy": tokens,
        "details": [],
        "image_urls": [texts["image_url"]],
        "split_hint": split,
    }


def _labelled_picture(entry: Any, faults: list[str]) -> LabelledPicture | None:
    texts = _texts(entry, ("filename", "image_url", "label", "title"), faults)
    if texts.get("label", LABELS[0]) not in LABELS:
        faults.append(f"label: expected {' or '.join(LABELS)}, got {_brief(texts['label'])}")
    return None if faults else LabelledPicture(**texts)


def _texts(entry: Any, keys: Iterable[str], faults: list[str]) -> dict[str, str]:
    if not isinstance(entry, dict):
        faults.append(f"expected an object, got {_brief(entry)}")
        return {}
    missing = [key for key in keys if key not in entry]
    if missing:
        faults.append(f"missing: {', '.join(missing)}")
    texts = {key: entry[key] for key in keys if key in entry}
    faults += [f"{key}: expected text, got {_brief(value)}" for key, value in texts.items() if not _is_text(value)]
    if texts.get("filename") == "":
        faults.append("filename: it is empty")
    return texts


def _tokens(sentences: Any) -> list[str] | None:
    first = sentences[0] if isinstance(sentences, list) and sentences else None
    tokens = first.get("tokens") if isinstance(first, dict) else None
    if not isinstance(tokens, list) or not tokens:
        return None
    if not all(_is_text(token) and token.strip() for token in tokens):
        return None
    return [token.strip() for token in tokens]


def _is_text(value: Any) -> bool:
    """A string that can be stored: JSON may spell half a character (a lone surrogate), UTF-8 cannot."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _number_repeats(rows: list[dict[str, Any]]) -> None:
    """Give the second, third, ... row of a product_id an id that no other row has."""
    given = {row["product_id"] for row in rows}
    met: set[str] = set()
    numbers: defaultdict[str, Iterator[int]] = defaultdict(lambda: count(2))
    for row in rows:
        wanted = row["product_id"]
        if wanted in met:
            row["product_id"] = next(name for n in numbers[wanted] if (name := f"{wanted}#{n}") not in given)
        met.add(wanted)


def _brief(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
