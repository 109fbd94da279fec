"""Normalises names of categories, and finds names that differ but look alike.

A normalised name is in Unicode normal form C, without invisible characters, with single spaces. Zero-width joiners
are kept where they change how letters join (Unicode Standard Annex 31, section 2.3).
"""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache

LEVEL_SEPARATOR = ">"  # between the levels of a written path, so no name can contain it
JOINERS = "\u200c\u200d"
VIRAMA = 9  # combining class
# Also invisible, although Unicode classifies them as letters, marks and symbols.
BLANK = {"\u034f", "\u115f", "\u1160", "\u17b4", "\u17b5", "\u2800", "\u3164", "\uffa0"}
SELECTORS = (range(0x180B, 0x1810), range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0))  # variation selectors
CYRILLIC = "АВЕЗІЈКМНОРСТУХЅавеорсухіјѕһԁԛԝ", "ABE3IJKMHOPCTYXSaBeopcyxijshdqw"
GREEK = "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧαικνορυχ", "ABEZHIKMNOPTYXaikvopux"
LOOKS = dict(zip(*CYRILLIC, strict=True)) | dict(zip(*GREEK, strict=True))  # letters that look like Latin ones


@lru_cache(maxsize=65_536)
def clean_name(text: str) -> str:
    """Normalise ``text``; the result is empty if no character is visible."""
    if not (text.isascii() and text.isprintable()):
        text = unicodedata.normalize("NFC", _visible(unicodedata.normalize("NFC", text)))
    return " ".join(text.split())


def look_alikes(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Group different names that look alike; each group is sorted, and so is the list.

    They differ in capitals, accents, punctuation, spaces, width, or in letters of other alphabets that look the same.
    """
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for name in names:
        groups[_skeleton(name)].add(name)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def _visible(text: str) -> str:
    kept: list[str] = []
    characters = (" " if character.isspace() else character for character in text)
    visible = [character for character in characters if character in JOINERS or _is_visible(character)]
    for index, character in enumerate(visible):
        if character not in JOINERS or _joins(kept[-1:], visible[index + 1 : index + 2]):
            kept.append(character)
    return "".join(kept)


def _is_visible(character: str) -> bool:
    if character in BLANK or any(ord(character) in span for span in SELECTORS):
        return False
    return unicodedata.category(character) not in ("Cc", "Cf")


def _joins(before: list[str], after: list[str]) -> bool:
    """Whether a joiner between these characters changes how they join."""
    if not before or not after:
        return False
    arabic = unicodedata.bidirectional(before[-1]) == unicodedata.bidirectional(after[0]) == "AL"
    return arabic or unicodedata.combining(before[-1]) == VIRAMA


@lru_cache(maxsize=65_536)
def _skeleton(name: str) -> str:
    latin = "".join(LOOKS.get(character, character) for character in unicodedata.normalize("NFKD", name))
    folded = unicodedata.normalize("NFKD", latin.casefold())
    letters = "".join(character for character in folded if character.isalnum() or character in "+#")
    return letters or name
