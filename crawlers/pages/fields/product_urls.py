"""Normalisation of product URLs for comparison: removes sessions, tracking, and the path that a visitor took.

Without a canonical link, a shop shows one product under many URLs: below each category, with a session id, with the
sort order of a listing. Requests use the URL unchanged; only the keys that identify products are normalised.
"""

import re
from collections.abc import Iterable
from urllib.parse import unquote, unquote_plus, urlsplit

# Names of query parameters, reduced to lower-case letters.
SESSIONS = re.compile(
    r"^(?:(?:php|j|asp|cf|ci|laravel|xt|os)?sess(?:ion)?(?:id|key|hash)?|sid|oscsid|osadminid|zenid|modsid|xtcsid|"
    r"cfid|cftoken|jsessionid|phpsessid|aspsessionid\w*|gxsid|forcesid|swsessionid|shopsid)$"
)
TRACKING = re.compile(
    r"^(?:utm\w+|gclid|gbraid|wbraid|gclsrc|dclid|fbclid|msclkid|yclid|ttclid|twclid|igshid|mccid|mceid|srsltid|ga|gl|"
    r"ref|refid|referer|referrer|source|src|campaign|cmp|aff|affid|affiliate|trk|clickid|pr\w+|pos|ss|fid|psq|v|ver)$"
)
ORDER = re.compile(  # sort order, page and filters of a listing
    r"^(?:sort|sortby|sortorder|order|orderby|orderway|dir|direction|limit|perpage|pagesize|page|pg|start|offset|view|mode|"
    r"display|filter|filters|fq|q|query|search|searchterm|keyword|keywords|s|list|listname|position|index)$"
)
LEADING = re.compile(  # the listing that led to the product; in some shops it identifies a product
    r"^(?:path|cpath|cat|cats|cid|catid|category|categoryid|categories|categoryname|collection|dept|department|section|"
    r"parent|manufacturer|manufacturerid|manufacturersid|brand|brandid|tag|tags|from|back|returnurl|nav|navid|menu|menuid|"
    r"node)$"
)
NAMING = re.compile(
    r"^(?:(?:products?|prod|items?|article|artikel|goods|offer|variant|variation|style|model|sku)?"
    r"(?:id|ids|sku|code|no|nr|num|number|itm|pno|pid|iid)|products?|prod|items?|asin|p|i|a|variant|style|model|name|slug|"
    r"handle)$"
)
RANDOM = re.compile(r"(?=[^0-9]*[0-9])[0-9A-Za-z,_-]{16,}")  # value of a session id
IN_PATH = re.compile(r";[A-Za-z]*sess\w*=[^/?#;]*|/\(S\([0-9A-Za-z]+\)\)", re.IGNORECASE)  # Java, ASP.NET
ENTRANCES = re.compile(r"/(?:index\.(?:php|html?|aspx?|jsp))?$", re.IGNORECASE)
ENDING = re.compile(r"\.[a-z]{2,5}$", re.IGNORECASE)
WORDS = re.compile(r"[^\W_]{2,}")


def without_session(url: str) -> str:
    """``url`` without session ids, which differ on each visit."""
    if "?" not in url and ";" not in url and "(" not in url:
        return url
    path, question, query = url.partition("?")
    kept = [pair for pair in query.split("&") if not _is_session(*_halves(pair))]
    return IN_PATH.sub("", path) + (question + "&".join(kept) if kept else "")


def stable_url(url: str) -> str:
    """``url`` without session, tracking and listing parameters, as long as an identifying parameter remains."""
    path, _, query = without_session(url).partition("?")
    pairs = [pair for pair in query.split("&") if pair]
    kept = [pair for pair in pairs if not TRACKING.search(_name(pair)) or NAMING.search(_name(pair))]
    if any(NAMING.search(_name(pair)) for pair in kept):
        kept = [pair for pair in kept if not (LEADING.search(_name(pair)) or ORDER.search(_name(pair)))]
    return "?".join(filter(None, (path, "&".join(kept))))


def product_key(url: str, title: str) -> str:
    """The part of ``url`` that identifies the product titled ``title``.

    It consists of the host, the last path segment if it has a number or a word of the title (else the whole path), and
    the parameters that are numbers or named like product ids.
    """
    path, _, query = without_session(url).partition("?")
    pairs = [_halves(pair) for pair in query.split("&") if pair]
    naming = sorted({(name, value) for name, value in pairs if _is_naming(name, value)})
    parts = urlsplit(path)
    host = (parts.hostname or "").removeprefix("www.")
    whole = ENTRANCES.sub("", unquote(parts.path))
    slug = ENDING.sub("", whole.rpartition("/")[2])
    if not _says(slug, title):
        slug = whole
        naming = naming or sorted({(name, value) for name, value in pairs if not _is_passing(name)})
    return repr((host, slug.lower(), naming))


def _is_naming(name: str, value: str) -> bool:
    if NAMING.search(name):
        return True
    return not (LEADING.search(name) or _is_passing(name)) and any(map(str.isdigit, value))


def _is_passing(name: str) -> bool:
    return ORDER.search(name) is not None or TRACKING.search(name) is not None


def _says(slug: str, title: str) -> bool:
    """Whether the last path segment describes the product rather than the type of page."""
    words = _words([slug])
    return any(any(map(str.isdigit, word)) for word in words) or not words.isdisjoint(_words([title]))


def _words(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in WORDS.findall(text.casefold())}


def _is_session(name: str, value: str) -> bool:
    return SESSIONS.search(name) is not None and RANDOM.fullmatch(value) is not None


def _halves(pair: str) -> tuple[str, str]:
    return _name(pair), unquote_plus(pair.partition("=")[2])


def _name(pair: str) -> str:
    return re.sub(r"[^a-z]", "", unquote_plus(pair.partition("=")[0]).lower())
