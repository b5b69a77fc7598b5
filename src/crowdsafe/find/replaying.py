"""A found race shown again: the same operations under the same schedule, held against serial."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from crowdsafe.errors import ConfigError
from crowdsafe.find.confirm import tell_race
from crowdsafe.find.model import Finding, Operation, Verdict
from crowdsafe.find.outcomes import Inconclusive, SerialOutcomes
from crowdsafe.find.report import Report
from crowdsafe.find.session import Session
from crowdsafe.find.stage import Job
from crowdsafe.find.token import Token, decode

__all__ = ["replay"]


def replay(
    token: str,
    *,
    target: Any = None,
    operations: Sequence[Any] = (),
    database: str | None = None,
    setup: Any = None,
    hang_s: float = 10.0,
    in_place: bool = False,
) -> Report:
    """Run the schedule of a token again, and judge what comes out.

    The report has one finding: ``race`` when the race is still there, ``not-found`` when this
    schedule now gives what a serial order gives, ``inconclusive`` when it cannot be kept any
    more, since the operations send other statements, or when one is refused each time.
    ``database`` is needed where the address had a password, ``operations`` where they were
    functions without a name. Raises ConfigError.
    """
    told = decode(token)
    job = Job(
        target=target if target is not None else told.target or None,
        operations=tuple(operations)
        or (() if told.scenario else tuple(dict.fromkeys(told.operations))),
        database=database or told.database,
        setup=setup if setup is not None else told.setup,
        login=told.login,
        headers=told.headers,
        in_place=in_place,
        hang_s=hang_s,
    )
    began = time.monotonic()
    with Session(job) as session:
        members = _members(session, told)
        if told.isolation is not None:
            session.database.set_isolation(told.isolation)
        finding = _replayed(session, members, told)
        finding.token = "".join(token.split())
        return Report(
            target=session.target.name,
            database=session.database.shown_url,
            findings=[finding],
            seconds=time.monotonic() - began,
            version=version("crowdsafe"),
            notes=session.notes(),
        )


def _members(session: Session, told: Token) -> list[Operation]:
    """The session's operations in the token's order, one that is there twice being the same."""
    if told.scenario:
        named = {operation.name: operation for operation in session.operations}
        missing = [name for name in told.operations if name not in named]
        if missing:
            raise ConfigError(f"the scenario has no operation {missing[0]!r} any more")
        return [named[name] for name in told.operations]
    distinct = list(dict.fromkeys(told.operations))
    if len(distinct) != len(session.operations):
        raise ConfigError(f"the token is of {len(distinct)} operations: give as many")
    return [session.operations[distinct.index(text)] for text in told.operations]


def _replayed(session: Session, members: list[Operation], told: Token) -> Finding:
    began = time.monotonic()
    finding = Finding(tuple(member.name for member in members), Verdict.INCONCLUSIVE)
    finding.schedule = told.schedule
    try:
        serial = SerialOutcomes(session, members)
        serial.demand_success()
        run = session.replay(members, told.schedule, keep_rows=True)
        if run.problem is not None:
            raise Inconclusive(run.problem)
        judgement = serial.judge(run)
        if judgement.suspects_clock:
            serial.relearn()
            judgement = serial.judge(run)
        if judgement.kind == "serial":
            finding.verdict = Verdict.NOT_FOUND
            finding.reason = "this schedule now gives what one after another gives"
        else:
            tell_race(finding, session, serial, run, judgement)
    except Inconclusive as why:
        finding.reason = str(why)
    finding.schedules = 1
    finding.seconds = time.monotonic() - began
    return finding
