"""One HTTP policy: all clients have the same transient statuses, limits of redirects, and stored validators.

One real server has a host for each case; a crawl, a fetch, `atlas crawl try` and Chromium each ask all of them.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from atlas_model.core.errors import AtlasError, RetryError
from crawlers.crawl.fetch_page import fetch_page
from crawlers.crawl.journal import PRODUCT, Journal
from crawlers.http import policy
from tests.support.browsing import Visits, browse
from tests.support.chromium import needs_chromium
from tests.support.crawling import QUICK, listing, product, run, source, titles
from tests.support.fetching import Server, get, jpeg, serving
from tests.support.http_statuses import ERROR_PAGE, TRANSIENT
from tests.support.servers import HOST, Reply, Shop
from tests.support.servers import serving as serving_shop

STATUSES = [400, 401, 403, 404, 405, 408, 409, 410, 418, 422, 425, 429, 451, *range(500, 512), *range(520, 531), 599]
REDIRECTS = (5, 9, 10, 11, 25)  # Chromium itself ends at 20
VALIDATORS = (1, 256, 257, 500, 501)  # characters of an ETag
RULES_ELSEWHERE = "elsewhere.test"  # serves the robots.txt of another host

HOSTS = [
    *(f"s{status}.{HOST}" for status in STATUSES),  # answers with it
    *(f"r{status}.{HOST}" for status in STATUSES),  # its robots.txt does
    *(f"a{status}.{HOST}" for status in sorted(TRANSIENT)),  # responds with it and with a Retry-After of an hour
    *(f"h{count}.{HOST}" for count in REDIRECTS),  # redirects so often
    *(f"q{count}.{HOST}" for count in REDIRECTS),  # its robots.txt does, and then forbids all
    *(f"v{count}.{HOST}" for count in VALIDATORS),  # sends an ETag of that length
    f"n.{HOST}",  # its robots.txt is marked as one that is not to be indexed
    f"o.{HOST}",  # its robots.txt is on another host, and forbids all
]


class Cases(Server):
    """Serves the hosts above: ``/page`` and ``/image``; counts what each was asked for, but for what it redirected."""

    def __init__(self) -> None:
        super().__init__()
        self.of_host: Counter[tuple[str, str]] = Counter()  # host, path
        self.etags: set[str] = set()  # hosts whose ETag was sent back

    @property
    def connect_map(self) -> dict[str, tuple[str, int]]:
        return dict.fromkeys([HOST, RULES_ELSEWHERE, *HOSTS], ("127.0.0.1", self.port))

    def asked_of(self, path: str) -> dict[str, int]:
        return {host: count for (host, asked), count in self.of_host.items() if asked == path}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        host, path, hop = request.host, request.path, int(request.query.get("hop", 0))
        kind, number = host[0], int(host.split(".")[0][1:] or 0) if host in HOSTS else 0
        if not hop:
            self.of_host[host, path] += 1
        if path == "/robots.txt":
            return self._robots(host, kind, number, hop)
        if kind == "s" and host != HOST:
            return error(number)
        if kind == "a":
            return error(number, **{"Retry-After": "3600"})
        if kind == "h" and hop < number:
            return moved(f"{path}?hop={hop + 1}")
        headers = {}
        if kind == "v":
            headers["ETag"] = '"' + "a" * (number - 2) + '"' if number > 1 else "a"
            if request.headers.get("If-None-Match") == headers["ETag"]:
                self.etags.add(host)
                return web.Response(status=304)
        if path == "/image":
            return web.Response(body=jpeg(host), content_type="image/jpeg", headers=headers)
        page = product(host, host) if path == "/page" else listing(*(f"http://{one}/page" for one in HOSTS))
        return web.Response(body=str(page.body).encode(), content_type="text/html", headers=headers)

    @staticmethod
    def _robots(host: str, kind: str, number: int, hop: int) -> web.Response:
        forbidding = web.Response(text="User-agent: *\nDisallow: /\n")
        if host == RULES_ELSEWHERE:
            return forbidding
        if host == HOST or kind not in "rqno":
            return web.Response(status=404)
        if kind == "r":
            return error(number)
        if kind == "n":
            return web.Response(text="User-agent: *\nDisallow: /x\n", headers={"X-Robots-Tag": "noindex"})
        if kind == "o":
            return moved(f"http://{RULES_ELSEWHERE}/robots.txt")
        return moved(f"/robots.txt?hop={hop + 1}") if hop < number else forbidding


def error(status: int, **headers: str) -> web.Response:
    return web.Response(status=status, text=ERROR_PAGE, content_type="text/html", headers=headers)


def moved(location: str) -> web.Response:
    return web.Response(status=302, headers={"Location": location})


@pytest.fixture
def cases() -> Iterator[Cases]:
    with serving(Cases()) as running:
        assert isinstance(running, Cases)
        yield running


@pytest.fixture(scope="module")
def crawled(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """All cases crawled: refused, resumed, and crawled again under another name."""
    folder = tmp_path_factory.mktemp("crawl")
    how: dict[str, Any] = {
        "profiles": dict.fromkeys([HOST, *HOSTS], QUICK),
        "robots_tags": ["noindex"],
        "timeout_s": 30,
    }
    with serving(Cases()) as cases:
        assert isinstance(cases, Cases)
        shop: Any = cases
        with pytest.raises(RetryError, match="product pages failed"):
            run(shop, [source("/c")], folder, **how)
        first = SimpleNamespace(asked=cases.asked_of("/page"), robots=cases.asked_of("/robots.txt"))
        with Journal(folder / "work/journal.sqlite") as journal:
            faults = {url.split("/")[2]: reason for url, reason, _ in journal.faults(PRODUCT)}
            pages = {host: journal.page(PRODUCT, f"http://{host}/page") for host in HOSTS}
        cases.of_host.clear()
        run(shop, [source("/c")], folder, **how, max_failed_share=1.0)
        again = {*cases.asked_of("/page"), *(host for host in cases.asked_of("/robots.txt") if host in faults)}
        found = titles(folder)
        run(shop, [source("/c")], folder, **how, max_failed_share=1.0, snapshot="two")
    return SimpleNamespace(
        first=first,
        faults=faults,
        dropped={host: page.dropped for host, page in pages.items() if page},
        again=again,
        titles=found,
        etags=cases.etags,
        folder=folder,
    )


def hosts(kind: str, numbers: Any) -> set[str]:
    return {f"{kind}{number}.{HOST}" for number in numbers}


def of_kind(kind: str, found: Any) -> set[str]:
    return {host for host in found if host in HOSTS and host.startswith(kind)}


# Which statuses are transient


def test_policy_classifies_transient_statuses() -> None:
    assert {status for status in range(100, 1000) if policy.is_transient_status(status)} == {
        *(408, 425, 429),
        *range(500, 600),
    }
    assert policy.is_transient("http_520")
    assert policy.is_transient("timeout")
    assert not policy.is_transient("http_404")
    assert not policy.is_transient("bad_http")
    assert not policy.is_transient("http_")
    assert not policy.is_transient("blocked")
    assert policy.is_retried_next_run("blocked")
    assert not policy.is_retried_next_run("robots")


@pytest.mark.slow
def test_crawl_retries_only_transient_statuses(crawled: SimpleNamespace) -> None:
    times = {host: count for host, count in crawled.first.asked.items() if host in of_kind("s", HOSTS)}
    assert times == dict.fromkeys(hosts("s", STATUSES), 1) | dict.fromkeys(hosts("s", TRANSIENT), 2)
    assert {host: crawled.faults[host] for host in of_kind("s", crawled.faults)} == {
        f"s{status}.{HOST}": f"http_{status}" for status in TRANSIENT
    }
    assert of_kind("s", crawled.again) == hosts("s", TRANSIENT)


def test_fetch_retries_only_transient_statuses(cases: Cases, tmp_path: Path) -> None:
    found = fetch(cases, of_kind("s", HOSTS), tmp_path)
    assert found == {f"s{status}.{HOST}": f"http_{status}" for status in STATUSES}
    times = {host: count for host, count in cases.asked_of("/image").items() if host != HOST}
    assert times == dict.fromkeys(hosts("s", STATUSES), 1) | dict.fromkeys(hosts("s", TRANSIENT), 2)
    cases.of_host.clear()
    fetch(cases, of_kind("s", HOSTS), tmp_path)
    assert set(cases.asked_of("/image")) == hosts("s", TRANSIENT)


def test_try_command_classifies_only_transient_statuses_as_transient(cases: Cases) -> None:
    errors = {host: attempt(cases, host) for host in of_kind("s", HOSTS)}
    assert {host for host, error in errors.items() if isinstance(error, RetryError)} == hosts("s", TRANSIENT)
    assert all(isinstance(error, AtlasError) for error in errors.values())
    assert set(cases.asked_of("/page").values()) == {1}  # the command does not retry


@needs_chromium
@pytest.mark.slow
def test_browser_classifies_only_transient_statuses_as_transient(cases: Cases, tmp_path: Path) -> None:
    asked = [*of_kind("s", HOSTS), *of_kind("h", HOSTS)]
    pages: dict[str, dict[str, Any]] = {f"http://{host}/page": {} for host in asked}
    visits = Visits(pages, cases.connect_map, str(tmp_path / "log.txt"), allowed=HOST, max_attempts=2)
    came = {url.split("/")[2]: outcome for url, outcome in browse(visits).items()}
    assert {host: came[host].get("reason") for host in of_kind("s", HOSTS)} == {
        f"s{status}.{HOST}": f"http_{status}" for status in STATUSES
    }
    times = {host: count for host, count in cases.asked_of("/page").items() if host in of_kind("s", HOSTS)}
    assert times == dict.fromkeys(hosts("s", STATUSES), 1) | dict.fromkeys(hosts("s", TRANSIENT), 2)
    assert {host: came[host].get("reason", "came") for host in of_kind("h", HOSTS)} == ended("came", "redirects")


@needs_chromium
@pytest.mark.slow
def test_browser_does_not_wait_on_error_pages(tmp_path: Path) -> None:
    shop = Shop({f"/{status}": Reply(ERROR_PAGE, status) for status in (404, 520)})
    shop.pages |= {f"/empty/{status}": Reply("", status) for status in (404, 520)}
    with serving_shop(shop):
        pages: dict[str, dict[str, Any]] = {f"http://{HOST}{path}": {"wait_for": ".product"} for path in shop.pages}
        came = browse(Visits(pages, shop.connect_map, str(tmp_path / "log.txt"), timeout_s=20))
    assert {url.removeprefix(f"http://{HOST}"): outcome.get("reason") for url, outcome in came.items()} == {
        "/404": "http_404",
        "/520": "http_520",
        "/empty/404": "http_404",
        "/empty/520": "http_520",
    }


# robots.txt


@pytest.mark.slow
def test_crawl_skips_hosts_with_a_transient_robots_txt(crawled: SimpleNamespace) -> None:
    assert of_kind("r", crawled.first.asked) == hosts("r", {*STATUSES} - TRANSIENT)
    assert {host: crawled.faults[host] for host in of_kind("r", crawled.faults)} == dict.fromkeys(
        hosts("r", TRANSIENT), "robots_unreachable"
    )
    assert {crawled.first.robots[host] for host in hosts("r", TRANSIENT)} == {2}
    assert of_kind("r", crawled.again) == hosts("r", TRANSIENT)


def test_fetch_skips_hosts_with_a_transient_robots_txt(cases: Cases, tmp_path: Path) -> None:
    assert fetch(cases, of_kind("r", HOSTS), tmp_path) == dict.fromkeys(hosts("r", STATUSES), "ok") | dict.fromkeys(
        hosts("r", TRANSIENT), "robots_unreachable"
    )
    robots = cases.asked_of("/robots.txt")
    assert {robots[host] for host in hosts("r", TRANSIENT)} == {2}


def test_try_command_skips_hosts_with_a_transient_robots_txt(cases: Cases) -> None:
    errors = {host: attempt(cases, host) for host in of_kind("r", HOSTS)}
    assert {host for host, error in errors.items() if error is None} == hosts("r", {*STATUSES} - TRANSIENT)
    assert {host for host, error in errors.items() if isinstance(error, RetryError)} == hosts("r", TRANSIENT)


@pytest.mark.slow
def test_crawl_reads_robots_txt_after_redirects_and_despite_robots_tags(crawled: SimpleNamespace) -> None:
    assert crawled.dropped[f"o.{HOST}"] == "robots"
    assert f"n.{HOST}" in crawled.titles


def test_other_clients_read_robots_txt_after_redirects_and_despite_robots_tags(cases: Cases, tmp_path: Path) -> None:
    expected = {f"o.{HOST}": "robots", f"n.{HOST}": "ok"}
    assert fetch(cases, set(expected), tmp_path) == expected
    assert "robots.txt forbids it" in str(attempt(cases, f"o.{HOST}"))
    assert attempt(cases, f"n.{HOST}") is None


# Retry-After


@pytest.mark.slow
def test_crawl_gives_up_hosts_with_a_long_retry_after(crawled: SimpleNamespace) -> None:
    assert {crawled.first.asked[host] for host in hosts("a", TRANSIENT)} == {1}
    assert {crawled.faults[host] for host in hosts("a", TRANSIENT)} == {"host_down"}


def test_fetch_gives_up_hosts_with_a_long_retry_after(cases: Cases, tmp_path: Path) -> None:
    fetch(cases, of_kind("a", HOSTS), tmp_path)
    assert {cases.asked_of("/image")[host] for host in hosts("a", TRANSIENT)} == {1}


def test_try_command_reports_retry_after(cases: Cases) -> None:
    assert {"in 3600 s" in str(attempt(cases, host)) for host in of_kind("a", HOSTS)} == {True}


# Redirects


def ended(followed: str, refused: str, kind: str = "h") -> dict[str, str]:
    return {f"{kind}{count}.{HOST}": followed if count <= 10 else refused for count in REDIRECTS}


@pytest.mark.slow
def test_crawl_follows_ten_redirects(crawled: SimpleNamespace) -> None:
    dropped = {host: crawled.dropped[host] or "came" for host in crawled.dropped}
    redirected = dropped | {host: f"fault: {why}" for host, why in crawled.faults.items()}
    assert {host: redirected[host] for host in of_kind("h", HOSTS)} == ended("came", "fault: redirects")
    assert {host: dropped[host] for host in of_kind("q", HOSTS)} == ended("robots", "came", "q")


def test_fetch_follows_ten_redirects(cases: Cases, tmp_path: Path) -> None:
    found = fetch(cases, of_kind("h", HOSTS) | of_kind("q", HOSTS), tmp_path)
    assert found == ended("ok", "bad_redirect") | ended("robots", "ok", "q")


def test_try_command_follows_ten_redirects(cases: Cases) -> None:
    errors = {host: attempt(cases, host) for host in of_kind("h", HOSTS) | of_kind("q", HOSTS)}
    ends = {host: "came" if error is None else str(error) for host, error in errors.items()}
    expected = ended("came", "more than 10 redirects") | ended("robots.txt forbids it", "came", "q")
    assert {host for host, end in ends.items() if expected[host] not in end} == set()


# Validators


@pytest.mark.slow
def test_crawl_stores_validators_of_up_to_500_characters(crawled: SimpleNamespace) -> None:
    assert crawled.etags == hosts("v", {1, 256, 257, 500})


def test_fetch_stores_validators_of_up_to_500_characters(cases: Cases, tmp_path: Path) -> None:
    for snapshot in ("one", "two"):
        assert set(fetch(cases, of_kind("v", HOSTS), tmp_path, snapshot=snapshot).values()) == {"ok"}
    assert cases.etags == hosts("v", {1, 256, 257, 500})


@pytest.mark.parametrize("value", ["", None, '"\u00fc"', '"a\tb"', "a" * 501])
def test_does_not_store_validators_that_cannot_be_sent(value: str | None) -> None:
    assert policy.validator(value) is None


# Back-off


@pytest.mark.parametrize(("attempt", "longest_s"), [(1, 0.5), (2, 1.0), (5, 8.0), (8, 60.0), (100, 60.0)])
def test_backoff_doubles_up_to_a_minute(attempt: int, longest_s: float) -> None:
    waits_s = [policy.backoff_s(0.5, attempt) for _ in range(100)]
    assert longest_s / 2 <= min(waits_s) < max(waits_s) <= longest_s


def fetch(cases: Cases, asked: set[str], folder: Path, **changes: Any) -> dict[str, str]:
    """Host -> what became of its image; an image of another host comes in any case."""
    urls = [f"http://{host}/image" for host in sorted(asked)]
    how = {"obey_robots": True, "robots_tags": ["noindex"], "timeout_s": 30.0, "concurrency": 32} | changes
    found = get(cases, [f"http://{HOST}/image", *urls], folder, **how).statuses
    return {url.split("/")[2]: status for url, status in found.items() if url in urls}


def attempt(cases: Cases, host: str) -> AtlasError | None:
    """The error of `atlas crawl try`; None: the page came."""
    how: dict[str, Any] = {
        "connect_map": cases.connect_map,
        "user_agent": "Atlas/0 (+https://example.org)",
        "timeout_s": 30.0,
    }
    try:
        page = fetch_page(f"http://{host}/page", robots_tags=["noindex"], **how)
    except AtlasError as error:
        return error
    assert host in page.text
    return None
