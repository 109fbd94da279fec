"""Addresses that the session connects to, and limits of responses; whole crawls are in test_untrusted_pages.py."""

import asyncio
import socket
from pathlib import Path

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from crawlers.http.address_guard import BlockedAddressError, is_blocked_literal, is_public
from crawlers.http.session import MAX_HEADER_BYTES, MappedResolver, open_session, refusal_reason
from tests.support.servers import RawServer, raw_serving, response, self_signed


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("168.63.129.16", False),
        ("100.100.100.200", False),
        ("192.0.0.192", False),
        ("fd00:ec2::254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("ff02::1", False),
        ("fe80::1%eth0", False),
        ("fec0::1", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("::127.0.0.1", False),
        ("2002:7f00:1::", False),
        ("2001:0:7f00:1::", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b:1::7f00:1", False),
        ("example.org", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public


LOOPBACK = ["127.0.0.1", "[::1]", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0x7f.1", "127.0.0.1.", "0"]
LOOPBACK += ["[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "１２７.0.0.1", "127。0。0。1"]


@pytest.mark.parametrize("host", [*LOOPBACK[:9], "169.254.169.254", "0xa9fea9fe", "[fd00:ec2::254]"])
def test_blocks_ip_addresses_in_any_notation(host: str) -> None:
    assert is_blocked_literal(host, {})
    assert not is_blocked_literal(host, {host.strip("[]"): ("127.0.0.1", 1)})


@pytest.mark.parametrize("host", ["93.184.216.34", "example.org", "1e100.net", "0x7f.example"])
def test_does_not_block_host_names(host: str) -> None:
    assert not is_blocked_literal(host, {})


async def get(
    url: str, server: RawServer, dns: AbstractResolver | None = None, host: str = "shop.test"
) -> tuple[int, str]:
    """What ``url`` says to a client that finds ``host`` at the server."""
    async with open_session({host: ("127.0.0.1", server.port)}) as client:
        if dns is not None:
            resolver = client.connector._resolver
            await resolver._dns.close()
            resolver._dns = dns
        async with client.get(url, allow_redirects=False) as answer:
            return answer.status, await answer.text()


def refused(url: str, server: RawServer, dns: AbstractResolver | None = None) -> str | None:
    with pytest.raises(aiohttp.ClientError) as caught:
        asyncio.run(get(url, server, dns))
    return refusal_reason(caught.value)


def test_connects_to_a_mapped_host_under_its_name() -> None:
    with raw_serving(RawServer({"/": response(b"yes")})) as server:
        assert asyncio.run(get("http://shop.test/", server)) == (200, "yes")
        assert b"\r\nHost: shop.test\r\n" in server.requests[0]


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:9001/x"),
        ("127.0.0.1", "http://127.0.0.1/x"),
        ("10.1.2.3", "http://10.1.2.3:80/x"),
        ("::1", "http://[::1]:9001/x"),
    ],
)
def test_mapped_ip_address_uses_the_mapped_port(host: str, url: str) -> None:
    with raw_serving(RawServer({"/x": response(b"yes")})) as server:
        assert asyncio.run(get(url, server, host=host)) == (200, "yes")


def test_mapped_ip_address_allows_no_other_port() -> None:
    with raw_serving(RawServer({"/x": response(b"mapped")})) as mapped, raw_serving(RawServer()) as other:
        assert asyncio.run(get(f"http://127.0.0.1:{other.port}/x", mapped, host="127.0.0.1")) == (200, "mapped")
        assert not other.requests


@pytest.mark.parametrize("host", [*LOOPBACK, "localhost"])
def test_blocks_other_names_of_this_machine(host: str) -> None:
    with raw_serving(RawServer({"/": response(b"secret")})) as server:
        assert refused(f"http://{host}:{server.port}/", server) == "blocked"
        assert not server.requests


class ChangingDns(AbstractResolver):
    """A malicious name server that gives a different answer each time."""

    def __init__(self, port: int, *answers: list[str]) -> None:
        self._port, self._answers, self.asked = port, list(answers), 0

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list:
        self.asked += 1
        return [
            ResolveResult(hostname=host, host=address, port=self._port, family=socket.AF_INET, proto=0, flags=0)
            for address in self._answers.pop(0)
        ]

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "10.0.0.1", "::ffff:127.0.0.1"])
def test_blocks_names_with_private_addresses(address: str) -> None:
    with raw_serving(RawServer()) as server:
        assert refused("http://rebind.test/", server, ChangingDns(server.port, [address])) == "blocked"


def test_connects_only_to_checked_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is looked up once, so a different second answer has no effect."""
    connected: list[str] = []

    async def connect(loop: object, sock: socket.socket, address: tuple[str, int]) -> None:
        connected.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(asyncio.selector_events.BaseSelectorEventLoop, "sock_connect", connect)
    with raw_serving(RawServer()) as server:
        dns = ChangingDns(server.port, ["93.184.216.34", "127.0.0.1"], ["127.0.0.1"])
        assert refused("http://rebind.test/", server, dns) is None
        assert connected == ["93.184.216.34"]  # not the other one of the same answer
        assert dns.asked == 1


def test_resolver_error_names_the_expectation() -> None:
    async def resolve() -> None:
        resolver = MappedResolver({})
        try:
            await resolver.resolve("localhost", 80)
        finally:
            await resolver.close()

    with pytest.raises(BlockedAddressError, match=r"localhost: expected a public address, got (127\.0\.0\.1|::1)"):
        asyncio.run(resolve())


@pytest.mark.parametrize(
    "headers",
    [
        [f"X: {'a' * 2_000_000}"],
        [f"X-{number}: {'a' * 1000}" for number in range(2000)],
        [f"X-{number}: {'a' * (MAX_HEADER_BYTES - 100)}" for number in range(20)],
    ],
    ids=["one", "many", "some"],
)
def test_bounds_headers(headers: list[str]) -> None:
    with raw_serving(RawServer({"/": response(b"hi", *headers)})) as server:
        assert refused("http://shop.test/", server) == "headers_too_large"


def test_ignores_proxies_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with raw_serving(RawServer({"/": response(b"direct")})) as server:
        assert asyncio.run(get("http://shop.test/", server)) == (200, "direct")


def test_does_not_decompress() -> None:
    with raw_serving(RawServer({"/": response(b"no gzip", "Content-Encoding: gzip")})) as server:
        assert asyncio.run(get("http://shop.test/", server)) == (200, "no gzip")


def test_checks_certificates(tmp_path: Path) -> None:
    context, _ = self_signed("shop.test", tmp_path)
    with raw_serving(RawServer({"/": response(b"hi")}, context)) as server:
        assert refused("https://shop.test/", server) == "certificate"
        assert not server.requests
