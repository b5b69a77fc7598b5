"""Every limit of the store in one object."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from crowdsafe.errors import ConfigError

__all__ = ["Isolation", "Settings"]

Isolation = Literal["serializable", "repeatable read", "read committed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Limits and timeouts of a store; names end in their unit. Raises ConfigError when one is off.

    Example: ``Store(url, Settings(deadline_s=3, pool_size=8))``.
    """

    deadline_s: float = 10.0
    """A write or read that has not begun to commit by then ends with DeadlineExceeded."""
    grace_s: float = 5.0
    """How much longer a caller waits for a write that was running when its deadline came."""
    lock_timeout_s: float = 5.0
    """Longest wait for one database lock (PostgreSQL ``lock_timeout``)."""
    statement_timeout_s: float = 10.0
    """Longest run of one statement (PostgreSQL ``statement_timeout``)."""
    connect_timeout_s: float = 5.0
    """Longest wait for a new connection to PostgreSQL."""
    pool_size: int = 16
    """Connections to PostgreSQL that one store keeps, and its most."""
    pool_timeout_s: float = 5.0
    """Longest wait for a pooled connection; then Overloaded."""
    queue_max: int = 10_000
    """Writes that may wait in this process, in all lanes together; one more is Overloaded."""
    batch_max: int = 256
    """Writes that may share one transaction."""
    attempts_max: int = 50
    """How often a write is run before DeadlineExceeded, whatever time is left."""
    escalate_after: int = 4
    """Lost attempts after which a write runs alone behind a lock."""
    backoff_base_s: float = 0.005
    """Upper end of the first random wait between attempts; it doubles with each loss."""
    backoff_cap_s: float = 0.5
    """Upper end that the random wait never passes."""
    readers: int = 4
    """Threads that read SQLite beside its writer."""
    synchronous: Literal["FULL", "NORMAL"] = "FULL"
    """SQLite's ``synchronous``. FULL survives a power cut; NORMAL may lose commits then."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name != "synchronous" and type(value) not in (int, float):
                raise ConfigError(f"Settings.{item.name} is {value!r}; it must be a number")
            if isinstance(value, int | float) and not value > 0:
                raise ConfigError(f"Settings.{item.name} is {value!r}; it must be above zero")
        if self.synchronous not in ("FULL", "NORMAL"):
            raise ConfigError(
                f"Settings.synchronous is {self.synchronous!r}; it must be 'FULL' or 'NORMAL'"
            )
