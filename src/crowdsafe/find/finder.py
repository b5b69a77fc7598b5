"""``find``: record each operation, predict which could meet, confirm or disprove each of those."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from crowdsafe.find.confirm import confirm
from crowdsafe.find.model import Answer, Finding, Operation, Run, Verdict
from crowdsafe.find.predict import SEQUENCE, Footprint, conflicts, footprint, groups
from crowdsafe.find.report import Report
from crowdsafe.find.session import Session
from crowdsafe.find.stage import Invariant, Job, Stage
from crowdsafe.find.targets import sent_away, told
from crowdsafe.find.unseen import watched_alone

__all__ = ["Progress", "find", "hunt"]

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

Progress = Callable[[dict[str, Any]], None]
"""Is told what happens: ``{"event": "trying", "operations": [...], "of": 6, "done": 2}``."""


def find(
    target: Any,
    operations: Iterable[Any] = (),
    *,
    database: str,
    setup: Any = None,
    login: str | None = None,
    headers: Sequence[str] = (),
    invariants: Sequence[Invariant] = (),
    budget_s: float = 60.0,
    schedules: int = 2000,
    triples: bool = False,
    in_place: bool = False,
    hang_s: float = 10.0,
    progress: Progress | None = None,
) -> Report:
    """Find the races of these operations, each with itself and with each other.

    ``target`` is an ASGI or WSGI app, its name (``"shop.main:app"``), a Scenario, or None where
    the operations are functions. An operation is a request (``"POST /orders {...}"``), several
    of them, or a function without arguments. Everything runs on a copy of ``database`` (a URL),
    in this process; ``setup`` runs once before. ``budget_s`` (seconds) is for all of it,
    ``schedules`` for each pair (or triple, when ``triples``).

    Raises ConfigError for what cannot be set up. What goes wrong with one pair is a finding of
    its own: inconclusive, with the reason.
    """
    job = Job(
        target=target,
        operations=tuple(operations),
        database=database,
        setup=setup,
        login=login,
        headers=tuple(headers),
        invariants=tuple(invariants),
        budget_s=budget_s,
        schedules=schedules,
        triples=triples,
        in_place=in_place,
        hang_s=hang_s,
    )
    began = time.monotonic()
    with Session(job) as session:
        findings = list(hunt(session, progress=progress))
        return Report(
            target=session.target.name,
            database=session.database.shown_url,
            findings=findings,
            seconds=time.monotonic() - began,
            version=version("crowdsafe"),
            notes=session.notes(),
        )


@dataclass(frozen=True, slots=True)
class _Recorded:
    """An operation alone: what it touched, or why it cannot be tried; ``refused`` is what it was
    told when it was refused, which another operation before it may change, ``idle`` when it wrote
    nothing although it was to change something, such as a form that was not filled in well;
    ``strangers`` are the databases that it talks to besides the one that was named, ``unseen``
    says what it does in that one past the gates."""

    operation: Operation
    footprint: Footprint
    trouble: str | None = None
    refused: str | None = None
    idle: str | None = None
    strangers: tuple[str, ...] = ()
    unseen: str = ""


def hunt(
    stage: Stage,
    *,
    only: Sequence[tuple[int, ...]] | None = None,
    progress: Progress | None = None,
    rest: bool = True,
) -> Iterable[Finding]:
    """A finding for each pair (and triple) of the stage's operations, as they come.

    ``only`` names those to try, by the operations' numbers. The budget is shared out: each gets
    at most twice its even share of what is left. After a hang nothing else can be run in this
    process: what is left is then inconclusive, or is left out when ``rest`` is False, for who
    tries it in another process.
    """
    tell = progress or (lambda _: None)
    ends = time.monotonic() + stage.job.budget_s
    wanted = list(only or groups(len(stage.operations), triples=stage.job.triples))
    recorded, hung = _record_all(stage, sorted({n for group in wanted for n in group}), tell)
    later = [] if hung is None else [group for group in wanted if hung not in group]
    wanted = [group for group in wanted if group not in later]
    why = "" if hung is None else stage.operations[hung].name
    for done, group in enumerate(wanted):
        members = [recorded.get(n) or _Recorded(stage.operations[n], Footprint()) for n in group]
        names = [member.operation.name for member in members]
        place = {"group": group, "operations": names, "of": len(wanted)}
        tell({"event": "trying", "done": done} | place)
        foregone = finding = _foregone(members)
        if finding is None:
            left = max(0.0, ends - time.monotonic())
            share = min(left, max(left * 2 / (len(wanted) - done), 0.5))
            finding = confirm(
                stage,
                [member.operation for member in members],
                schedules=stage.job.schedules,
                seconds=share,
            )
        _admit_unseen(finding, members)
        tell({"event": "finding", "done": done + 1} | place)
        yield finding
        if foregone is None and stage.controller.broken:
            later, why = wanted[done + 1 :], " and ".join(dict.fromkeys(names))
            break
    for group in later if rest else ():
        yield _not_tried(tuple(stage.operations[number].name for number in group), why)


def _record_all(
    stage: Stage, numbers: Iterable[int], tell: Progress
) -> tuple[dict[int, _Recorded], int | None]:
    """Each of these operations alone, up to one that hangs, and which that is."""
    recorded: dict[int, _Recorded] = {}
    for number in numbers:
        operation = stage.operations[number]
        tell({"event": "recording", "operation": operation.name})
        recorded[number] = _record(stage, operation)
        if stage.controller.broken:
            return recorded, number
    return recorded, None


def _not_tried(names: tuple[str, ...], hung: str) -> Finding:
    reason = (
        f"not tried: {hung} hung before, and its threads cannot be ended in this process; "
        "`crowdsafe find` goes on in another one"
    )
    return Finding(names, Verdict.INCONCLUSIVE, reason=reason)


def _record(stage: Stage, operation: Operation) -> _Recorded:
    noted = stage.database.redirect.strangers
    others = set(noted)
    noted.clear()
    run, unseen = watched_alone(stage, operation)
    strangers = tuple(stage.strangers())
    noted.update(others)
    answer = run.answers[0]
    touched = footprint(run.steps, stage.analyse)
    return _Recorded(
        operation,
        touched,
        _trouble(stage, operation, run, unseen),
        told(answer.replies[-1]) if answer.stopped_at is not None else None,
        None if touched.writes else _said(answer),
        strangers,
        unseen,
    )


def _admit_unseen(finding: Finding, members: Sequence[_Recorded]) -> None:
    """Take back a proof about operations that also did what nobody looked at."""
    if finding.verdict not in {Verdict.PROVEN, Verdict.NOT_FOUND}:
        return
    strangers = sorted({name for member in members for name in member.strangers})
    unseen = dict.fromkeys(member.unseen for member in members if member.unseen)
    if finding.verdict is Verdict.PROVEN and _share_a_count(members):
        finding.verdict = Verdict.INCONCLUSIVE
        finding.reason = (
            "they read or set where a sequence stands (setval, last_value), and numbers of a "
            "sequence are not compared: count in a row of a table, which can be locked"
        )
    elif strangers and finding.verdict is Verdict.PROVEN:
        finding.verdict = Verdict.INCONCLUSIVE
        finding.reason = f"nothing is known of what they do in {', '.join(strangers)}"
    elif unseen:
        finding.verdict = Verdict.INCONCLUSIVE
        finding.reason = "; ".join(unseen)


def _share_a_count(members: Sequence[_Recorded]) -> bool:
    """Whether one reads or sets where a sequence stands that another draws from, or does too."""
    reach = [member.footprint for member in members]
    users = sum(SEQUENCE in one.reads | one.writes for one in reach)
    return users > 1 and any(SEQUENCE in one.writes for one in reach)


def _said(answer: Answer) -> str | None:
    """What the last request that should have changed something was answered, if there is one."""
    posts = [
        reply
        for reply in answer.replies
        if reply.status is not None and reply.request.split(" ")[0] not in _SAFE
    ]
    return f"{posts[-1].request} is answered {told(posts[-1])}" if posts else None


def _trouble(stage: Stage, operation: Operation, run: Run, unseen: str) -> str | None:
    """Why this operation cannot be tried at once with others, by how it went alone."""
    if run.problem is not None:
        return f"{operation.name} alone: {run.problem}" + (f"; {unseen}" if unseen else "")
    if not run.steps and unseen:
        return unseen
    if not run.steps:
        where = f", but it talks to {', '.join(s)}" if (s := stage.strangers()) else ""
        said = f"; it answers {told(r[-1])}" if (r := run.answers[0].replies) else ""
        return f"{operation.name} sends nothing to {stage.database.shown_url}{where}{said}"
    for reply in run.answers[0].replies:
        if reply.status is not None and (reply.status >= 500 or sent_away(reply)):
            return f"{reply.request} fails alone with {told(reply)}"
    return None


def _foregone(members: Sequence[_Recorded]) -> Finding | None:
    """The finding for operations that need not, or cannot, be run at once."""
    names = tuple(member.operation.name for member in members)
    troubles = dict.fromkeys(member.trouble for member in members if member.trouble)
    if troubles:
        return Finding(names, Verdict.INCONCLUSIVE, reason="; ".join(troubles))
    pairs = [(one, other) for n, one in enumerate(members) for other in members[n + 1 :]]
    if any(conflicts(one.footprint, other.footprint) for one, other in pairs):
        return None
    for member in members:
        if member.refused is not None:
            why = f"{member.operation.name} alone is refused with {member.refused}"
            return Finding(names, Verdict.INCONCLUSIVE, reason=f"{why}: give one that succeeds")
    reason = "they share no table that one of them writes, so no order of them matters"
    for said in dict.fromkeys(member.idle for member in members if member.idle):
        reason += f"; nothing is written, as far as was seen, where {said}"
    return Finding(names, Verdict.PROVEN, reason=reason)
