"""Fetching from a real server with many kinds of failures: statuses, retries, limits, robots.txt."""

import asyncio
import gzip
import io
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from PIL import Image

from atlas_model.core.errors import AtlasError, RetryError
from crawlers.fetch.client import download
from crawlers.http import policy
from crawlers.http.robots_txt import MAX_BYTES
from crawlers.http.user_agent import user_agent
from tests.support.fetching import (
    HOST,
    Answer,
    Server,
    fails_first,
    get,
    jpeg,
    moved,
    serving,
    url,
    with_body,
    with_status,
)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as running:
        yield running


async def break_off(request: web.Request, body: bytes) -> web.StreamResponse:
    """Send all but the end of ``body``."""
    response = web.StreamResponse(headers={"Content-Length": str(len(body))})
    await response.prepare(request)
    await response.write(body[:-100])
    assert request.transport is not None
    request.transport.close()
    return response


async def breaks_off(server: Server, request: web.Request) -> web.StreamResponse:
    return await break_off(request, jpeg("broken"))


async def says_huge(server: Server, request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(10**12)})
    await response.prepare(request)
    await asyncio.sleep(30)
    return response


async def never_ends(server: Server, request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(bytes(50_000))


async def drips(server: Server, request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:  # endless slow response, which only the timeout of the whole attempt ends
        await response.write(b"x")
        await asyncio.sleep(0.05)


async def sleeps(server: Server, request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response()


def bomb() -> bytes:
    data = io.BytesIO()
    Image.new("1", (2000, 2000)).save(data, "PNG")
    return data.getvalue()


def compressed(encoding: str, body: bytes) -> Answer:
    return with_status(200, body, **{"Content-Encoding": encoding})


ODD: dict[str, tuple[Answer, str]] = {
    "/gone": (with_status(404), "http_404"),
    "/forbidden": (with_status(403), "http_403"),
    "/no-content": (with_status(204), "http_204"),
    "/broken-server": (with_status(503), "http_503"),
    "/html": (with_body(b"<html>Please log in</html>", "text/html"), "not_an_image"),
    "/empty": (with_body(b""), "empty"),
    "/half": (with_body(jpeg("half", side=200)[:-100]), "truncated"),
    "/breaks-off": (breaks_off, "truncated"),
    "/says-huge": (says_huge, "too_large"),
    "/never-ends": (never_ends, "too_large"),
    "/bomb": (with_body(bomb()), "too_many_pixels"),
    "/sleeps": (sleeps, "timeout"),
    "/drips": (drips, "timeout"),
    "/to-file": (moved("file:///etc/passwd"), "bad_redirect"),
    "/to-itself": (moved("/to-itself"), "bad_redirect"),
    "/to-nonsense": (moved("http://[half"), "bad_redirect"),
    "/to-this-machine": (moved("http://127.0.0.1:1/x"), "blocked"),
    "/to-metadata": (moved("http://169.254.169.254/latest"), "blocked"),
    "/elsewhere": (moved("//other.test/images/moved"), "ok"),
    "/recovers": (fails_first(1), "ok"),
    "/html-but-named-so": (with_body(jpeg("mislabelled"), "text/html"), "ok"),
    "/gzip": (compressed("gzip", gzip.compress(jpeg("gzip"))), "ok"),
    "/deflate": (compressed("deflate", zlib.compress(jpeg("deflate"))), "ok"),
    "/gzip-and-more": (compressed("gzip", gzip.compress(jpeg("gzip")) + b"x" * 9), "ok"),
    "/half-gzip": (compressed("gzip", gzip.compress(jpeg("gzip"))[:-20]), "truncated"),
    "/no-gzip": (compressed("gzip", jpeg("no gzip")), "bad_encoding"),
    "/brotli": (compressed("br", b"whatever"), "bad_encoding"),
    "/not-implemented": (with_status(501), "http_501"),
    "/unasked-304": (with_status(304), "http_304"),
    "/no-robots": (with_status(200, **{"X-Robots-Tag": "noai"}), "robots_tag"),
    "/not-this-robot": (with_status(200, **{"X-Robots-Tag": "otherbot: noai"}), "ok"),
}
BAD_URLS = ["", "no url", "file:///etc/passwd", "data:image/png;base64,AAAA", "http://", "http://[::1/x", "ftp://a/b"]
BAD_URLS += ["http://host:99999/", f"http://{'a' * 70}.test/x", "//host/x"]


def test_each_url_gets_a_status_with_a_minimum_of_requests(server: Server, tmp_path: Path) -> None:
    server.odd = {path: answer for path, (answer, _) in ODD.items()}
    expected = {url(path): status for path, (_, status) in ODD.items()} | dict.fromkeys(BAD_URLS, "bad_url")
    expected |= {
        url("/images/1"): "ok",
        "http://localhost:1/x": "blocked",
        f"http://127.0.0.1:{server.port}/x": "blocked",
    }
    expected[url("/x", "closed.test")] = "unreachable"
    everybody = list(expected) * 2  # URLs repeat, because products share images
    open_map = server.connect_map | {"closed.test": ("127.0.0.1", 1)}
    images = get(server, everybody, tmp_path, connect_map=open_map, timeout_s=1.0, concurrency_per_host=60)

    assert images.statuses == dict(sorted(expected.items()))
    assert images.report.seconds < 5  # the timeout covers the whole attempt
    assert Counter(images.report.statuses) == Counter(expected.values())
    assert images.report.urls == len(expected)
    tried_again = {"/broken-server", "/not-implemented", "/breaks-off", "/half-gzip", "/sleeps", "/drips", "/recovers"}
    odd = {path: count for path, count in server.asked.items() if path in ODD}
    assert odd == {path: 2 if path in tried_again else 11 if path == "/to-itself" else 1 for path in ODD}
    assert images.report.retries == len(tried_again) + 1  # and the closed port
    assert server.asked["/images/1"] == server.asked["/images/moved"] == 1


def test_requests_have_a_user_agent_and_no_cookies(server: Server, tmp_path: Path) -> None:
    async def sets_cookie(server: Server, request: web.Request) -> web.StreamResponse:
        return web.Response(body=jpeg(1), headers={"Set-Cookie": "id=1; Path=/"})

    server.odd = {"/cookie": sets_cookie}
    urls = [url("/cookie"), *(url(f"/images/{number}") for number in range(3))]
    get(server, urls, tmp_path, concurrency=1, user_agent=user_agent("https://example.org/who"))
    assert len(server.headers) == 4
    for headers in server.headers:
        assert headers["User-Agent"].startswith("Atlas/")
        assert headers["User-Agent"].endswith(" (+https://example.org/who)")
        assert "Cookie" not in headers
        assert headers["Host"] == HOST


def test_concurrency_reaches_its_limits_in_total_and_per_host(server: Server, tmp_path: Path) -> None:
    """Each host responds only when the allowed number of requests waits, so speed does not affect the result."""

    async def held(server: Server, request: web.Request) -> web.StreamResponse:
        while server.most_in_flight[request.host] < 3 or server.most_in_flight["all"] < 5:
            await asyncio.sleep(0.01)
        return web.Response(body=jpeg(request.raw_path), content_type="image/jpeg")

    server.delay_s = 0.02  # so that an excess request would be seen
    server.odd = {f"/images/{number}": held for number in range(20)}
    urls = [url(path, host) for path in server.odd for host in (HOST, "other.test")]
    get(server, urls, tmp_path, concurrency=5, concurrency_per_host=3)
    assert server.most_in_flight == {HOST: 3, "other.test": 3, "all": 5}


def test_retry_after_applies_to_the_whole_host(server: Server, tmp_path: Path) -> None:
    server.odd = {"/busy": fails_first(1, 429, **{"Retry-After": "1"})}
    urls = [url("/busy"), *(url(f"/images/{number}") for number in range(5))]
    images = get(server, urls, tmp_path, concurrency_per_host=1)
    assert set(images.statuses.values()) == {"ok"}
    times = sorted(at for times in server.times.values() for at in times)
    refused = server.times["/busy"][0]
    later = [at for at in times if at > refused]
    assert len(later) >= 1
    assert later[0] - refused >= 0.99


def test_failing_host_is_given_up_until_the_next_run(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "MAX_IMAGE_FAILURES", 3)
    down = {f"/down/{number}": with_status(503) for number in range(20)}
    server.odd = dict(down)
    urls = [*map(url, down), url("/images/1", "other.test")]
    first = get(server, urls, tmp_path, concurrency_per_host=1)
    assert first.report.statuses == {"given_up": 17, "http_503": 3, "ok": 1}
    assert server.asked.total() == 3 * 2 + 1
    server.odd = {}
    second = get(server, urls, tmp_path)
    assert second.report.statuses == {"ok": 21}
    assert second.report.spooled == 1


def test_too_many_transient_failures_raise_and_a_rerun_retries_only_those(server: Server, tmp_path: Path) -> None:
    server.odd = {f"/busy-{number}": fails_first(2, 503) for number in range(2)}
    urls = [url(f"/images/{number}") for number in range(8)] + [url(path) for path in server.odd]
    with pytest.raises(RetryError, match=r"2 of 10 image URLs had transient failures .*raise fetch\.max_failed_share"):
        get(server, urls, tmp_path, max_failed_share=0.1)
    server.asked.clear()
    server.odd = {}
    assert set(get(server, urls, tmp_path, max_failed_share=0.1).statuses.values()) == {"ok"}
    assert set(server.asked) == {"/busy-0", "/busy-1"}


def test_blocked_host_is_requested_once_it_is_mapped(server: Server, tmp_path: Path) -> None:
    private = f"http://127.0.0.1:{server.port}/images/1"
    with pytest.raises(RetryError, match=r"blocked 1\. Name hosts in your own network in crawl\.con"):
        get(server, [private], tmp_path, connect_map={})
    allowed = get(server, [private], tmp_path, connect_map={"127.0.0.1": ("127.0.0.1", server.port)})
    assert allowed.statuses == {private: "ok"}


def test_error_without_any_image_has_counts(server: Server, tmp_path: Path) -> None:
    server.odd = {"/gone": with_status(404), "/html": with_body(b"<html>")}
    with pytest.raises(RetryError, match="none of 2 image URLs yielded an image: http_404 1, not_an_image 1"):
        get(server, [url("/gone"), url("/html")], tmp_path)


def test_records_redirects(server: Server, tmp_path: Path) -> None:
    server.odd = {"/old": moved("/older"), "/older": moved("//other.test/images/1#part")}
    found = get(server, [url("/old"), url("/images/2")], tmp_path).fetched
    assert found[url("/old")].final_url == "http://other.test/images/1"
    assert found[url("/images/2")].final_url is None


def test_does_not_send_credentials_in_urls(server: Server, tmp_path: Path) -> None:
    server.odd = {"/moved": moved("//me:secret@other.test/images/1")}
    secret = f"http://me:secret@{HOST}/moved"
    assert get(server, [secret], tmp_path).fetched[secret].final_url == "http://other.test/images/1"
    assert len(server.headers) == 2
    assert not any("Authorization" in headers or "Referer" in headers for headers in server.headers)


def test_long_retry_after_gives_up_only_that_host(server: Server, tmp_path: Path) -> None:
    server.odd = {"/busy": with_status(429, **{"Retry-After": "3600"})}
    urls = [url("/busy"), url("/images/1", "other.test")]
    images = get(server, urls, tmp_path)
    assert images.statuses == {url("/busy"): "http_429", url("/images/1", "other.test"): "ok"}
    assert images.report.seconds < 5
    assert server.asked["/busy"] == 1


def test_fetches_more_hosts_than_the_concurrency_limit(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "MAX_HOSTS", 3)
    server.delay_s = 0.01
    names = [f"{number}.test" for number in range(20)]
    urls = [url(f"/images/{number}", host) for host in names for number in range(2)]
    everywhere = dict.fromkeys(names, ("127.0.0.1", server.port))
    images = get(server, urls, tmp_path, connect_map=everywhere)
    assert images.report.statuses == {"ok": 40}
    assert server.most_in_flight["all"] <= 6


# robots.txt


def test_robots_txt_is_fetched_once_and_obeyed_at_each_redirect(server: Server, tmp_path: Path) -> None:
    rules = b"User-agent: *\nDisallow: /\n\nUser-agent: Atlas\nDisallow: /private\n"
    server.odd = {
        "/robots.txt": with_body(rules, "text/plain"),
        "/out": moved("http://other.test/private/2"),
    }
    urls = [url("/private/1"), url("/out"), *(url(f"/images/{number}") for number in range(10))]
    images = get(server, urls, tmp_path, obey_robots=True)
    assert images.report.statuses == {"ok": 10, "robots": 2}
    assert server.asked["/robots.txt"] == 2  # one per host
    assert server.asked["/private/1"] == server.asked["/private/2"] == 0
    server.odd = {}
    again = get(server, urls, tmp_path, obey_robots=False)
    assert again.report.statuses == {"ok": 12}  # robots.txt is fetched again in the next run
    assert again.report.spooled == 10


@pytest.mark.parametrize("answer", [with_status(404), with_status(403), moved("ftp://x/"), moved("/robots.txt")])
def test_missing_robots_txt_allows_everything(server: Server, tmp_path: Path, answer: Answer) -> None:
    server.odd = {"/robots.txt": answer}
    assert get(server, [url("/images/1")], tmp_path, obey_robots=True).report.statuses == {"ok": 1}


def test_unreachable_robots_txt_forbids_its_host_for_now(server: Server, tmp_path: Path) -> None:
    server.odd = {"/robots.txt": with_status(503)}
    urls = [url("/images/1"), "http://closed.test/x", url("/images/2", "other.test")]
    hosts = {HOST: ("127.0.0.1", server.port), "closed.test": ("127.0.0.1", 1), "other.test": ("127.0.0.1", 1)}
    with pytest.raises(RetryError, match=r"none of 3 .*: robots_unreachable 3"):
        get(server, urls, tmp_path, connect_map=hosts, obey_robots=True)
    assert server.asked == {"/robots.txt": 2}
    server.odd = {"/robots.txt": fails_first(3, 500)}
    assert get(server, urls[:1], tmp_path, obey_robots=True).report.statuses == {"ok": 1}


@pytest.mark.parametrize(
    "answer", [with_status(501), with_status(507), compressed("br", b"User-agent: *\nDisallow: /")]
)
def test_unreadable_robots_txt_forbids_its_host(server: Server, tmp_path: Path, answer: Answer) -> None:
    server.odd = {"/robots.txt": answer}
    with pytest.raises(RetryError, match="robots_unreachable 1"):
        get(server, [url("/images/1")], tmp_path, obey_robots=True)
    assert server.asked == {"/robots.txt": 2}


def test_size_limit_of_robots_txt_is_of_one_attempt(server: Server, tmp_path: Path) -> None:
    body = b"User-agent: *\nAllow: /\n".ljust(MAX_BYTES * 2 // 3)

    async def breaks_off_first(server: Server, request: web.Request) -> web.StreamResponse:
        if server.asked["/robots.txt"] > 1:
            return web.Response(body=body, content_type="text/plain")
        return await break_off(request, body)

    server.odd = {"/robots.txt": breaks_off_first}
    assert get(server, [url("/images/1")], tmp_path, obey_robots=True).report.statuses == {"ok": 1}
    assert server.asked["/robots.txt"] == 2


def test_observes_crawl_delay(server: Server, tmp_path: Path) -> None:
    server.odd = {"/robots.txt": with_body(b"User-agent: *\nCrawl-delay: 0.2", "text/plain")}
    images = get(server, [url(f"/images/{number}") for number in range(4)], tmp_path, obey_robots=True)
    assert images.report.seconds >= 3 * 0.2


def test_full_disk_raises_an_error_and_is_no_status_of_a_url(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("crawlers.fetch.blobs.os.write", full)
    with pytest.raises(AtlasError, match=r"cannot be written: .*No space left on device. The results so far are kept"):
        get(server, [url("/images/1")], tmp_path)
