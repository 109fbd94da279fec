"""Reader of the product number in a page's URL, confirmed by its use elsewhere on the page.

Many shops show no product number, but links, buttons and scripts use the one in the URL. A year or a size in a URL is
rejected, because no attribute or script uses it as an id.
"""

import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, unquote, urlsplit

from crawlers.pages.html.document import Document
from crawlers.pages.text.numbers import clean_gtin

PARAMETERS = re.compile(
    r"^(?:(?:product|prod|item|article|artikel|goods|offer|deal)[_-]?)?(?:p?id|sku|code|no|nr|num|number|itm|pno)$|"
    r"^(?:product|prod|item|asin)$",
    re.IGNORECASE,
)
SEGMENT = re.compile(r"(?=[A-Za-z_-]*\d)[A-Za-z]{0,3}\d{4,}|(?=[A-Z]*\d)[A-Z0-9]{8,14}|[A-Z]{1,4}_[\w-]*\d[\w/-]*")
IN_SLUG = re.compile(r"(?:^|[-_.])(p?\d{5,14})$|^(p?\d{5,14})(?:[-_.]|$)|[-_](\d{5,14})[-_]?p?$", re.IGNORECASE)
ENDING = re.compile(r"\.(html?|php|aspx?|jsp|do)$", re.IGNORECASE)
NAMES = r"(?:id|ids|sku|code|pid|asin|item|product|prod|goods|article|ean|number|ref|mpn|srl|no)"
LONG = 9
MAX_CANDIDATES = 6


def number_in_url(page: Document, urls: list[str | None]) -> str | None:
    """The first number in ``urls`` (the page's own and the canonical one) that the page uses as a product id."""
    for candidate in list(dict.fromkeys(number for url in urls if url for number in _candidates(url)))[:MAX_CANDIDATES]:
        if not clean_gtin(candidate) and (_is_long(candidate) or _is_used(candidate, page)):
            return candidate
    return None


def _candidates(url: str) -> Iterator[str]:
    try:
        parts = urlsplit(url)
    except ValueError:
        return
    for name, value in parse_qsl(parts.query)[:20]:
        if PARAMETERS.search(name) and 3 < len(value) < 30 and any(map(str.isdigit, value)):
            yield value
    segments = [ENDING.sub("", unquote(segment)) for segment in parts.path.split("/") if segment]
    for segment in reversed(segments[-3:]):
        if SEGMENT.fullmatch(segment):
            yield segment
        elif found := IN_SLUG.search(segment):
            yield next(group for group in found.groups() if group)


def _is_long(number: str) -> bool:
    """Whether ``number`` has too many digits to be a date or a size."""
    return len(number) >= LONG and number.isdigit()


def _is_used(number: str, page: Document) -> bool:
    """Whether the page uses ``number`` as an id: in an attribute, in a script, or as the name of an image."""
    quoted = re.escape(number.encode())
    called = rb"""(?i:%s)["'\]]{0,2}\s{0,3}[:=]\s{0,3}["']?%s["'&,;<\s})/]""" % (NAMES.encode(), quoted)
    return page.source_matches(called) or page.source_matches(rb"""/%s(?:[_-]\w{1,20})?\.(?:jpe?g|png|webp)""" % quoted)
