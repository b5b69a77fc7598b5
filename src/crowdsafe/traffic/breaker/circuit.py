"""The state machine of a breaker, as pure functions: who may call, and what an outcome changes.

After M. Nygard, "Release It!" (2007), chapter "Circuit Breaker". What is added: the right to probe
is one token with a lease, and outcomes carry the epoch in which their call was let through, so that
a slow answer from before cannot open, close or reopen the circuit of now.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeVar

from crowdsafe.traffic.breaker.settings import BreakerSettings

__all__ = ["Circuit", "Decide", "Outcome", "Refusal", "Ticket", "after", "ask", "state_of"]

T = TypeVar("T")

_DOUBLINGS_MAX = 32


@dataclass(frozen=True, slots=True)
class Circuit:
    """What is known of a service. Moments are seconds of the clock of whoever keeps it."""

    epoch: int = 0
    """Goes up whenever it opens or closes."""
    failed_at: tuple[float, ...] = ()
    open_until: float | None = None
    """None while closed; from that moment on half-open."""
    opened: int = 0
    """How often it has opened since it was last closed."""
    probe: str | None = None
    probe_until: float | None = None


@dataclass(frozen=True, slots=True)
class Ticket:
    """Leave to call once; ``probe`` is the token of the one call that is let through half-open."""

    epoch: int
    probe: str | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """No call now: in which state, and after how many seconds to ask again."""

    state: str
    retry_after_s: float


class Outcome(Enum):
    """How a call ended; one that was cancelled, or failed in a way that does not count, says
    nothing about the service."""

    SUCCESS = "success"
    FAILURE = "failure"
    NEITHER = "neither"


Decide = Callable[[Circuit, float], tuple[Circuit, T]]
"""Gets the circuit and the time; gives the circuit as it shall be and an answer. It may be run
again on a newer circuit, so it changes nothing itself."""


def ask(
    circuit: Circuit, now: float, settings: BreakerSettings, token: str
) -> tuple[Circuit, Ticket | Refusal]:
    """Who asks gets leave to call, or a refusal; half-open, the first gets the probe."""
    if circuit.open_until is None:
        return circuit, Ticket(circuit.epoch)
    # A wait longer than any that is ever set comes from a clock that was put back.
    cooling_s = circuit.open_until - now
    if 0 < cooling_s <= settings.cooldown_max_s:
        return circuit, Refusal("open", cooling_s)
    if circuit.probe_until is not None:
        probing_s = circuit.probe_until - now
        if 0 < probing_s <= settings.probe_s:
            return circuit, Refusal("half-open", min(probing_s, settings.cooldown_s))
    probing = replace(circuit, probe=token, probe_until=now + settings.probe_s)
    return probing, Ticket(circuit.epoch, token)


def after(
    circuit: Circuit,
    now: float,
    settings: BreakerSettings,
    ticket: Ticket,
    outcome: Outcome,
    rng: random.Random,
) -> Circuit:
    """The circuit after a call has ended; the same one when the call belongs to the past."""
    if ticket.epoch != circuit.epoch:
        return circuit
    if ticket.probe is None:
        return _failed(circuit, now, settings, rng) if outcome is Outcome.FAILURE else circuit
    if ticket.probe != circuit.probe:
        return circuit
    if outcome is Outcome.SUCCESS:
        return Circuit(circuit.epoch + 1)
    if outcome is Outcome.FAILURE:
        return _opened(circuit, now, settings, rng)
    return replace(circuit, probe=None, probe_until=None)


def state_of(circuit: Circuit, now: float, settings: BreakerSettings) -> tuple[str, int, float]:
    """Its state in a word, the failures that count, and seconds until a call may be let through."""
    if circuit.open_until is None:
        return "closed", len(_recent(circuit, now, settings)), 0.0
    _, answer = ask(circuit, now, settings, "")
    if isinstance(answer, Refusal):
        return answer.state, 0, answer.retry_after_s
    return "half-open", 0, 0.0


def _recent(circuit: Circuit, now: float, settings: BreakerSettings) -> tuple[float, ...]:
    return tuple(at for at in circuit.failed_at if 0 <= now - at < settings.window_s)


def _failed(circuit: Circuit, now: float, settings: BreakerSettings, rng: random.Random) -> Circuit:
    failed_at = (*_recent(circuit, now, settings), now)
    if len(failed_at) >= settings.failures:
        return _opened(circuit, now, settings, rng)
    return replace(circuit, failed_at=failed_at)


def _opened(circuit: Circuit, now: float, settings: BreakerSettings, rng: random.Random) -> Circuit:
    longest_s = min(
        settings.cooldown_max_s, settings.cooldown_s * 2.0 ** min(circuit.opened, _DOUBLINGS_MAX)
    )
    return Circuit(
        epoch=circuit.epoch + 1,
        open_until=now + longest_s * rng.uniform(0.75, 1.0),
        opened=circuit.opened + 1,
    )
