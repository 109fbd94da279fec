"""Guesses the roles of a table's columns (image, category, title, ...) from their names and values."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from atlas_model.core.errors import InputError
from atlas_model.split.names import parse_split
from crawlers.files.entries import Columns
from crawlers.files.table import TableRow, short_repr
from crawlers.pages.text.values import parse_amount

SAMPLE_ROWS = 5_000
SEED = 1
SEPARATORS = (" > ", "->", ">", " | ", "|", " / ", "/", " :: ", "::", "\\", " - ")  # most reliable first
ROLES = ("image", "category", "product", "title", "price", "split")

# Words in column names, most reliable first. Names are split into lower-case words before the comparison.
IMAGE_WORDS = ("image", "img", "photo", "picture", "file", "filename", "path", "jpeg", "jpg")
PRODUCT_NAMES = ("product_id", "productid", "sku", "item_id", "style_id", "article_id", "handle", "product", "id")
TITLE_NAMES = (
    *("title", "product_title", "product_name", "product_display_name", "display_name", "name", "caption"),
    *("description", "text"),
)
PRICE_WORDS = ("price", "amount", "cost", "mrp")
SPLIT_NAMES = ("split", "subset", "partition", "set", "fold", "part")
CATEGORY_WORDS = (
    *("taxonomy", "category", "categories", "breadcrumb", "class", "label", "labels", "type", "subcategory"),
    *("department", "group", "kind", "level", "section", "cat", "tags"),
)
OTHER_WORDS = (
    "colour",
    "color",
    "season",
    "year",
    "brand",
    "size",
    "material",
    "usage",
    "gender",
    "price",
    "rating",
    "id",
    "code",
)


@dataclass(frozen=True)
class ColumnGuess:
    """The guessed columns with their reasons."""

    columns: Columns
    separator: str | None
    reasons: dict[str, str] = field(default_factory=dict)  # role -> reason


def sample_rows(rows: Iterable[TableRow]) -> list[dict[str, Any]]:
    """The fields of at most `SAMPLE_ROWS` rows, sampled uniformly (seeded), in table order."""
    random = Random(SEED)
    kept: list[tuple[int, dict[str, Any]]] = []
    for count, row in enumerate(row for row in rows if row.fields is not None):
        if count < SAMPLE_ROWS:
            kept.append((count, row.fields or {}))
        elif (place := random.randrange(count + 1)) < SAMPLE_ROWS:
            kept[place] = (count, row.fields or {})
    return [fields for _, fields in sorted(kept, key=lambda pair: pair[0])]


def guess_columns(
    rows: Sequence[Mapping[str, Any]],
    *,
    is_image: Callable[[str], bool],
    embedded: Collection[str],
    given: Mapping[str, Sequence[str]],
    labelled: bool = True,
) -> ColumnGuess:
    """Guess the roles of the columns of ``rows``.

    Args:
        rows: a sample of the table's rows, as fields by column.
        is_image: whether a text is the path of an image.
        embedded: columns with embedded images.
        given: role -> columns given by the user; the other roles are guessed.
        labelled: whether there must be a column with categories.

    Raises:
        InputError: no column fits images or categories, or a given column does not exist.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    _check_given(given, names)
    taken = [name for columns in given.values() for name in columns]
    reasons = dict.fromkeys(given, "given by --column")
    free = [name for name in names if name not in taken]

    def take(role: str, found: tuple[str, str] | None) -> str | None:
        if given.get(role):
            return given[role][0]
        if found is None:
            return None
        reasons[role] = found[1]
        free.remove(found[0])
        return found[0]

    image = take("image", _image(rows, free, is_image, embedded) if "image" not in given else None)
    if image is None:
        raise InputError(_no_images(rows, free, is_image))
    price = take("price", _by_values(rows, free, PRICE_WORDS, lambda value: parse_amount(value) is not None))
    split = take("split", _by_values(rows, free, SPLIT_NAMES, _is_split))
    title = take("title", _title(rows, free))
    category = list(given.get("category", ()))
    if not category:
        repeated = [name for name in free if not _is_identity(rows, name)]
        try:
            category, reasons["category"] = _category(rows, repeated)
        except InputError:
            if labelled:
                raise
        free = [name for name in free if name not in category]
    product = take("product", _product(rows, free, category))
    separator = _separator(_texts(rows, category[0])) if len(category) == 1 else None
    if separator is not None:
        reasons["separator"] = "it separates the levels in " + short_repr(_texts(rows, category[0])[0])
    return ColumnGuess(Columns(image, category, product, title, price, split), separator, reasons)


