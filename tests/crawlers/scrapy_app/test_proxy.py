"""The browser's proxy: credentials, forwarding, blocked addresses, byte limits."""

import asyncio
import base64
import socket
import threading
from collections.abc import Awaitable, Callable

from crawlers.scrapy_app.proxy import GuardingProxy, Visit
from tests.support.servers import RawServer, endless, raw_serving, response

Ask = Callable[[bytes], Awaitable[bytes]]
SECRET = b"Proxy-Authorization: %s\r\n"


def visiting(
    server: RawServer, test: Callable[[Ask, Visit, bytes], Awaitable[None]], max_bytes: int = 10**6
) -> list[str]:
    """Run ``test`` with a visit through a proxy that finds shop.test at ``server``; the faults it was told of."""
    faults: list[str] = []

    async def go() -> None:
        proxy = GuardingProxy({"shop.test": ("127.0.0.1", server.port)})
        await proxy.start()

        async def ask(request: bytes) -> bytes:
            host, port = proxy.address.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            answer = b""
            try:
                async with asyncio.timeout(20):
                    writer.write(request)
                    while data := await reader.read(65536):
                        answer += data
            except ConnectionError:  # hung up on us in the middle of our request
                pass
            finally:
                writer.close()
            return answer

        try:
            with proxy.visit(max_bytes, lambda: faults.append("told")) as (visit, user, password):
                credentials = SECRET % (b"Basic " + base64.b64encode(f"{user}:{password}".encode()))
                await test(ask, visit, credentials)
            assert b" 407 " in await ask(b"GET http://shop.test/ HTTP/1.1\r\n" + credentials + b"\r\n")  # it is over
        finally:
            await proxy.close()

    with raw_serving(server):
        asyncio.run(go())
    return faults


