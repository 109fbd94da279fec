"""Where the clients connect; Scrapy's side is tested by whole crawls in test_crawl.py."""

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from crawlers.connect import BlockedAddressError, ConnectMap, is_blocked_literal, is_public
from crawlers.connect_aiohttp import MappedResolver


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("2002:7f00:1::", False),
        ("example.org", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_ip_addresses_in_urls() -> None:
    assert is_blocked_literal("127.0.0.1", {})
    assert is_blocked_literal("[::1]", {})
    assert not is_blocked_literal("127.0.0.1", {"127.0.0.1": ("127.0.0.1", 1)})
    assert not is_blocked_literal("93.184.216.34", {})
    assert not is_blocked_literal("example.org", {})


async def say_host(request: web.Request) -> web.Response:
    return web.Response(text=request.headers["Host"])


def with_server(
    connect_map: Callable[[int], ConnectMap], ask: Callable[[aiohttp.ClientSession, int], Awaitable[None]]
) -> None:
    """Run ``ask`` with a client that uses the map, beside a server that says which host it was asked for."""

    async def go() -> None:
        app = web.Application()
        app.router.add_get("/", say_host)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        connector = aiohttp.TCPConnector(resolver=MappedResolver(connect_map(port)))
        async with aiohttp.ClientSession(connector=connector) as client:
            await ask(client, port)
        await runner.cleanup()

    asyncio.run(go())


def test_a_mapped_host_is_reached_under_its_name() -> None:
    async def ask(client: aiohttp.ClientSession, port: int) -> None:
        async with client.get("http://shop.test/") as response:
            assert await response.text() == "shop.test"
            assert str(response.url) == "http://shop.test/"

    with_server(lambda port: {"shop.test": ("127.0.0.1", port)}, ask)


def test_another_host_with_a_private_address_is_not() -> None:
    async def ask(client: aiohttp.ClientSession, port: int) -> None:
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await client.get(f"http://localhost:{port}/")
        assert isinstance(caught.value.os_error, BlockedAddressError)

    with_server(lambda port: {}, ask)
