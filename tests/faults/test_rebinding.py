"""Names whose address changes between the check and the connection, in every client: nothing connects to this machine.

``pl-x.rebind.test`` resolves to a public address first, and to loopback from then on; see `tests.support.rebinding`.
The port of the URLs is that of a server on this machine that nobody may reach.
"""

import asyncio
import base64
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from atlas_model.core.errors import AtlasError, RetryError
from crawlers.crawl.fetch_page import fetch_page
from crawlers.crawl.journal import PRODUCT, Journal
from crawlers.scrapy_app.proxy import GuardingProxy
from crawlers.sources.csv_sources import Source
from flows.serve.inference.images import UnreadableImage
from flows.serve.inference.urls import UrlFetcher
from tests.support.browsing import Visits, browse
from tests.support.chromium import needs_chromium
from tests.support.crawling import QUICK, product, run
from tests.support.fetching import get, jpeg
from tests.support.rebinding import for_children, install
from tests.support.servers import RawServer, raw_serving, response

HTML = "Content-Type: text/html; charset=utf-8"
SITE = "rebind.test"


@dataclass
class World:
    """The attacker's server, the secret one, and what was looked up."""

    secret: RawServer
    public: RawServer
    log: Path

    def url(self, host: str, path: str) -> str:
        return f"http://{host}.{SITE}:{self.secret.port}{path}"

    @property
    def lookups(self) -> int:
        return sum(line.startswith("lookup") for line in self.log.read_text().splitlines())


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    page = str(product("Rebound", "1").body).encode()
    answers: dict[str, Any] = {"/image": response(jpeg(1), "Content-Type: image/jpeg")}
    answers["/page"] = response(page, HTML)
    answers["/robots.txt"] = response(b"User-agent: *\nDisallow: /no\n", "Content-Type: text/plain")
    with raw_serving(RawServer(answers)) as secret, raw_serving(RawServer(answers.copy())) as public:
        log = tmp_path / "lookups"
        for_children(tmp_path / "site", log, public.port)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]))
        with monkeypatch.context() as patch:  # restores what `install` replaces
            patch.setattr(socket, "getaddrinfo", socket.getaddrinfo)
            patch.setattr(socket.socket, "connect", socket.socket.connect)
            patch.setattr(aiohttp.TCPConnector, "__init__", aiohttp.TCPConnector.__init__)
            install(str(log), public.port)
            yield World(secret, public, log)
        assert secret.requests == [], "a client connected to this machine"


def test_images_and_their_robots_txt(world: World, tmp_path: Path) -> None:
    server: Any = SimpleNamespace(connect_map={})
    urls = {host: world.url(host, "/image") for host in ("p-a", "l-b", "lp-c", "pl-d")}
    found = get(server, [*urls.values()], tmp_path / "one", obey_robots=True, max_attempts=1, max_failed_share=1.0)
    statuses = {host: found.statuses[url] for host, url in urls.items()}
    assert statuses == {"p-a": "ok", "l-b": "blocked", "lp-c": "blocked", "pl-d": "blocked"}
    with pytest.raises(RetryError, match="blocked"):  # what was blocked is no image that the shop lacks
        get(server, [urls["p-a"], urls["l-b"]], tmp_path / "two", max_failed_share=0.0)
    found = get(server, [urls["p-a"], urls["lp-c"]], tmp_path / "one", obey_robots=True, max_failed_share=0.0)
    assert set(found.statuses.values()) == {"ok"}, "the next run asks again"


def test_redirect_to_a_name_that_rebinds(world: World, tmp_path: Path) -> None:
    moved = response(b"", f"Location: {world.url('l-e', '/image')}", status="302 Found")
    world.public.answers["/moved"] = moved
    server: Any = SimpleNamespace(connect_map={})
    url = world.url("p-f", "/moved")
    with pytest.raises(RetryError, match="blocked"):
        get(server, [url], tmp_path, max_attempts=1)


@pytest.mark.parametrize(("host", "error"), [("p-a", None), ("l-b", "no public address"), ("pl-c", "public address")])
def test_try_command(world: World, host: str, error: str | None) -> None:
    def attempt() -> bytes:
        how: dict[str, Any] = {"connect_map": {}, "user_agent": "Atlas/0 (+https://example.org)", "robots_tags": ()}
        return bytes(fetch_page(world.url(host, "/page"), timeout_s=20.0, **how).body)

    if error is None:
        assert b"Rebound" in attempt()
    else:
        with pytest.raises(AtlasError, match=error):
            attempt()


