"""Reads the two manifest formats of the original project, which are JSON lists of image URLs.

- Products, for `crawl.source: manifest`: ``{"images": [{filename, title, sentences: [{tokens}], image_url, split}]}``;
  the tokens of the first sentence are the category path.
- Labelled images, for ``atlas import-manifest``: ``[{filename, image_url, label: zoomed|normal, title}]``.

``filename`` is an identifier; it is never used as a path. All errors of a file are reported together. An invalid URL is
not an error here: the fetch gives it a status, so that its row is counted. Only ``file:`` URLs of products are rejected
at once, because local images have their own source (`crawl.source: files`).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from atlas_model.core.errors import InputError, MissingError
from atlas_model.data.schemas import LABELS, PRODUCTS
from atlas_model.taxonomy.names import LEVEL_SEPARATOR, clean_name
from crawlers.sources.json_stream import JsonStream

SITE = "manifest"
MAX_FAULTS_SHOWN = 20
ROWS_AT_ONCE = 4_096  # rows that are Python objects at a time; as an Arrow table they take a tenth of the memory

FORM_OF_PRODUCTS = '{"images": [{filename, title, sentences: [{tokens: [...]}], image_url, split}]}'
FORM_OF_LABELLED = "[{filename, image_url, label: zoomed|normal, title}]"

Row = TypeVar("Row")


@dataclass(frozen=True)
class LabelledImage:
    """A row of the zoomed/normal manifest."""

    filename: str
    image_url: str
    label: str  # zoomed, normal
    title: str


def read_manifest_products(path: Path) -> pa.Table:
    """Read a manifest of products, one product per row.

    A product's id is ``manifest:<filename>``. Further rows with the same filename are separate products,
    ``manifest:<filename>#2`` and so on; the split stage detects whether their images are the same.

    Returns:
        A table with the schema of products.parquet, sorted by product_id.

    Raises:
        MissingError: the file does not exist.
        InputError: it is not JSON of this form, or has ``file:`` URLs; the text counts all errors and shows the first.
    """
    rows = _rows(path, _without_file_urls(path), _product)
    batches = []
    while some := list(islice(rows, ROWS_AT_ONCE)):
        batches.append(pa.RecordBatch.from_pylist(some, schema=PRODUCTS))
    table = pa.Table.from_batches(batches, PRODUCTS)
    numbered = number_repeats(table["product_id"].to_pylist())
    column = PRODUCTS.get_field_index("product_id")
    return table.set_column(column, PRODUCTS.field(column), pa.array(numbered)).sort_by("product_id")


@dataclass(frozen=True)
class ManifestEntry:
    """An entry of a manifest of products, which may be invalid."""

    index: int  # from 0
    filename: str  # empty if it has none
    product: dict[str, Any] | None  # as a row of products.parquet; None: it is invalid
    faults: list[str]


def iterate_entries(path: Path) -> Iterator[ManifestEntry]:
    """Read a manifest of products entry by entry, without ending at an invalid one.

    Raises:
        MissingError: the file does not exist.
        InputError: it is not JSON of this form.
    """
    for index, entry in enumerate(_products_in(path)):
        faults: list[str] = []
        product = _product(entry, faults)
        filename = entry.get("filename") if isinstance(entry, dict) else None
        yield ManifestEntry(index, str(filename) if _is_text(filename) else "", product, faults)


def read_labelled_manifest(path: Path) -> list[LabelledImage]:
    """Read a manifest of zoomed and normal images, in the file's order.

    Raises:
        MissingError: the file does not exist.
        InputError: it is not JSON of this form; the text counts all errors and shows the first ones.
    """
    return list(_rows(path, _labelled_in(path), _labelled_image))


def _products_in(path: Path) -> Iterator[Any]:
    met = False
    with _reading(path) as stream:
        first = stream.peek()
        if first == "[" and any(isinstance(entry, dict) and "label" in entry for entry in stream.array()):
            raise InputError(
                f"{path}: expected {FORM_OF_PRODUCTS}, got a manifest of zoomed and normal images. "
                f"That one is for: atlas import-manifest {path}"
            )
        if first == "{":
            for key in stream.members():
                if key == "images" and stream.peek() == "[" and not met:
                    met = True
                    yield from stream.array()
                else:
                    stream.value()
        elif first != "[":
            stream.value()
        stream.end()
    if not met:
        raise InputError(f"{path}: expected {FORM_OF_PRODUCTS}, got other JSON")


def _without_file_urls(path: Path) -> Iterator[Any]:
    """The entries of a manifest of products; raises after the last one if any has a ``file:`` URL."""
    found = 0
    first = ""
    for entry in _products_in(path):
        url = entry.get("image_url") if isinstance(entry, dict) else None
        if isinstance(url, str) and url.strip().lower().startswith("file:"):
            found += 1
            first = first or _brief(url)
        yield entry
    if found:
        raise InputError(
            f"{path}: expected http and https URLs, got {found} that begin with file: (first: {first}). Local images "
            "need no URL: write a table of their paths and categories (CSV, JSONL or Parquet), then run: "
            "atlas init --images DIR --table FILE. It sets crawl.source to files (docs/files.md)"
        )


def _labelled_in(path: Path) -> Iterator[Any]:
    with _reading(path) as stream:
        first = stream.peek()
        if first == "[":
            yield from stream.array()
        elif first == "{":
            for key in stream.members():
                if key == "images":
                    raise InputError(
                        f"{path}: expected {FORM_OF_LABELLED}, got a manifest of products. "
                        "That one is for the stage crawl: set crawl.source to manifest and crawl.manifest to this file"
                    )
                stream.value()
        else:
            stream.value()
        stream.end()
    if first != "[":
        raise InputError(f"{path}: expected {FORM_OF_LABELLED}, got other JSON")


@contextmanager
def _reading(path: Path) -> Iterator[JsonStream]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield JsonStream(file)
    except FileNotFoundError:
        raise MissingError(f"{path}: no such file; expected a manifest (JSON)") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested too deeply
        raise InputError(f"{path}: expected a manifest (JSON), got something else: {error}") from error


def _rows(path: Path, entries: Iterable[Any], read: Callable[[Any, list[str]], Row | None]) -> Iterator[Row]:
    """Convert each entry with ``read``, which returns None and appends to the list of faults for an invalid entry."""
    shown: list[str] = []
    entry_count = faulty = 0
    for index, entry in enumerate(entries):
        entry_count += 1
        faults: list[str] = []
        row = read(entry, faults)
        if row is None:
            faulty += 1
            if faulty <= MAX_FAULTS_SHOWN:
                shown.append(f"image {index}: {'; '.join(faults)}")
        else:
            yield row
    if not entry_count:
        raise InputError(f"{path}: expected at least one image, got an empty list")
    if faulty > MAX_FAULTS_SHOWN:
        shown.append(f"... and {faulty - MAX_FAULTS_SHOWN} more")
    if faulty:
        raise InputError("\n  - ".join([f"{path}: {faulty} of {entry_count} images are invalid", *shown]))


def _product(entry: Any, faults: list[str]) -> dict[str, Any] | None:
    texts = _texts(entry, ("filename", "title", "image_url"), faults)
    if not isinstance(entry, dict):
        return None
    tokens = _tokens(entry.get("sentences"))
    if tokens is None:
        faults.append("sentences: expected [{tokens: [names of levels, none empty]}, ...]")
    elif any(LEVEL_SEPARATOR in token for token in tokens):
        faults.append(
            f"sentences: {LEVEL_SEPARATOR} stands between levels and cannot be in a token, got {_brief(tokens)}"
        )
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


def _labelled_image(entry: Any, faults: list[str]) -> LabelledImage | None:
    texts = _texts(entry, ("filename", "image_url", "label", "title"), faults)
    if texts.get("label", LABELS[0]) not in LABELS:
        faults.append(f"label: expected {' or '.join(LABELS)}, got {_brief(texts['label'])}")
    return None if faults else LabelledImage(**texts)


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
    if not all(map(_is_text, tokens)):
        return None
    names = list(map(clean_name, tokens))
    return names if all(names) else None


def _is_text(value: Any) -> bool:
    """Whether ``value`` is a string without lone surrogates, which JSON may contain but UTF-8 cannot encode."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def number_repeats(ids: Sequence[str]) -> list[str]:
    """``ids`` with repetitions made unique by a suffix (``#2``, ``#3``, ...)."""
    given = set(ids)
    met: set[str] = set()
    numbers: defaultdict[str, Iterator[int]] = defaultdict(lambda: count(2))
    numbered = []
    for wanted in ids:
        if wanted in met:
            numbered.append(next(name for n in numbers[wanted] if (name := f"{wanted}#{n}") not in given))
        else:
            numbered.append(wanted)
        met.add(wanted)
    return numbered


def _brief(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
