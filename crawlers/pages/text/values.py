"""Cleaning what pages say: texts, prices, currencies, URLs.

Everything here comes from strangers: it may be of another type than it should be, endless, or hostile. Mark-up in
a text stays text. Knows nothing of where on a page a value stood.
"""

import re
from collections.abc import Container, Iterable, Mapping
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

from price_parser import Price

from crawlers.http.urls import EDGES, percent_encoded, sent
from crawlers.pages.text.words import BACK, FOLLOWING, HOME, NEXT, PREVIOUS

MAX_TEXT = 2000  # characters
MAX_VALUES = 100  # of one field
MAX_URL = 8190  # characters; servers refuse longer request lines (Apache's LimitRequestLine), signed URLs are as long
MAX_AMOUNT = Decimal(10**10)  # decimal(12, 2) ends there

# Control characters, marks that turn the direction of what follows, zero-width characters, halves of pairs.
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff\ud800-\udfff]")
GROUP_MARK = re.compile(r"(?<=\d)[\s'’](?=\d{3})")  # \s includes the no-break spaces
RUPEES = re.compile(r"\bRs\.\s*", re.IGNORECASE)  # price-parser takes the point for a decimal one
BELOW_ZERO = re.compile(r"[-−]\s?\d")  # price-parser drops the sign
LEADING_POINT = re.compile(r"(?<![\d.,])[.,](\d{1,2})(?!\d)")  # ",89": price-parser drops the sign
BELOW_ONE = re.compile(r"(?<![\d.,])0[.,](\d{3})(?!\d)")  # "0,500": no thousands begin so
THOUSANDS = re.compile(r"[1-9]\d{0,2}(?:\.\d{3})+", re.ASCII)  # "1.299", of no currency with three decimals
THREE_DECIMALS = {"BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"}  # of ISO 4217
PLAIN_NUMBER = re.compile(r"\d{1,20}(\.\d{1,20})?", re.ASCII)
SIGN = "[€$£₹¥₽₩₺₫₪฿₱₴₸]"
BEFORE = rf"(?:{SIGN}|(?<![^\W\d_])(?:Rs|CHF|EUR|USD|GBP|INR|kr|PLN|zł|SEK|NOK|DKK|AED|RM|Rp)\.?)"
BEHIND = (
    rf"(?:{SIGN}|[元円원]|"
    r"(?:kr|zł|Kč|Ft|CHF|EUR|USD|GBP|SEK|NOK|DKK|AED|lei|kn|руб|тг|тенге|грн|лв|ден|din|TL)(?![^\W\d_]))"
)
MONEY = re.compile(rf"{BEFORE}\s?\d|\d\s?{BEHIND}", re.IGNORECASE)  # an amount with its currency
SEVERAL = re.compile(  # the price of several pieces
    rf"(?<![\w.,])\d{{1,3}}\s*(?:(?:for|für|pour|por|per|voor|за)\s+{SIGN}?\s?\d|"
    rf"[x×х*]\s*(?:{BEFORE}\s?\d|\d[\d.,]{{0,12}}\s?{BEHIND}))",
    re.IGNORECASE,
)
CODE = re.compile(r"[A-Z]{3}")
CODE_OF_SYMBOL = {  # "$", "¥" and "kr" are left out: several countries use them
    "€": "EUR",
    "£": "GBP",
    "₹": "INR",
    "RS": "INR",
    "RS.": "INR",
    "US$": "USD",
    "CA$": "CAD",
    "C$": "CAD",
    "AU$": "AUD",
    "A$": "AUD",
    "R$": "BRL",
    "NZ$": "NZD",
    "HK$": "HKD",
    "ZŁ": "PLN",
    "KČ": "CZK",
    "FT": "HUF",
    "LEI": "RON",
    "ЛВ": "BGN",
    "₴": "UAH",
    "₪": "ILS",
    "₫": "VND",
    "฿": "THB",
    "₱": "PHP",
    "₽": "RUB",
    "₩": "KRW",
    "₺": "TRY",
}

