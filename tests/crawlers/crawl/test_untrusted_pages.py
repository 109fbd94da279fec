"""One crawl of a shop with malicious responses among valid ones: bounds on time and memory, reasons, results."""

import gzip
import os
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from crawlers.http.address_guard import ConnectMap
from crawlers.sources.csv_sources import Source
from tests.support.crawling import QUICK, listing, product, run, source
from tests.support.servers import (
    HOST,
    Answer,
    RawServer,
    Reply,
    Shop,
    dripping,
    endless,
    gzip_bomb,
    raw_serving,
    response,
    self_signed,
    serving,
)

EVIL = f"evil.{HOST}"  # a subdomain of the site, because the spider requests no other hosts
GOOD = 150  # enough that the share of failures stays low
HTML, GZIP, CHUNKED = "Content-Type: text/html", "Content-Encoding: gzip", "Transfer-Encoding: chunked"
PAGE = str(product("Evil", "666").body).encode()
MANY_HEADERS = [f"X-{number}: {'a' * 1000}" for number in range(2000)]  # 2 MB

CHUNKS = b"10\r\n0123456789abcdef\r\n" * 1000

# path -> response and the reason that is counted
ATTACKS: dict[str, tuple[Answer, str]] = {
    "/gzip-bomb": (response(gzip_bomb(200_000_000), HTML, GZIP), "too_large"),
    "/bomb-in-a-bomb": (response(gzip_bomb(100_000_000, 2), HTML, "Content-Encoding: gzip, gzip"), "too_large"),
    "/small-bomb": (response(gzip_bomb(4_000_000), HTML, GZIP), "too_large"),  # below the limit, but 1:1000
    "/no-gzip": (response(PAGE, HTML, GZIP), "bad_encoding"),
    "/many-times": (response(gzip.compress(PAGE), HTML, "Content-Encoding: gzip, gzip, gzip"), "bad_encoding"),
    "/endless": (endless(response(PAGE, HTML, length=-1)), "too_large"),
    "/endless-claim": (endless(response(PAGE, HTML, length=10**15)), "too_large"),
    "/endless-chunks": (endless(response(b"", HTML, CHUNKED, length=-1), CHUNKS), "too_large"),
    "/drip": (dripping(response(PAGE, HTML, length=10**6)), "timeout"),
    "/drip-head": (dripping(b"HTTP/1.1 200 OK\r\nX-Long: "), "timeout"),
    "/short": (response(PAGE, HTML, length=len(PAGE) + 1), "truncated"),
    "/negative": (response(PAGE, HTML, "Content-Length: -5", length=-1), "bad_http"),
    "/two-lengths": (response(PAGE, HTML, "Content-Length: 3"), "bad_http"),
    "/no-http": (b"\x00\xff no HTTP at all\r\n\r\n", "bad_http"),
    "/many-headers": (response(PAGE, HTML, *MANY_HEADERS), "headers_too_large"),
    "/long-header": (response(PAGE, HTML, f"X: {'a' * 2_000_000}"), "headers_too_large"),
    "/some-headers": (response(PAGE, HTML, *(f"X-{n}: {'a' * 10_000}" for n in range(40))), "headers_too_large"),
    "/loop": (response(b"", "Location: /loop?again", status="302 Found"), "redirects"),
    "/loop?again": (response(b"", "Location: /loop", status="302 Found"), "redirects"),
    "/to-file": (response(b"", "Location: file:///etc/passwd", status="302 Found"), "bad_redirect"),
    "/to-metadata": (response(b"", "Location: http://169.254.169.254/latest", status="302 Found"), "offsite"),
    "/noai": (response(PAGE, HTML, "X-Robots-Tag: otherbot: all, Atlas: noai"), "robots_tag"),
    "/meta-noai": (response(b'<meta content="noai" name="robots">' + PAGE, HTML), "robots_tag"),
    "/for-others": (response(PAGE, HTML, "X-Robots-Tag: otherbot: noai"), "duplicate"),  # of /plain
    "/plain": (response(PAGE, HTML), "ok"),
    "/to-good": (response(b"", f"Location: http://{HOST}/p/1", status="302 Found"), "duplicate"),
    "/private/of-robots-txt": (response(PAGE, HTML), "robots"),
}
NOT_ASKED = {"/loop?again"}  # not requested as a product
NOT_LINKS = ["file:///etc/passwd", "data:text/html,x", "ftp://shop.test/x", f"http://{HOST}@127.0.0.1/", "http://[::1"]


