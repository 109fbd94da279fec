"""Resolution of currency symbols that several countries use, such as ``$`` and ``kr``.

The page's own currency settings decide, then its domain and language. Otherwise the currency stays unknown.
"""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from crawlers.pages.html.document import Document
from crawlers.pages.text.values import CODE

DOLLARS = {
    "US": "USD", "CA": "CAD", "AU": "AUD", "NZ": "NZD", "SG": "SGD", "HK": "HKD", "TW": "TWD", "MX": "MXN", "AR": "ARS",
    "CL": "CLP", "CO": "COP", "UY": "UYU", "DO": "DOP", "EC": "USD", "SV": "USD", "PA": "USD", "PR": "USD", "JM": "JMD",
    "TT": "TTD", "BB": "BBD", "BZ": "BZD", "FJ": "FJD", "NA": "NAD", "BN": "BND",
}  # fmt: skip
CROWNS = {"SE": "SEK", "NO": "NOK", "DK": "DKK", "IS": "ISK", "FO": "DKK", "GL": "DKK"}
YEN = {"JP": "JPY", "CN": "CNY", "TW": "TWD"}
RUPEES = {"IN": "INR", "PK": "PKR", "LK": "LKR", "NP": "NPR", "MU": "MUR", "SC": "SCR"}
MEANINGS = {  # symbol in lower case -> country -> currency code
    "$": DOLLARS, "kr": CROWNS, "kr.": CROWNS, "¥": YEN, "￥": YEN, "元": YEN, "円": YEN, "rs": RUPEES, "rs.": RUPEES,
    "₨": RUPEES, "din": {"RS": "RSD"}, "дин": {"RS": "RSD"}, "руб": {"RU": "RUB", "BY": "BYN"},
    "р.": {"RU": "RUB", "BY": "BYN"}, "лв": {"BG": "BGN"}, "lei": {"RO": "RON", "MD": "MDL"}, "kn": {"HR": "HRK"},
    "тг": {"KZ": "KZT"}, "원": {"KR": "KRW"}, "б.р.": {"BY": "BYN"},
}  # fmt: skip
UNAMBIGUOUS = {"€": "EUR", "₹": "INR", "원": "KRW", "тг": "KZT", "б.р.": "BYN", "円": "JPY"}
SIGNS = re.compile(
    r"\$|¥|￥|₨|元|円|원|(?<![^\W\d_])(?:kr\.?|rs\.?|din|дин|б\.р\.|руб|р\.|лв|lei|kn|тг)(?![^\W\d_])", re.IGNORECASE
)
REGION = re.compile(r"^[a-z]{2,3}[-_](?:[A-Za-z]{4}[-_])?([A-Za-z]{2})$")
OF_LANGUAGE = {  # language -> the only country that speaks it and has its own currency
    "ja": "JP", "sv": "SE", "nb": "NO", "nn": "NO", "no": "NO", "da": "DK", "is": "IS", "bg": "BG", "ro": "RO",
    "hr": "HR", "kk": "KZ", "sr": "RS", "ko": "KR", "hi": "IN",
}  # fmt: skip
OF_DOMAIN = {"uk": "GB", "ru": "RU", "by": "BY"}  # other top-level domains equal the country code
STATED = (  # elements that state the page's currency
    '//*[@itemprop="priceCurrency"]/@content | //@data-currency | //@data-currency-code',
    '//meta[@property="product:price:currency" or @property="og:price:currency" or @name="currency"]/@content',
    '//form[contains(@id, "currency") or contains(@action, "currency")]//input[@name="code"]/@value',
    '//select[contains(@name, "currency") or contains(@id, "currency")]/option[@selected]/@value',
)
IN_SCRIPT = re.compile(rb"""["']?currency(?:_?code)?["']?\s{0,3}[:=]\s{0,3}["']([A-Z]{3})["']""", re.IGNORECASE)


def resolve_currency(text: str, page: Document) -> tuple[str, str] | None:
    """The code of the currency symbol in ``text`` on ``page``, and the evidence: page, domain, language or sign."""
    sign = SIGNS.search(text)
    if sign is None:
        return None
    meanings = MEANINGS[sign[0].lower()]
    codes = set(meanings.values())
    for code in _stated(page):
        if code in codes:
            return code, "page"
    for country, how in _countries(page):
        if country in meanings:
            return meanings[country], how
    return (UNAMBIGUOUS[sign[0].lower()], "sign") if sign[0].lower() in UNAMBIGUOUS else None


def _stated(page: Document) -> Iterator[str]:
    for xpath in STATED if page.source_contains(b"urrency") else ():
        for value in page.elements(xpath)[:20]:
            if CODE.fullmatch(str(value).strip().upper()):
                yield str(value).strip().upper()
    codes_in_scripts = {code.upper().decode() for code in page.find_in_source(IN_SCRIPT)}
    if len(codes_in_scripts) == 1:  # a script with several codes lists the selectable currencies
        yield codes_in_scripts.pop()


def _countries(page: Document) -> Iterator[tuple[str, str]]:
    host = urlsplit(page.url).hostname or ""
    domain = host.rpartition(".")[2]
    if len(domain) == 2 and domain not in ("co", "tv", "me", "io", "ai", "cc", "ws"):
        yield OF_DOMAIN.get(domain, domain.upper()), "domain"
    elif host.endswith(".com.co"):
        yield "CO", "domain"
    for value in page.elements('/html/@lang | //meta[@property="og:locale"]/@content')[:2]:
        language = str(value).strip()
        region = REGION.match(language)
        if region:
            yield region[1].upper(), "language"
        elif language.lower() in OF_LANGUAGE:
            yield OF_LANGUAGE[language.lower()], "language"
