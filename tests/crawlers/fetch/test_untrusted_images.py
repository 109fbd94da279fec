"""Malicious image servers: each attack ends in bounded time with a status, and affects no other image."""

import gzip
import io
import json
import socket
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from atlas_model.data.schemas import IMAGES, read_table
from tests.support.fetching import jpeg
from tests.support.paths import ROOT
from tests.support.servers import Answer, RawServer, dripping, endless, gzip_bomb, raw_serving, response

HOST, OTHER = "evil.test", "other.test"
MAX_MEMORY_MB = 500
TIMEOUT_S = 3.0

CHILD = """
import json, sys, time
from pathlib import Path
from aiohttp.resolver import DefaultResolver
from crawlers.fetch.collect import write_images
from crawlers.fetch.images import fetch_images
from crawlers.fetch.spool import Spool
from tests.support.memory import peak_mb

async def resolve(self, host, port=0, family=0):  # untrusted names that resolve to this machine
    address = {"metadata.test": "169.254.169.254"}.get(host, "127.0.0.1")
    return [{"hostname": host, "host": address, "port": port, "family": 2, "proto": 0, "flags": 0}]

DefaultResolver.resolve = resolve
options = json.load(sys.stdin)
folder, urls = Path(options.pop("folder")), options.pop("urls")
started = time.monotonic()
with Spool(folder / "spool") as spool:
    fetch_images(urls, spool, **options)
    seconds = time.monotonic() - started
    write_images(folder / "shards", spool, 1000)
    found = {url: spool.lookup(url) for url in urls}
json.dump({"found": found, "seconds": seconds, "peak_mb": peak_mb()}, sys.stdout)
"""


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def frames(kind: str) -> bytes:
    return encoded(shade(1), kind, save_all=True, append_images=[shade(2), shade(3)], duration=50)


def shade(seed: int, mode: str = "RGB", side: int = 40) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def moved(location: str, *headers: str) -> bytes:
    return response(b"", f"Location: {location}", *headers, status="302 Found")


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.new("RGB", (40, 20), "red"), "JPEG", exif=exif)


def silent(client: socket.socket, ended: threading.Event) -> None:
    ended.wait()


