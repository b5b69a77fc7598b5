"""Quotas and breakers against simple models, through sequences that hypothesis makes up.

A crash is a reservation that nobody remembers; time passes when the test says so.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy.orm import Session
from tests.traffic.quota_crowd import NOW, books, new_key, prepare

from crowdsafe import Store
from crowdsafe.errors import KeyReused, QuotaExceeded, ReservationEnded
from crowdsafe.traffic.breaker import BreakerSettings
from crowdsafe.traffic.breaker.circuit import Circuit, Outcome, Refusal, Ticket, after, ask
from crowdsafe.traffic.quota import (
    charge,
    expire_reservations,
    extend,
    quota_state,
    refund,
    reserve,
)

KEYS = st.sampled_from(["a", "b"])
LIMITS = st.sampled_from([0, 1, 3, 3, 5, 5, None])
SECONDS = st.sampled_from([1, 5, 20, 60])


@dataclass
class Held:
    """One reservation in the model."""

    key: str
    amount: int
    expires_at: int
    state: str = "held"


class Model:
    """What a quota is, in the plainest words: a list of reservations that is summed each time."""

    def __init__(self) -> None:
        self.now = 0
        self.all: dict[str, Held] = {}
        self.ceiling: dict[str, int | None] = {}

    def counts(self, one: Held) -> bool:
        return one.state == "held" and one.expires_at > self.now

    def used(self, key: str) -> int:
        return sum(r.amount for r in self.all.values() if r.key == key and r.state == "charged")

    def reserved(self, key: str) -> int:
        return sum(r.amount for r in self.all.values() if r.key == key and self.counts(r))

    def has_room(self, key: str, amount: int, limit: int | None) -> bool:
        return limit is None or self.used(key) + self.reserved(key) + amount <= limit

    def reserve(self, id: str, key: str, amount: int, limit: int | None, expires_s: int) -> str:
        before = self.all.get(id)
        if before is not None:
            answer = self.reserve_again(before, key, amount)
            if answer == "granted" and self.has_room(key, amount, limit):
                self.ceiling[key] = limit
            return answer
        if not self.has_room(key, amount, limit):
            return "QuotaExceeded"
        self.ceiling[key] = limit
        self.all[id] = Held(key, amount, self.now + expires_s)
        return "granted"

    def reserve_again(self, before: Held, key: str, amount: int) -> str:
        if (before.key, before.amount) != (key, amount):
            return "KeyReused"
        lives = before.state == "charged" or self.counts(before)
        return "granted" if lives else "ReservationEnded"

    def end(self, id: str, state: str) -> Any:
        one = self.all[id]
        if one.state != "held":
            return False if one.state == state else "ReservationEnded"
        late = not self.counts(one)
        room = self.has_room(one.key, one.amount, self.ceiling[one.key])
        if late and state == "charged" and not room:
            return "ReservationEnded"
        one.state = state
        return True

    def extend(self, id: str, expires_s: int) -> Any:
        one = self.all[id]
        if one.state != "held":
            return "ReservationEnded"
        until = self.now + expires_s
        if self.counts(one):
            one.expires_at = max(one.expires_at, until)
        elif self.has_room(one.key, one.amount, self.ceiling[one.key]):
            one.expires_at = until
        else:
            return "ReservationEnded"
        return one.expires_at


class QuotaMachine(RuleBasedStateMachine):
    """The same steps in the model and in the database."""

    store: ClassVar[Store]

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.names = {"a": new_key(), "b": new_key()}
        self.prefix = new_key()
        self.ids: list[str] = []
        self.tried = 0

    @property
    def now(self) -> Any:
        return NOW + timedelta(seconds=self.model.now)

    def done(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        """What a write gives, or the name of what it raises."""
        try:
            return self.store.write(fn, *args, now=self.now, **kwargs)
        except (QuotaExceeded, ReservationEnded, KeyReused) as error:
            return type(error).__name__

    @rule(key=KEYS, amount=st.integers(1, 3), limit=LIMITS, expires_s=SECONDS)
    def reserve(self, key: str, amount: int, limit: int | None, expires_s: int) -> None:
        self.tried += 1
        id = f"{self.prefix}/{self.tried}"
        self._reserve(id, key, amount, limit, expires_s)
        if id in self.model.all:
            self.ids.append(id)

    @precondition(lambda self: self.ids)
    @rule(pick=st.integers(0), same=st.booleans(), limit=LIMITS, expires_s=SECONDS)
    def reserve_again(self, pick: int, same: bool, limit: int | None, expires_s: int) -> None:
        id = self.ids[pick % len(self.ids)]
        before = self.model.all[id]
        amount = before.amount if same else before.amount + 1
        self._reserve(id, before.key, amount, limit, expires_s)

    def _reserve(self, id: str, key: str, amount: int, limit: int | None, expires_s: int) -> None:
        answer = self.done(
            reserve,
            self.names[key],
            limit=limit,
            period="p",
            amount=amount,
            expires_s=expires_s,
            id=id,
        )
        expected = self.model.reserve(id, key, amount, limit, expires_s)
        assert (answer if isinstance(answer, str) else "granted") == expected

    @precondition(lambda self: self.ids)
    @rule(pick=st.integers(0))
    def charge(self, pick: int) -> None:
        id = self.ids[pick % len(self.ids)]
        assert self.done(charge, id) == self.model.end(id, "charged")

    @precondition(lambda self: self.ids)
    @rule(pick=st.integers(0))
    def refund(self, pick: int) -> None:
        id = self.ids[pick % len(self.ids)]
        assert self.done(refund, id) == self.model.end(id, "refunded")

    @precondition(lambda self: self.ids)
    @rule(pick=st.integers(0), expires_s=SECONDS)
    def extend(self, pick: int, expires_s: int) -> None:
        id = self.ids[pick % len(self.ids)]
        answer = self.done(extend, id, expires_s)
        if not isinstance(answer, str):
            answer = (answer.expires_at - NOW).total_seconds()
        assert answer == self.model.extend(id, expires_s)

    @precondition(lambda self: self.ids)
    @rule(pick=st.integers(0))
    def crash(self, pick: int) -> None:
        """Nobody remembers the reservation: it can only expire."""
        self.ids.pop(pick % len(self.ids))

    @rule(seconds=SECONDS)
    def pass_time(self, seconds: int) -> None:
        self.model.now += seconds

    @rule(limit=st.integers(1, 5))
    def sweep(self, limit: int) -> None:
        """The model knows nothing of sweeps: they change nothing that anybody sees."""
        self.done(expire_reservations, limit)

    @invariant()
    def the_state_is_the_models(self) -> None:
        seen = self.store.read(self._look)
        for key, (state, sums) in seen.items():
            assert (state.used, state.reserved) == (self.model.used(key), self.model.reserved(key))
            assert sums[:2] == sums[2:]

    def _look(self, session: Session) -> dict[str, Any]:
        return {
            key: (quota_state(session, name, "p", None, now=self.now), books(session, name))
            for key, name in self.names.items()
        }


@pytest.fixture
def store(db_url: str) -> Iterator[Store]:
    prepare(db_url)
    with Store(db_url) as opened:
        yield opened


def run_machine(store: Any, examples: int, **more: Any) -> None:
    class Machine(QuotaMachine):
        pass

    Machine.store = store
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            **more,
        ),
    )


def test_a_quota_does_what_the_model_does(store: Store) -> None:
    run_machine(store, 30 if store.dialect == "sqlite" else 8)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_quota_does_what_the_model_does_for_longer(store: Store) -> None:
    run_machine(store, 300)


class Forgetful:
    """A store whose quotas do not know that time passes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.read = store.read

    def write(self, fn: Any, *args: Any, now: Any, **kwargs: Any) -> Any:
        return self._store.write(fn, *args, now=NOW, **kwargs)