HOME_PATH = re.compile(r"^/*(?:(?:index|default|home)(?:\.\w{2,5})?)?/*$", re.IGNORECASE)
HOME_VALUE = re.compile(r"^(?:[\w-]+/)?(?:home|index|start|frontpage)$", re.IGNORECASE)  # route=common/home
OF_VISITORS = {"language", "lang", "locale", "currency", "zenid", "sid", "phpsessid"}  # parameters
ARROWS = " <>«‹←→›»⟵⟶⇐⇒◀▶◄►"  # around the words of a link
SEPARATORS = " \t\n/\\|>›»→·•-–—"  # between the entries of a trail


class Joins(Protocol):
    """A page, as far as it is needed here."""

    def urljoin(self, url: str) -> str:
        """``url`` made absolute."""
        ...


def clean_text(value: Any) -> str | None:
    """``value`` on one line without unseen characters, or None if nothing is left or it is no text or number."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        return None
    text = UNSEEN.sub("", " ".join(str(value)[: 10 * MAX_TEXT].split()))
    return text[:MAX_TEXT].strip() or None


def clean_texts(values: Iterable[Any]) -> list[str]:
    """Those of ``values`` that are texts, clean."""
    texts = (clean_text(value) for value in values)
    return [text for text in texts if text][:MAX_VALUES]


def text_map(pairs: Mapping[Any, Any] | Iterable[tuple[Any, Any]] | None) -> dict[str, str]:
    """The pairs whose halves are texts, clean; the first of each name."""
    found: dict[str, str] = {}
    for name, value in pairs.items() if isinstance(pairs, Mapping) else pairs or ():
        name, value = clean_text(name), clean_text(value)
        if name and value and len(found) < MAX_VALUES:
            found.setdefault(name.removesuffix(":").rstrip(), value)
    return found


def clean_trail(values: Iterable[Any], here: Container[str | None], title: str | None, page: Joins) -> list[str]:
    """The categories of a trail: without "Home" before them and the product itself behind them.

    Args:
        values: names, or pairs of a name and the URL that it links to (or None), the widest first.
        here: URLs of the product's page.
        title: of the product.
        page: for making URLs absolute.
    """
    pairs = [value if isinstance(value, tuple) else (value, None) for value in values][:MAX_VALUES]
    trail = [((clean_text(name) or "").strip(SEPARATORS), http_url(url, page)) for name, url in pairs]
    trail = [(name, url) for name, url in trail if name]
    trail = _below_home(trail)
    trail = _without_switchers(trail)
    if trail and ((trail[-1][1] or "") in here or _is_cut(trail[-1][0], (title or "").strip(SEPARATORS))):
        del trail[-1]
    return [name for name, _ in trail]


def is_home(url: str) -> bool:
    """Whether ``url`` is a home page's, as shops write it: ``/``, ``/index.php``, ``/index.php?route=common/home``."""
    parts = urlsplit(url)
    if not HOME_PATH.search(parts.path):
        return False
    return all(HOME_VALUE.search(value) or name.lower() in OF_VISITORS for name, value in parse_qsl(parts.query))


def _is_home(trail: list[tuple[str, str | None]], place: int) -> bool:
    name, url = trail[place]
    if url is not None and is_home(url):
        return True
    return name.lower() in HOME and all(before is None or _leads_back(text) for text, before in trail[:place])


def _below_home(trail: list[tuple[str, str | None]]) -> list[tuple[str, str | None]]:
    """``trail`` without the home page, and without what stands before it: links back, and words that lead nowhere.

    A category called "Home" stands behind the home page, or behind other categories, and stays.
    """
    home = next((place for place in range(min(len(trail), 3)) if _is_home(trail, place)), None)
    if home is None:
        return trail[1:] if trail and _leads_back(trail[0][0]) else trail
    below = trail[home + 1 :]
    while below and (url := below[0][1]) is not None and (is_home(url) or url == trail[home][1]):
        del below[0]
    return below


