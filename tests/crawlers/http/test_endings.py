"""Bodies whose end no header proves, lost connections, and the turns of requests to one host."""

import asyncio
import io
import socket
import struct
import threading
import time
from itertools import pairwise
from typing import Any

import aiohttp
import pytest
from PIL import Image

from crawlers.http.endings import looks_truncated
from crawlers.http.host_limits import Pace
from crawlers.http.session import open_session
from tests.support.servers import RawServer, raw_serving, response


def image(kind: str) -> bytes:
    data = io.BytesIO()
    Image.effect_noise((40, 40), 90).convert("P" if kind == "GIF" else "RGB").save(data, kind)
    return data.getvalue()


WHOLE: dict[str, tuple[bytes, str]] = {
    "html": (b"<!DOCTYPE html><html><head></head><p>x</body></html>\n", "text/html"),
    "head only": (b"<html><head><script>1</script></head></html>", "text/html"),
    "sitemap": (b'<?xml version="1.0"?><urlset><url><loc>http://a/</loc></url></urlset>', "text/xml"),
    "prefixed sitemap": (b"<s:urlset><s:url/></s:urlset>", "text/xml"),
    "json": (b'{"products": [1, 2]}', "application/json; charset=utf-8"),
    **{kind: (image(kind), "") for kind in ("JPEG", "PNG", "GIF", "WEBP")},
}


@pytest.mark.parametrize("name", WHOLE)
def test_every_cut_of_a_body_is_seen(name: str) -> None:
    body, kind = WHOLE[name]
    assert not looks_truncated(body, kind)
    ends = len(body.rstrip()) - (8 if name in ("html", "head only") else 1)  # without </html> a page is whole
    cuts = [end for end in range(16, ends, 1 + len(body) // 200) if not body[:end].endswith(b"</body>")]
    unseen = [end for end in cuts if not looks_truncated(body[:end], kind)]
    allowed = {b"</html", b"</body"} if "h" in name[:1] else set()
    assert [end for end in unseen if not any(mark in body[:end] for mark in allowed)] == []
    assert looks_truncated(b"", kind)


def test_text_without_a_known_form_is_taken_as_it_is() -> None:
    assert not looks_truncated(b"<div><a href='/p/1'>One</a>", "text/html"), "optional tags may be left out"


def get(server: RawServer, *paths: str, pause_s: float = 0.0) -> list[Any]:
    """Status and body of each path, or the exception, one after the other in one session."""

    async def ask() -> list[Any]:
        came: list[Any] = []
        async with open_session({"shop.test": ("127.0.0.1", server.port)}) as client:
            for path in paths:
                try:
                    async with client.get(f"http://shop.test{path}") as answer:
                        came.append((answer.status, await answer.read()))
                except aiohttp.ClientError as error:
                    came.append(error)
                await asyncio.sleep(pause_s)
        return came

    return asyncio.run(ask())


def test_data_on_an_idle_connection_answer_no_request() -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n%s"

    def twice(client: socket.socket, ended: threading.Event) -> None:
        client.sendall(whole % b"first")
        time.sleep(0.1)  # it is in the pool by now
        client.sendall(whole % b"wrong")
        ended.wait(60)  # a request on this connection would wait too

    with raw_serving(RawServer({"/a": twice, "/b": whole % b"right"})) as server:
        started = time.monotonic()
        assert get(server, "/a", "/b", pause_s=0.4) == [(200, b"first"), (200, b"right")]
        assert time.monotonic() - started < 50


def test_a_reset_is_no_end_of_a_body_without_length() -> None:
    def reset(client: socket.socket, ended: threading.Event) -> None:
        client.sendall(response(b"half", length=-1))
        time.sleep(0.1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with raw_serving(RawServer({"/a": reset, "/b": response(b"whole", length=-1)})) as server:
        lost, whole = get(server, "/a", "/b")
    assert isinstance(lost, aiohttp.ClientPayloadError)
    assert whole == (200, b"whole")


def test_a_lost_connection_is_repeated_only_if_it_was_used_before() -> None:
    with raw_serving(RawServer({"/a": b""})) as server:
        (lost,) = get(server, "/a")
        assert isinstance(lost, aiohttp.ClientConnectionError)
        assert server.asked("/a") == 1


def test_turns_after_a_pause_are_a_delay_apart() -> None:
    async def turns() -> list[float]:
        pace, times = Pace(), []

        async def one() -> None:
            while wait_s := pace.take(0.1):
                await asyncio.sleep(wait_s)
            times.append(time.monotonic())

        pace.postpone(0.3)
        pace.postpone(0.1)  # the longer one remains
        started = time.monotonic()
        await asyncio.gather(*(one() for _ in range(4)))
        return [at - started for at in times]

    times = asyncio.run(turns())
    assert times[0] > 0.29
    assert min(later - earlier for earlier, later in pairwise(times)) > 0.09
