"""Targets of fuzzing: each parser that is written here, as a function of bytes that raises for what is a fault."""

from collections.abc import Callable
from pathlib import Path
from tempfile import gettempdir

from aiohttp.http_exceptions import BadHttpMessage
from protego import Protego

from atlas_model.core.checkpoint import read_description
from atlas_model.core.errors import ImageError, InputError
from atlas_model.core.yaml_files import parse_with_duplicates
from atlas_model.data.png_metadata import SIGNATURE, without_metadata
from atlas_model.taxonomy.changes import load_changes
from atlas_model.taxonomy.files import load_taxonomy
from crawlers.http.content import decode_partially
from crawlers.http.heads import repaired_head
from crawlers.http.policy import retry_after_s, validator
from crawlers.http.robots_tag import forbidden_directive, meta_values
from crawlers.http.robots_txt import rules_for
from crawlers.http.urls import join_url, redirect_target, request_url
from crawlers.pages.structured_data.json_ld import parsed
from crawlers.pages.text.numbers import clean_brand, clean_gtin, clean_mpn, clean_sku
from crawlers.pages.text.values import clean_text, currency_code, parse_amount
from crawlers.sources.csv_sources import read_sources
from crawlers.sources.manifest import iterate_entries
from crawlers.sources.sitemaps import read_sitemap
from tests.support.hostile_pages import Page, check_page

Target = Callable[[bytes], object]
URL = "https://shop.test/p/1"
TYPE = "text/html; charset=utf-8"


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass") if _is_text(data) else data.decode("latin-1")


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def _file(data: bytes, name: str) -> Path:
    path = Path(gettempdir()) / name
    path.write_bytes(data)
    return path


def _refused(read: Callable[[], object], *errors: type[Exception]) -> None:
    try:
        read()
    except errors:
        return


def json_ld(data: bytes) -> None:
    """JSON-LD of a script, and of a whole page."""
    parsed(_text(data))
    check_page(Page("product", URL, TYPE, b'<script type="application/ld+json">' + data + b"</script>"), Path())


def microdata(data: bytes) -> None:
    """Microdata of a page."""
    page = b"<div itemscope itemtype='https://schema.org/Product'><span itemprop=name>" + data + b"</span></div>"
    check_page(Page("product", URL, TYPE, page), Path())


def html(data: bytes) -> None:
    """A page as a product and as a listing."""
    for kind in ("product", "listing"):
        check_page(Page(kind, URL, TYPE, data), Path())


def prices(data: bytes) -> None:
    """Prices, currencies and numbers; cleaning twice changes nothing."""
    text = _text(data)
    amount = parse_amount(text)
    assert amount is None or (amount >= 0 and parse_amount(str(amount)) == amount), amount
    code = currency_code(text)
    assert code is None or (len(code) == 3 and code.isupper()), code
    for clean in (clean_text, clean_gtin, clean_brand, clean_mpn, clean_sku):
        found = clean(text)
        assert found is None or found.strip() == found, found
        found.encode() if found is not None else None


def sitemaps(data: bytes) -> None:
    """Sitemaps, also compressed."""
    read_sitemap(URL, data)
    read_sitemap(URL, b"<urlset>" + data + b"</urlset>")


def robots(data: bytes) -> None:
    """robots.txt, X-Robots-Tag and robots meta tags."""
    rules = Protego.parse(rules_for(data, "atlas"))
    rules.can_fetch(URL, "atlas")
    forbidden_directive([_text(data), *meta_values(data, "atlas")], "Atlas", ["noai", "noindex"])


def urls(data: bytes) -> None:
    """URLs: normalising is idempotent, and the result is ASCII."""
    text = _text(data)
    for make in (
        lambda: request_url(text),
        lambda: request_url(join_url(URL, text)),
        lambda: redirect_target(URL, data),
    ):
        try:
            found = make()
        except ValueError:
            continue
        assert found.isascii() and request_url(found) == found, found
        assert not set(found) & set("\r\n \t\0"), found


def png(data: bytes) -> None:
    """Chunks of a PNG."""
    _refused(lambda: without_metadata(SIGNATURE + data), ImageError)


def taxonomies(data: bytes) -> None:
    """Taxonomies, sources and changes."""
    path = _file(data, "atlas-fuzz.csv")
    _refused(lambda: load_taxonomy(path), InputError)
    _refused(lambda: read_sources(path), InputError)
    _refused(lambda: load_changes(path, None), InputError)
    path.write_bytes(b"from,to\n" + data)
    _refused(lambda: load_changes(path, None), InputError)


def manifests(data: bytes) -> None:
    """Manifests."""
    _refused(lambda: list(iterate_entries(_file(data, "atlas-fuzz.json"))), InputError)


def models(data: bytes) -> None:
    """Descriptions of models."""
    _refused(lambda: read_description(_file(data, "model.json").parent), InputError)


def yaml(data: bytes) -> None:
    """YAML."""
    _refused(lambda: parse_with_duplicates(_file(data, "atlas-fuzz.yaml")), InputError)


def headers(data: bytes) -> None:
    """Retry-After, ETag and heads of responses."""
    wait = retry_after_s(_text(data))
    assert wait is None or wait >= 0
    validator(_text(data))
    try:
        head = repaired_head(b"HTTP/1.1 200 OK\r\n" + data + b"\r\n\r\n")
    except BadHttpMessage:
        return
    assert head.count(b"\r\n\r\n") == 1 and head.endswith(b"\r\n\r\n")


def bodies(data: bytes) -> None:
    """Compressed bodies."""
    for encodings in (["gzip"], ["deflate"], ["br"], ["zstd"], ["gzip, deflate"]):
        content, _ = decode_partially(data, encodings, 1_000_000)
        assert len(content) <= 1_000_000


_ALL: tuple[Target, ...] = (
    *(json_ld, microdata, html, prices, sitemaps, robots, urls, png, taxonomies, manifests, models, yaml),
    *(headers, bodies),
)
TARGETS = {getattr(target, "__name__", ""): target for target in _ALL}