def _check_given(given: Mapping[str, Sequence[str]], names: Sequence[str]) -> None:
    faults = [f"{role}: expected one of {', '.join(ROLES)} before the =" for role in given if role not in ROLES]
    faults += [
        f"{role}={name}: the table has no such column; its columns are: {', '.join(map(repr, names))}"
        for role, columns in given.items()
        for name in columns
        if name not in names
    ]
    faults += [
        f"{role}: only category may be several columns"
        for role, columns in given.items()
        if role != "category" and len(columns) > 1
    ]
    if faults:
        raise InputError.from_faults("--column", faults)


def _image(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], is_image: Callable[[str], bool], embedded: Collection[str]
) -> tuple[str, str] | None:
    inside = sorted((name for name in names if name in embedded), key=lambda name: _rank(name, IMAGE_WORDS))
    if inside:
        return inside[0], "it contains the images"
    shares = {name: _share_of_files(rows, name, is_image) for name in names}
    best = max(names, key=lambda name: (shares[name], -_rank(name, IMAGE_WORDS)), default=None)
    if best is None or shares[best] < 0.5:
        return None
    return best, f"{shares[best]:.0%} of its fields name a file in the folder"


def _share_of_files(rows: Sequence[Mapping[str, Any]], name: str, is_image: Callable[[str], bool]) -> float:
    texts = _texts(rows, name)
    some = texts[:: max(1, len(texts) // 200)]
    return sum(map(is_image, some)) / max(1, len(some))


def _no_images(rows: Sequence[Mapping[str, Any]], names: Sequence[str], is_image: Callable[[str], bool]) -> str:
    """An error message, with a hint if a simple change of the paths makes them match."""
    hints = []
    changes: tuple[tuple[str, Callable[[str], str]], ...] = (
        ("with .jpg appended", lambda text: f"{text}.jpg"),
        ("with .png appended", lambda text: f"{text}.png"),
        ("without the folders before the file name", lambda text: re.split(r"[/\\]", text)[-1]),
        ("without the first folder", lambda text: text.partition("/")[2]),
    )
    for name in names:
        texts = _texts(rows, name)[:50]
        for hint, change in changes:
            if texts and sum(is_image(change(text)) for text in texts) >= len(texts) / 2:
                hints.append(f"{name!r} matches {hint}: write a column with such paths, for example {change(texts[0])}")
                break
    seen = ", ".join(repr(name) for name in names)
    told = "; ".join(hints) or f"the columns are {seen}. Is it the right folder? --column image=NAME selects the column"
    return f"expected a column that names files in the folder (relative paths), got none; {told}"


def _by_values(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], words: Sequence[str], fits: Callable[[Any], bool]
) -> tuple[str, str] | None:
    """The column whose name has one of ``words`` and of whose fields 90 % fit."""
    for name in sorted(names, key=lambda name: _rank(name, words)):
        values = [row[name] for row in rows if row.get(name) not in (None, "")]
        if _rank(name, words) < len(words) and values and sum(map(fits, values)) >= 0.9 * len(values):
            return name, "its name and its values match"
    return None


def _is_split(value: Any) -> bool:
    return isinstance(value, str) and parse_split(value) is not None


def _title(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> tuple[str, str] | None:
    named = sorted(
        (name for name in names if _plain(name) in TITLE_NAMES), key=lambda name: TITLE_NAMES.index(_plain(name))
    )
    for name in named:
        texts = _texts(rows, name)
        if texts and len(set(texts)) >= 0.3 * len(texts):
            return name, "its name matches"
    wordy = [name for name in names if _is_wordy(_texts(rows, name), len(rows))]
    return (wordy[0], "it contains several words that differ in most rows") if len(wordy) == 1 else None


def _is_wordy(texts: Sequence[str], rows: int) -> bool:
    if len(texts) < rows / 2 or _separator(texts) is not None:
        return False
    words = sum(len(text.split()) for text in texts) / max(1, len(texts))
    return words >= 3 and len(set(texts)) >= 0.5 * len(texts)


def _product(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], category: Sequence[str]
) -> tuple[str, str] | None:
    named = sorted(
        (name for name in names if _plain(name) in PRODUCT_NAMES), key=lambda name: PRODUCT_NAMES.index(_plain(name))
    )
    for name in named:
        paths: defaultdict[Any, set[Any]] = defaultdict(set)
        filled = 0
        for row in rows:
            value = row.get(name)
            if value in (None, "") or isinstance(value, (dict, list)):
                continue
            filled += 1
            if any(row.get(column) not in (None, "") for column in category):
                paths[value].add(tuple(str(row.get(column)) for column in category))
        agreeing = sum(len(found) <= 1 for found in paths.values())
        if filled >= 0.9 * len(rows) and paths and agreeing >= 0.95 * len(paths):
            more = filled - len({str(row.get(name)) for row in rows})
            return name, "rows with the same value show one product" if more > 0 else "it identifies products"
    return None


def _is_identity(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether more than half of the column's values are distinct."""
    values = [str(row[name]) for row in rows if row.get(name) not in (None, "")]
    return len(values) > 20 and len(set(values)) > 0.5 * len(values)


def _category(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> tuple[list[str], str]:
    lists = [name for name in names if sum(isinstance(row.get(name), list) for row in rows) >= 0.9 * len(rows)]
    if len(lists) == 1:
        return lists, "it contains lists of names, one per level"
    kinds = {name: len(set(_texts(rows, name))) for name in names}
    candidates = [name for name in names if kinds[name] >= 2 and len(_texts(rows, name)) >= 0.5 * len(rows)]
    named = [name for name in candidates if _rank(name, CATEGORY_WORDS) < len(CATEGORY_WORDS)]
    named = [name for name in named if _rank(name, OTHER_WORDS) == len(OTHER_WORDS)]
    paths = [name for name in (named or candidates) if _separator(_texts(rows, name)) is not None]
    if paths:
        return [max(paths, key=lambda name: kinds[name])], "it contains category paths"
    if not named and len(candidates) == 1:
        named = candidates
    if not named:
        raise InputError(
            "expected a column with categories, got none with a matching name. Give it with --column category=NAME "
            "(several times for several levels); columns with repeated values: "
            + (", ".join(map(repr, candidates)) or "none")
        )
    leaf, *coarser = sorted(named, key=lambda name: (-kinds[name], -names.index(name)))  # ties: the later column
    chain = [leaf]
    for name in coarser:
        if _determines(rows, chain[0], name):
            chain.insert(0, name)
    if len(chain) == 1:
        return chain, "its name matches, and its values repeat"
    return chain, "each of them subdivides the one before"


def _determines(rows: Sequence[Mapping[str, Any]], finer: str, coarser: str) -> bool:
    """Whether rows with the same value of ``finer`` have the same value of ``coarser`` (in 98 % of the rows)."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        if row.get(finer) and row.get(coarser):
            counts[str(row[finer])][str(row[coarser])] += 1
    total = sum(count.total() for count in counts.values())
    return total > 0 and sum(max(count.values()) for count in counts.values()) >= 0.98 * total


def _separator(texts: Sequence[str]) -> str | None:
    """The separator between levels if ``texts`` are paths: in 90 % of them, with first levels that repeat."""
    for separator in SEPARATORS:
        divided = [text for text in texts if separator.strip() in text and all(map(str.strip, text.split(separator)))]
        divided = [text for text in divided if separator in text]
        sure = ">" in separator
        if len(divided) < (0.5 if sure else 0.9) * len(texts) or not divided:
            continue
        firsts = {text.split(separator)[0] for text in divided}
        if sure or len(firsts) < len(set(divided)) or len(firsts) == 1:
            return separator
    return None


def _texts(rows: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    """The non-empty texts and whole numbers of a column, as texts."""
    return [text for text in _as_texts(rows, name) if text]


def _as_texts(rows: Sequence[Mapping[str, Any]], name: str) -> Iterator[str]:
    for row in rows:
        value = row.get(name)
        if isinstance(value, str):
            yield value.strip()
        elif isinstance(value, int) and not isinstance(value, bool):
            yield str(value)


def _plain(name: str) -> str:
    """``productDisplayName`` as ``product_display_name``."""
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()).strip("_")


def _rank(name: str, words: Sequence[str]) -> int:
    """The index of the first of ``words`` that is in the name; the number of words if none is."""
    parts = _plain(name).split("_")
    return next((place for place, word in enumerate(words) if word in parts or word == _plain(name)), len(words))
