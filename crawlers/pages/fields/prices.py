"""Reader of visible prices: from elements named as prices, else from texts that consist of an amount of money.

Ignored are former prices and those of something else: shipping, a unit, a product in a box beside the page's own.
"""

import re
from collections.abc import Iterator
from decimal import Decimal
from functools import cached_property, lru_cache
from typing import NamedTuple

from crawlers.pages.html.document import Document
from crawlers.pages.html.elements import Element, ancestors, is_hidden, is_small, names_of, text_of
from crawlers.pages.text.values import CURRENCY_AFTER, CURRENCY_BEFORE, parse_amount

PRICES = re.compile(r"price|amount|preis|prix|precio|prezzo", re.IGNORECASE)

# Classes and ids of former prices, of amounts that are not the price of one piece, and of current prices.
OLD_PRICE = re.compile(
    r"(?<![a-z])(old|was|mrp|rrp|uvp|msrp|compare\w*|before|previous|original|undiscounted|strike\w*|struck|cross\w*|"
    r"through)(?![a-z])",
    re.IGNORECASE,
)
OTHER_PRICE = re.compile(
    r"(?<![a-z])(sav(e|es|ed|ing|ings)|off|discount|percent\w*|shipping|delivery|unit|per|tax|ecotax|installments?|emi|"
    r"points|member\w*|loyalty|club|sns|subscri\w+|tiered|swatch\w*|deposit|monthly|finance|credit|note|range|filter)(?![a-z])",
    re.IGNORECASE,
)
USUAL_PRICE = re.compile(
    r"(?<![a-z])((regular|list|base|normal|standard)[\s-]*(price|preis|prix|amount)|"
    r"(price|preis|prix|amount)[\s-]*(regular|list|base|normal|standard))(?![a-z])|(^|\s)(regular|list|normal|standard)(\s|$)",
    re.IGNORECASE,
)
NOW_PRICE = re.compile(
    r"(?<![a-z])(sale|special|current|final|now|offer|selling|discounted|actual|our|promo\w*|reduced|new|buying)(?![a-z])",
    re.IGNORECASE,
)
OTHER_TEXT = re.compile(  # before or after an amount
    r"\b(ex\.?|excl\w*|without|net|netto|brez|bez|ohne|hors|sans|senza|zonder|exkl\w*|uden)\b.{0,12}"
    r"\b(tax|vat|mwst|ust|ddv|dph|tva|iva|btw|moms|pdv)|\bnet(to)?:|shipping|delivery|versand|livraison|spedizione|"
    r"env[ií]o|frete|verzend|frakt|dostaw|doprav|sz[aá]ll[ií]t|livrare|or more|\bsave\b|ersparnis|[eé]conomis|ahorr|"
    r"risparmi|\bper (month|kg|l|100)|/ ?(kg|l|100|month|monat|mois|mes)\b|deposit|instal+ment|cuota|\bemi\b",
    re.IGNORECASE,
)
STRUCK_TAGS = {"del", "s", "strike"}
LINE_THROUGH = re.compile(r"line-through", re.IGNORECASE)
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")  # oldPrice -> old Price
AMOUNT = r"\d[\d.,'’ \u00a0\u202f]{0,15}"
WORDS = (  # before an amount that is otherwise alone in its text
    r"(?:(?:from|now|only|price|ab|nur|jetzt|preis|à partir de|prix|desde|precio|a partire da|da|prezzo|od|cena|от|"
    r"цена|hinta|售價|特價)[:：\s]*)?"
)
ONLY_MONEY = re.compile(
    rf"^{WORDS}(?:{CURRENCY_BEFORE}\s?{AMOUNT}|{AMOUNT}(?:,?[-–]+)?\s?{CURRENCY_AFTER})\.?[~*起]?$", re.IGNORECASE
)
ONLY_AMOUNT = re.compile(rf"^{AMOUNT}(?:,?[-–]+)?$")
ENDS_IN_CURRENCY = re.compile(rf"{CURRENCY_BEFORE}$", re.IGNORECASE)
BEGINS_WITH_CURRENCY = re.compile(rf"^{CURRENCY_AFTER}", re.IGNORECASE)
NUMBER = re.compile(r"\d[\d.,'’ \u00a0\u202f]*")
WORD = re.compile(r"[^\W\d_]{2,}")
MAX_WORDS = 3  # words around an amount: "from", a currency
MAX_TEXT = 60  # characters of a text with an amount
LARGE = {"h1", "h2", "h3", "h4", "strong", "b"}
MAX_PARTS = 100  # elements inside one that shows a price
MAX_FOUND = 400  # elements that are examined
MAX_HEIGHT = 3  # ancestors that may be struck through


