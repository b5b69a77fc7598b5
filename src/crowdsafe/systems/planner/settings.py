"""What the planner can be told, and how the environment tells it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

from crowdsafe.errors import ConfigError
from crowdsafe.systems.planner.generation import Upstream
from crowdsafe.traffic.rates import Rate
from crowdsafe.traffic.rates.database import DATABASE_LIMIT_MAX

__all__ = ["DEMO_PAYMENT_SECRET", "TIERS", "PlannerSettings"]

DEMO_PAYMENT_SECRET = "crowdsafe-demo-payments"  # noqa: S105 - the demo's, which is public
"""What signs payment events in the demo, when no other secret is given."""

TIERS = ("free", "pro", "pro_plus")
CONCURRENCY_MAX = 256
"""Jobs that one worker can run at a time."""
_PREFIX = "CROWDSAFE_PLANNER_"
_ENV = {
    "UPSTREAM_URL": "upstream_url",
    "UPSTREAM_KEY": "upstream_key",
    "UPSTREAM_MODEL": "upstream_model",
    "UPSTREAM_TIMEOUT_S": "upstream_timeout_s",
    "RUNNING_MAX": "running_max",
    "PER_USER": "per_user",
    "QUEUED_MAX": "queued_max",
    "QUEUED_PER_USER_MAX": "queued_per_user_max",
    "IP_RATE": "ip_rate",
    "ANSWER_WITHIN_S": "answer_within_s",
    "PLAN_FRESH_S": "plan_fresh_s",
    "OFFLINE_FRESH_S": "offline_fresh_s",
    "JOB_TIMEOUT_S": "job_timeout_s",
    "FREE_PER_DAY": "free_per_day",
    "PRO_PER_DAY": "pro_per_day",
    "OFFLINE_OK": "offline_ok",
    "PREGENERATE": "pregenerate",
    "PREGENERATE_PER_DAY": "pregenerate_per_day",
    "PREGENERATE_EVERY_S": "pregenerate_every_s",
    "BREAKER_FAILURES": "breaker_failures",
    "BREAKER_COOLDOWN_S": "breaker_cooldown_s",
    "LEASE_S": "lease_s",
    "PAYMENT_SECRET": "payment_secret",
}
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerSettings:
    """Plain values; times in seconds. Raises ConfigError for a value that makes no sense."""

    upstream_url: str | None = None
    """An OpenAI-compatible endpoint; without one plans are made offline, and marked as such."""
    upstream_key: str = field(default="", repr=False)
    upstream_model: str = "default"
    upstream_timeout_s: float = 30.0
    """For one call to the upstream, of which a plan takes about fifteen."""
    running_max: int = 8
    """Plans that are made at the same time, over all processes."""
    per_user: int = 2
    """Plans that are made for one user at the same time, over all processes."""
    queued_max: int = 10_000
    queued_per_user_max: int = 200
    ip_rate: str = "1200/minute"
    """Requests for plans from one address, over all processes."""
    answer_within_s: float = 8.0
    """How long a request for a plan waits for it before it is told to come back (202)."""
    answer_within_max_s: float = 25.0
    """What ``Prefer: wait`` can stretch that to; below the deadline of the server's requests."""
    plan_fresh_s: float = 3600.0
    """How long a stored plan answers an identical request."""
    offline_fresh_s: float = 60.0
    """The same for a plan that an upstream in trouble did not write, or not all of."""
    job_expires_s: float = 6 * 3600.0
    """A job that has not begun by then is dropped, and its unit refunded."""
    job_timeout_s: float = 300.0
    job_attempts: int = 3
    lease_s: float = 30.0
    """How long after a crash of its process a job is taken over."""
    free_per_day: int = 1
    pro_per_day: int = 5
    offline_ok: bool = True
    """Whether a failing upstream leads to an offline plan, or to a failed and refunded job."""
    pregenerate: bool = False
    pregenerate_per_day: int = 3
    pregenerate_every_s: float = 60.0
    breaker_failures: int = 5
    breaker_cooldown_s: float = 10.0
    payment_secret: str | None = field(default=None, repr=False)
    payment_tolerance_s: float = 300.0
    trusted_proxies: tuple[str, ...] = ()
    """Networks whose X-Forwarded-For is believed (CROWDSAFE_TRUSTED_PROXIES, comma separated)."""

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if not 0 < getattr(self, name) < 1e9:
                raise ConfigError(f"the planner's {name} must be above zero and below 1e9")
        for name in ("free_per_day", "pro_per_day", "pregenerate_per_day", "answer_within_s"):
            if not 0 <= getattr(self, name) < 1e9:
                raise ConfigError(f"the planner's {name} must be zero or more, and below 1e9")
        try:
            Rate.parse(self.ip_rate)
        except ConfigError as error:
            raise ConfigError(f"CROWDSAFE_PLANNER_IP_RATE: {error.message}") from None
        if self.running_max > CONCURRENCY_MAX:
            raise ConfigError(f"CROWDSAFE_PLANNER_RUNNING_MAX must be at most {CONCURRENCY_MAX}")
        if self.payment_secret is not None and not self.payment_secret.strip():
            raise ConfigError("CROWDSAFE_PLANNER_PAYMENT_SECRET is empty; leave it out for none")
        self._check_upstream()

    def _check_upstream(self) -> None:
        url = "http://127.0.0.1" if self.upstream_url is None else self.upstream_url
        for variable, given in (
            ("URL", (url, "", "default")),
            ("KEY", ("http://127.0.0.1", self.upstream_key, "default")),
            ("MODEL", ("http://127.0.0.1", "", self.upstream_model)),
        ):
            try:
                Upstream(*given)
            except ConfigError as error:
                raise ConfigError(f"{_PREFIX}UPSTREAM_{variable}: {error.message}") from None

    def upstream_at(self, url: str) -> Upstream:
        """The service that these settings describe, at an address. Raises ConfigError."""
        return Upstream(url, self.upstream_key, self.upstream_model, self.upstream_timeout_s)

    def check_shared(self, *, valkey: bool) -> None:
        """Whether processes can share these limits in what there is. Raises ConfigError."""
        if not valkey and Rate.parse(self.ip_rate).limit > DATABASE_LIMIT_MAX:
            raise ConfigError(
                f"CROWDSAFE_PLANNER_IP_RATE: without Valkey at most {DATABASE_LIMIT_MAX} in a "
                "window; give a shorter window"
            )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """The settings that CROWDSAFE_PLANNER_* and CROWDSAFE_TRUSTED_PROXIES give.

        An empty variable counts as not set. Raises ConfigError, naming the variable.
        """
        given = os.environ if environ is None else environ
        types = {item.name: str(item.type) for item in fields(cls)}
        found: dict[str, Any] = {}
        for suffix, name in _ENV.items():
            text = given.get(_PREFIX + suffix, "").strip()
            if text:
                found[name] = _value(_PREFIX + suffix, text, types[name])
        proxies = given.get("CROWDSAFE_TRUSTED_PROXIES", "")
        found["trusted_proxies"] = tuple(p.strip() for p in proxies.split(",") if p.strip())
        return cls(**found)

    def for_demo(self) -> Self:
        """The same, with the demo's payment secret where none is given."""
        return replace(self, payment_secret=self.payment_secret or DEMO_PAYMENT_SECRET)

    def per_day(self, tier: str) -> int | None:
        """Plans a day for a tier; None for as many as one likes."""
        return {"free": self.free_per_day, "pro": self.pro_per_day, "pro_plus": None}[tier]

    @property
    def reservation_s(self) -> float:
        """How long a unit stays reserved: longer than its job can live."""
        running_s = self.job_attempts * (self.job_timeout_s + 4 * self.lease_s)
        return self.job_expires_s + running_s + 3600.0


_POSITIVE = (
    "upstream_timeout_s",
    "running_max",
    "per_user",
    "queued_max",
    "queued_per_user_max",
    "answer_within_max_s",
    "plan_fresh_s",
    "offline_fresh_s",
    "job_expires_s",
    "job_timeout_s",
    "job_attempts",
    "lease_s",
    "pregenerate_every_s",
    "breaker_failures",
    "breaker_cooldown_s",
    "payment_tolerance_s",
)


def _value(variable: str, text: str, kind: str) -> Any:
    try:
        if kind == "int":
            return int(text)
        if kind == "float":
            return float(text)
    except ValueError:
        raise ConfigError(f"{variable} is {text!r}, which is not a number") from None
    if kind == "bool":
        if text.lower() in _TRUE + _FALSE:
            return text.lower() in _TRUE
        raise ConfigError(f"{variable} is {text!r}: write 1 or 0")
    return text
