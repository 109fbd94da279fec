"""A network between a client and a shop that injects faults: a relay on loopback, to which `crawl.connect` points.

Which request meets which fault depends only on the seed, the host, the path and how often it was asked for, so that a
seed repeats a network however the requests are ordered. After its faults a URL is answered as the shop answers.
"""

import gzip
import http.client
import random
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import BinaryIO

DRIP_S = 0.3  # how long a slow body takes that is below the time-outs
POLL_S = 0.02
LOOP = "loop="  # in the query of the targets of a loop of redirects


@dataclass
class Asked:
    """A request that reached the network."""

    host: str
    path: str
    fault: str | None
    at_s: float  # time.monotonic()
    ended_s: float = 0.0  # before the last byte of the answer, or when the client hung up


@dataclass
class Exchange:
    """A request and what the shop answers to it, for a fault to spoil."""

    client: socket.socket
    path: str
    status: str
    headers: list[str]  # without those of the length and the connection
    body: bytes
    chance: random.Random
    asked: Asked
    stopped: threading.Event

    def head(self, *more: str, status: str | None = None, length: int | None = None) -> bytes:
        """The head of the answer; ``length`` is its Content-Length, and -1 omits it."""
        length = len(self.body) if length is None else length
        lines = [f"HTTP/1.1 {status or self.status}", *self.headers, *more]
        lines += [f"Content-Length: {length}"] if length >= 0 else []
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def send(self, *parts: bytes) -> None:
        """Send the last bytes of the answer."""
        self.asked.ended_s = time.monotonic()
        self.client.sendall(b"".join(parts))

    def reset(self, *parts: bytes) -> None:
        """Send ``parts``, and reset the connection."""
        if parts:
            self.client.sendall(b"".join(parts))
            time.sleep(POLL_S)  # a reset overtakes data that were not read
        self.asked.ended_s = time.monotonic()
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.client.close()

    def half_close(self, *parts: bytes) -> None:
        """Send ``parts`` and the end of the stream, but keep the connection open until the client closes it."""
        self.send(*parts)
        self.client.shutdown(socket.SHUT_WR)
        self.stall()

    def stall(self, *parts: bytes) -> None:
        """Send ``parts``, and nothing else until the client hangs up."""
        if parts:
            self.client.sendall(b"".join(parts))
        while not self.stopped.is_set():
            if select.select([self.client], [], [], POLL_S)[0] and not self.client.recv(65536):
                break
        self.asked.ended_s = self.asked.ended_s or time.monotonic()

    def drip(self, *parts: bytes) -> None:
        """Send ``parts`` slowly."""
        data = b"".join(parts)
        step = len(data) // 6 + 1
        for place in range(0, len(data), step):
            if place + step >= len(data):
                self.asked.ended_s = time.monotonic()
            self.client.sendall(data[place : place + step])
            time.sleep(DRIP_S / 6)

    @property
    def half(self) -> bytes:
        """The first half of the body."""
        return self.body[: len(self.body) // 2]


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _status(status: str, *headers: str) -> Callable[[Exchange], None]:
    return lambda one: one.send(one.head(*headers, status=status, length=0))


def _loop(one: Exchange) -> None:
    bare, _, hops = one.path.partition(f"{'&' if '&' + LOOP in one.path else '?'}{LOOP}")
    target = f"{bare}{'&' if '?' in bare else '?'}{LOOP}{int(hops or 0) + 1}"
    one.send(one.head(f"Location: {target}", status="302 Found", length=0))


CHUNKED, GZIP = "Transfer-Encoding: chunked", "Content-Encoding: gzip"
# After each of these the connection is closed.
FAULTS: dict[str, Callable[[Exchange], None]] = {
    "reset_at_once": lambda one: one.reset(),
    "reset_in_head": lambda one: one.reset(one.head()[:30]),
    "reset_after_head": lambda one: one.reset(one.head()),
    "reset_in_body": lambda one: one.reset(one.head(), one.half),
    "reset_in_body_without_length": lambda one: one.reset(one.head(length=-1), one.half),
    "half_closed_at_once": lambda one: one.half_close(),
    "half_closed_in_head": lambda one: one.half_close(one.head()[:30]),
    "half_closed_in_body": lambda one: one.half_close(one.head(), one.half),
    "closed_in_body_without_length": lambda one: one.send(one.head(length=-1), one.half),
    "closed_after_head_without_length": lambda one: one.send(one.head(length=-1)),
    "silent": lambda one: one.stall(),
    "too_slow": lambda one: one.stall(one.head(), one.half),
    "slow": lambda one: one.drip(one.head(), one.body),
    "length_too_long": lambda one: one.send(one.head(length=len(one.body) + 100), one.body),
    "length_too_short": lambda one: one.send(one.head(length=len(one.body) // 2), one.body),
    "length_too_short_and_slow": lambda one: one.drip(one.head(length=len(one.body) // 2), one.body),
    "no_body": lambda one: one.send(one.head(length=0)),
    "broken_chunks": lambda one: one.send(one.head(CHUNKED, length=-1), _chunk(one.half), b"no length\r\n"),
    "chunks_without_end": lambda one: one.send(one.head(CHUNKED, length=-1), _chunk(one.half)),
    "truncated_gzip": lambda one: _gzip(one, GZIP, gzip.compress(one.body)[:-12]),
    "no_gzip": lambda one: _gzip(one, GZIP, one.body),
    "gzip_said_twice": lambda one: _gzip(one, f"{GZIP}\r\n{GZIP}", gzip.compress(one.body)),
    "busy": _status("429 Too Many Requests"),
    "busy_for_a_second": _status("429 Too Many Requests", "Retry-After: 1"),
    "busy_for_two_seconds": _status("429 Too Many Requests", "Retry-After: 2"),
    "http_500": _status("500 Internal Server Error"),
    "http_502": _status("502 Bad Gateway"),
    "http_503": _status("503 Service Unavailable", "Retry-After: 1"),
    "http_520": _status("520 Unknown"),
    "never_sent_304": _status("304 Not Modified", 'ETag: "never sent"'),
    "part_206": lambda one: one.send(one.head(status="206 Partial Content", length=len(one.half)), one.half),
    "nowhere_302": _status("302 Found"),
    "loop_302": _loop,
    "to_garbage_302": _status("302 Found", "Location: http://[half"),
    "garbage": lambda one: one.send(one.chance.randbytes(400), b"\r\n\r\n"),
    "another_protocol": lambda one: one.send(b"SSH-2.0-OpenSSH_9.2p1\r\n"),
    "two_lengths": lambda one: one.send(one.head("Content-Length: 3"), one.body),
    "headers_twice": lambda one: one.send(one.head(*one.headers, f"Content-Length: {len(one.body)}"), one.body),
    "long_header": lambda one: one.send(one.head(f"X-Long: {'y' * 40_000}"), one.body),
    "many_headers": lambda one: one.send(one.head(*(f"X-{n}: y" for n in range(500))), one.body),
}
HARMLESS = {"slow", "headers_twice"}  # to be read like an answer without a fault
RFC_ALLOWS = {"loop_302", "to_garbage_302"}  # for robots.txt: there is none (RFC 9309, 2.3.1.2)


def _gzip(one: Exchange, encoding: str, body: bytes) -> None:
    one.send(one.head(encoding, length=len(body)), body)


Plan = Callable[[str, str, int], str | None]
"""Host, path and number of the request for it (1, 2, ...) -> fault, or None."""


def random_plan(seed: int, *, share: float, most: int, faults: list[str] | None = None) -> Plan:
    """A ``share`` of the URLs has 1 to ``most`` faults; robots.txt none that its standard takes for its absence."""

    def fault(host: str, path: str, number: int) -> str | None:
        chance = random.Random(f"{seed} {host} {path}")
        kinds = [kind for kind in faults or FAULTS if path != "/robots.txt" or kind not in RFC_ALLOWS]
        if chance.random() > share:
            return None
        chosen = [chance.choice(kinds) for _ in range(chance.randint(1, most))]
        return chosen[number - 1] if number <= len(chosen) else None

    return fault


@dataclass
class FaultyNetwork:
    """The relay; ``asked`` lists all requests in the order in which they came."""

    shop_port: int
    plan: Plan
    # number of the request (1, 2, ...) that starts it -> seconds for which the shop is gone
    outages: dict[int, float] = field(default_factory=dict)
    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    _times: Counter[tuple[str, str]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _listener: socket.socket | None = None
    _clients: set[socket.socket] = field(default_factory=set)
    _accepting: threading.Thread | None = None

    def begin_run(self) -> int:
        """The number of requests so far: where those of the next run start in ``asked``."""
        return len(self.asked)

    def leave(self) -> None:
        """Refuse connections, and reset those that are open."""
        with self._lock:
            listener, self._listener = self._listener, None
            clients, self._clients = self._clients, set()
        if listener is None:
            return
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for client in clients:
            with suppress(OSError):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.shutdown(socket.SHUT_RDWR)

    def come_back(self) -> None:
        """Accept connections again, at the same port."""
        with self._lock:
            if self._listener is not None or self._stopped.is_set():
                return
            self._listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
            self.port = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, args=[self._listener], daemon=True)
        self._accepting.start()

    def stop(self) -> None:
        """End all."""
        self._stopped.set()
        self.leave()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):  # closed by `leave`
            while True:
                client, _ = listener.accept()
                with self._lock:
                    self._clients.add(client)
                threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError, ValueError), client:  # ValueError: it is closed
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with client.makefile("rb") as reader:
                while self._answer(client, reader):
                    pass
        with self._lock:
            self._clients.discard(client)

    def _answer(self, client: socket.socket, reader: BinaryIO) -> bool:
        """Answer one request; returns whether the connection stays open."""
        head = _read_head(reader)
        if head is None:
            return False
        path, headers = head
        asked = self._note(headers.get("host", ""), path)
        if asked is None:
            return False
        upstream = http.client.HTTPConnection("127.0.0.1", self.shop_port, timeout=60)
        try:
            bare = path.partition(f"?{LOOP}")[0].partition(f"&{LOOP}")[0]
            upstream.request("GET", bare, headers=headers)
            answer = upstream.getresponse()
            body = answer.read()
        finally:
            upstream.close()
        own = {"content-length", "connection", "server", "date", "transfer-encoding"}
        kept = [f"{name}: {value}" for name, value in answer.getheaders() if name.lower() not in own]
        chance = random.Random(f"{path} {asked.fault}")
        one = Exchange(client, path, f"{answer.status} {answer.reason}", kept, body, chance, asked, self._stopped)
        if asked.fault is None:
            one.send(one.head(), body)
            return True
        FAULTS[asked.fault](one)
        return asked.fault in HARMLESS

    def _note(self, host: str, path: str) -> Asked | None:
        """Record a request; None: the shop went away with it."""
        with self._lock:
            bare = path.partition(f"?{LOOP}")[0].partition(f"&{LOOP}")[0]
            if bare != path:
                fault: str | None = "loop_302"
            else:
                self._times[host, path] += 1
                fault = self.plan(host, path, self._times[host, path])
            asked = Asked(host, path, fault, time.monotonic())
            self.asked.append(asked)
            away_s = self.outages.get(len(self.asked))
        if away_s is None:
            return asked
        asked.fault, asked.ended_s = "away", asked.at_s
        self.leave()
        timer = threading.Timer(away_s, self.come_back)
        timer.daemon = True
        timer.start()
        return None


@contextmanager
def faulty_network(shop_port: int, plan: Plan, outages: Mapping[int, float] | None = None) -> Iterator[FaultyNetwork]:
    """Relay to the shop at ``shop_port`` while the ``with`` block runs."""
    network = FaultyNetwork(shop_port, plan, dict(outages or {}))
    network.come_back()
    try:
        yield network
    finally:
        network.stop()


def most_at_once(asked: list[Asked]) -> int:
    """The largest number of requests that were open at the same time."""
    steps = sorted([(one.at_s, 1) for one in asked] + [(one.ended_s or one.at_s, -1) for one in asked])
    most = now = 0
    for _, step in steps:
        now += step
        most = max(most, now)
    return most


def check_pauses(asked: list[Asked]) -> None:
    """No request is begun while a Retry-After of a second holds, but for those that crossed it."""
    for busy in asked:
        if busy.fault in ("busy_for_a_second", "http_503"):
            early = [one.at_s - busy.ended_s for one in asked if 0.5 < one.at_s - busy.ended_s < 0.95]
            assert not early, f"{early} s after {busy}"


def _read_head(reader: BinaryIO) -> tuple[str, dict[str, str]] | None:
    lines: list[str] = []
    while True:
        line = reader.readline()
        if not line:
            return None
        if not line.strip():
            break
        lines.append(line.decode("latin-1").rstrip("\r\n"))
    fields = (line.partition(":") for line in lines[1:])
    return lines[0].split(" ")[1], {name.lower(): value.strip() for name, _, value in fields}
