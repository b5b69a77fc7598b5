"""Which operations of a run were refused, at which request, and whether that was clean."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from crowdsafe.find.judge.canonical import is_refused
from crowdsafe.find.model import Answer, Reply, Run

__all__ = ["Refusal", "RefusalKind", "refusals_of"]

_CONTENTION = frozenset({"40001", "40P01", "55P03", "57014"})
_TRANSACTION_FAILED = "25P02"
_BUSY = re.compile(
    r"SQLITE_(BUSY|LOCKED)|database (table )?is locked|deadlock detected|could not serialize|"
    r"could not obtain lock|lock timeout",
    re.IGNORECASE,
)


class RefusalKind(StrEnum):
    """``CLEAN``: a 4xx, a 503 that says when to come again, or a function's own exception.
    ``ABORT``: the database broke it off for others' sake. ``ERROR``: anything else."""

    CLEAN = "clean"
    ABORT = "abort"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Refusal:
    """``at`` is the place of the request that was not done."""

    at: int
    kind: RefusalKind
    reply: Reply


def refusals_of(run: Run) -> list[Refusal | None]:
    """For each operation of a run where it was stopped, if it was."""
    return [_refusal(number, answer, run) for number, answer in enumerate(run.answers)]


def _refusal(number: int, answer: Answer, run: Run) -> Refusal | None:
    at = answer.stopped_at
    if at is None and answer.replies and is_refused(answer.replies[-1]):
        at = len(answer.replies) - 1
    if at is None or at >= len(answer.replies):
        return None
    reply = answer.replies[at]
    return Refusal(at, _kind(reply, number, run), reply)


def _kind(reply: Reply, number: int, run: Run) -> RefusalKind:
    if reply.status is not None and 400 <= reply.status < 500:
        return RefusalKind.CLEAN
    if reply.status == 503 and any(name.lower() == "retry-after" for name in reply.headers):
        return RefusalKind.CLEAN
    if is_contention(reply.sqlstate, reply.message):
        return RefusalKind.ABORT
    if reply.sqlstate in {None, _TRANSACTION_FAILED} and _was_broken_off(number, run):
        return RefusalKind.ABORT
    if reply.status is None and reply.sqlstate is None:
        return RefusalKind.CLEAN
    return RefusalKind.ERROR


def is_contention(sqlstate: str | None, message: str | None) -> bool:
    """Serialization failure, deadlock, no lock, busy: by PostgreSQL's code or SQLite's name."""
    if sqlstate in _CONTENTION:
        return True
    return any(text and _BUSY.search(text) for text in (sqlstate, message))


def _was_broken_off(number: int, run: Run) -> bool:
    """Whether the operation's last statement that failed by itself did so for contention."""
    failed = [
        step
        for step in run.steps
        if step.operation == number and step.error and step.sqlstate != _TRANSACTION_FAILED
    ]
    return bool(failed) and is_contention(failed[-1].sqlstate, failed[-1].error)
