"""What a queue is: its kinds of job, and every limit in one object."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from crowdsafe.errors import ConfigError, InvalidInput
from crowdsafe.traffic.arguments import check_callable, check_number, check_whole
from crowdsafe.traffic.keys import check_name

if TYPE_CHECKING:
    from crowdsafe.traffic.queue.jobs import Job
    from crowdsafe.traffic.queue.running import RunningJob

__all__ = ["GiveUp", "JobQueue", "Kind", "Priority"]

COUNT_MAX = 1_000_000_000
SECONDS_MAX = 10 * 366 * 86_400.0


class Priority(IntEnum):
    """How many rounds a job goes ahead of its turn; a round is one turn for each waiting user.

    HIGH goes 8 rounds early and LOW 8 rounds late. A lead is never more than that, and the rounds
    go on with every job that starts, so a LOW job too is started in the end. IDLE is no turn at
    all: such a job starts only when no other job can.
    """

    HIGH = -8
    NORMAL = 0
    LOW = 8
    IDLE = 1_000_000_000


class GiveUp(Exception):
    """Raised by a job's code: it failed and must not be tried again."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of job: its code, and how it is run. Times are in seconds.

    ``run(job: RunningJob)`` is async, or sync (then it runs in a thread), and is never inside a
    transaction. ``running_max`` bounds the running jobs of this kind over all processes. A job is
    begun at most ``attempts`` times; between two of them it waits a random time of up to
    ``retry_wait_s * 2**(attempts so far - 1)``, at most 300. ``lease_s`` without a sign of life
    from its worker and the job is given to another; ``timeout_s`` ends one attempt. A sync ``run``
    cannot be stopped: its attempt ends, and the next begins, when it has returned.

    ``dropped(session, job)`` runs in the transaction that ends a job as failed, cancelled or
    expired, in whichever process does that. ``changed(session, job)`` runs in the transaction of
    every change of state or progress. Both must be quick, and what they raise undoes the change;
    where a worker made it of itself, it is tried again a minute later.

    Raises ConfigError for a limit that is not above zero (counts are whole numbers, times at most
    ten years) and for a ``run``, ``dropped`` or ``changed`` that is no function.
    """

    name: str
    run: Callable[[RunningJob], Any]
    running_max: int | None = field(default=None, kw_only=True)
    attempts: int = field(default=3, kw_only=True)
    lease_s: float = field(default=30.0, kw_only=True)
    timeout_s: float = field(default=600.0, kw_only=True)
    retry_wait_s: float = field(default=1.0, kw_only=True)
    dropped: Callable[[Session, Job], Any] | None = field(default=None, kw_only=True)
    changed: Callable[[Session, Job], Any] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_name(self.name, "Kind.name")
        check_callable("Kind.run", self.run)
        for name in ("dropped", "changed"):
            if getattr(self, name) is not None:
                check_callable(f"Kind.{name}", getattr(self, name))
        if self.running_max is not None:
            _check_counts(self, "running_max")
        _check_counts(self, "attempts")
        _check_times(self, "lease_s", "timeout_s", "retry_wait_s")


@dataclass(frozen=True, slots=True)
class JobQueue:
    """A queue: its name, its kinds and its limits, the same in every process that uses it.

    ``per_user`` and ``running_max`` bound the jobs that run, ``queued_per_user_max`` and
    ``queued_max`` those that wait. Of the running ones at most ``idle_max`` are IDLE. Jobs that
    ended are kept for ``keep_s``. ``expected_run_s`` is what a job is thought to take while none
    has ended yet. One slot is always left free by IDLE jobs: with a ``running_max`` of 1 none of
    them ever starts.

    Raises ConfigError for a limit that is not above zero (counts are whole numbers, times at most
    ten years) and for kinds of one name.
    """

    name: str
    kinds: Iterable[Kind] = ()
    per_user: int = field(default=2, kw_only=True)
    running_max: int = field(default=8, kw_only=True)
    queued_max: int = field(default=10_000, kw_only=True)
    queued_per_user_max: int = field(default=200, kw_only=True)
    idle_max: int = field(default=1, kw_only=True)
    keep_s: float = field(default=7 * 86_400.0, kw_only=True)
    expected_run_s: float = field(default=10.0, kw_only=True)
    by_name: Mapping[str, Kind] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_name(self.name, "JobQueue.name")
        limits = ("per_user", "running_max", "queued_max", "queued_per_user_max", "idle_max")
        _check_counts(self, *limits)
        _check_times(self, "keep_s", "expected_run_s")
        kinds = _checked_kinds(self.kinds)
        by_name = {kind.name: kind for kind in kinds}
        if len(by_name) < len(kinds):
            raise ConfigError(f"two kinds of the queue {self.name!r} have one name")
        object.__setattr__(self, "kinds", kinds)
        object.__setattr__(self, "by_name", by_name)

    def kind(self, kind: str | Kind) -> Kind:
        """The kind of that name. Raises InvalidInput when the queue has none."""
        name: Any = kind.name if isinstance(kind, Kind) else kind
        found = self.by_name.get(name) if isinstance(name, str) else None
        if found is None:
            known = ", ".join(self.by_name) or "none"
            raise InvalidInput(
                f"the queue {self.name!r} has no kind {name!a}; it has {known}", field="kind"
            )
        return found


def _checked_kinds(kinds: Any) -> tuple[Kind, ...]:
    if not isinstance(kinds, Iterable):
        raise ConfigError(f"JobQueue.kinds is {kinds!r}; it must be a list of Kind(...)")
    checked = tuple(kinds)
    for kind in checked:
        if not isinstance(kind, Kind):
            raise ConfigError(f"JobQueue.kinds holds {kind!r}, which is no Kind(...)")
    return checked


def _check_counts(thing: object, *names: str) -> None:
    for name in names:
        check_whole(f"{type(thing).__name__}.{name}", getattr(thing, name), 1, COUNT_MAX)


def _check_times(thing: object, *names: str) -> None:
    for name in names:
        what = f"{type(thing).__name__}.{name}"
        check_number(what, getattr(thing, name), 0, SECONDS_MAX, above=True)
