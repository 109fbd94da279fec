"""A name server under an attacker's control: names that resolve to a public address first, and to this machine later.

`install` replaces the system's resolver in this process. ``sitecustomize.py``, which `for_children` writes, does so in
the Python processes that get its folder in PYTHONPATH. The public address stands for the attacker's own server, which
runs on loopback. Each process keeps no results of lookups, so that a second one may differ.
"""

import json
import socket
from pathlib import Path
from typing import Any

import aiohttp

PUBLIC = "93.184.216.34"
SUFFIX = ".rebind.test"
CHILD = """
import json, runpy
runpy.run_path({path!r})["install"](**json.loads({options!r}))
"""


def install(log: str, port: int, suffix: str = SUFFIX) -> None:
    """Names that end in ``suffix`` resolve as their first label says: ``p`` public, ``l`` loopback; the last repeats.

    Args:
        log: file to which lookups and connections are appended.
        port: of the server that the public address stands for.
        suffix: of the names.
    """
    lookup, connect, init = socket.getaddrinfo, socket.socket.connect, aiohttp.TCPConnector.__init__

    def note(kind: str, what: str) -> None:
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(f"{kind} {what}\n")

    def getaddrinfo(host: Any, asked: Any, *more: Any, **options: Any) -> Any:
        if not (isinstance(host, str) and host.endswith(suffix)):
            return lookup(host, asked, *more, **options)
        note("lookup", host)
        lines = Path(log).read_text(encoding="utf-8").splitlines()
        answers = host.partition(".")[0].partition("-")[0]
        turn = min(lines.count(f"lookup {host}"), len(answers)) - 1
        address = PUBLIC if answers[turn] == "p" else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, int(asked or 0)))]

    def connect_to(self: socket.socket, address: Any) -> None:
        if self.family == socket.AF_INET and address[0] == PUBLIC:
            note("public", str(address[1]))
            address = ("127.0.0.1", port)
        connect(self, address)

    def without_cache(self: aiohttp.TCPConnector, *arguments: Any, **options: Any) -> None:
        init(self, *arguments, **options | {"use_dns_cache": False})

    for owner, name, ours in (
        (socket, "getaddrinfo", getaddrinfo),
        (socket.socket, "connect", connect_to),
        (aiohttp.TCPConnector, "__init__", without_cache),
    ):
        setattr(owner, name, ours)


def for_children(folder: Path, log: Path, port: int) -> None:
    """Write ``sitecustomize.py`` into ``folder``."""
    folder.mkdir()
    options = json.dumps({"log": str(log), "port": port})
    (folder / "sitecustomize.py").write_text(CHILD.format(path=__file__, options=options), encoding="utf-8")
