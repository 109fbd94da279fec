"""Cleaning of raw values from pages: texts, prices, currencies, URLs.

All input is untrusted: it may have the wrong type, be very long, or be malicious. Mark-up inside a text stays text.
"""

import re
from collections.abc import Container, Iterable, Mapping
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

from price_parser import Price

from crawlers.http.urls import EDGES, percent_encoded, request_url
from crawlers.pages.text.words import BACK_LINKS, FOLLOWING, HOME, NEXT, PREVIOUS

MAX_TEXT = 2000  # characters
MAX_VALUES = 100  # values of one field
MAX_URL = 8190  # characters; limit of a request line in Apache (LimitRequestLine)
MAX_AMOUNT = Decimal(10**10)  # limit of decimal(12, 2)

# Control characters, direction marks, zero-width characters, unpaired surrogates.
INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff\ud800-\udfff]")
GROUP_MARK = re.compile(r"(?<=\d)[\s'’](?=\d{3})")  # \s includes the no-break spaces
RUPEES = re.compile(r"\bRs\.\s*", re.IGNORECASE)  # price-parser reads the point as a decimal point
NEGATIVE = re.compile(r"[-−]\s?\d")  # price-parser drops the sign
LEADING_POINT = re.compile(r"(?<![\d.,])[.,](\d{1,2})(?!\d)")  # ",89": price-parser drops the point
BELOW_ONE = re.compile(r"(?<![\d.,])0[.,](\d{3})(?!\d)")  # "0,500": a decimal point, as no grouping starts with 0
THOUSANDS = re.compile(r"[1-9]\d{0,2}(?:\.\d{3})+", re.ASCII)  # "1.299": grouped thousands in most currencies
THREE_DECIMALS = {"BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"}  # currencies with three decimals, ISO 4217
PLAIN_NUMBER = re.compile(r"\d{1,20}(\.\d{1,20})?", re.ASCII)
SIGN = "[€$£₹¥₽₩₺₫₪฿₱₴₸]"
CURRENCY_BEFORE = rf"(?:{SIGN}|(?<![^\W\d_])(?:Rs|CHF|EUR|USD|GBP|INR|kr|PLN|zł|SEK|NOK|DKK|AED|RM|Rp)\.?)"
CURRENCY_AFTER = (
    rf"(?:{SIGN}|[元円원]|"
    r"(?:kr|zł|Kč|Ft|CHF|EUR|USD|GBP|SEK|NOK|DKK|AED|lei|kn|руб|тг|тенге|грн|лв|ден|din|TL)(?![^\W\d_]))"
)
MONEY = re.compile(rf"{CURRENCY_BEFORE}\s?\d|\d\s?{CURRENCY_AFTER}", re.IGNORECASE)  # an amount with its currency
SEVERAL = re.compile(  # a price for several pieces
    rf"(?<![\w.,])\d{{1,3}}\s*(?:(?:for|für|pour|por|per|voor|за)\s+{SIGN}?\s?\d|"
    rf"[x×х*]\s*(?:{CURRENCY_BEFORE}\s?\d|\d[\d.,]{{0,12}}\s?{CURRENCY_AFTER}))",
    re.IGNORECASE,
)
CODE = re.compile(r"[A-Z]{3}")
CODE_OF_SYMBOL = {  # without "$", "¥" and "kr", which several countries use
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
OF_VISITORS = {"language", "lang", "locale", "currency", "zenid", "sid", "phpsessid"}  # query parameters of a session
ARROWS = " <>«‹←→›»⟵⟶⇐⇒◀▶◄►"  # stripped from the text of a link
SEPARATORS = " \t\n/\\|>›»→·•-–—"  # between breadcrumbs


class UrlJoiner(Protocol):
    """Something that resolves relative URLs, such as `Document`."""

    def urljoin(self, url: str) -> str:
        """``url`` made absolute."""
        ...


def clean_text(value: Any) -> str | None:
    """``value`` on one line without invisible characters; None if it is empty or neither text nor number."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        return None
    text = INVISIBLE.sub("", " ".join(str(value)[: 10 * MAX_TEXT].split()))
    return text[:MAX_TEXT].strip() or None


def clean_texts(values: Iterable[Any]) -> list[str]:
    """Those of ``values`` that are texts, cleaned."""
    texts = (clean_text(value) for value in values)
    return [text for text in texts if text][:MAX_VALUES]


def text_map(pairs: Mapping[Any, Any] | Iterable[tuple[Any, Any]] | None) -> dict[str, str]:
    """The pairs whose name and value are texts, cleaned; the first pair of each name."""
    found: dict[str, str] = {}
    for name, value in pairs.items() if isinstance(pairs, Mapping) else pairs or ():
        name, value = clean_text(name), clean_text(value)
        if name and value and len(found) < MAX_VALUES:
            found.setdefault(name.removesuffix(":").rstrip(), value)
    return found


def clean_breadcrumbs(
    values: Iterable[Any], here: Container[str | None], title: str | None, page: UrlJoiner
) -> list[str]:
    """The category names of a breadcrumb trail, without the home page and without the product itself.

    Args:
        values: names, or pairs of a name and its link's URL (or None), broadest category first.
        here: URLs of the product page.
        title: title of the product.
        page: resolves relative URLs.
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
    """Whether ``url`` is a home page: ``/``, ``/index.php``, ``/index.php?route=common/home``, ..."""
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
    """``trail`` without the home page and the entries before it, such as back links and introductory words.

    A category named "Home" that follows the home page or other categories is kept.
    """
    home = next((place for place in range(min(len(trail), 3)) if _is_home(trail, place)), None)
    if home is None:
        return trail[1:] if trail and _leads_back(trail[0][0]) else trail
    below = trail[home + 1 :]
    while below and (url := below[0][1]) is not None and (is_home(url) or url == trail[home][1]):
        del below[0]
    return below


def _without_switchers(trail: list[tuple[str, str | None]]) -> list[tuple[str, str | None]]:
    """``trail`` without links to the previous and the next product, and without a back link at its end."""
    names = [name.strip(ARROWS).lower() for name, _ in trail]
    switches = any(name in PREVIOUS for name in names)
    kept = [
        entry
        for name, entry in zip(names, trail, strict=True)
        if name and name not in PREVIOUS and not FOLLOWING.search(name) and not (switches and name in NEXT)
    ]
    return kept[:-1] if len(kept) > 1 and _leads_back(kept[-1][0]) else kept


def _leads_back(name: str) -> bool:
    return BACK_LINKS.search(name.strip(ARROWS)) is not None


def _is_cut(name: str, title: str) -> bool:
    """Whether ``name`` is ``title`` or a truncation of it with an ellipsis."""
    name, title = name.lower(), title.lower()
    start = name.removesuffix("...").removesuffix("…").rstrip()
    return name == title or (start != name and title.startswith(start))


def parse_amount(value: Any, currency: str | None = None) -> Decimal | None:
    """Parse a price to two decimals; of a range, the lower end.

    None if there is no number, if it is negative or too large, or if it is a price for several pieces ("2 for $30").

    Args:
        value: text or number.
        currency: ISO 4217 code if known; decides whether a point before three digits groups thousands.
    """
    text = clean_text(value)
    if text is None or NEGATIVE.match(text) or SEVERAL.search(text):
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


def structured_amount(value: Any, currency: Any) -> Decimal | None:
    """Parse a price of structured data with the currency stated there."""
    code = clean_text(currency)
    return parse_amount(value, None if code is None else code.upper())


def currency_code(value: Any) -> str | None:
    """The ISO 4217 code in ``value`` (a code, a symbol or a whole price); None if missing or ambiguous."""
    text = clean_text(value) or ""
    symbol = (text if CODE.fullmatch(text.upper()) else _normal_price(text).currency or "").upper()
    return CODE_OF_SYMBOL.get(symbol) or (symbol if CODE.fullmatch(symbol) else None)


def http_url(value: Any, page: UrlJoiner) -> str | None:
    """``value`` as an absolute http(s) URL; None if it is not one.

    Fragment, user and password are removed, and invisible characters are percent-encoded. The rest stays as written.
    """
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_URL:
        return None
    try:
        url = page.urljoin(value.strip(EDGES)).partition("#")[0]
        request_url(url)
        authority = urlsplit(url).netloc
    except ValueError:
        return None
    if "@" in authority:
        url = url.replace(authority, authority.rpartition("@")[2], 1)
    return INVISIBLE.sub(lambda found: percent_encoded(found[0]), url)


def url_path(url: str) -> str:
    """The path of ``url``; empty if it has none or is invalid."""
    try:
        return urlsplit(url[:MAX_URL].strip()).path
    except ValueError:
        return ""


def http_urls(values: Iterable[Any], page: UrlJoiner) -> list[str]:
    """Those of ``values`` that are http(s) URLs, made absolute, without duplicates, in order."""
    known = getattr(page, "http_url", None)  # `Document` caches the result
    urls = (http_url(value, page) if known is None else known(value) for value in values)
    return list(dict.fromkeys(url for url in urls if url))


def _two_decimals(found: re.Match[str]) -> str:
    return str(Decimal(f"0.{found[1]}").quantize(Decimal("0.01"), ROUND_HALF_UP))


def _normal_price(text: str) -> Price:
    return Price.fromstring(RUPEES.sub("Rs ", GROUP_MARK.sub("", text)))
