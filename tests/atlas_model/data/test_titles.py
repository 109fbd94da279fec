"""Tokenization of titles, removal of label words, and the title head."""

import time
import unicodedata
from zlib import crc32

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atlas_model.data import titles as titles_module
from atlas_model.data.titles import MAX_CHARACTERS, LabelWords, TitleHead, augment_titles, ngram_ids, split_words

NAMES = ["Apparel", "Topwear", "Tshirts", "Track Pants", "Dresses", "Watches", "Accessories", "Scarves", "Flip Flops"]
any_text = st.text(st.characters(exclude_categories=[]))  # lone surrogates and control characters as well


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("Nike Men's T-Shirt (Blue), XL", ["nike", "men", "s", "t", "shirt", "blue", "xl"]),
        ("  ", []),
        ("", []),
        ("\0Tee\0\x1b[31mred", ["tee", "31mred"]),
        ("caf\u00e9 STRASSE stra\u00dfe", ["caf\u00e9", "strasse", "strasse"]),
        ("\ud800Bag\udfff", ["bag"]),
        ("2XL 100%cotton €15", ["2xl", "100", "cotton", "€15"]),
        ("<Bag>", ["bag"]),
        (
            "साड़ी कुर्ती",
            [unicodedata.normalize("NFC", "साड़ी"), "कुर्ती"],
        ),  # its vowel signs are marks, which do not split words
        ("قميص أزرق", ["قميص", "أزرق"]),
        ("👗👠 Dress", ["👗👠", "dress"]),
    ],
)
def test_words_are_case_folded_and_split_at_punctuation(title: str, words: list[str]) -> None:
    assert split_words(title) == words


def test_composed_and_decomposed_letters_are_equal() -> None:
    assert split_words("cafe\u0301 \u1e9e\u0323") == split_words(
        unicodedata.normalize("NFC", "cafe\u0301 \u1e9e\u0323")
    )


@given(any_text)
def test_tokenization_of_any_text_is_idempotent(title: str) -> None:
    words = split_words(title)
    assert all(word and not any(map(str.isspace, word)) for word in words)
    assert split_words(" ".join(words)) == words or len(" ".join(words)) > MAX_CHARACTERS
    assert LabelWords(NAMES).remove_from(title).split() == [
        w for w in words if w in LabelWords(NAMES).remove_from(title).split()
    ]
    for word in words[:3]:
        assert (ngram_ids(word, 100) < 100).all()


def test_long_title_is_truncated_before_tokenization() -> None:
    title = "Shirt " + "a\u0301" * 500_000
    started = time.process_time()
    assert split_words(title) == split_words(title[:MAX_CHARACTERS])
    assert split_words(title)[0] == "shirt"
    encoder = TitleHead(64, 4, [], 6, 0.0)
    assert torch.equal(encoder([title]), encoder([title[:MAX_CHARACTERS]]))
    assert time.process_time() - started < 1  # seconds


def test_ngrams_include_word_boundaries_and_have_stable_buckets() -> None:
    assert sorted(ngram_ids("tee", 10**9)) == sorted(
        crc32(ngram) % 10**9
        for ngram in (b"<t", b"te", b"ee", b"e>", b"<te", b"tee", b"ee>", b"<tee", b"tee>", b"<tee>")
    )
    assert len(ngram_ids("sweatshirt", 10**9)) == 11 + 10 + 9 + 8 + 1, (
        "all n-grams of 2 to 5 characters, and the whole word"
    )
    assert crc32(b"<sweatshirt>") % 10**9 in ngram_ids("sweatshirt", 10**9)
    # Saved models depend on these buckets.
    assert ngram_ids("tee", 16384).tolist() == [7717, 15322, 6346, 4278, 11459, 5035, 4752, 4796, 9045, 7891]


@pytest.mark.parametrize(
    ("title", "left"),
    [
        ("Nike Men Blue Tshirt", "nike men blue"),
        ("Nike Men Blue T-shirt", "nike men blue"),
        ("Nike Men Blue T Shirts", "nike men blue"),
        ("Nike T-shirts dress", "nike"),
        ("Blue Tee", "blue tee"),  # a synonym
        ("Puma trackpants black", "puma black"),
        ("Puma Track-Pants black", "puma black"),
        ("Running track", "running"),
        ("Scarf, Dress & Watch", ""),
        ("accessory", ""),
        ("Shirt", "shirt"),  # Tshirts is a different word
        ("Sweatshirt for apparelers", "sweatshirt for apparelers"),  # contains a label word, but is not one
        ("flipflops flip-flop", ""),
        ("", ""),
    ],
)
def test_removes_label_words(title: str, left: str) -> None:
    assert LabelWords(NAMES).remove_from(title) == left


def test_singular_label_also_removes_the_plural() -> None:
    words = LabelWords(["Glove", "Knife Set", "Bra"])
    assert words.remove_from("gloves knives sets bras glove knife set bra left") == "left"
    assert LabelWords([]).remove_from("Any Title") == "any title"


def test_title_score_uses_the_mean_of_ngram_embeddings() -> None:
    torch.manual_seed(1)
    head = TitleHead(50, 4, ["Hat"], 6, 0.5).eval()
    with torch.no_grad():
        found = head(["Blue tee", "", "blue  TEE!", "--", "blue tee hat"])
        ids = [index for word in ("blue", "tee") for index in ngram_ids(word, 50).tolist()]
        vector = sum(head.ngrams.weight[index] for index in ids) / len(ids)
        torch.testing.assert_close(found[0], head.output(head.norm(vector)))
        named = [index for word in ("blue", "tee", "hat") for index in ngram_ids(word, 50).tolist()]
        vector = sum(head.ngrams.weight[(index + 25) % 50] for index in named) / len(named)
        torch.testing.assert_close(found[4], head.output(head.norm(vector)))
    assert torch.equal(found[2], found[0])
    assert not found[1].any(), "an empty title has zero logits"
    assert not found[3].any()


def test_unread_buckets_get_no_gradient() -> None:
    head = TitleHead(1000, 4, ["Hat"], 6, 0.0)
    head(["tee"]).square().sum().backward()
    assert set(head.ngrams.weight.grad.abs().sum(dim=1).nonzero().flatten().tolist()) <= set(
        ngram_ids("tee", 1000).tolist()
    )


def test_augmentation_drops_the_requested_share_of_words() -> None:
    words, titles = LabelWords(["Tshirts"]), ["Nike blue cotton men Tshirt"] * 2000

    def draw(seed: int, **shares: float) -> list[str]:
        return augment_titles(titles, words, torch.Generator().manual_seed(seed), **shares)

    assert draw(1, strip=0.0, drop=0.0) == ["nike blue cotton men tshirt"] * 2000
    assert draw(1, strip=1.0, drop=0.0) == ["nike blue cotton men"] * 2000
    found = draw(1, strip=0.3, drop=0.0)
    assert sum("tshirt" not in title for title in found) / 2000 == pytest.approx(0.3, abs=0.03)
    found = draw(1, strip=0.0, drop=0.2)
    assert sum(len(title.split()) for title in found) / 10_000 == pytest.approx(0.8, abs=0.02)
    assert found == draw(1, strip=0.0, drop=0.2) != draw(2, strip=0.0, drop=0.2)
    assert augment_titles(["", "-"], words, torch.Generator(), strip=0.5, drop=0.5) == ["", ""]


def test_word_cache_has_bounded_memory() -> None:
    assert titles_module.ngram_ids.cache_info().maxsize == titles_module.CACHED_WORDS
