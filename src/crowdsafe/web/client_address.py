"""Who a request comes from, when proxies stand in between.

Anyone can send X-Forwarded-For; each proxy adds, on the right, the address that it was called from.
So the header is read from the right, and believed only as far as named proxies wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import TYPE_CHECKING, Literal, Self, get_args

from crowdsafe.errors import ConfigError

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

__all__ = ["TrustedProxies", "address_key", "client_address"]

Header = Literal["x-forwarded-for", "forwarded"]

HEADER_CHARS_MAX = 4000
HOPS_MAX = 32
UNIX = "unix"
"""Stands for the peer of a unix socket, in ``TrustedProxies.parse`` and as an address."""

_FOR = re.compile(r'\s*for\s*=\s*("[^"\\]*"|[^\s";,]+)\s*', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TrustedProxies:
    """The proxies whose word is believed, and the one header that they write.

    Never both headers: a proxy that writes one passes the other on as the client sent it.
    """

    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    header: Header = "x-forwarded-for"
    unix: bool = False

    @classmethod
    def parse(cls, proxies: Iterable[str], *, header: Header = "x-forwarded-for") -> Self:
        """Read addresses and networks such as "10.0.0.0/8" and "::1", and "unix" for a proxy that
        calls over a unix socket. Raises ConfigError for anything else."""
        if isinstance(proxies, str):
            raise ConfigError(f"trusted proxies are a list of addresses, not the text {proxies!r}")
        if header not in get_args(Header):
            raise ConfigError(f"{header!r} is not one of {', '.join(get_args(Header))}")
        names = [str(proxy).strip() for proxy in proxies]
        networks = tuple(_network(name) for name in names if name != UNIX)
        return cls(networks, header, UNIX in names)

    def trusts(self, address: str) -> bool:
        """Whether this address is a trusted proxy's."""
        if address == UNIX:
            return self.unix
        parsed = _parsed(address)
        return parsed is not None and any(parsed in network for network in self.networks)


def client_address(connection: HTTPConnection, trusted: TrustedProxies | None = None) -> str:
    """The address of the client: the peer's, or what trusted proxies say of who called them.

    An IPv4 address that is wrapped in IPv6 (``::ffff:192.0.2.1``) is given as IPv4, others in their
    shortest form; the peer of a unix socket is "unix". For a limit use ``address_key`` of it.

    Holds: no header that a client sends changes its address, unless it calls from a trusted
    proxy's, however long it is; where a proxy wrote what is no address, that proxy is the client.
    Does not hold: that the client is one person, or not behind another proxy that is not trusted;
    that a server in front (uvicorn with ``proxy_headers``) has left the peer as it was.
    Proved by ``tests/web/test_client_address.py``.
    """
    host = connection.client.host if connection.client else ""
    peer_address = _parsed(host)
    peer = str(peer_address) if peer_address is not None else host or UNIX
    if trusted is None or not trusted.trusts(peer):
        return peer
    client = peer
    for hop in reversed(_hops(connection.headers.getlist(trusted.header), trusted.header)):
        address = _parsed(_without_port(hop))
        if address is None:
            return client
        client = str(address)
        if not trusted.trusts(client):
            return client
    return client


def address_key(address: str) -> str:
    """The key to limit an address by: IPv4 as it is, IPv6 by its /64, which is one client's."""
    parsed = _parsed(address)
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((parsed, 64), strict=False))
    return address[:64]


def _network(name: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(name, strict=False)
    except ValueError:
        raise ConfigError(
            f'{name!r} is not a proxy; write an address, a network such as "10.0.0.0/8", or "unix"'
        ) from None
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped:
        raise ConfigError(f"{name!r} is IPv4 wrapped in IPv6; write it as IPv4")
    return network


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _hops(values: Sequence[str], header: Header) -> list[str]:
    """The addresses in the header, as it was added to from left to right; of a long one its right
    end, which is what proxies wrote last."""
    text = ",".join(values)
    entries = text[-HEADER_CHARS_MAX:].split(",")
    if len(text) > HEADER_CHARS_MAX:
        del entries[0]
    entries = entries[-HOPS_MAX:]
    if header == "x-forwarded-for":
        return [entry.strip() for entry in entries]
    return [_forwarded_for(entry) for entry in entries]


def _forwarded_for(entry: str) -> str:
    """The ``for`` of one element of RFC 7239's header; "" without exactly one."""
    found = [match[1] for part in entry.split(";") if (match := _FOR.fullmatch(part))]
    return found[0].strip('"') if len(found) == 1 else ""


def _without_port(hop: str) -> str:
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    host, colon, port = hop.partition(":")
    return host if colon and port.isdigit() else hop