def test_forwards_a_request_to_the_mapped_host_without_proxy_headers() -> None:
    server = RawServer({"/a?b=1": response(b"hello", "Keep-Alive: 5")})

    async def test(ask: Ask, visit: Visit, secret: bytes) -> None:
        head = b"GET http://shop.test/a?b=1#c HTTP/1.1\r\nHost: shop.test\r\nProxy-Connection: keep-alive\r\n" + secret
        answer = await ask(head + b"\r\nGET http://shop.test/smuggled HTTP/1.1\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"Connection: close\r\n\r\nhello")
        assert b"Keep-Alive" not in answer

    visiting(server, test)
    assert server.requests == [b"GET /a?b=1 HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n"]


def test_forwards_the_exact_target_and_accepts_lf_line_ends() -> None:
    server = RawServer({"//a%27b;c?": b"\nHTTP/1.1 200 OK\nX Odd: 1\n\nhello", "/?q": response(b"query")})

    async def test(ask: Ask, visit: Visit, secret: bytes) -> None:
        answer = await ask(b"GET http://shop.test//a%27b;c?#d HTTP/1.1\r\n" + secret + b"\r\n")
        assert answer == b"HTTP/1.1 200 OK\r\nX Odd: 1\r\nConnection: close\r\n\r\nhello"
        assert (await ask(b"GET http://shop.test?q HTTP/1.1\r\n" + secret + b"\r\n")).endswith(b"query")

    visiting(server, test)


def test_forwards_a_body() -> None:
    received = []

    def take(client: socket.socket, ended: threading.Event) -> None:
        body = server.requests[0].partition(b"\r\n\r\n")[2] or client.recv(100)
        received.append(body)
        client.sendall(response(b"thanks"))

    async def test(ask: Ask, visit: Visit, secret: bytes) -> None:
        request = b"POST http://shop.test/ HTTP/1.1\r\nContent-Length: 4\r\n" + secret + b"\r\n"
        assert (await ask(request + b"body and more")).endswith(b"thanks")

    server = RawServer({"/": take})
    visiting(server, test)
    assert received == [b"body"]


def test_tunnel_carries_arbitrary_bytes() -> None:
    async def test(ask: Ask, visit: Visit, secret: bytes) -> None:
        request = b"CONNECT shop.test:443 HTTP/1.1\r\n" + secret + b"\r\nGET /in-tunnel HTTP/1.1\r\n\r\n"
        answer = await ask(request)
        assert answer.startswith(b"HTTP/1.1 200 Connection established\r\n\r\nHTTP/1.1 200 OK")
        assert answer.endswith(b"inside")

    server = RawServer({"/in-tunnel": response(b"inside")})
    visiting(server, test)
    assert server.asked("/in-tunnel") == 1


def test_requires_valid_credentials() -> None:
    async def test(ask: Ask, visit: Visit, secret: bytes) -> None:
        wrong = SECRET % (b"Basic " + base64.b64encode(b"user:password"))
        for credentials in (b"", wrong, SECRET % b"Basic", b"Authorization" + secret[19:]):
            for start in (b"GET http://shop.test/ HTTP/1.1\r\n", b"CONNECT shop.test:80 HTTP/1.1\r\n"):
                assert b" 407 " in await ask(start + credentials + b"\r\n")

    server = RawServer({"/": response(b"secret")})
    visiting(server, test)
    assert not server.requests


def test_blocks_private_addresses() -> None:
    server = RawServer({"/": response(b"secret")})

    async def test(ask: Ask, visit: Visit, secret: bytes) -> None:
        hosts = ("127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]")
        for host in hosts:
            authority = f"{host}:{server.port}".encode()
            assert b" 403 " in await ask(b"CONNECT " + authority + b" HTTP/1.1\r\n" + secret + b"\r\n")
            assert b" 403 " in await ask(b"GET http://" + authority + b"/ HTTP/1.1\r\n" + secret + b"\r\n")
        assert visit.blocked == {host.strip("[]") for host in hosts}

    visiting(server, test)
    assert not server.requests


def test_invalid_request_closes_the_connection() -> None:
    async def test(ask: Ask, visit: Visit, secret: bytes) -> None:
        assert b" 400 " in await ask(b"GET /path HTTP/1.1\r\n" + secret + b"\r\n")
        assert b" 400 " in await ask(b"GET ftp://shop.test/ HTTP/1.1\r\n" + secret + b"\r\n")
        assert await ask(b"nonsense\r\n" + secret + b"\r\n") == b""
        assert await ask(b"GET http://shop.test:x/ HTTP/1.1\r\n" + secret + b"\r\n") == b""
        assert await ask(b"x" * 1_000_000) == b""
        assert b" 502 " in await ask(b"GET http://no-such-host.invalid/ HTTP/1.1\r\n" + secret + b"\r\n")

    visiting(RawServer(), test)


def test_visit_above_the_byte_limit_is_ended() -> None:
    async def test(ask: Ask, visit: Visit, secret: bytes) -> None:
        answer = await ask(b"GET http://shop.test/ HTTP/1.1\r\n" + secret + b"\r\n")
        assert len(answer) < 2 * 10**6
        assert visit.fault == "too_large"

    assert visiting(RawServer({"/": endless(response(length=-1))}), test) == ["told"]


def test_endless_headers_end_the_visit() -> None:
    async def test(ask: Ask, visit: Visit, secret: bytes) -> None:
        assert await ask(b"GET http://shop.test/ HTTP/1.1\r\n" + secret + b"\r\n") == b""
        assert visit.fault == "headers_too_large"

    endless_headers = endless(b"HTTP/1.1 200 OK\r\n", b"X-Header: value\r\n" * 1000)
    assert visiting(RawServer({"/": endless_headers}), test) == ["told"]


def test_skips_interim_responses() -> None:
    async def test(ask: Ask, visit: Visit, secret: bytes) -> None:
        answer = await ask(b"GET http://shop.test/ HTTP/1.1\r\n" + secret + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK")

    visiting(RawServer({"/": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + response(b"hi")}), test)
