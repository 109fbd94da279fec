"""Reader of labelled values ("Product code: 4711") and of availability in the visible text.

It examines the short texts of the page's main part in order. A value follows its label's colon, or it is the next text,
as in tables, definition lists and forms.
"""

import re
from collections.abc import Iterator
from functools import cached_property
from itertools import chain, islice

from lxml import etree

from crawlers.pages.html.document import Document
from crawlers.pages.html.elements import Element, ancestors, is_hidden, names_of, text_of
from crawlers.pages.structured_data.stock import IN_STOCK, OUT_OF_STOCK, PRE_ORDER, stock_of
from crawlers.pages.text.product_words import (
    BRAND_LABELS,
    BUY,
    GTIN_LABELS,
    MPN_LABELS,
    NUMBER_LABELS,
    ON_SALE,
    PRE_ORDERED,
    SOLD_OUT,
    STOCK_LABELS,
)

KINDS = {
    label: field
    for field, labels in (
        ("brand", BRAND_LABELS),
        ("availability", STOCK_LABELS),
        ("mpn", MPN_LABELS),
        ("gtin", GTIN_LABELS),
        ("sku", NUMBER_LABELS),
    )
    for label in labels
}
BEGINNING = 3  # letters of an index key; no phrase is shorter, and no label by more than one
EDGES = " \t:：#.,()[]<>〈〉【】*•-–—·|"  # stripped from a label
OPENING = EDGES + "〈【("
BEGINNINGS = {label[:BEGINNING] for label in KINDS}  # most texts are rejected by this before the patterns below
MARKS = EDGES + "✓✔!"  # stripped from a text about availability
PHRASES: dict[str, list[tuple[str, str]]] = {}  # three letters -> phrases with availability; sold out first
for stock, phrases in ((OUT_OF_STOCK, SOLD_OUT), (PRE_ORDER, PRE_ORDERED), (IN_STOCK, ON_SALE)):
    for phrase in phrases:
        PHRASES.setdefault(phrase[:BEGINNING], []).append((phrase, stock))
PAIR = re.compile(r"^[\s〈【(\[]*([^:：#]{2,40}?)\s*[:：#]+\s*(\S.*)$")
DIVIDED = re.compile(r"[:：#]|\d")
NUMBERED = re.compile(r"^([^\d:：]{2,30}?)[\s.]+((?=\S*\d)[\w./-]{3,40})$")  # "SKU 4711"
OF_STOCK = re.compile(
    r"stock|avail|verf(ue|ü)g|lager|dispo|inventory|delivery-?status|sold-?out|nalichie", re.IGNORECASE
)
OF_BUYING = re.compile(
    r"add-?_?to-?_?(cart|basket|bag)|addto(cart|basket|bag)|buy-?_?(now|it|btn|button)|btn-?cart|\bbuy\b", re.I
)
MAX_LABEL = 40  # characters
MAX_PAIR = 140  # characters of a label and its value
MIN_IN_URL = 4  # characters of a number
MAX_STOCK_TEXT = 60  # characters of a text about availability
MAX_APART = 3  # ancestors between a label and the element that contains both label and value
PARTS = ("btn", "utton", "art", "uy", "asket", "kauf", "order", "action")  # in classes and ids of buy links
_LINKS = etree.XPath(
    "descendant::a[@class or @id or @role][@role = 'button' or "
    + " or ".join(f"contains(@{name}, '{part}')" for part in PARTS for name in ("class", "id"))
    + "]"
)
CHOICES = {"option", "label", "select"}
MAX_BUTTONS = 1500  # buttons that are examined


