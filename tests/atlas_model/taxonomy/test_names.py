"""Normalization of category names, and look-alike names."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_model.taxonomy.names import clean_name, look_alikes


@pytest.mark.parametrize(
    ("given_name", "expected"),
    [
        ("Shirts", "Shirts"),
        ("  Ethnic \t\u00a0 Wear\n", "Ethnic Wear"),
        ("Ro\u0308cke", "Röcke"),
        ("T\u200b-\u2060Shi\u00adrts\ufeff", "T-Shirts"),
        ("\u202eShirts\u202c", "Shirts"),
        ("Shirts\ufe0f\U000e0100", "Shirts"),
        ("\u3164\u2800\x00", ""),
        ("क्\u200dष", "क्\u200dष"),  # a joiner that changes the rendering
        ("می\u200cروم", "می\u200cروم"),
        ("می\u200c", "می"),
        ("Men\u200c's", "Men's"),
        ("İ", "İ"),
        ("ﬁt", "ﬁt"),  # NFC, not NFKC: compatibility characters are look-alikes, not equal
    ],
)
def test_normalizes_names(given_name: str, expected: str) -> None:
    assert clean_name(given_name) == expected


@given(st.text(st.characters() | st.sampled_from("\u200c\u200d\u00ad\u0308 \u0627\u0628"), max_size=12))
def test_normalization_is_idempotent(text: str) -> None:
    cleaned = clean_name(text)
    assert clean_name(cleaned) == cleaned
    assert unicodedata.is_normalized("NFC", cleaned)
    assert clean_name(unicodedata.normalize("NFD", text)) == cleaned


def test_finds_look_alike_names() -> None:
    names = [
        "Tops",
        "T\u043eps",
        "tops",
        "Shoes",
        "Café",
        "Cafe",
        "T-Shirt",
        "T–Shirt",
        "TShirt",
        "Ｓhoes",
        "C",
        "C++",
        "+",
    ]
    assert look_alikes(names) == [
        ("Cafe", "Café"),
        ("Shoes", "Ｓhoes"),
        ("T-Shirt", "TShirt", "T–Shirt"),
        ("Tops", "T\u043eps", "tops"),
    ]
    assert look_alikes(["Tops", "Tops", "Bags"]) == []
