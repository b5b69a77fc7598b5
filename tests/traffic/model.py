"""What a queue, its quotas and its slots are, in the plainest words: lists that are read anew.

Time is seconds since the beginning. A step that is refused raises Refused and changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

from crowdsafe.traffic.queue import Priority

WAITING = ("queued", "delayed")
ACTIVE = (*WAITING, "running")


class Refused(Exception):
    """The model says no, by the name of an error."""


@dataclass(frozen=True)
class KindLimits:
    """What bounds a kind of job, and whether one of it costs a unit."""

    running_max: int | None
    attempts: int
    lease_s: float
    costs: bool


@dataclass(frozen=True)
class Limits:
    """All the limits of one example."""

    kinds: dict[str, KindLimits]
    per_user: int = 2
    running_max: int = 3
    queued_max: int = 1000
    queued_per_user_max: int = 4
    idle_max: int = 1
    keep_s: float = 1000.0
    units: int = 3
    slots: int = 2
    slot_lease_s: float = 15.0


@dataclass(frozen=True)
class Wish:
    """A job that somebody asks for."""

    id: str
    kind: str
    user: str
    priority: Priority
    key: str | None
    delay_s: float
    expires_s: float
    unit_expires_s: float


@dataclass
class Job:
    """A job, and what is known of it."""

    wish: Wish
    created_at: float
    run_after: float
    expires_at: float
    state: str
    tag: float
    rank: float
    attempts: int = 0
    cancel_requested: bool = False
    token: str | None = None
    lease_until: float | None = None
    finished_at: float | None = None
    progress: Any = None

    @property
    def user(self) -> str:
        return self.wish.user

    @property
    def kind(self) -> str:
        return self.wish.kind


@dataclass
class Unit:
    """One unit of a quota that is set aside for a job."""

    quota: tuple[str, str]
    expires_at: float
    state: str = "held"


@dataclass
class Model:
    """Jobs in the order of their rows, units by their job's id, ends of slots by their holder."""

    limits: Limits
    now: float = 0.0
    day: int = 0
    turn: float = 0.0
    jobs: dict[str, Job] = field(default_factory=dict)
    forgotten: dict[str, Job] = field(default_factory=dict)
    units: dict[str, Unit] = field(default_factory=dict)
    slots: dict[str, float] = field(default_factory=dict)

    def copy(self) -> Model:
        """What may be changed without this one."""
        parts: dict[str, Any] = {
            name: {id: copy(one) for id, one in getattr(self, name).items()}
            for name in ("jobs", "forgotten", "units", "slots")
        }
        return replace(self, **parts)

    # -- quota --------------------------------------------------------------------------------

    def used(self, quota: tuple[str, str]) -> int:
        return sum(u.quota == quota and u.state == "charged" for u in self.units.values())

    def reserved(self, quota: tuple[str, str]) -> int:
        return sum(u.quota == quota and self.counts(u) for u in self.units.values())

    def counts(self, unit: Unit) -> bool:
        return unit.state == "held" and unit.expires_at > self.now

    def has_room(self, quota: tuple[str, str]) -> bool:
        return self.used(quota) + self.reserved(quota) < self.limits.units

    def charge(self, job_id: str) -> None:
        unit = self.units[job_id]
        assert unit.state == "held", "the job had been ended before"
        if not self.counts(unit) and not self.has_room(unit.quota):
            raise Refused("ReservationEnded")
        unit.state = "charged"

    # -- what users do ------------------------------------------------------------------------

    def submit(self, wish: Wish) -> str:
        """The id of the job that will answer."""
        for job in self.in_state(*ACTIVE):
            if wish.key is not None and job.wish.key == wish.key:
                return job.wish.id
        quota = (wish.user, f"d{self.day}")
        costs = self.limits.kinds[wish.kind].costs
        if costs and not self.has_room(quota):
            raise Refused("QuotaExceeded")
        waiting = self.in_state(*WAITING)
        if len(waiting) >= self.limits.queued_max:
            raise Refused("QueueFull")
        if sum(job.user == wish.user for job in waiting) >= self.limits.queued_per_user_max:
            raise Refused("TooManyQueued")
        if costs:
            self.units[wish.id] = Unit(quota, self.now + wish.unit_expires_s)
        delayed = wish.delay_s > 0
        tag = 0.0 if delayed else self.next_tag(wish.user)
        starts = self.now + wish.delay_s
        state = "delayed" if delayed else "queued"
        self.jobs[wish.id] = Job(
            wish, self.now, starts, starts + wish.expires_s, state, tag, tag + wish.priority
        )
        return wish.id

    def next_tag(self, user: str) -> float:
        """Start-time fair queueing: now, or a turn after the user's last."""
        tags = [job.tag for job in self.in_state("queued", "running") if job.user == user]
        return max(self.turn, max(tags) + 1) if tags else self.turn

    def cancel(self, job_id: str) -> str:
        job = self.jobs.get(job_id)
        if job is None:
            raise Refused("NotFound")
        if job.state in WAITING:
            self.end(job, "cancelled")
        elif job.state == "running":
            job.cancel_requested = True
        return job.state

    # -- what workers do ----------------------------------------------------------------------

    def claim(self, limit: int, kinds: Collection[str], turn: float) -> list[str]:
        """The jobs whose turn it is. ``turn`` is how far the rounds have come after that."""
        for job in self.due():
            tag = self.next_tag(job.user)
            job.state, job.tag, job.rank = "queued", tag, tag + job.wish.priority
        running = self.in_state("running")
        free = self.limits.running_max - len(running)
        users, of_kind = (Counter(getattr(job, by) for job in running) for by in ("user", "kind"))
        idle_free = self.limits.idle_max - sum(self.is_idle(job) for job in running)
        waiting = self.in_state("queued")
        active = len({job.user for job in waiting}) + len(users)
        chosen: list[Job] = []
        for job in self.in_order(waiting):
            most = self.limits.kinds[job.kind].running_max
            left = min(limit, free) - len(chosen)
            if self.is_idle(job):
                left = min(limit - len(chosen), free - len(chosen) - 1, idle_free)
            if (
                left <= 0
                or job.kind not in kinds
                or job.expires_at <= self.now
                or users[job.user] >= self.limits.per_user
                or (most is not None and of_kind[job.kind] >= most)
            ):
                continue
            users[job.user] += 1
            of_kind[job.kind] += 1
            idle_free -= self.is_idle(job)
            chosen.append(job)
        self.advance(chosen, turn, active)
        for job in chosen:
            job.state = "running"
            job.attempts += 1
            job.lease_until = self.now + self.limits.kinds[job.kind].lease_s
        return [job.wish.id for job in chosen]

    def due(self) -> list[Job]:
        rows = list(self.jobs.values())
        found = [job for job in rows if job.state == "delayed" and job.run_after <= self.now]
        return sorted(found, key=lambda job: (job.run_after, rows.index(job)))

    def in_order(self, waiting: list[Job]) -> list[Job]:
        """By rank, then by row; who is idle comes last anyway."""
        return sorted(waiting, key=lambda job: job.rank)

    def is_idle(self, job: Job) -> bool:
        return job.wish.priority is Priority.IDLE

    def advance(self, chosen: list[Job], turn: float, active: int) -> None:
        """The rounds go on to what was claimed, and at the rate at which everyone's pass."""
        if chosen:
            reached = max(min(job.tag, job.rank) for job in chosen)
            slowest = self.turn + len(chosen) / (active + len(chosen) + 1)
            assert turn >= max(reached, slowest) - 1e-9, "the rounds stand still"
            assert turn <= max(reached, self.turn + len(chosen)) + 1e-9, "the rounds ran ahead"
        else:
            assert turn == self.turn, "rounds passed without a job"
        self.turn = turn

    def held(self, job_id: str, token: str) -> Job:
        job = self.jobs.get(job_id)
        if job is None or job.state != "running" or job.token != token:
            raise Refused("LeaseLost")
        return job

    def completable(self, job_id: str, token: str) -> Job:
        job = self.held(job_id, token)
        if job.cancel_requested:
            raise Refused("LeaseLost")
        return job

    def complete(self, job_id: str, token: str) -> None:
        self.end(self.completable(job_id, token), "done")

    def finish(self, job_id: str, token: str) -> None:
        """The same with an effect, which is paid for."""
        job = self.completable(job_id, token)
        self.charge(job_id)
        self.end(job, "done")

    def fail(self, job_id: str, token: str, final: bool, wait_s: float) -> None:
        job = self.held(job_id, token)
        if job.cancel_requested:
            self.end(job, "cancelled")
        elif final or job.attempts >= self.limits.kinds[job.kind].attempts:
            self.end(job, "failed")
        else:
            self.put_back(job, "delayed")
            job.run_after = self.now + wait_s

    def stop(self, job_id: str, token: str) -> None:
        self.end(self.held(job_id, token), "cancelled")

    def report(self, job_id: str, token: str, progress: dict[str, Any]) -> None:
        self.held(job_id, token).progress = progress

    def give_back(self, held: dict[str, str]) -> set[str]:
        back = set()
        for job_id, token in held.items():
            job = self.jobs.get(job_id)
            mine = job is not None and job.state == "running" and job.token == token
            if job is not None and mine and not job.cancel_requested:
                self.put_back(job, "queued")
                job.attempts -= 1
                back.add(job_id)
        return back

    def renew(self, held: dict[str, str], lease_s: float) -> tuple[set[str], set[str], set[str]]:
        """Ids of what is held, lost and to be cancelled."""
        kept, cancelled = set(), set()
        for job_id, token in held.items():
            job = self.jobs.get(job_id)
            if job is not None and job.state == "running" and job.token == token:
                job.lease_until = self.now + lease_s
                kept.add(job_id)
                if job.cancel_requested:
                    cancelled.add(job_id)
        return kept, set(held) - kept, cancelled

    # -- what happens by itself ---------------------------------------------------------------

    def sweep(self, limit: int, seen: Collection[str]) -> tuple[int, int, int]:
        """How many are given back, ended, forgotten; ``seen`` are those that are still there."""
        stalled = [
            job
            for job in self.in_state("running")
            if job.lease_until is not None and job.lease_until <= self.now
        ][:limit]
        expired = [job for job in self.in_state(*WAITING) if job.expires_at <= self.now][:limit]
        back = sum(self.stalled(job) for job in stalled)
        for job in expired:
            self.end(job, "failed")
        return back, len(stalled) - back + len(expired), self.forget(limit, seen)

    def stalled(self, job: Job) -> bool:
        if job.cancel_requested:
            self.end(job, "cancelled")
        elif job.attempts >= self.limits.kinds[job.kind].attempts:
            self.end(job, "failed")
        else:
            self.put_back(job, "queued")
        return job.state == "queued"

    def forget(self, limit: int, seen: Collection[str]) -> int:
        """The oldest; which of those that ended at the same moment is left to the database."""
        before = self.now - self.limits.keep_s
        ended = {
            id: job.finished_at for id, job in self.jobs.items() if job.finished_at is not None
        }
        old = {id: at for id, at in ended.items() if at <= before}
        gone = [id for id in old if id not in seen]
        assert sorted(old[id] for id in gone) == sorted(old.values())[:limit]
        for id in gone:
            self.forgotten[id] = self.jobs.pop(id)
        return len(gone)

    def put_back(self, job: Job, state: str) -> None:
        job.state, job.token, job.lease_until = state, None, None

    def end(self, job: Job, state: str) -> None:
        job.state, job.lease_until, job.finished_at = state, None, self.now
        unit = self.units.get(job.wish.id)
        if state != "done" and unit is not None:
            assert unit.state == "held", "a unit ended before its job"
            unit.state = "refunded"

    # -- slots --------------------------------------------------------------------------------

    def step(self, what: str, holder: str) -> bool:
        living = self.living()
        ends = self.now + self.limits.slot_lease_s
        if what == "give":
            return self.slots.pop(holder, 0.0) > self.now
        may = holder in living or (what == "take" and len(living) < self.limits.slots)
        if may:
            self.slots[holder] = ends
        return may

    def living(self) -> set[str]:
        return {holder for holder, end in self.slots.items() if end > self.now}

    # -- what there is ------------------------------------------------------------------------

    def in_state(self, *states: str) -> list[Job]:
        return [job for job in self.jobs.values() if job.state in states]

    def position(self, job_id: str) -> int:
        """How many go before this one, as the queue tells its user."""
        rows = list(self.jobs)
        job = self.jobs[job_id]
        if job.state not in WAITING:
            return 0
        rank = job.rank if job.state == "queued" else 1e300
        place = (rank, rows.index(job_id))
        return sum(
            (other.rank, rows.index(id)) < place
            for id, other in self.jobs.items()
            if other.state == "queued"
        )
