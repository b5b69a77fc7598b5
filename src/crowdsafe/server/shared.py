"""The Valkey (or Redis) that several server processes may share for what may be lost."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from crowdsafe.errors import ConfigError

if TYPE_CHECKING:
    from valkey.asyncio import Valkey

__all__ = ["check_valkey", "open_valkey"]

_CONNECTIONS_MAX = 64
_WAIT_S_MAX = 2.0
_SCHEMES = ("valkey", "valkeys", "redis", "rediss", "unix")


def open_valkey(url: str) -> Valkey:
    """A client with at most 64 connections; no connect and no answer takes longer than two
    seconds. Raises ConfigError for an address that cannot be read."""
    from valkey.asyncio import BlockingConnectionPool, Valkey

    _check_url(url)
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS_MAX,
            timeout=_WAIT_S_MAX,
            socket_timeout=_WAIT_S_MAX,
            socket_connect_timeout=_WAIT_S_MAX,
        )
    except ValueError as error:
        raise ConfigError(f"the Valkey URL cannot be read ({error}); {_ADVICE}") from None
    return Valkey.from_pool(pool)


def check_valkey(url: str) -> None:
    """Raise ConfigError unless a Valkey answers at this address."""
    import valkey

    _check_url(url)
    try:
        with valkey.Valkey.from_url(
            url, socket_timeout=_WAIT_S_MAX, socket_connect_timeout=_WAIT_S_MAX
        ) as client:
            client.ping()
    except (valkey.ValkeyError, ValueError, OSError) as error:
        raise ConfigError(f"no Valkey answers at the given URL ({error}); {_ADVICE}") from None


def _check_url(url: str) -> None:
    if urlsplit(url).scheme not in _SCHEMES:
        raise ConfigError(f"the Valkey URL begins with none of {', '.join(_SCHEMES)}; {_ADVICE}")


_ADVICE = "write valkey://127.0.0.1:6379/0, or leave --valkey away: the database serves as well"
