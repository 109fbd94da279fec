"""Guessing the roles of columns from names and values."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from atlas_model.core.errors import InputError
from crawlers.files.roles import ColumnGuess, guess_columns, sample_rows
from crawlers.files.table import TableRow

TYPES = [("Apparel", "Topwear", "Shirts"), ("Apparel", "Topwear", "Tshirts"), ("Footwear", "Shoes", "Heels")]


def rows(count: int = 60, **columns: Any) -> list[dict[str, Any]]:
    """Rows of a table; a column is given as a constant or as a function of the row's number."""
    return [
        {name: value(number) if callable(value) else value for name, value in columns.items()}
        for number in range(count)
    ]


def guess(table: Sequence[Mapping[str, Any]], embedded: Sequence[str] = (), **given: Sequence[str]) -> ColumnGuess:
    return guess_columns(table, is_image=lambda text: text.endswith(".jpg"), embedded=embedded, given=given)


def test_guesses_columns_of_a_typical_export() -> None:
    found = guess(
        rows(
            id=lambda n: str(1000 + n),
            gender=lambda n: ("Men", "Women")[n % 2],
            masterCategory=lambda n: TYPES[n % 3][0],
            subCategory=lambda n: TYPES[n % 3][1],
            articleType=lambda n: TYPES[n % 3][2],
            baseColour=lambda n: f"Colour {n % 40}",
            season="Summer",
            year=lambda n: 2010 + n % 7,
            productDisplayName=lambda n: f"Brand Men Blue Shirt {n}",
            file_name=lambda n: f"{n}.jpg",
        )
    )
    assert found.columns.image == "file_name"
    assert found.columns.category == ["masterCategory", "subCategory", "articleType"]
    assert (found.columns.product, found.columns.title) == ("id", "productDisplayName")
    assert (found.columns.price, found.columns.split, found.separator) == (None, None, None)
    assert set(found.reasons) == {"image", "category", "product", "title"}


@pytest.mark.parametrize("name", ["image", "img", "photo", "picture", "filename", "path"])
def test_prefers_the_column_named_as_images_among_two_with_files(name: str) -> None:
    table = rows(aaa=lambda n: f"{n}.jpg", label=lambda n: ("Shoes", "Bags")[n % 2])
    table = [row | {name: row["aaa"]} for row in table]
    assert guess(table).columns.image == name


@pytest.mark.parametrize("separator", [" > ", ">", "->", "/", " / ", "|", "::", "\\"])
def test_guesses_path_column_and_separator(separator: str) -> None:
    table = rows(
        image=lambda n: f"a/{n}.jpg", label=lambda n: separator.join(TYPES[n % 3]), type=lambda n: TYPES[n % 3][2]
    )
    found = guess(table)
    assert (found.columns.category, found.separator) == (["label"], separator)


def test_guesses_a_single_level() -> None:
    found = guess(rows(file=lambda n: f"{n}.jpg", label=lambda n: ("T-shirts/Tops", "Shoes", "Bags")[n % 3]))
    assert (found.columns.category, found.separator) == (["label"], None)


def test_guesses_product_price_and_split_columns() -> None:
    found = guess(
        rows(
            handle=lambda n: f"shirt-{n // 3}",
            photo=lambda n: f"{n}.jpg",
            name=lambda n: f"A shirt of kind {n}",
            category=lambda n: ("Shirts", "Shoes")[n // 3 % 2],
            price_eur=lambda n: f"{n}.90",
            set=lambda n: ("train", "validation", "test")[n % 3],
            stock=lambda n: n % 4,
        )
    )
    columns = found.columns
    assert (columns.product, columns.price, columns.split, columns.title) == ("handle", "price_eur", "set", "name")
    assert "one product" in found.reasons["product"]


def test_product_column_must_agree_with_the_category() -> None:
    table = rows(image=lambda n: f"{n}.jpg", sku=lambda n: str(n // 2), category=lambda n: ("A", "B")[n % 2])
    assert guess(table).columns.product is None


def test_guesses_list_and_embedded_image_columns() -> None:
    table = rows(image="i", thumb="t", label=lambda n: list(TYPES[n % 3]), text="")
    found = guess(table, embedded=["thumb", "image"])
    assert (found.columns.image, found.columns.category, found.separator) == ("image", ["label"], None)


def test_given_columns_are_not_guessed() -> None:
    table = rows(a=lambda n: f"{n}.jpg", b=lambda n: f"x/{n}.jpg", colour=lambda n: ("red", "blue")[n % 2])
    found = guess(table, image=["b"], category=["colour"])
    assert (found.columns.image, found.columns.category) == ("b", ["colour"])
    assert found.reasons["image"] == "given by --column"
    with pytest.raises(InputError) as caught:
        guess(table, image=["c"], kind=["a"], title=["a", "b"])
    for told in ("image=c: the table has no such column; its columns are: 'a', 'b', 'colour'", "kind: ", "title: only"):
        assert told in str(caught.value)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (lambda n: f"{n}", "'id' matches with .jpg appended: write a column with such paths, for example 0.jpg"),
        (lambda n: f"/home/me/photos/{n}.jpg", "'id' matches without the folders before the file name"),
        (lambda n: f"photos/x/{n}.jpg", "'id' matches without the first folder"),
        (lambda n: f"word {n}", "the columns are 'id', 'category'. Is it the right folder?"),
    ],
)
def test_error_for_wrong_paths_suggests_a_correction(value: Any, told: str) -> None:
    known = {f"{n}.jpg" for n in range(60)} | {f"x/{n}.jpg" for n in range(60)}
    known -= {f"{n}.jpg" for n in range(60)} if "first folder" in told else set()
    table = rows(id=value, category="A")
    with pytest.raises(InputError, match="expected a column that names files in the folder") as caught:
        guess_columns(table, is_image=known.__contains__, embedded=(), given={})
    assert told in str(caught.value)


def test_error_without_category_column_lists_candidates() -> None:
    table = rows(file=lambda n: f"{n}.jpg", colour=lambda n: f"c{n % 3}", usage=lambda n: f"u{n % 2}")
    with pytest.raises(InputError, match=r"--column category=NAME.*'colour', 'usage'"):
        guess(table)


def test_sample_is_bounded_and_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crawlers.files.roles.SAMPLE_ROWS", 50)
    table = [TableRow(number, {"n": number} if number % 2 else None) for number in range(1_000)]
    drawn = [row["n"] for row in sample_rows(table)]
    assert len(drawn) == 50
    assert drawn == sorted(drawn) == [row["n"] for row in sample_rows(table)]
    assert max(drawn) > 800
