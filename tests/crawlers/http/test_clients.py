"""Irregular responses over real HTTP in all clients: crawl, fetch, and `atlas crawl try`.

Each answer stands once in a table: what comes, and what must become of it, whoever asked.
"""

import gzip
import hashlib
import importlib
import io
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import brotli
import pytest
from PIL import Image

from atlas_model.core.errors import AtlasError
from crawlers.crawl.fetch_page import fetch_page
from crawlers.http.robots_txt import rules_for
from tests.support.crawling import listing, product, rows, run, source
from tests.support.fetching import get, jpeg
from tests.support.servers import HOST, RawServer, raw_serving, response

zstd = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")

ROBOTS = b"User-agent: *\rDisallow: /page/private\rDisallow: /image/private\r"  # lines end in CR alone


CLOSE = b"Connection: close"


def answer(body: bytes, *headers: bytes, status: bytes = b"HTTP/1.1 200 OK", end: bytes = b"\r\n") -> bytes:
    kind = b"Content-Type: text/html; charset=utf-8" if body[:1] == b"<" else b"Content-Type: image/jpeg"
    return end.join([status, kind, CLOSE, *headers, b"", b""]) + body


def sized(body: bytes, *headers: bytes, **how: bytes) -> bytes:
    return answer(body, f"Content-Length: {len(body)}".encode(), *headers, **how)


def packed(body: bytes, content: bytes, encoding: bytes) -> bytes:
    return (
        answer(body, b"Content-Encoding: " + encoding, f"Content-Length: {len(content)}".encode())[: -len(body)]
        + content
    )


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


