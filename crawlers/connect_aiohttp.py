"""The connect map for aiohttp clients. Knows nothing of what is downloaded."""

import socket

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver

from crawlers.connect import BlockedAddressError, ConnectMap, is_public


class MappedResolver(AbstractResolver):
    """A resolver for `aiohttp.TCPConnector`: mapped hosts from the map, others by DNS and only if public.

    aiohttp asks no resolver about IP addresses in URLs: check those with `crawlers.connect.is_blocked_literal`,
    redirects included.

    Args:
        connect_map: host -> (address, port); aiohttp connects to the port in the answer.
    """

    def __init__(self, connect_map: ConnectMap) -> None:
        self._connect_map = connect_map
        self._dns = DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of ``host``.

        Raises:
            BlockedAddressError: it has none that is public.
            OSError: the name cannot be resolved.
        """
        if host in self._connect_map:
            return [_answer(host, *self._connect_map[host])]
        found = await self._dns.resolve(host, port, family)
        public = [answer for answer in found if is_public(answer["host"])]
        if not public:
            raise BlockedAddressError(f"{host}: expected a public address, got {found[0]['host']}")
        return public

    async def close(self) -> None:
        """Let the DNS resolver go."""
        await self._dns.close()


def _answer(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=flags)
