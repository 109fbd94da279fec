"""The connect map for Scrapy: the setting TWISTED_DNS_RESOLVER. Knows nothing of what is crawled."""

import logging
from collections.abc import Sequence
from typing import Any, Self

from scrapy.resolver import HostResolution
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IHostnameResolver, IHostResolution, IResolutionReceiver
from zope.interface import implementer

from crawlers.connect import ConnectMap, is_public

CONNECT_MAP = "ATLAS_CONNECT_MAP"  # the Scrapy setting that holds the map

log = logging.getLogger(__name__)


@implementer(IHostnameResolver)
class MappedResolver:
    """Mapped hosts from the map, others by DNS and only if public.

    Twisted's `HostnameEndpoint` connects to the port of the address it is given, so a mapped host's port stays
    out of the URL. IP addresses in URLs pass through here as well.
    """

    def __init__(self, reactor: Any, connect_map: ConnectMap) -> None:
        self._reactor, self._connect_map = reactor, connect_map
        self._dns: IHostnameResolver = reactor.nameResolver

    @classmethod
    def from_crawler(cls, crawler: Any, reactor: Any) -> Self:
        """As Scrapy makes it."""
        return cls(reactor, {host: tuple(where) for host, where in crawler.settings.getdict(CONNECT_MAP).items()})

    def install_on_reactor(self) -> None:
        """As Scrapy installs it."""
        self._reactor.installNameResolver(self)

    def resolveHostName(  # noqa: N802 (Twisted's interface)
        self,
        resolutionReceiver: IResolutionReceiver,  # noqa: N803
        hostName: str,  # noqa: N803
        portNumber: int = 0,  # noqa: N803
        addressTypes: Sequence[type[IAddress]] | None = None,  # noqa: N803
        transportSemantics: str = "TCP",  # noqa: N803
    ) -> IHostResolution:
        """Tell the receiver each address of the host."""
        if hostName not in self._connect_map:
            receiver = _PublicOnly(resolutionReceiver, hostName)
            return self._dns.resolveHostName(receiver, hostName, portNumber, addressTypes, transportSemantics)
        address, port = self._connect_map[hostName]
        resolution = HostResolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        resolutionReceiver.addressResolved((IPv6Address if ":" in address else IPv4Address)("TCP", address, port))
        resolutionReceiver.resolutionComplete()
        return resolution


@implementer(IResolutionReceiver)
class _PublicOnly:
    """Passes public addresses on to ``receiver``; a host without one fails as a name that does not exist."""

    def __init__(self, receiver: IResolutionReceiver, host: str) -> None:
        self._host = host
        self._addressResolved = receiver.addressResolved
        self.resolutionBegan = receiver.resolutionBegan
        self.resolutionComplete = receiver.resolutionComplete

    def addressResolved(self, address: Any) -> None:  # noqa: N802 (Twisted's interface)
        if is_public(address.host):
            self._addressResolved(address)
        else:
            log.warning("%s: expected a public address, got %s: not connected", self._host, address.host)
