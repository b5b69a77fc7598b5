"""A queue, its quotas and its slots driven together, each step in the model and in the database.

Hypothesis makes up the steps. Time passes when a step says so, for the database too.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest.mock import patch

from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.internal.conjecture.providers import HypothesisProvider
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy.orm import Session
from tests.traffic.model import ACTIVE, WAITING, KindLimits, Limits, Model, Refused, Wish
from tests.traffic.quota_crowd import NOW
from tests.traffic.traffic_parts import Parts, Seen, Undone, look

from crowdsafe import Store
from crowdsafe.errors import CrowdsafeError
from crowdsafe.traffic.queue import Priority, find_jobs, get_job, place_of, queue_view

USERS = ("ada", "bob", "cyd")
WORKERS = ("one", "two", "six")
KINDS = ("plan", "note")
CLAIMED_KINDS = (None, None, None, ("plan",), ("note",))
SWEEP_ALL = 200
ROUNDS_MAX = 200
BATCH = 10
NO_CONSTANTS = patch.object(HypothesisProvider, "_maybe_draw_constant", return_value=None)
"""Hypothesis draws from the constants of whatever is loaded: a seed would hold in one run only."""

SOME = st.integers(0, 1_000_000)
ASKED = st.fixed_dictionaries(
    {
        "user": st.sampled_from((*USERS, "ada", "ada")),
        "kind": st.sampled_from(KINDS),
        "priority": st.sampled_from([Priority.NORMAL] * 3 + list(Priority) + [Priority.IDLE]),
        "key": st.sampled_from([None, None, None, "k", "l"]),
        "delay_s": st.sampled_from([0.0, 0.0, 0.0, 5.0, 30.0]),
        "expires_s": st.sampled_from([1000.0, 1000.0, 1000.0, 40.0, 8.0]),
        "unit_expires_s": st.sampled_from([2000.0, 2000.0, 50.0, 5.0]),
    }
)
ACTS = st.sampled_from(
    ["claim"] * 5
    + ["finish"] * 4
    + ["fail"] * 2
    + ["thaw"] * 2
    + ["stop", "report", "renew", "renew", "give back", "die", "freeze", "freeze"]
)
AGAIN = st.tuples(st.sampled_from([False, False, True]), st.sampled_from([0.0, 5.0, 40.0]))
BOOM = st.sampled_from([False] * 7 + [True])
LIMITS = st.builds(
    Limits,
    kinds=st.fixed_dictionaries(
        {
            "plan": st.builds(
                KindLimits,
                running_max=st.sampled_from([None, 1, 2]),
                attempts=st.sampled_from([3, 2, 2, 1]),
                lease_s=st.just(10.0),
                costs=st.just(True),
            ),
            "note": st.builds(
                KindLimits,
                running_max=st.sampled_from([None, 1]),
                attempts=st.sampled_from([3, 2, 2, 1]),
                lease_s=st.just(20.0),
                costs=st.just(False),
            ),
        }
    ),
    per_user=st.sampled_from([1, 1, 2, 3]),
    running_max=st.sampled_from([4, 3, 2, 1]),
    queued_max=st.sampled_from([1000, 1000, 4]),
    queued_per_user_max=st.sampled_from([4, 4, 2]),
    idle_max=st.sampled_from([1, 2]),
    keep_s=st.sampled_from([100.0, 1000.0]),
    units=st.sampled_from([4, 3, 1]),
    slots=st.sampled_from([1, 2]),
)
ARGUMENTS: dict[str, dict[str, Any]] = {
    "submit": {"asked": st.lists(ASKED, min_size=1, max_size=3), "boom": BOOM},
    "cancel": {"pick": SOME, "boom": BOOM},
    "work": {"acts": st.lists(st.tuples(ACTS, SOME, AGAIN, BOOM), min_size=2, max_size=5)},
    "step": {
        "worker": st.sampled_from(WORKERS),
        "what": st.sampled_from(["take", "take", "renew", "give"]),
        "boom": BOOM,
    },
    "sweep": {
        "limit": st.sampled_from([1, 2, SWEEP_ALL]),
        "units": st.booleans(),
        "boom": BOOM,
    },
    "pass_time": {
        "seconds": st.sampled_from([1.0] + [5.0, 10.0, 20.0] * 3 + [60.0, 600.0]),
        "days": st.sampled_from([0] * 7 + [1]),
        "swept": st.sampled_from([True, True, False]),
    },
    "ask": {"pick": SOME},
}
OFTEN = ["submit"] * 3 + ["work"] * 6 + ["pass_time"] * 3 + ["step"] * 2
EVENTS = st.sampled_from([*OFTEN, "cancel", "sweep", "ask"]).flatmap(
    lambda name: st.tuples(st.just(name), st.fixed_dictionaries(ARGUMENTS[name]))
)


class TrafficMachine(RuleBasedStateMachine):
    """Users, workers, their deaths and time itself, in any order."""

    store: ClassVar[Store]
    parts_type: ClassVar[type[Parts]] = Parts

    @initialize(
        limits=LIMITS,
        asked=st.lists(ASKED, min_size=3, max_size=8),
        db_clock=st.booleans(),
        isolation=st.sampled_from(["read committed", "read committed", "serializable"]),
    )
    def begin(
        self, limits: Limits, asked: list[dict[str, Any]], db_clock: bool, isolation: str
    ) -> None:
        db_clock = db_clock and self.store.dialect == "postgresql"
        self.model = Model(limits)
        self.parts = self.parts_type(self.store, limits, db_clock=db_clock, isolation=isolation)
        self.parts.set_clock()
        now_ns = SimpleNamespace(time_ns=lambda: int(self.parts.now.timestamp()) * 1_000_000_000)
        self.clock: Any = patch("crowdsafe.traffic.rows.time", now_ns)
        self.clock.start()
        self.held: dict[str, dict[str, str]] = {worker: {} for worker in WORKERS}
        self.frozen: list[tuple[str, str]] = []
        self.lives: Counter[str] = Counter()
        self.asked = 0
        self.seen = self.store.read(look, self.parts)
        self.submit(asked, boom=False)

    def teardown(self) -> None:
        if not hasattr(self, "clock"):
            return
        try:
            if sys.exc_info()[0] is None:
                self.drain()
        finally:
            self.clock.stop()

    def do(
        self,
        real: Callable[[], Any],
        expected: Callable[[Model, Seen], Any],
        boom: bool = False,
    ) -> Any:
        """Take a step in the database, then in the model, which must give the same answer."""
        answer = self.answer(real, boom)
        self.seen = self.store.read(look, self.parts)
        trial = self.model.copy()
        try:
            should = expected(trial, self.seen)
        except Refused as refused:
            assert answer == str(refused), f"{answer!r}, but it should be refused as {refused}"
        else:
            should = "Undone" if boom else should
            assert answer == should, f"{answer!r}, but it should be {should!r}"
            self.model = self.model if boom else trial
        self.check()
        return answer

    def answer(self, real: Callable[[], Any], boom: bool) -> Any:
        self.parts.boom = boom
        try:
            return real()
        except (CrowdsafeError, Undone) as error:
            return type(error).__name__
        finally:
            self.parts.boom = False

    @rule(event=EVENTS)
    def happens(self, event: tuple[str, dict[str, Any]]) -> None:
        """One rule for everything, so that no example is without workers, or without time."""
        name, arguments = event
        getattr(self, name)(**arguments)

    # -- what users do ------------------------------------------------------------------------

    def submit(self, asked: list[dict[str, Any]], boom: bool) -> None:
        for one in asked:
            self.asked += 1
            wish = Wish(id=f"{self.parts.prefix}-{self.asked}", **one)
            self.do(partial(self.parts.submit, wish), lambda m, _, w=wish: m.submit(w), boom)

    def cancel(self, pick: int, boom: bool) -> None:
        every = [*self.model.jobs, *self.model.forgotten]
        job_id = one_of(every, pick) if every else "nobody's"
        self.do(lambda: self.parts.cancel(job_id), lambda model, _: model.cancel(job_id), boom)

    # -- what workers do ----------------------------------------------------------------------

    def work(self, acts: list[tuple[str, int, tuple[bool, float], bool]]) -> None:
        for act in acts:
            self.act(*act)

    def act(self, what: str, pick: int, again: tuple[bool, float], boom: bool) -> None:
        """A worker claims, or somebody does something to a job that it has. Tokens are kept."""
        held = [(one, job_id) for one in WORKERS for job_id in self.held[one]]
        if what == "thaw" and self.frozen:
            self.thaw(pick, again)
        elif what == "claim":
            worker = one_of(WORKERS, pick)
            self.take(worker, 1 + pick % 4, one_of(CLAIMED_KINDS, pick // 4), boom)
        elif held and what != "thaw":
            self.act_on(*one_of(held, pick), what, pick, again, boom)

    def act_on(
        self,
        worker: str,
        job_id: str,
        what: str,
        pick: int,
        again: tuple[bool, float],
        boom: bool,
    ) -> None:
        if what == "renew":
            self.renew(dict(self.frozen[-20:]) | self.held[worker], boom)
        elif what == "give back":
            self.give_back(worker, boom)
        elif what in ("die", "freeze"):
            self.vanish(worker, what)
        else:
            self.end(what, job_id, self.held[worker][job_id], again, boom)
            if not boom and what != "report":
                self.frozen.append((job_id, self.held[worker].pop(job_id)))

    def thaw(self, pick: int, again: tuple[bool, float]) -> None:
        """A worker that stood still goes on, with whatever token it had."""
        what = one_of(["finish", "finish", "fail", "stop", "report"], pick // 7)
        self.end(what, *one_of(self.frozen, pick), again)

    def vanish(self, worker: str, what: str) -> None:
        """Nobody knows any more what the worker held, or only it does and stands still."""
        if what == "die":
            self.lives[worker] += 1
        else:
            self.frozen += self.held[worker].items()
        self.held[worker] = {}

    def step(self, worker: str, what: str, boom: bool) -> None:
        """Take, renew or give a slot; one that died is another holder from then on."""
        holder = f"{worker}/{self.lives[worker]}"
        self.do(
            lambda: self.parts.step(what, holder), lambda model, _: model.step(what, holder), boom
        )

    def take(self, worker: str, limit: int, kinds: Any = None, boom: bool = False) -> list[str]:
        def expected(model: Model, seen: Seen) -> list[str]:
            claimed = [] if boom else model.claim(limit, kinds or KINDS, seen.turn)
            for job_id in claimed:
                model.jobs[job_id].token = self.parts.tokens.get(job_id)
            return claimed

        claimed = self.do(lambda: list(self.parts.claim(limit, kinds)), expected, boom)
        if boom:
            self.frozen += self.parts.tokens.items()
            return []
        self.held[worker].update(self.parts.tokens)
        return list(claimed)

    def give_back(self, worker: str, boom: bool) -> None:
        held = dict(self.held[worker])
        self.do(lambda: self.parts.give_back(held), lambda model, _: model.give_back(held), boom)
        if not boom:
            self.frozen += held.items()
            self.held[worker] = {}

    def renew(self, held: dict[str, str], boom: bool) -> None:
        self.do(
            lambda: self.parts.renew(held, 15.0), lambda model, _: model.renew(held, 15.0), boom
        )

    def end(
        self,
        what: str,
        job_id: str,
        token: str,
        again: tuple[bool, float] = (False, 0.0),
        boom: bool = False,
    ) -> Any:
        args: Any = (job_id, token)
        if what == "finish" and job_id not in self.model.units:
            what = "complete"
        if what == "fail":
            args += again
        if what == "report":
            args += ({"at": self.model.now},)
        real, expected = getattr(self.parts, what), getattr(Model, what)
        return self.do(lambda: real(*args), lambda model, _: expected(model, *args), boom)

    # -- what happens by itself ---------------------------------------------------------------

    def sweep(self, limit: int, units: bool, boom: bool) -> None:
        """Either sweep. The model knows nothing of that of units: nobody sees that it happened."""

        def expected(model: Model, seen: Seen) -> Any:
            return None if units or boom else model.sweep(limit, seen.jobs.keys())

        sweeping = self.parts.sweep_units if units else self.parts.sweep
        self.do(partial(sweeping, limit), expected, boom)

    def pass_time(self, seconds: float, days: int = 0, swept: bool = False) -> None:
        self.model.now += seconds
        self.model.day += days
        self.parts.pass_time(seconds, days)
        self.check()
        if swept:
            self.sweep(SWEEP_ALL, units=False, boom=False)

    def ask(self, pick: int) -> None:
        """What a user and the operator are told."""
        if not self.model.jobs:
            return
        job_id = one_of(list(self.model.jobs), pick)
        place, view, job, found = self.store.read(self._ask, job_id)
        known = self.model.jobs[job_id]
        assert place.position == self.model.position(job_id)
        assert (job.state, job.user) == (told_state(known.state), known.user)
        counts = Counter((j.user, told_state(j.state)) for j in self.model.in_state(*ACTIVE))
        for one in view.users:
            assert one.queued == counts[one.user, "queued"]
            assert one.running == counts[one.user, "running"]
        assert view.queued + view.running == counts.total()
        assert {one.id for one in found} == self.model.jobs.keys()

    def _ask(self, session: Session, job_id: str) -> Any:
        queue, now = self.parts.queue, self.parts.now
        return (
            place_of(session, queue, job_id, now=now),
            queue_view(session, queue, now=now),
            get_job(session, queue, job_id),
            find_jobs(session, queue, limit=1000),
        )

    # -- what holds after every step ----------------------------------------------------------

    def check(self) -> None:
        self.the_jobs_are_the_models()
        self.nothing_is_over_its_limit()
        self.an_effect_is_there_when_its_job_is_done_and_paid()
        self.the_books_balance()
        self.the_slots_are_the_models()

    def the_jobs_are_the_models(self) -> None:
        """Nothing lost, nothing twice, nothing moved that nobody moved."""
        assert list(self.seen.jobs) == list(self.model.jobs)
        for job_id, row in self.seen.jobs.items():
            job = self.model.jobs[job_id]
            assert (row.state, row.kind, row.user_key, row.dedup_key) == (
                job.state, job.kind, job.user, job.wish.key,
            ), job_id  # fmt: skip
            assert (row.tag, row.rank, row.attempts) == (job.tag, job.rank, job.attempts), job_id
            assert row.cancel_requested == job.cancel_requested
            assert (row.lease_until, row.finished_at, row.expires_at, row.run_after) == (
                self.moment(job.lease_until), self.moment(job.finished_at),
                self.moment(job.expires_at), self.moment(job.run_after),
            ), job_id  # fmt: skip
            assert row.progress == job.progress
            if job.state == "running":
                assert row.lease_token == job.token
            told = (told_state(job.state), job.progress or {})
            assert self.seen.told[job_id] == told, f"{job_id} was told as if it were otherwise"

    def nothing_is_over_its_limit(self) -> None:
        """By the tables alone, whatever the model thinks."""
        limits = self.model.limits
        rows = self.seen.jobs.values()
        running = [row for row in rows if row.state == "running"]
        assert len(running) <= limits.running_max
        assert sum(row.priority == Priority.IDLE for row in running) <= limits.idle_max
        users = Counter(row.user_key for row in running)
        assert max(users.values(), default=0) <= limits.per_user
        for name, kind in limits.kinds.items():
            most = len(running) if kind.running_max is None else kind.running_max
            assert sum(row.kind == name for row in running) <= most
        waiting = [row for row in rows if row.state in ("queued", "delayed")]
        assert len(waiting) <= limits.queued_max + limits.running_max
        keys = Counter(row.dedup_key for row in rows if row.dedup_key and row.state in ACTIVE)
        assert max(keys.values(), default=0) <= 1
        now_us = int(self.parts.now.timestamp()) * 1_000_000
        assert sum(end > now_us for end in self.seen.slots.values()) <= limits.slots
        for used, reserved in self.seen.quotas.values():
            assert min(used, reserved) >= 0
            assert used + reserved <= limits.units

    def an_effect_is_there_when_its_job_is_done_and_paid(self) -> None:
        every = self.model.jobs | self.model.forgotten
        expected: Counter[tuple[str, str]] = Counter()
        for job_id, job in every.items():
            if job.state in ("failed", "cancelled"):
                expected[job_id, "dropped"] += 1
            if job.state == "done" and job_id in self.model.units:
                expected[job_id, "done"] += 1
        assert self.seen.effects == expected
        charged = {id for id, unit in self.seen.units.items() if unit.state == "charged"}
        assert charged == {job_id for job_id, what in expected if what == "done"}

    def the_books_balance(self) -> None:
        """Each unit is charged, refunded, held by a job that will end, or has expired."""
        model = self.model
        assert self.seen.units.keys() == model.units.keys()
        for id, row in self.seen.units.items():
            unit = model.units[id]
            over = row.state == "expired" or (
                row.state == "held" and row.expires_at <= self.parts.now
            )
            held = unit.state == "held"
            assert over == (held and not model.counts(unit)), id
            assert over or row.state == unit.state, id
            active = id in model.jobs and model.jobs[id].state in ACTIVE
            assert (row.state in ("held", "expired")) == active, f"{id}: {row.state}"
        for quota, (used, reserved) in self.seen.quotas.items():
            rows = [r for id, r in self.seen.units.items() if model.units[id].quota == quota]
            assert used == sum(row.state == "charged" for row in rows) == model.used(quota)
            assert reserved == sum(row.state == "held" for row in rows)
            assert reserved >= model.reserved(quota)

    def the_slots_are_the_models(self) -> None:
        now_us = int(self.parts.now.timestamp()) * 1_000_000
        living = {holder for holder, end in self.seen.slots.items() if end > now_us}
        assert living == self.model.living()

    def moment(self, seconds: float | None) -> datetime | None:
        return None if seconds is None else NOW + timedelta(seconds=seconds)

    # -- the end ------------------------------------------------------------------------------

    def drain(self) -> None:
        """All workers die; one that goes on ends everything, and then all is settled."""
        self.held = {worker: {} for worker in WORKERS}
        for _ in range(ROUNDS_MAX):
            self.sweep(SWEEP_ALL, units=False, boom=False)
            if not self.model.in_state(*ACTIVE):
                break
            if not self.serve():
                self.wait()
        else:
            raise AssertionError("a worker that goes on does not end everything")
        self.pass_time(10_000.0)
        self.sweep(1000, units=True, boom=False)
        assert not any(reserved for _, reserved in self.seen.quotas.values())
        self.hand_out_all_slots()

    def serve(self) -> bool:
        """Claim and end what there is; whether there was anything."""
        claimed = self.take("one", 4)
        for job_id in claimed:
            token = self.held["one"].pop(job_id)
            self.end("finish", job_id, token)
            if self.model.jobs[job_id].state == "running":
                self.end("fail", job_id, token, (True, 0.0))
        return bool(claimed)

    def wait(self) -> None:
        """Until the next moment at which something happens by itself.

        What a sweep gave back, and what had waited too long by then, is ended by the next sweep.
        """
        if any(job.expires_at <= self.model.now for job in self.model.in_state(*WAITING)):
            return
        moments: list[float] = []
        for job in self.model.in_state(*ACTIVE):
            stuck = job.state == "queued" and not self.model.is_idle(job)
            assert not stuck or self.model.in_state("running"), "a worker starves its queue"
            own = job.lease_until if job.state == "running" else job.expires_at
            moments += [own or 0.0, *([job.run_after] if job.state == "delayed" else [])]
        self.pass_time(min(at for at in moments if at > self.model.now) - self.model.now)

    def hand_out_all_slots(self) -> None:
        for number in range(self.model.limits.slots + 1):
            holder = f"last/{number}"
            self.do(
                lambda h=holder: self.parts.step("take", h),  # type: ignore[misc]
                lambda model, _, h=holder: model.step("take", h),  # type: ignore[misc]
            )


def one_of(values: Sequence[Any], pick: int) -> Any:
    return values[pick % len(values)]


def told_state(state: str) -> str:
    """What a state is called outside of the queue."""
    return "queued" if state == "delayed" else state


def run_machine(
    store: Store,
    examples: int,
    steps: int,
    seed: int,
    parts: type[Parts] = Parts,
    *,
    within_s: float = 25.0,
    shrink: bool = False,
) -> None:
    """Drive the parts through so many examples, or fewer: none begins after ``within_s``.

    The first failure ends it with its steps, as they were made up, and with the line that brings
    them back; ``shrink`` makes them few, which takes minutes. The same seed gives the same steps.
    """
    ends = time.monotonic() + within_s
    for batch in range(-(-examples // BATCH)):
        if batch and time.monotonic() > ends:
            break
        run_batch(store, min(BATCH, examples - batch * BATCH), steps, seed + batch, parts, shrink)


def run_batch(
    store: Store, examples: int, steps: int, seed: int, parts: type[Parts], shrink: bool
) -> None:
    class Machine(TrafficMachine):
        pass

    Machine.store = store
    Machine.parts_type = parts
    with NO_CONSTANTS:
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            seeded(seed)(Machine),
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                database=None,
                print_blob=True,
                report_multiple_bugs=False,
                phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
