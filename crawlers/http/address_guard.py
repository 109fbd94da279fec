"""Where to connect: the connect map, and the guard that keeps crawls out of private networks.

A page or an image URL comes from strangers, so its host may point at this machine or its network. All clients
therefore connect to public addresses only, except for the hosts of their connect map, which are looked up there and
nowhere else. URLs and data never show the mapped address or port.

Knows no HTTP client: `connect_aiohttp` is the one for pages and images.
"""

import ipaddress
import socket
from collections.abc import Mapping

ConnectMap = Mapping[str, tuple[str, int]]
"""Host -> (IP address, port): where to connect instead of asking DNS, whatever port the URL says."""


# Not public, whatever Python says: it took some for global until 3.11.10, and these are other ways to write an IPv4
# address, also a private one; 168.63.129.16 is a cloud's own service. Those of the other clouds (169.254.169.254,
# 100.100.100.200, fd00:ec2::254) are in networks that Python knows.
NOT_PUBLIC = tuple(
    ipaddress.ip_network(text)
    for text in ("192.0.0.0/24", "168.63.129.16", "::/96", "64:ff9b::/96", "64:ff9b:1::/48", "3fff::/20", "5f00::/16")
)


class BlockedAddressError(OSError):
    """A host that is not mapped has no public address."""


def is_public(address: str) -> bool:
    """Whether ``address`` (an IP address as text) is one of the public internet."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        parsed = parsed.ipv4_mapped or parsed.sixtofour or parsed
    known = parsed.is_multicast or getattr(parsed, "is_site_local", False) or not parsed.is_global
    return not known and not any(parsed in network for network in NOT_PUBLIC)


def is_blocked_literal(host: str, connect_map: ConnectMap) -> bool:
    """Whether a URL's ``host`` is itself an IP address that is not public: no resolver is asked about those.

    The spellings that only C libraries read (``2130706433``, ``0x7f.1``, ``0177.0.0.1``) count as addresses.
    """
    host = host.strip("[]")
    if host in connect_map:
        return False
    address = _address(host.rstrip("."))
    return address is not None and not is_public(address)


def _address(host: str) -> str | None:
    """``host`` in the usual spelling, if it is an IP address in any."""
    if ":" in host:
        return host
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None