class ShownPrice(NamedTuple):
    """A visible price."""

    element: Element
    text: str
    amount: Decimal
    rank: tuple[int, bool]  # 0 sale price, 1 price, 2 regular price, 3 former price; then whether it has more text


class Prices:
    """The prices that one page shows for its product."""

    def __init__(self, page: Document) -> None:
        self._page = page

    @cached_property
    def best(self) -> ShownPrice | None:
        """The current price: near the heading, sale prices first; a former price only if there is no other."""
        near = {id(element) for element in self._page.near_heading([shown.element for shown in self._named])}
        beside = [shown for shown in self._named if id(shown.element) in near]
        best = min(beside, key=_rank, default=None)
        if best is not None and best.rank[0] == OLD:
            lower = [shown for shown in self._named if shown.rank[0] < OLD and shown.amount < best.amount]
            best = min(lower, key=_rank, default=best)
        if best is None or best.rank[1]:  # none, or an amount among words: perhaps one stands alone somewhere
            return self._read or best
        return best

    def lower_than(self, amount: Decimal) -> ShownPrice | None:
        """The best visible price if it is lower than ``amount`` and the page shows ``amount`` as a former price."""
        if self.best is None or self.best.rank[0] == OLD or self.best.amount >= amount:
            return None
        return self.best if any(shown.amount == amount for shown in self._past) else None

    @cached_property
    def _named(self) -> list[ShownPrice]:
        return [shown for shown in self._all if shown.rank[0] < NEVER and shown.amount]

    @cached_property
    def _all(self) -> list[ShownPrice]:
        """The prices in elements named as prices; of nested elements the innermost."""
        small = [
            element for element in self._page.elements_named_in_main(PRICES)[:MAX_FOUND] if is_small(element, MAX_PARTS)
        ]
        texts = {element: _price_text(element) for element in small}
        amounts = {element: amount for element, text in texts.items() if (amount := parse_amount(text)) is not None}
        around = {parent for element in amounts for parent in ancestors(element)}
        return [
            ShownPrice(element, texts[element], amount, (_kind(element), _has_more_text(texts[element])))
            for element, amount in amounts.items()
            if element not in around and self._is_own(element)
        ]

    @cached_property
    def _past(self) -> list[ShownPrice]:
        return [shown for shown in self._all if shown.rank[0] >= OLD]

    @cached_property
    def _read(self) -> ShownPrice | None:
        """The best text near the heading that is an amount of money only; large type is preferred."""
        texts = self._page.texts
        found = []
        for place, (element, text) in enumerate(texts):
            if len(text) > 40 or (not text[0].isascii() and not ONLY_MONEY.match(text)):
                continue
            whole = text if ONLY_MONEY.match(text) else _joined(texts, place) if ONLY_AMOUNT.match(text) else None
            amount = None if whole is None else parse_amount(whole)
            if (
                not amount
                or whole is None
                or _kind(element) >= OLD
                or _is_other_amount(texts, place)
                or is_struck(element)
            ):
                continue
            if not self._is_own(element):
                continue
            found.append(ShownPrice(element, whole, amount, (0 if _is_large(element) else 1, False)))
        near = {id(element) for element in self._page.near_heading([shown.element for shown in found])}
        return min((shown for shown in found if id(shown.element) in near), key=_rank, default=None)

    def _is_own(self, element: Element) -> bool:
        return not (self._page.is_aside(element) or is_hidden(element) or self._page.in_product_box(element))