OK_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n"
BIG_JPEG = encoded(shade(7, side=400), "JPEG", quality=90)
ATTACKS: dict[str, tuple[Answer, str]] = {
    # what is no image of ours
    "/bomb-144-megapixels": (response(encoded(Image.new("1", (12_000, 12_000)), "PNG")), "too_many_pixels"),
    "/claims-4-gigapixels": (response(png_that_claims(65_000, 65_000)), "too_many_pixels"),
    "/claims-more-than-it-has": (response(png_that_claims(6_000, 6_000)), "truncated"),
    "/html": (response(b"<html><img src=x></html>", "Content-Type: image/jpeg"), "not_an_image"),
    "/svg": (response(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "Content-Type: image/svg+xml"), "not_an_image"),
    "/truncated": (response(BIG_JPEG[: len(BIG_JPEG) // 2]), "truncated"),
    "/nothing": (response(b""), "empty"),
    # bodies
    "/endless": (endless(OK_HEAD + b"\r\n"), "too_large"),
    "/endless-chunks": (
        endless(OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 0x10000 + b"\r\n"),
        "too_large",
    ),
    "/claims-a-terabyte": (response(b"x", length=10**12), "too_large"),
    "/claims-a-byte-too-much": (response(jpeg(1), length=len(jpeg(1)) + 1), "truncated"),
    "/claims-less": (response(BIG_JPEG, length=len(BIG_JPEG) // 2), "truncated or unreachable"),  # as it comes
    "/claims-a-negative-length": (OK_HEAD + b"Content-Length: -5\r\n\r\n" + jpeg(1), "bad_http"),
    "/gzip-bomb": (response(gzip_bomb(1_000_000_000), "Content-Encoding: gzip"), "decompression_bomb"),
    "/gzip-bomb-in-layers": (response(gzip_bomb(100_000_000, 3), "Content-Encoding: gzip, gzip, gzip"), "bad_encoding"),
    "/gzip-bomb-in-two-layers": (
        response(gzip_bomb(100_000_000, 2), "Content-Encoding: gzip, gzip"),
        "decompression_bomb",
    ),
    "/endless-after-gzip": (
        endless(OK_HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(jpeg("then endless"))),
        "ok",
    ),
    "/one-byte-at-a-time": (dripping(OK_HEAD + b"\r\n"), "timeout"),
    "/one-byte-of-a-header-at-a-time": (dripping(b"HTTP/1.1 200 OK\r\nX-Slow: "), "timeout"),
    "/silent": (silent, "timeout"),
    # headers
    "/2-MB-of-headers": (response(jpeg(1), *(f"X-{n}: {'y' * 4000}" for n in range(500))), "headers_too_large"),
    "/one-long-header": (response(jpeg(1), f"X-Long: {'y' * 2_000_000}"), "headers_too_large"),
    "/endless-headers": (endless(b"HTTP/1.1 200 OK\r\n", b"X-A: bcdefgh\r\n" * 1000), "headers_too_large"),
    "/no-http": (b"\x16\x03\x01 what?\r\n\r\n", "bad_http"),
    "/hangs-up": (b"", "unreachable"),
    # redirects
    "/to-file": (moved("file:///etc/passwd"), "bad_redirect"),
    "/to-data": (moved("data:image/png;base64,AAAA"), "bad_redirect"),
    "/to-ftp": (moved("ftp://127.0.0.1/x"), "bad_redirect"),
    "/to-loopback": (moved("http://127.0.0.1:{port}/good/1"), "blocked"),
    "/to-loopback-in-hex": (moved("http://0x7f000001:{port}/good/1"), "blocked"),
    "/to-ipv6-loopback": (moved("http://[::ffff:127.0.0.1]:{port}/good/1"), "blocked"),
    "/to-metadata": (moved("http://169.254.169.254/latest/meta-data/"), "blocked"),
    "/to-a-private-name": (moved("http://private.test:{port}/good/1"), "blocked"),
    "/to-itself": (moved("/to-itself"), "bad_redirect"),
    "/round-and-round": (moved("/round-and-round-2"), "bad_redirect"),
    "/to-other-host": (moved(f"http://{OTHER}/seen-by-other", "Set-Cookie: id=1; Domain=test"), "ok"),
}
MORE: dict[str, Answer] = {
    "/round-and-round-2": moved("/round-and-round"),
    "/seen-by-other": response(jpeg("seen by other")),
    "/robots.txt": endless(
        OK_HEAD + b"\r\n", b"User-agent: a\nDisallow: /x\nUser-agent: Atlas\nDisallow: /forbidden\n"
    ),
}
ODD_URLS = {
    "file:///etc/passwd": "bad_url",
    "data:image/png;base64,AAAA": "bad_url",
    "ftp://evil.test/x": "bad_url",
    "gopher://evil.test/x": "bad_url",
    "http://metadata.test/latest": "blocked",
    "http://localhost/x": "blocked",
    "http://2130706433/x": "blocked",
    f"http://{HOST}/forbidden/x": "robots",
}
GOOD: dict[str, tuple[bytes, dict[str, object]]] = {
    "/good/animated.gif": (frames("GIF"), {"format": "GIF", "n_frames": 3}),
    "/good/animated.webp": (frames("WEBP"), {"format": "WEBP", "n_frames": 3}),
    "/good/cmyk.jpg": (encoded(shade(4, "CMYK"), "JPEG"), {"format": "JPEG", "mode": "CMYK"}),
    "/good/16-bit.png": (
        encoded(Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40) * 40), "PNG"),
        {"format": "PNG", "mode": "I;16"},
    ),
    "/good/rotated.jpg": (rotated(), {"orientation": 6, "width": 40, "height": 20}),
    "/good/progressive.jpg": (encoded(shade(5), "JPEG", progressive=True), {"format": "JPEG", "n_frames": 1}),
    "/good/38-megapixels.png": (encoded(Image.new("RGBA", (6_200, 6_200)), "PNG"), {"width": 6_200, "mode": "RGBA"}),
    **{f"/good/{number}": (jpeg(f"good {number}"), {"format": "JPEG", "n_frames": 1}) for number in range(60)},
}


@pytest.fixture(scope="module")
def server() -> Iterator[RawServer]:
    answers = {path: answer for path, (answer, _) in ATTACKS.items()} | MORE
    answers |= {path: response(body, "Content-Type: text/plain") for path, (body, _) in GOOD.items()}
    with raw_serving(RawServer(answers)) as running:
        for path, answer in answers.items():
            if isinstance(answer, bytes) and b"{port}" in answer:
                running.answers[path] = answer.replace(b"{port}", str(running.port).encode())
        yield running


@pytest.fixture(scope="module")
def result(server: RawServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One run with all attacks, in a separate process whose memory is measured."""
    folder = tmp_path_factory.mktemp("hostile")
    options = {
        "folder": str(folder),
        "urls": [*(f"http://{HOST}{path}" for path in [*ATTACKS, *GOOD]), *ODD_URLS],
        "snapshot": "one",
        "reuse": "validate",
        "connect_map": dict.fromkeys((HOST, OTHER), ("127.0.0.1", server.port)),
        "user_agent": "Atlas/test",
        "concurrency": 32,
        "concurrency_per_host": 32,
        "max_attempts": 2,
        "timeout_s": TIMEOUT_S,
        "max_bytes": 20_000_000,
        "max_pixels": 40_000_000,
        "max_failed_share": 1.0,
        "obey_robots": True,
        "robots_tags": ["noai"],
        "backoff_s": 0.01,
    }
    done = subprocess.run(
        [sys.executable, "-c", CHILD], input=json.dumps(options), cwd=ROOT, check=True, capture_output=True, text=True
    )
    print(done.stderr)
    return json.loads(done.stdout) | {"shards": folder / "shards"}


@pytest.mark.parametrize(
    ("url", "status"), [*((f"http://{HOST}{path}", status) for path, (_, status) in ATTACKS.items()), *ODD_URLS.items()]
)
def test_attacks_get_their_status(result: dict[str, Any], url: str, status: str) -> None:
    assert result["found"][url][0] in status.split(" or ")


def test_bounds_time_and_memory(result: dict[str, Any]) -> None:
    print(f"{result['seconds']:.1f} s, {result['peak_mb']:.0f} MB")
    assert result["seconds"] < 30
    assert result["peak_mb"] < MAX_MEMORY_MB


@pytest.mark.parametrize("path", GOOD)
def test_other_images_are_unaffected(result: dict[str, Any], path: str) -> None:
    body, described = GOOD[path]
    status, image_id, _ = result["found"][f"http://{HOST}{path}"]
    assert status == "ok"
    (row,) = [row for row in images(result) if row["image_id"] == image_id]
    assert row["bytes"] == body
    assert {name: row[name] for name in described} == described


def images(result: dict[str, Any]) -> list[dict[str, Any]]:
    if "rows" not in result:
        result["rows"] = read_table(result["shards"], IMAGES, "fetch").to_pylist()
    return result["rows"]


def test_sends_no_state_to_other_hosts(server: RawServer, result: dict[str, Any]) -> None:
    assert result["found"][f"http://{HOST}/to-other-host"][2] == f"http://{OTHER}/seen-by-other"
    (request,) = [request for request in server.requests if request.startswith(b"GET /seen-by-other ")]
    names = {line.partition(b":")[0].lower() for line in request.splitlines()[1:] if line}
    assert names == {b"host", b"user-agent", b"accept", b"accept-encoding"}


def test_robots_txt_is_asked_for_once_per_host(server: RawServer, result: dict[str, Any]) -> None:
    assert result["found"]
    assert server.asked("/robots.txt") == 2
    assert server.asked("/forbidden/x") == 0
