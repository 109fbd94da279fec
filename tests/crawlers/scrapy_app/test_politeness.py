"""Retry-After, X-Robots-Tag and robots.txt: parsing, and observance by a crawl."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from protego import Protego

from atlas_model.core.errors import RetryError
from crawlers.http import policy
from crawlers.http.host_limits import DEFAULT_PROFILE, UNLIMITED, HostProfile
from crawlers.http.robots_tag import forbidden_directive, meta_values
from crawlers.http.robots_txt import MAX_BYTES, rules_for
from crawlers.scrapy_app.settings import scrapy_settings
from tests.support.crawling import listing, product, rows, run, source
from tests.support.servers import HOST, Reply, Shop, serving

# Retry-After


@pytest.mark.parametrize(
    ("header", "expected_s"),
    [
        (None, None),
        ("", None),
        ("120", 120),
        (" 0 ", 0),
        ("-5", None),
        ("１２", None),
        ("soon", None),
        ("Wed, 99 Foo 2099", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 0),
    ],
)
def test_retry_after(header: str | None, expected_s: float | None) -> None:
    assert policy.retry_after_s(header) == expected_s


def test_retry_after_a_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 90 < (policy.retry_after_s(date) or 0) <= 100


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_applies_to_all_requests_of_a_host(tmp_path: Path, as_date: bool) -> None:
    def busy_once(times: int) -> Reply:
        wait = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True) if as_date else "1"
        return Reply("", 503, {"Retry-After": wait}) if times == 1 else product("One", "1")

    shop = Shop({f"/p/{number}": product(f"Other {number}", f"{number}") for number in range(2, 8)})
    shop.pages |= {"/shirts": listing("/p/1", *shop.pages), "/p/1": busy_once}
    one_at_a_time = HostProfile(delay_s=0, concurrency=1, autothrottle=False)
    with serving(shop):
        result = run(shop, [source("/shirts")], tmp_path, profiles={HOST: one_at_a_time})
    gaps_s = [after - before for before, after in zip(shop.asked_at_s, shop.asked_at_s[1:], strict=False)]
    assert 0.9 < max(gaps_s) < 5  # no request in between
    assert (result.products, result.retries) == (7, 1)


def test_response_without_retry_after_keeps_an_earlier_wait(tmp_path: Path) -> None:
    def busy(headers: dict[str, str], after_s: float) -> Callable[[int], Reply]:
        return lambda times: Reply("", 503, headers, after_s=after_s) if times == 1 else product("One", "1")

    shop = Shop({"/p/1": busy({"Retry-After": "2"}, 0.2), "/p/2": busy({}, 0.6)})
    shop.pages |= {f"/p/{number}": product(f"Other {number}", f"{number}") for number in range(3, 8)}
    shop.pages["/shirts"] = listing(*shop.pages)
    two_at_a_time = HostProfile(delay_s=0, concurrency=2, autothrottle=False)
    with serving(shop):
        run(shop, [source("/shirts")], tmp_path, profiles={HOST: two_at_a_time})
    gaps_s = [after - before for before, after in zip(shop.asked_at_s, shop.asked_at_s[1:], strict=False)]
    assert max(gaps_s) > 1.9


def test_long_retry_after_gives_up_the_host(tmp_path: Path) -> None:
    shop = Shop({"/shirts": Reply("", 429, {"Retry-After": "3600"})})
    started = time.monotonic()
    with serving(shop), pytest.raises(RetryError, match="host_down"):
        run(shop, [source("/shirts")], tmp_path, max_attempts=3)
    assert shop.asked["/shirts"] == 1
    assert time.monotonic() - started < 30


# X-Robots-Tag


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], None),
        (["all"], None),
        (["nofollow"], None),
        (["noindex"], "noindex"),
        (["nofollow, NOAI"], "noai"),
        (["none"], "noindex"),
        (["otherbot: noindex, noai"], None),
        (["Atlas: noai"], "noai"),
        (["otherbot: noindex, atlas: noai"], "noai"),
        (["otherbot: noindex", "noai"], "noai"),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST, noai"], "noai"),
        (["max-snippet: 20, max-image-preview: none"], None),
    ],
)
def test_robots_tag(values: list[str], expected: str | None) -> None:
    assert forbidden_directive(values, "Atlas", {"noai", "noindex"}) == expected


def test_no_directive_is_forbidden_without_unwanted_ones() -> None:
    assert forbidden_directive(["noindex"], "Atlas", ()) is None


def test_meta_tags() -> None:
    html = b"""<!-- <meta name="robots" content="noindex"> --><script>'<meta name=robots content=noai>'</script>
        <META content='noai, nofollow' NAME=Robots><meta name="atlas" content="noindex">
        <meta name="otherbot" content="none"><meta name="description" content="robots"><meta name="robots">"""
    assert meta_values(html, "Atlas") == ["noai, nofollow", "noindex", ""]


@pytest.mark.parametrize(
    "html",
    [
        b"<meta " * 500_000,
        b"<!--" * 500_000,
        b"<script " * 500_000,
        b"<meta " + b"a" * 3_000_000 + b">",
        (b"<meta " + b"a" * 990 + b">") * 3_000,
        (b"<meta a" + b" " * 990 + b">") * 3_000,
        (b"<meta " + b"a='" * 300 + b">") * 3_000,
    ],
)
@pytest.mark.no_cover  # coverage would slow it down
def test_search_for_meta_tags_takes_bounded_time(html: bytes) -> None:
    started = time.process_time()
    meta_values(html, "Atlas")
    assert time.process_time() - started < 5  # takes 0.3 s; backtracking would take minutes


def test_drops_pages_with_robots_tags(tmp_path: Path) -> None:
    shop = Shop(
        {
            "/shirts": listing("/p/1", "/p/2", "/p/3", "/p/4", **{"X-Robots-Tag": "noindex"}),  # read for its links
            "/p/1": product("One", "1"),
            "/p/2": product("Two", "2", **{"X-Robots-Tag": "noindex"}),  # type: ignore[arg-type]  # a header
            "/p/3": product("Three", "3", **{"X-Robots-Tag": "otherbot: noindex"}),  # type: ignore[arg-type]  # a header
            "/p/4": Reply('<meta name="robots" content="noai">'),
        }
    )
    with serving(shop):
        result = run(shop, [source("/shirts")], tmp_path, robots_tags=["noai", "noindex"])
    assert result.dropped == {"robots_tag": 2}
    assert [row["title"] for row in rows(tmp_path)] == ["One", "Three"]


# robots.txt


def test_robots_txt_rules_apply_by_our_name() -> None:
    body = b"User-agent: *\nDisallow: /all\n\nuser agent: Atlas/2 # you\nDisallow: /us\n\nUserAgent A\nDisallow: /\n"
    rules = Protego.parse(rules_for(body, "Atlas"))
    assert [rules.can_fetch(f"http://h{path}", "Atlas") for path in ("/", "/us", "/all")] == [True, False, True]


@pytest.mark.parametrize("name", [b"User-agent: a%d\n", b"User-agent a%d\n", b" useragent:a%d#\r\n"])
@pytest.mark.no_cover  # coverage would slow it down
def test_many_robots_with_many_rules_take_bounded_time(name: bytes) -> None:
    body = b"".join(name % number for number in range(10_000)) + b"Disallow: /x\n" * 20_000  # 200 million rules
    started = time.process_time()
    assert Protego.parse(rules_for(body, "Atlas")).can_fetch("http://h/x", "Atlas")
    assert time.process_time() - started < 5


def test_reads_robots_txt_up_to_the_limit_only() -> None:
    body = b"User-agent: *\nDisallow: /a\n" + b"#" * MAX_BYTES + b"\nDisallow: /b\n"
    rules = Protego.parse(rules_for(body, "Atlas"))
    assert [rules.can_fetch(f"http://h{path}", "Atlas") for path in ("/a", "/b")] == [False, True]


def test_all_waiting_requests_obey_robots_txt(tmp_path: Path) -> None:
    shop = Shop({"/robots.txt": Reply("User-agent: *\nDisallow: /secret/\n", after_s=0.5), "/": listing("/p/1")})
    shop.pages |= {"/p/1": product("One", "1")} | {f"/secret/{number}": listing("/p/1") for number in range(8)}
    with serving(shop):
        result = run(shop, [source(path) for path in shop.pages if path[1:2] not in ("p", "r")], tmp_path)
    assert result.category_faults == {"robots": 8}
    assert set(shop.asked) == {"/robots.txt", "/", "/p/1"}


# Settings


def test_settings() -> None:
    settings = scrapy_settings(
        hosts=["a.test"],
        profiles={"b.test": UNLIMITED},
        connect_map={},
        user_agent="Atlas/1",
        max_attempts=3,
        timeout_s=5,
        robots_tags=["noai"],
        browser=None,
        log_file="log.txt",
    )
    handlers = settings["DOWNLOAD_HANDLERS"]
    assert {scheme for scheme, handler in handlers.items() if handler} == {"http", "https"}
    assert handlers.keys() >= {"file", "data", "ftp", "s3"}
    for off in ("TELNETCONSOLE", "REMOTE_CONTROL", "HTTPPROXY", "COOKIES", "METAREFRESH", "REFERER"):
        assert settings[f"{off}_ENABLED"] is False
    assert settings["ROBOTSTXT_OBEY"] is True
    assert settings["DOWNLOAD_VERIFY_CERTIFICATES"] is True
    assert settings["DOWNLOAD_SLOTS"]["a.test"]["delay"] == DEFAULT_PROFILE.delay_s
    assert settings["DOWNLOAD_SLOTS"]["b.test"]["delay"] == 0
