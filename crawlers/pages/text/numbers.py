"""Validation of product numbers (SKU, GTIN, MPN) and brands; placeholders, prices and names are rejected."""

import re
from typing import Any

from crawlers.pages.text.values import MONEY, clean_text
from crawlers.pages.text.words import EMPTY_VALUES

MAX_NUMBER = 60  # characters
MAX_BRAND = 100
WORD = re.compile(r"[^\W\d_]{3,}")
LABEL = re.compile(r"^[^\W\d_][^:：\d]{0,30}[:：#]\s*")  # "SKU: " before a number
ISBN_10 = re.compile(r"\d{9}[\dX]")
GTIN_LENGTHS = (8, 12, 13, 14)
SCHEME = re.compile(r"^(isbn|gtin\d*|ean|upc|mpn|sku)[:\s]", re.IGNORECASE)


def clean_sku(value: Any) -> str | None:
    """The shop's own product number; None if ``value`` is a placeholder, a price, or words."""
    text = _number(value)
    if text is None or text.startswith("-") or MONEY.search(text):
        return None
    first, *others = text.split()
    if any(WORD.fullmatch(word.strip(",;.")) for word in others) or (others and not _has_digit(text)):
        # a number followed by words, or a name
        return first if _has_digit(first) and len(first) > 3 and not _has_digit("".join(others)) else None
    return text


def clean_mpn(value: Any) -> str | None:
    """The manufacturer part number, which may contain words."""
    text = _number(value)
    return text if text is not None and (_has_digit(text) or " " not in text) else None


def clean_gtin(value: Any) -> str | None:
    """The digits of a GTIN (EAN, UPC, ISBN); None if its length or check digit is wrong.

    An ISBN-10 is converted to ISBN-13. https://www.gs1.org/services/how-calculate-check-digit-manually
    """
    text = clean_text(value)
    if text is None:
        return None
    digits = re.sub(r"[\s-]", "", SCHEME.sub("", text)).upper()
    if ISBN_10.fullmatch(digits):
        body = f"978{digits[:9]}"
        return body + _check_digit(body) if _is_isbn_10(digits) else None
    if not (digits.isascii() and digits.isdigit() and len(digits) in GTIN_LENGTHS) or not digits.strip("0"):
        return None
    return digits if _check_digit(digits[:-1]) == digits[-1] else None


def clean_brand(value: Any) -> str | None:
    """The brand name; None if ``value`` is a placeholder or too long."""
    text = clean_text(value)
    return None if text is None or text.lower() in EMPTY_VALUES or len(text) > MAX_BRAND else text


def _number(value: Any) -> str | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = clean_text(value)
    text = None if text is None else LABEL.sub("", SCHEME.sub("", text)).strip(" .,;:#()[]〈〉")
    if not text or len(text) > MAX_NUMBER or text.lower() in EMPTY_VALUES or not re.sub(r"[\W0_]", "", text):
        return None
    return text


def _has_digit(text: str) -> bool:
    return any(character.isdigit() for character in text)


def _check_digit(digits: str) -> str:
    total = sum(int(digit) * (3 if place % 2 == 0 else 1) for place, digit in enumerate(reversed(digits)))
    return str(-total % 10)


def _is_isbn_10(text: str) -> bool:
    values = [10 if digit == "X" else int(digit) for digit in text]
    return sum(value * (10 - place) for place, value in enumerate(values)) % 11 == 0
