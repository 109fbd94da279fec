"""Comparison of our structured data parsers with extruct on the saved product pages."""

from decimal import Decimal, InvalidOperation
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from crawlers.pages.saved import SavedPage, read_page
from crawlers.pages.shops import shop_of

extruct_answers = pytest.importorskip("benchmarks.extruct_answers").extruct_answers

SAVED = Path(__file__).parent / "saved"
PRODUCTS = [path for path in sorted(SAVED.glob("*/product*.json")) if "demo.test" not in path.parent.name]
MACHINES = {"json-ld", "microdata", "opengraph"}
DIFFERENCES = {  # known differences and their reasons
    ("json-ld", None): "extruct gives up a page of which one script is no JSON",
    ("microdata", "price"): 'the price is written for people, "1.299,00": a number to us, a text to extruct',
    ("shopify", "sku"): "of a group of variants we read the group's number, extruct's first product is a variant",
}
FIELDS = ("price", "sku", "availability", "brand", "gtin", "mpn")


@pytest.mark.parametrize("path", PRODUCTS, ids=lambda path: path.parent.name)
def test_structured_data_agrees_with_extruct(path: Path) -> None:
    page = SavedPage.load(path)
    ours = read_page("product", shop_of(urlsplit(page.url).hostname or ""), page.response)
    theirs = extruct_answers(page.url, page.body)
    differ = set()
    for field in FIELDS if theirs is not None else ():
        if ours["field_sources"].get(field) in MACHINES and theirs[field] is not None:
            differ |= set() if same(field, ours[field], theirs[field]) else {field}
    assert differ == {field for folder, field in DIFFERENCES if folder == path.parent.name and field}
    assert (theirs is None) == ((path.parent.name, None) in DIFFERENCES)


def same(field: str, ours: str, theirs: str) -> bool:
    if field != "price":
        return ours == theirs
    try:
        return Decimal(ours) == Decimal(theirs)
    except InvalidOperation:
        return False
