"""Every limit of a breaker in one object."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from crowdsafe.errors import ConfigError
from crowdsafe.traffic.arguments import check_number

__all__ = ["BreakerSettings", "check_settings"]

_FAILURES_MAX = 1000
_SECONDS_MAX = 366 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSettings:
    """When a breaker opens, and for how long. All who share a breaker need the same settings.

    Raises ConfigError when one is off.
    """

    failures: int = 5
    """So many failures within ``window_s`` open it (1 to 1000)."""
    failing_share: float = 0.0
    """A failure counts only if at least this share (0 to 1) of the process's last 20 calls failed.
    At 0 each counts, so that 2% of failures open a busy breaker; 0.5 is right for busy services."""
    window_s: float = 30.0
    """How long a failure counts."""
    cooldown_s: float = 10.0
    """How long it stays open the first time; twice as long after each probe that failed."""
    cooldown_max_s: float = 120.0
    """The longest that it stays open before the next probe."""
    probe_s: float = 60.0
    """How long a probe keeps its right when nothing is heard of it. Let calls time out sooner."""
    backend_s: float = 1.0
    """Longest wait for the database or Valkey; slower than that, it is taken to be away."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "failing_share":
                check_number("BreakerSettings.failing_share", value, 0, 1)
            else:
                what = f"BreakerSettings.{item.name}"
                check_number(what, value, 0, _SECONDS_MAX, above=True)
        if int(self.failures) != self.failures or self.failures > _FAILURES_MAX:
            raise ConfigError(
                f"BreakerSettings.failures is {self.failures!r}; it is 1 to {_FAILURES_MAX}"
            )
        if self.cooldown_max_s < self.cooldown_s:
            raise ConfigError("BreakerSettings.cooldown_max_s is less than cooldown_s")


def check_settings(settings: Any) -> BreakerSettings:
    """The settings, or those by default for None. Raises ConfigError."""
    if settings is None:
        return BreakerSettings()
    if not isinstance(settings, BreakerSettings):
        raise ConfigError(
            f"settings is {settings!r}; it must be BreakerSettings(failures=5, ...) or left out"
        )
    return settings
