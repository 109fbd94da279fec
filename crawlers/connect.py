"""Where to connect: the connect map, and the guard that keeps crawls out of private networks.

A page or a picture URL comes from strangers, so its host may point at this machine or its network. Both HTTP
clients therefore connect to public addresses only, except for the hosts of their connect map, which are looked up
there and nowhere else. URLs and data never show the mapped address or port.

Knows no HTTP client: `connect_twisted` is for the spiders, `connect_aiohttp` for the pictures.
"""

import ipaddress
from collections.abc import Mapping

ConnectMap = Mapping[str, tuple[str, int]]
"""Host -> (IP address, port): where to connect instead of asking DNS, whatever port the URL says."""


# Ways to write an IPv4 address, also a private one, that Python takes for global addresses.
IPV4_INSIDE = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("::/96"))


class BlockedAddressError(OSError):
    """A host that is not mapped has no public address."""


def is_public(address: str) -> bool:
    """Whether ``address`` (an IP address as text) is one of the public internet."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        if any(parsed in network for network in IPV4_INSIDE) or parsed.is_site_local:
            return False
        parsed = parsed.ipv4_mapped or parsed.sixtofour or parsed
    return parsed.is_global and not parsed.is_multicast


def is_blocked_literal(host: str, connect_map: ConnectMap) -> bool:
    """Whether a URL's ``host`` is a private IP address itself: no resolver is asked about those."""
    host = host.strip("[]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return host not in connect_map and not is_public(host)