class LabelledValues:
    """Labelled values, availability and buy button of one page."""

    def __init__(self, page: Document) -> None:
        self._page = page

    def values(self, field: str) -> list[str]:
        """The values after labels of ``field``, in page order."""
        return self._values.get(field, [])

    @cached_property
    def numbers(self) -> list[str]:
        """The shop's product numbers: values after their labels that contain a digit."""
        return [value for value in self.values("sku") if any(map(str.isdigit, value))]

    @property
    def numbers_in_url(self) -> list[str]:
        """Those that are also in the page's URL and long enough not to be there by chance."""
        return [number for number in self.numbers if len(number) >= MIN_IN_URL and number in self._page.url]

    @cached_property
    def _values(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        labels = {
            text: label for text in self._page.plain_texts if len(text) <= MAX_PAIR and (label := _labelled(text))[0]
        }
        if not labels:
            return found
        texts = self._page.texts
        for place, (element, text) in enumerate(texts):
            field, value = labels.get(text, (None, None))
            if field and value is None:
                value = _behind(element, texts[place + 1 : place + 3])
            if field and value and not self._page.is_aside(element) and not is_hidden(element):
                found.setdefault(field, []).append(value)
        return found

    @cached_property
    def stock(self) -> str | None:
        """The availability by a label, else by a short text, else by a buy button."""
        stated = [stock for value in self.values("availability") if (stock := stock_in_text(value) or stock_of(value))]
        if stated:
            return stated[0]
        shown = set(self._stock_texts())
        if OUT_OF_STOCK in shown:
            return OUT_OF_STOCK
        return self._button or (IN_STOCK if IN_STOCK in shown else None)

    @property
    def button(self) -> Element | None:
        """The button to buy or pre-order the product."""
        return None if self._found is None else self._found[0]

    @property
    def has_buy_button(self) -> bool:
        """Whether there is a buy button and no text that says sold out."""
        return self._button == IN_STOCK and self.stock != OUT_OF_STOCK

    def _stock_texts(self) -> Iterator[str]:
        short = (text for text in self._page.plain_texts if len(text) <= MAX_STOCK_TEXT)
        known = {text: stock for text in short if (stock := stock_in_text(text))}
        for element, text in self._page.texts if known else ():
            if (stock := known.get(text)) is None:
                continue
            parent = element.getparent()
            named = OF_STOCK.search(names_of(element)) or (parent is not None and OF_STOCK.search(names_of(parent)))
            if (named or len(text) < MAX_LABEL) and not (
                is_hidden(element)
                or self._page.is_aside(element)
                or _is_choice(element)
                or self._page.in_product_box(element)
            ):
                yield stock

    @property
    def _button(self) -> str | None:
        """The availability that the button implies."""
        return None if self._found is None else self._found[1]

    @cached_property
    def _found(self) -> tuple[Element, str] | None:
        main = self._page.main
        for button in () if main is None else islice(chain(main.iter("button", "input"), _LINKS(main)), MAX_BUTTONS):
            stock = _bought_by(button)
            if stock and not (self._page.is_aside(button) or self._page.in_product_box(button)):
                return button, stock
        return None


def stock_in_text(text: str) -> str | None:
    """The availability that a short text states; None if it states none."""
    known = PHRASES.get(text.lstrip(MARKS)[:BEGINNING].lower())
    if known is None:
        return None
    plain = text.lower().strip(MARKS)
    return next((stock for phrase, stock in known if plain.startswith(phrase)), None)


def _labelled(text: str) -> tuple[str | None, str | None]:
    """The field that ``text`` is a label of, and the value after the label; each None if missing."""
    start = text.lstrip(OPENING)[:BEGINNING].lower()
    if start not in BEGINNINGS and start[:-1] not in BEGINNINGS:
        return None, None
    if len(text) <= MAX_LABEL and (field := KINDS.get(text.strip(EDGES).lower())):
        return field, None
    if not DIVIDED.search(text):
        return None, None
    for pattern in (PAIR, NUMBERED):
        if (pair := pattern.match(text)) and (field := KINDS.get(pair[1].strip(EDGES).lower())):
            return field, pair[2].strip(" 〉】)]")
    return None, None


def _behind(label: Element, texts: list[tuple[Element, str]]) -> str | None:
    """The next of ``texts`` that is not only punctuation, if it is near the label and not a label itself."""
    around = [label, *ancestors(label, MAX_APART)]
    for element, text in texts:
        if text.strip(EDGES):
            is_near = any(node in around for node in (element, *ancestors(element, MAX_APART)))
            return text if is_near and not _labelled(text)[0] and not text.endswith((":", "：")) else None
    return None


def _is_choice(element: Element) -> bool:
    """Whether ``element`` is in a selection of sizes or colours."""
    return any(node.tag in CHOICES for node in (element, *ancestors(element, MAX_APART)))


def _bought_by(button: Element) -> str | None:
    """In stock for a buy button, pre-order for a pre-order button, None for any other button."""
    if button.get("disabled") is not None or button.get("aria-disabled") == "true":
        return None
    if button.tag == "input" and button.get("type", "").lower() not in ("submit", "button", "image"):
        return None
    texts = [button.get("value", ""), button.get("aria-label", ""), button.get("title", ""), text_of(button)[:100]]
    words = [" ".join(text.split()).lower() for text in texts]
    if button.tag != "a" and any(text.startswith(PRE_ORDERED) for text in words):
        return PRE_ORDER
    if any(text.startswith(BUY) for text in words):
        return IN_STOCK
    called = button.tag != "a" and OF_BUYING.search(f"{names_of(button)} {button.get('name', '')}")
    return IN_STOCK if called else None
