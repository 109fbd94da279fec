"""Address checks against server-side request forgery, and the connect map.

URLs of pages and images are untrusted, so their hosts may resolve to this machine or its network. All clients connect
to public addresses only. Hosts in the connect map are exempt: their address comes from the map instead of DNS. URLs and
data never contain the mapped address or port.
"""

import ipaddress
import socket
from collections.abc import Mapping

ConnectMap = Mapping[str, tuple[str, int]]
"""Host -> (IP address, port) to connect to, instead of the DNS address and the URL's port."""


# Networks that are not public although `ipaddress` may say so: some were global until Python 3.11.10, some embed an
# IPv4 address that may be private, and 168.63.129.16 is a metadata service of a cloud. The metadata addresses of other
# clouds (169.254.169.254, 100.100.100.200, fd00:ec2::254) are in networks that `ipaddress` knows as private.
NOT_PUBLIC = tuple(
    ipaddress.ip_network(text)
    for text in ("192.0.0.0/24", "168.63.129.16", "::/96", "64:ff9b::/96", "64:ff9b:1::/48", "3fff::/20", "5f00::/16")
)


class BlockedAddressError(OSError):
    """The host has no public address and is not in the connect map."""


def is_public(address: str) -> bool:
    """Whether ``address`` (an IP address as text) is a public one."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        parsed = parsed.ipv4_mapped or parsed.sixtofour or parsed
    known = parsed.is_multicast or getattr(parsed, "is_site_local", False) or not parsed.is_global
    return not known and not any(parsed in network for network in NOT_PUBLIC)


def is_blocked_literal(host: str, connect_map: ConnectMap) -> bool:
    """Whether a URL's ``host`` is an IP address that is not public; such hosts do not reach the resolver.

    Notations that only C libraries accept (``2130706433``, ``0x7f.1``, ``0177.0.0.1``) count as addresses.
    """
    host = host.strip("[]")
    if host in connect_map:
        return False
    address = _address(host.rstrip("."))
    return address is not None and not is_public(address)


def _address(host: str) -> str | None:
    """``host`` in the standard notation if it is an IP address in any notation; else None."""
    if ":" in host:
        return host
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None