def test_fetcher_of_the_service(world: World) -> None:
    async def ask(*hosts: str) -> list[bytes | UnreadableImage]:
        async with UrlFetcher(
            user_agent="Atlas/0", connect_map={}, robots_tags=(), obey_robots=True, concurrency=4, timeout_s=20.0,
            max_bytes=100_000, max_pixels=1_000_000,
        ) as fetcher:  # fmt: skip
            return [await fetcher.get(world.url(host, "/image")) for host in hosts]

    came = asyncio.run(ask("p-a", "l-b", "pl-c", "lp-d"))
    assert came[0] == jpeg(1)
    assert [one.status for one in came[1:] if isinstance(one, UnreadableImage)] == ["blocked"] * 3


def test_proxy_of_the_browser(world: World) -> None:
    async def ask(*hosts: str) -> list[bytes]:
        proxy = GuardingProxy({})
        await proxy.start()
        came = []
        try:
            for host in hosts:
                with proxy.visit(10**6, lambda: None) as (_, user, password):
                    secret = base64.b64encode(f"{user}:{password}".encode()).decode()
                    head = {"Proxy-Authorization": f"Basic {secret}"}
                    async with aiohttp.ClientSession() as session:
                        url = world.url(host, "/page")
                        async with session.get(url, proxy=proxy.address, headers=head) as answer:
                            came.append(await answer.read() if answer.status == 200 else b"%d" % answer.status)
        finally:
            await proxy.close()
        return came

    first, *others = asyncio.run(ask("p-a", "l-b", "pl-c", "pl-c"))
    assert b"Rebound" in first
    assert others[0] == b"403"
    assert b"Rebound" in others[1]
    assert others[2] == b"403", "the second lookup of the same name"


@pytest.mark.slow
def test_crawl_with_robots_txt_and_sitemaps(world: World, tmp_path: Path) -> None:
    """The names of the categories, of a sitemap and of the products rebind; the crawl says so, and goes on later."""
    hosts = ("p-a", "l-b", "pl-c", "plp-d")
    pages = "".join(f"<url><loc>{world.url(host, '/page')}?{host}</loc></url>" for host in hosts)
    sitemap = response(f"<urlset>{pages}</urlset>".encode(), "Content-Type: application/xml")
    world.public.answers |= {"/list.xml": sitemap} | {
        f"/page?{host}": response(str(product(host, host).body).encode(), HTML) for host in hosts
    }
    names = [f"{host}.{SITE}" for host in (*hosts, "pp-list", "l-list")]
    how: dict[str, Any] = {"profiles": dict.fromkeys(names, QUICK), "max_attempts": 1, "check_sitemaps": True}
    server: Any = SimpleNamespace(connect_map={})
    sources = [Source(SITE, ("Shoes",), world.url("pp-list", "/list.xml"))]
    with pytest.raises(RetryError, match=r"3 of 4 product pages failed \(blocked\)"):
        run(server, sources, tmp_path / "crawl", **how)
    with Journal(tmp_path / "crawl/work/journal.sqlite") as journal:
        assert {reason for _, reason, _ in journal.faults(PRODUCT)} == {"blocked"}
    with pytest.raises(RetryError, match=r"2 of 4 product pages failed \(blocked\)"):  # d is public now, b and c never
        run(server, sources, tmp_path / "crawl", **how)
    with pytest.raises(RetryError, match="1 category pages could not be read"):
        run(server, [Source(SITE, ("Shoes",), world.url("l-list", "/list.xml"))], tmp_path / "other", **how)
    assert world.lookups >= 10


@pytest.mark.slow
@needs_chromium
def test_browser(world: World, tmp_path: Path) -> None:
    private, changing = world.url("l-x", "/page"), world.url("pl-y", "/page")
    script = f"<script>const no = () => 0; fetch('{private}').catch(no); "
    script += f"fetch('{changing}').catch(no).then(() => fetch('{changing}')).catch(no)</script><p>"
    world.public.answers["/scripts"] = response(f"<html><body>{script}</body></html>".encode(), HTML)
    pages = {world.url(host, "/scripts"): {"timeout_s": 20} for host in ("p-a", "l-b")}
    came = browse(Visits(pages, {}, str(tmp_path / "log"), allowed=SITE))
    assert came[world.url("p-a", "/scripts")]["status"] == 200
    assert came[world.url("l-b", "/scripts")]["reason"] == "blocked"
