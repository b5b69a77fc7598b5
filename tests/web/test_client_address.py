"""Whose address counts: the peer's, unless named proxies say otherwise."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import HTTPConnection

from crowdsafe.errors import ConfigError
from crowdsafe.web.client_address import TrustedProxies, address_key, client_address

PROXY = "10.0.0.7"
TRUSTED = TrustedProxies.parse(["10.0.0.0/8", "::1", "2001:db8:aa::/48"])


def connection(peer: str | None, *headers: tuple[str, str]) -> HTTPConnection:
    return HTTPConnection(
        {
            "type": "http",
            "client": None if peer is None else (peer, 4711),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
        }
    )


def forwarded_for(peer: str | None, *values: str, trusted: TrustedProxies = TRUSTED) -> str:
    return client_address(connection(peer, *(("x-forwarded-for", v) for v in values)), trusted)


def naive(peer: str, value: str) -> str:
    """What is often done: the first address in the header, which the client wrote itself."""
    return value.split(",", maxsplit=1)[0].strip() or peer


def test_a_client_cannot_choose_its_address() -> None:
    spoofed = "203.0.113.99"
    assert naive("198.51.100.1", spoofed) == spoofed
    assert forwarded_for("198.51.100.1", spoofed) == "198.51.100.1"
    assert naive(PROXY, f"{spoofed}, 198.51.100.1") == spoofed
    assert forwarded_for(PROXY, f"{spoofed}, 198.51.100.1") == "198.51.100.1"
    assert forwarded_for(PROXY, spoofed, "198.51.100.1") == "198.51.100.1", "two header lines"
    assert forwarded_for(PROXY, f"10.1.1.1, {spoofed}, 198.51.100.1, 10.2.2.2") == "198.51.100.1"
    assert forwarded_for(PROXY, f"unix, {spoofed}") == spoofed


def test_without_trusted_proxies_it_is_the_peer() -> None:
    for trusted in (None, TrustedProxies(), TrustedProxies.parse([])):
        found = client_address(connection("10.0.0.7", ("x-forwarded-for", "1.2.3.4")), trusted)
        assert found == "10.0.0.7"


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("198.51.100.1", "198.51.100.1"),
        (" 198.51.100.1 ", "198.51.100.1"),
        ("198.51.100.1:5555", "198.51.100.1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("::ffff:198.51.100.1", "198.51.100.1"),
        ("198.51.100.1, ::ffff:10.9.9.9", "198.51.100.1"),
        ("198.51.100.1, 2001:db8:aa::5", "198.51.100.1"),
        ("10.1.1.1, 10.2.2.2", "10.1.1.1"),
    ],
)
def test_addresses_are_read_in_all_their_forms(value: str, client: str) -> None:
    assert forwarded_for(PROXY, value) == client


@pytest.mark.parametrize(
    "value",
    [
        "",
        "unknown",
        "_hidden",
        "198.51.100.1,",
        "198.51.100.300",
        "localhost",
        "1.2.3.4 5.6.7.8",
        "0x7f000001",
        "198.51.100.1:port",
        "<script>",
        "\xff\xfe",
        "1" * 5000,
    ],
)
def test_garbage_counts_as_no_header(value: str) -> None:
    assert forwarded_for(PROXY, value) == PROXY


@pytest.mark.parametrize(
    "sent", ["9.9.9.9, " * 1000, "9" * 8000 + ", ", "10.0.0.7, " * 40, ", " * 5000]
)
def test_who_sends_a_long_header_does_not_become_the_proxy(sent: str) -> None:
    """The proxy has added the true client on the right, whatever the client sent."""
    assert forwarded_for(PROXY, sent + "198.51.100.1") == "198.51.100.1"
    assert forwarded_for(PROXY, sent, "198.51.100.1") == "198.51.100.1"


def test_a_proxy_that_says_nothing_readable_is_the_client() -> None:
    assert forwarded_for(PROXY, "198.51.100.1, unknown, 10.3.3.3") == "10.3.3.3"


def test_garbage_left_of_an_untrusted_address_does_no_harm() -> None:
    assert forwarded_for(PROXY, "garbage, 198.51.100.1") == "198.51.100.1"


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("for=198.51.100.1", "198.51.100.1"),
        ('For="[2001:db8::1]:4711";proto=https;by=203.0.113.43', "2001:db8::1"),
        ("for=203.0.113.99, for=198.51.100.1;proto=http", "198.51.100.1"),
        ("proto=http; for = 198.51.100.1 , for=10.3.3.3", "198.51.100.1"),
        ("for=unknown", PROXY),
        ("for=_secret", PROXY),
        ("proto=https", PROXY),
        ("for=1.2.3.4;for=5.6.7.8", PROXY),
        ('for="1.2.3.4, for=9.9.9.9', "9.9.9.9"),
    ],
)
def test_rfc_7239(value: str, client: str) -> None:
    trusted = TrustedProxies.parse(["10.0.0.0/8"], header="forwarded")
    assert client_address(connection(PROXY, ("forwarded", value)), trusted) == client


def test_only_the_named_header_counts() -> None:
    """A proxy that writes one header passes the other on, as the client has sent it."""
    both = connection(PROXY, ("forwarded", "for=6.6.6.6"), ("x-forwarded-for", "198.51.100.1"))
    assert client_address(both, TRUSTED) == "198.51.100.1"
    other = TrustedProxies.parse(["10.0.0.0/8"], header="forwarded")
    assert client_address(both, other) == "6.6.6.6"


def test_peers_in_other_forms() -> None:
    assert forwarded_for("::ffff:198.51.100.1") == "198.51.100.1"
    assert forwarded_for("::ffff:10.0.0.7", "198.51.100.1") == "198.51.100.1"
    assert forwarded_for("fe80::1%eth0") == "fe80::1"
    assert forwarded_for("testclient") == "testclient"
    assert forwarded_for(None, "198.51.100.1") == "unix"
    unix = TrustedProxies.parse(["unix"])
    assert forwarded_for(None, "198.51.100.1", trusted=unix) == "198.51.100.1"
    assert forwarded_for("198.51.100.9", "198.51.100.1", trusted=unix) == "198.51.100.9"


def test_a_limit_counts_ipv6_by_its_network() -> None:
    assert address_key("198.51.100.1") == "198.51.100.1"
    assert address_key("2001:db8:1:2:3:4:5:6") == "2001:db8:1:2::/64"
    assert address_key("2001:db8:1:2:ffff::") == "2001:db8:1:2::/64"
    assert address_key("2001:db8:1:3::") != "2001:db8:1:2::/64"
    assert address_key("::ffff:198.51.100.1") == "::ffff:198.51.100.1"
    assert address_key("unix") == "unix"
    assert len(address_key("x" * 1000)) == 64


@pytest.mark.parametrize(
    "proxies",
    [
        *([proxy] for proxy in ("nonsense", "10.0.0.0/33", "10.0.0.256", "", "*", None)),
        ["::ffff:10.0.0.0/104"],
        "10.0.0.0/8",
    ],
)
def test_what_is_no_proxy_is_refused(proxies: Any) -> None:
    with pytest.raises(ConfigError):
        TrustedProxies.parse(proxies)


def test_what_is_no_header_is_refused() -> None:
    with pytest.raises(ConfigError, match="x-forwarded-for, forwarded"):
        TrustedProxies.parse([], header="x-real-ip")  # type: ignore[arg-type]