def _without_switchers(trail: list[tuple[str, str | None]]) -> list[tuple[str, str | None]]:
    """``trail`` without links to the previous and the next product, and without one back behind it."""
    names = [name.strip(ARROWS).lower() for name, _ in trail]
    switches = any(name in PREVIOUS for name in names)
    kept = [
        entry
        for name, entry in zip(names, trail, strict=True)
        if name and name not in PREVIOUS and not FOLLOWING.search(name) and not (switches and name in NEXT)
    ]
    return kept[:-1] if len(kept) > 1 and _leads_back(kept[-1][0]) else kept


def _leads_back(name: str) -> bool:
    return BACK.search(name.strip(ARROWS)) is not None


def _is_cut(name: str, title: str) -> bool:
    """Whether ``name`` is ``title``, or its beginning and an ellipsis."""
    name, title = name.lower(), title.lower()
    start = name.removesuffix("...").removesuffix("…").rstrip()
    return name == title or (start != name and title.startswith(start))


def parse_amount(value: Any, currency: str | None = None) -> Decimal | None:
    """A price with two decimals; of a range the low end.

    None where there is no number, an absurd one, or the price of several pieces ("2 for $30").

    Args:
        value: a text, or a number.
        currency: its code, where it is known: a point before three digits groups thousands in most only.
    """
    text = clean_text(value)
    if text is None or BELOW_ZERO.match(text) or SEVERAL.search(text):
        return None
    if isinstance(value, str) and currency not in THREE_DECIMALS and THOUSANDS.fullmatch(text):
        text = text.replace(".", "")
    text = BELOW_ONE.sub(_two_decimals, LEADING_POINT.sub(r"0.\1", text))
    amount = Decimal(text) if PLAIN_NUMBER.fullmatch(text) else _normal_price(text).amount
    if amount is None:
        return None
    try:
        amount = amount.quantize(Decimal("0.01"), ROUND_HALF_UP)
    except InvalidOperation:
        return None
    return amount if 0 <= amount < MAX_AMOUNT else None


def machine_amount(value: Any, currency: Any) -> Decimal | None:
    """A price that is written for machines, with what they say about its currency."""
    code = clean_text(currency)
    return parse_amount(value, None if code is None else code.upper())


def currency_code(value: Any) -> str | None:
    """The ISO 4217 code that ``value`` (a code, a symbol, or a whole price) names unambiguously."""
    text = clean_text(value) or ""
    symbol = (text if CODE.fullmatch(text.upper()) else _normal_price(text).currency or "").upper()
    return CODE_OF_SYMBOL.get(symbol) or (symbol if CODE.fullmatch(symbol) else None)


def http_url(value: Any, page: Joins) -> str | None:
    """``value`` as an absolute http(s) URL that can be asked for, or None; else as it is written.

    Without fragment, user and password; characters that nobody sees are percent-encoded.
    """
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_URL:
        return None
    try:
        url = page.urljoin(value.strip(EDGES)).partition("#")[0]
        sent(url)
        authority = urlsplit(url).netloc
    except ValueError:
        return None
    if "@" in authority:
        url = url.replace(authority, authority.rpartition("@")[2], 1)
    return UNSEEN.sub(lambda found: percent_encoded(found[0]), url)


def url_path(url: str) -> str:
    """The path of ``url``, which may be of any kind; empty where there is none."""
    try:
        return urlsplit(url[:MAX_URL].strip()).path
    except ValueError:
        return ""


def http_urls(values: Iterable[Any], page: Joins) -> list[str]:
    """Those of ``values`` that are http(s) URLs, absolute, each once, in order."""
    known = getattr(page, "http_url", None)  # of a page that remembers them: the same link is asked for often
    urls = (http_url(value, page) if known is None else known(value) for value in values)
    return list(dict.fromkeys(url for url in urls if url))


def _two_decimals(found: re.Match[str]) -> str:
    return str(Decimal(f"0.{found[1]}").quantize(Decimal("0.01"), ROUND_HALF_UP))


def _normal_price(text: str) -> Price:
    return Price.fromstring(RUPEES.sub("Rs ", GROUP_MARK.sub("", text)))