CHUNKED = b"Transfer-Encoding: chunked"
READ: dict[str, Callable[[bytes], bytes]] = {  # name -> what comes of a body that must be read
    "plain": sized,
    "length-twice": lambda body: sized(body, f"Content-Length: {len(body)}".encode()),
    "length-in-a-list": lambda body: answer(body, f"Content-Length: {len(body)}, {len(body)}".encode()),
    "bytes-behind": lambda body: sized(body) + b"\r\n<!-- x -->",
    "bytes-behind-and-no-close": lambda body: (
        sized(body).replace(CLOSE, b"X: y") + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother"
    ),
    "bytes-behind-chunks": lambda body: answer(body, CHUNKED)[: -len(body)] + chunked(body) + b"more",
    "space-in-a-name": lambda body: sized(body, b"X Powered By: PHP"),
    "space-before-the-colon": lambda body: sized(body, b"X-Powered-By : PHP"),
    "no-colon": lambda body: sized(body, b"nothing to see here"),
    "no-name": lambda body: sized(body, b": empty"),
    "line-feeds": lambda body: sized(body, end=b"\n"),
    "folded": lambda body: sized(body, b"X-Long: a", b"  b"),
    "zero-byte": lambda body: sized(body, b"X-Odd: a\x00b"),
    "latin-1": lambda body: sized(body, b"Content-Disposition: inline; filename=men\xfc.jpg"),
    "no-reason": lambda body: sized(body, status=b"HTTP/1.1 200"),
    "early-hints": lambda body: b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + sized(body),
    "odd-early-hints": lambda body: b"HTTP/1.1 103 Early Hints\r\nOdd Link: x\r\n\r\n" + sized(body, b"X Y: z"),
    "http-1.0": lambda body: sized(body, status=b"HTTP/1.0 200 OK"),
    "chunks-and-length": lambda body: answer(body, CHUNKED, b"Content-Length: 3")[: -len(body)] + chunked(body),
    "utf-8": lambda body: packed(body, body, b"UTF-8"),
    "aws-chunked": lambda body: packed(body, body, b"aws-chunked"),
    "binary": lambda body: packed(body, body, b"binary"),
    "none": lambda body: packed(body, body, b"none"),
    "empty": lambda body: packed(body, body, b""),
    "gzip": lambda body: packed(body, gzip.compress(body), b"gzip"),
    "gzip-in-capitals": lambda body: packed(body, gzip.compress(body), b"GZIP"),
    "gzip-of-two": lambda body: packed(body, gzip.compress(body[:60]) + gzip.compress(body[60:]), b"gzip"),
    "gzip-and-more": lambda body: packed(body, gzip.compress(body) + bytes(9), b"gzip"),
    "gzip-and-a-token": lambda body: packed(body, gzip.compress(body), b"aws-chunked, gzip"),
    "gzip-in-gzip": lambda body: packed(body, gzip.compress(gzip.compress(body)), b"gzip, gzip"),
    "deflate": lambda body: packed(body, zlib.compress(body), b"deflate"),
    "raw-deflate": lambda body: packed(body, raw_deflate(body), b"deflate"),
    "brotli": lambda body: packed(body, brotli.compress(body), b"br"),
    "zstd": lambda body: packed(body, zstd.compress(body), b"zstd"),
}
REFUSED: dict[str, tuple[Callable[[bytes], bytes], str]] = {  # name -> what comes, and the reason that is counted
    "two-lengths": (lambda body: sized(body, b"Content-Length: 3"), "bad_http"),
    "no-length": (lambda body: answer(body, b"Content-Length: some"), "bad_http"),
    "no-http": (lambda body: b"SSH-2.0-OpenSSH\r\n\r\n", "bad_http"),
    "half-gzip": (lambda body: packed(body, gzip.compress(body)[:-20], b"gzip"), "truncated"),
    "half-of-two": (
        lambda body: packed(body, gzip.compress(body) + gzip.compress(body)[:-20], b"gzip"),
        "truncated",
    ),
    "half-brotli": (lambda body: packed(body, brotli.compress(body)[:-5], b"br"), "truncated"),
    "no-gzip": (lambda body: packed(body, body, b"gzip"), "bad_encoding"),
    "compress": (lambda body: packed(body, body, b"compress"), "bad_encoding"),
    "cut-off": (lambda body: sized(body)[:-9], "truncated"),
    "to-nowhere": (lambda body: moved(b"ftp://shop.test/x"), "bad_redirect"),
    "to-nothing": (lambda body: moved(b""), "bad_redirect"),
    "private": (sized, "robots"),
}
# As written in the page -> as asked for. All are paths of files that the server knows under that spelling only.
SPELLINGS = {
    "http%3A%2F%2Forig.test%2Fx": None,
    "foo%27bar?Signature=ab%2Bcd%3D%2f": None,
    "img%28front%29": None,
    "img(front)": None,
    "a%2Cb": None,
    "a%2cb,c;d=1": None,
    "%7Etilde~": None,
    "100%": None,
    "a+b?c=d+e%20f": None,
    "two//slashes": None,
    "[x]|y": None,
    "q?": None,
    "q?a=1?b=2&&c": None,
    "%E2%82%AC": None,
    "%FC": None,
    "a b": "a%20b",
    "ü?q=ü": "%C3%BC?q=%C3%BC",
    "x/../y\\z": "y/z",
    'quote"<>?"': "quote%22%3C%3E?%22",
}
REDIRECTS: dict[bytes, str] = {  # Location -> where that is
    b"/KIND/men\xfc": "/KIND/men%FC",
    "/KIND/men\u20ac".encode(): "/KIND/men%E2%82%AC",
    b"/KIND/there%2Cb?x=%2f": "/KIND/there%2Cb?x=%2f",
    b"there%2Cc": "/KIND/there%2Cc",
    b" //shop.test/KIND/there(d) ": "/KIND/there(d)",
    b"http://SHOP.test:80/KIND/../KIND/there#e": "/KIND/there",
}


def moved(location: bytes) -> bytes:
    return b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def page(name: str) -> bytes:
    return str(product(name.replace("<", "("), image="/i.jpg").body).encode()


def image(name: str) -> bytes:
    return jpeg(name)


def answers_of(kind: str, make: Callable[[str], bytes]) -> dict[str, bytes]:
    """Path -> answer; the wrong page or image lies where a client that alters URLs would look."""
    found = {f"/{kind}/{name}": build(make(name)) for name, build in READ.items()}
    found |= {f"/{kind}/{name}": build(make(name)) for name, (build, _) in REFUSED.items()}
    found |= {f"/{kind}/s/{sent or name}": sized(make(name)) for name, sent in SPELLINGS.items()}
    for number, (location, there) in enumerate(REDIRECTS.items()):
        found[f"/{kind}/r{number}"] = moved(location.replace(b"KIND", kind.encode()))
        found[there.replace("KIND", kind)] = sized(make(f"r{number}"))
    found[f"/{kind}/men"] = found[f"/{kind}/s/foo'bar?Signature=ab%2Bcd%3D"] = sized(make("wrong"))
    return found


def urls_of(kind: str) -> dict[str, str]:
    """Name -> URL as written."""
    base = f"http://{HOST}/{kind}"
    found = {name: f"{base}/{name}" for name in (*READ, *REFUSED)}
    found |= {name: f"{base}/s/{name}" for name in SPELLINGS}
    return found | {f"r{number}": f"{base}/r{number}" for number in range(len(REDIRECTS))}