OLD, NEVER = 3, 4  # ranks


def _rank(shown: ShownPrice) -> tuple[bool, int]:
    return shown.rank[1], shown.rank[0]


def _has_more_text(text: str) -> bool:
    """Whether a text has more than an amount: words or other numbers."""
    return len(NUMBER.findall(text)) > 2 or len(WORD.findall(text)) > MAX_WORDS or len(text) > MAX_TEXT


def is_struck(element: Element) -> bool:
    """Whether ``element`` is struck through."""
    return any(
        node.tag in STRUCK_TAGS or LINE_THROUGH.search(node.get("style", ""))
        for node in (element, *ancestors(element, MAX_HEIGHT))
    )


def _joined(texts: list[tuple[Element, str]], place: int) -> str | None:
    """The amount at ``place`` with its currency from the adjacent element; None if there is no currency."""
    text = texts[place][1]
    if place and ENDS_IN_CURRENCY.search(texts[place - 1][1]):
        return f"{texts[place - 1][1].split()[-1][-4:]} {text}"
    if place + 1 < len(texts) and (behind := BEGINS_WITH_CURRENCY.match(texts[place + 1][1])):
        return f"{text} {behind[0]}"
    return None


def _is_other_amount(texts: list[tuple[Element, str]], place: int) -> bool:
    """Whether the preceding label says that the amount is shipping, a price without tax, ..."""
    before = texts[place - 1][1] if place else ""
    is_label = len(before) < MAX_TEXT and not any(map(str.isdigit, before))
    return OTHER_TEXT.search(f"{before} {texts[place][1]}" if is_label else texts[place][1]) is not None


def _is_large(element: Element) -> bool:
    return any(node.tag in LARGE or "font" in node.get("style", "") for node in (element, *ancestors(element, 1)))


def _price_text(element: Element) -> str:
    """The price in ``element``: from an attribute, else from its text without the parts that are former prices."""
    for name in ("content", "data-price-amount"):
        if element.get(name):
            return element.get(name, "")
    return text_of(element, without={part for part in element.iterdescendants("*") if _is_past(part)})


def _is_past(element: Element) -> bool:
    return (
        element.tag in STRUCK_TAGS
        or LINE_THROUGH.search(element.get("style", "")) is not None
        or _is_called_past(names_of(element))
    )


def _words(element: Element) -> str:
    return _parted(names_of(element))


@lru_cache(maxsize=4096)
def _parted(names: str) -> str:
    return CAMEL.sub(" ", names).replace("_", " ")


@lru_cache(maxsize=4096)  # prices of a page share their names
def _is_called_past(names: str) -> bool:
    words = _parted(names)
    return OLD_PRICE.search(words) is not None or OTHER_PRICE.search(words) is not None


def _around(element: Element) -> Iterator[Element]:
    """``element`` and the ancestors that belong to its price block."""
    yield element
    for parent in ancestors(element):
        if "price" not in names_of(parent).lower() and parent.tag not in (*STRUCK_TAGS, "ins"):
            break
        yield parent


def _kind(element: Element) -> int:
    """The first part of `ShownPrice.rank`."""
    around = list(_around(element))
    if any(node.tag in STRUCK_TAGS or LINE_THROUGH.search(node.get("style", "")) for node in around):
        return NEVER
    words = [_words(node) for node in around[:2]]
    if any(OTHER_PRICE.search(text) for text in words) or OTHER_TEXT.search(text_of(element)):
        return NEVER
    if any(OLD_PRICE.search(text) for text in words):
        return OLD
    if any(node.tag == "ins" for node in around[:2]) or any(NOW_PRICE.search(text) for text in words):
        return 0
    return 2 if USUAL_PRICE.search(words[0]) else 1