def test_the_model_catches_a_quota_that_counts_what_has_expired(sqlite_url: str) -> None:
    prepare(sqlite_url)
    with Store(sqlite_url) as store, pytest.raises(AssertionError):
        run_machine(Forgetful(store), 300, phases=[Phase.generate], report_multiple_bugs=False)


class CircuitMachine(RuleBasedStateMachine):
    """Calls that end whenever they like, in any order, around one circuit."""

    SETTINGS = BreakerSettings(failures=2, window_s=10, cooldown_s=4, cooldown_max_s=16, probe_s=8)

    def __init__(self) -> None:
        super().__init__()
        self.rng = random.Random(11)
        self.circuit = Circuit()
        self.now = 0.0
        self.calls: list[tuple[Ticket, float]] = []
        self.tokens = 0

    @rule()
    def ask(self) -> None:
        self.tokens += 1
        before = self.circuit
        self.circuit, answer = ask(before, self.now, self.SETTINGS, str(self.tokens))
        if isinstance(answer, Refusal):
            assert self.circuit == before
            assert before.open_until is not None
            assert 0 < answer.retry_after_s <= self.SETTINGS.cooldown_max_s
            return
        assert (answer.probe is None) == (before.open_until is None)
        if answer.probe is not None:
            assert before.open_until is not None
            assert self.now >= before.open_until, "a probe in the cool-down"
        self.calls.append((answer, self.now))

    @precondition(lambda self: self.calls)
    @rule(pick=st.integers(0), outcome=st.sampled_from(Outcome))
    def end(self, pick: int, outcome: Outcome) -> None:
        ticket, _ = self.calls.pop(pick % len(self.calls))
        before = self.circuit
        self.circuit = after(before, self.now, self.SETTINGS, ticket, outcome, self.rng)
        if ticket.epoch != before.epoch or (ticket.probe and ticket.probe != before.probe):
            assert self.circuit == before, "an answer from the past changed something"
        closed_now = before.open_until is not None and self.circuit.open_until is None
        assert not closed_now or (ticket.probe is not None and outcome is Outcome.SUCCESS)

    @precondition(lambda self: self.calls)
    @rule(pick=st.integers(0))
    def crash(self, pick: int) -> None:
        self.calls.pop(pick % len(self.calls))

    @rule(seconds=st.sampled_from([0.5, 2.0, 5.0, 20.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def at_most_one_probe_has_the_right(self) -> None:
        probing = [
            at
            for ticket, at in self.calls
            if ticket.probe is not None
            and ticket.epoch == self.circuit.epoch
            and self.now < at + self.SETTINGS.probe_s
        ]
        assert len(probing) <= 1

    @invariant()
    def it_is_never_stuck(self) -> None:
        """Whoever asks after every wait is over gets leave."""
        later = self.now + self.SETTINGS.cooldown_max_s + self.SETTINGS.probe_s
        assert isinstance(ask(self.circuit, later, self.SETTINGS, "x")[1], Ticket)


def test_a_circuit_keeps_its_promises_in_any_order() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        CircuitMachine,
        settings=settings(max_examples=200, stateful_step_count=40, deadline=None),
    )