TRUSTED, WRONG_NAME, UNKNOWN = (f"{name}.{HOST}" for name in ("trusted", "wrong-name", "unknown"))  # TLS


def _crawl(
    connect_map: ConnectMap, authority: Path, sources: list[Source], folder: Path
) -> tuple[dict[str, Any], float]:
    """Crawl in a separate process; returns the result and the peak memory of its processes in MB."""
    os.environ["SSL_CERT_FILE"] = str(authority)
    result = run(
        Shop(),
        sources,
        folder,
        connect_map=connect_map,
        profiles=dict.fromkeys(connect_map, QUICK),
        robots_tags=["noai", "noindex"],
        timeout_s=15,  # a busy machine takes seconds to read what is too large
        max_attempts=1,
        max_failed_share=0.1,  # some of them never end, break off, or are of another host: transient, to a crawl
    )
    return asdict(result), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


@pytest.fixture(scope="module")
def crawled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    folder = tmp_path_factory.mktemp("hostile")
    robots = endless(response(b"User-agent: *\nDisallow: /private/\n", length=-1), b"# and so on\n" * 1000)
    evil = RawServer({path: answer for path, (answer, _) in ATTACKS.items()} | {"/robots.txt": robots})
    tls, authority = self_signed(TRUSTED, folder)
    secure = RawServer({"/": response(str(product("Secure", "443").body).encode(), HTML)}, tls)
    unknown = RawServer(secure.answers, self_signed(UNKNOWN, folder)[0])
    shop = Shop({f"/p/{number}": product(f"Good {number}", str(number)) for number in range(GOOD)})
    cookies = {"Set-Cookie": "secret=1; Domain=shop.test", "WWW-Authenticate": "Basic"}
    shop.pages["/p/moved"] = Reply("", 302, {**cookies, "Location": f"http://{EVIL}/plain"})
    links = [*shop.pages, *(f"http://user:secret@{EVIL}{path}" for path in ATTACKS if path not in NOT_ASKED)]
    links += [f"https://{host}/" for host in (TRUSTED, WRONG_NAME, UNKNOWN)]
    shop.pages["/good"] = listing(*links, *NOT_LINKS, **cookies)
    with (
        serving(shop),
        raw_serving(evil),
        raw_serving(secure),
        raw_serving(unknown),
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process,
    ):
        servers: dict[str, Any] = {EVIL: evil, TRUSTED: secure, WRONG_NAME: secure, UNKNOWN: unknown, HOST: shop}
        connect_map = {host: ("127.0.0.1", server.port) for host, server in servers.items()}
        started = time.monotonic()
        result, peak_mb = process.submit(_crawl, connect_map, authority, [source("/good")], folder).result()
        yield SimpleNamespace(
            result=result, peak_mb=peak_mb, seconds=time.monotonic() - started, evil=evil, shop=shop, folder=folder
        )


def test_counts_each_attack_with_its_reason(crawled: SimpleNamespace) -> None:
    # The only link with an http URL; the page that moved; two hosts with invalid certificates.
    expected: dict[str, int] = {"offsite": 1, "duplicate": 1, "certificate": 2}
    for path, (_, reason) in ATTACKS.items():
        if path not in NOT_ASKED and reason != "ok":
            expected[reason] = expected.get(reason, 0) + 1
    assert crawled.result["dropped"] == dict(sorted(expected.items()))


def test_requests_every_attack(crawled: SimpleNamespace) -> None:
    unasked = {path for path in ATTACKS if not crawled.evil.asked(path)}
    assert unasked == {"/private/of-robots-txt"}


def test_keeps_all_valid_products(crawled: SimpleNamespace) -> None:
    titles = pq.read_table(crawled.folder / "products.parquet")["title"].to_pylist()
    assert sorted(titles) == sorted(["Evil", "Secure", *(f"Good {number}" for number in range(GOOD))])


def test_bounds_time_and_memory(crawled: SimpleNamespace) -> None:
    assert crawled.peak_mb < 500
    assert crawled.seconds < 60


def test_sends_no_state_across_hosts(crawled: SimpleNamespace) -> None:
    assert "cookie" not in b"".join(crawled.evil.requests).decode("latin-1").lower()
    assert crawled.shop.asked["/p/1"] == 2  # requested again after a redirect from the other host
    for _, headers in crawled.shop.headers:
        assert not {name.lower() for name in headers} & {"cookie", "authorization", "referer"}