NAMES = [name for name in urls_of("page") if name not in REFUSED]


@pytest.fixture(scope="module")
def server() -> Iterator[RawServer]:
    links = str(listing(*urls_of("page").values()).body).encode()
    answers: dict[str, Any] = {"/robots.txt": response(ROBOTS, "Content-Type: text/plain")}
    answers |= {"/c": sized(links)} | answers_of("page", page) | answers_of("image", image)
    with raw_serving(RawServer(answers)) as running:
        yield running


def connect_map(server: RawServer) -> dict[str, tuple[str, int]]:
    return {HOST: ("127.0.0.1", server.port)}


@pytest.fixture(scope="module")
def crawled(server: RawServer, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("crawl")
    shop: Any = SimpleNamespace(connect_map=connect_map(server))
    result = run(shop, [source("/c")], folder, max_attempts=1, timeout_s=20, max_failed_share=0.2)
    return SimpleNamespace(
        titles={row["title"] for row in rows(folder)}, dropped=result.dropped, faults=result.category_faults
    )


@pytest.mark.slow
def test_crawl_reads_the_pages_that_a_browser_reads(crawled: SimpleNamespace) -> None:
    assert crawled.titles == {name.replace("<", "(") for name in NAMES}
    assert crawled.faults == {}


@pytest.mark.slow
def test_crawl_counts_rejected_pages_with_a_reason(crawled: SimpleNamespace) -> None:
    expected: dict[str, int] = {}
    for _, reason in REFUSED.values():
        expected[reason] = expected.get(reason, 0) + 1
    assert crawled.dropped == dict(sorted(expected.items()))


def test_fetch_keeps_the_exact_bytes_of_valid_images(server: RawServer, tmp_path: Path) -> None:
    asked: Any = SimpleNamespace(connect_map=connect_map(server))
    urls = urls_of("image")
    found = get(
        asked, [*urls.values()], tmp_path, obey_robots=True, timeout_s=20, max_attempts=1, backoff_s=0.01
    ).fetched
    statuses = {name: found[url].status for name, url in urls.items()}
    assert statuses == dict.fromkeys(NAMES, "ok") | {name: reason for name, (_, reason) in REFUSED.items()}
    images = {name: found[urls[name]].image_id for name in NAMES}
    assert images == {name: image_id(image(name)) for name in NAMES}


def image_id(data: bytes) -> str:
    assert Image.open(io.BytesIO(data)).size
    return hashlib.sha256(data).hexdigest()


def attempt(server: RawServer, name: str) -> bytes:
    how: dict[str, Any] = {
        "connect_map": connect_map(server),
        "user_agent": "Atlas/0 (+https://example.org)",
        "timeout_s": 20.0,
    }
    return bytes(fetch_page(urls_of("page")[name], robots_tags=(), **how).body)


@pytest.mark.parametrize("name", NAMES)
def test_try_command_reads_the_same_pages(server: RawServer, name: str) -> None:
    assert attempt(server, name) == page(name)


@pytest.mark.parametrize("name", REFUSED)
def test_try_command_rejects_the_same_pages_with_a_message(server: RawServer, name: str) -> None:
    words = {
        "bad_http": "not valid HTTP",
        "truncated": "truncated|breaks off|payload|ClientPayloadError",
        "bad_encoding": "Content-Encoding",
        "bad_redirect": "redirects to an invalid URL",
        "robots": "robots.txt forbids it",
    }
    with pytest.raises(AtlasError, match=words[REFUSED[name][1]]):
        attempt(server, name)


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_robots_txt_accepts_any_line_ends(end: bytes) -> None:
    body = b"\xef\xbb\xbf" + end.join(
        [b"User-agent: Other", b"Disallow: /", b"", b"User-Agent: atlas", b"Disallow: /p"]
    )
    assert rules_for(body, "Atlas").split("\n") == [
        "User-agent: another robot",
        "Disallow: /",
        "",
        "User-agent: atlas",
        "Disallow: /p",
    ]


def test_robots_txt_rule_in_another_encoding_keeps_its_bytes() -> None:
    assert (
        rules_for(b"User-agent: *\nDisallow: /caf\xe9\xe2\x80\xa8x\n", "Atlas")
        == "User-agent: *\nDisallow: /caf%E9%E2%80%A8x\n"
    )
