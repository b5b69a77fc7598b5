"""One set of operations: search its schedules for an outcome that no serial order gives."""

from __future__ import annotations

import time
from dataclasses import dataclass

from crowdsafe.find.analyst import reader
from crowdsafe.find.between import between_requests
from crowdsafe.find.engine import Budget, Search
from crowdsafe.find.judge import Judgement
from crowdsafe.find.judge.anomalies import name
from crowdsafe.find.judge.cures import cures
from crowdsafe.find.model import Finding, Operation, Run, Verdict
from crowdsafe.find.outcomes import Inconclusive, SerialOutcomes
from crowdsafe.find.stage import Stage

__all__ = ["confirm", "tell_race"]

_FURTHER = 5
"""How many times as many schedules are looked at for something worse than a wrong answer."""
_FURTHER_MIN = 50
_UNSTABLE_MAX = 3

_WORST = 4


def confirm(
    stage: Stage, operations: list[Operation], *, schedules: int, seconds: float
) -> Finding:
    """Look for a race of these operations within that budget; never raises for the target."""
    began = time.monotonic()
    finding = Finding(operations=tuple(o.name for o in operations), verdict=Verdict.INCONCLUSIVE)
    try:
        serial = SerialOutcomes(stage, operations)
        serial.demand_success()
        serial.demand_repeatable_rows()
        search = Search(
            stage.controller,
            operations,
            reset=stage.reset,
            after=stage.after,
            budget=Budget(schedules=schedules, seconds=seconds),
            analyse=stage.analyse,
        )
        sieve = _Sieve(stage, operations, serial)
        for run in search:
            if sieve.has_enough(search.schedules):
                break
            sieve.take(run, search.schedules)
        finding.schedules = search.schedules
        sieve.hold_against_chance()
        if sieve.rests_on_answers:
            serial.demand_repeatable_answers()
        sieve.tell(finding)
        if finding.verdict is not Verdict.RACE:
            _tell_end(finding, search)
    except Inconclusive as why:
        finding.reason = str(why)
    finding.seconds = time.monotonic() - began
    return finding


def _tell_end(finding: Finding, search: Search) -> None:
    """What is known when no run showed a race."""
    if search.complete:
        finding.verdict = Verdict.PROVEN
        finding.reason = "every schedule gives what one after another gives"
    elif search.problem is not None:
        raise Inconclusive(search.problem)
    else:
        finding.verdict = Verdict.NOT_FOUND
        finding.reason = search.why_not or ""


@dataclass(slots=True)
class _Sieve:
    """Keeps the worst of the runs that no serial order gives, once it was seen twice."""

    stage: Stage
    operations: list[Operation]
    serial: SerialOutcomes
    worst: Run | None = None
    judgement: Judgement | None = None
    rank: int = 0
    after: int = 0
    unstable: int = 0

    @property
    def rests_on_answers(self) -> bool:
        """Whether nothing was seen but wrong answers, or nothing at all."""
        return self.rank in {0, _WORST - 1}

    def has_enough(self, schedules: int) -> bool:
        """Whether nothing worse has to be looked for, or can be told."""
        if self.rank == _WORST or self.unstable >= _UNSTABLE_MAX:
            return True
        return self.worst is not None and schedules > max(_FURTHER_MIN, _FURTHER * self.after)

    def take(self, run: Run, schedules: int) -> None:
        if run.problem is not None:
            return
        judgement = self.serial.judge(run)
        if _rank(judgement) <= self.rank or _is_the_clock(self.serial, run, judgement):
            return
        again = _again(self.stage, self.operations, self.serial, run)
        if again is None:
            self.unstable += 1
        elif _rank(again[1]) > self.rank:
            self.worst, self.judgement = again
            self.rank = _rank(again[1])
            self.after = schedules

    def hold_against_chance(self) -> None:
        """Have each order run once more: what comes by chance may look like a race. Raises
        Inconclusive when it does."""
        if self.worst is None:
            return
        self.serial.repeat()
        self.serial.demand_repeatable_rows()
        if self.serial.judge(self.worst).kind == "serial":
            self.worst, self.rank, self.unstable = None, 0, self.unstable + 1

    def tell(self, finding: Finding) -> None:
        """Write what was found into the finding. Raises Inconclusive for what does not recur."""
        if self.worst is not None and self.judgement is not None:
            tell_race(finding, self.stage, self.serial, self.worst, self.judgement)
            finding.schedules_to_find = self.after
        elif self.unstable:
            raise Inconclusive("one and the same schedule does not give the same outcome each time")


def _is_the_clock(serial: SerialOutcomes, run: Run, judgement: Judgement) -> bool:
    """Whether the difference goes away once what holds the time is known."""
    if not judgement.suspects_clock:
        return False
    serial.relearn()
    return serial.judge(run).kind == "serial"


def _again(
    stage: Stage, operations: list[Operation], serial: SerialOutcomes, run: Run
) -> tuple[Run, Judgement] | None:
    """The same schedule once more, with the rows that it reads; None when it goes otherwise."""
    replayed = stage.replay(operations, run.schedule, keep_rows=True)
    if replayed.problem is not None:
        return None
    judgement = serial.judge(replayed)
    return None if judgement.kind == "serial" else (replayed, judgement)


def _rank(judgement: Judgement) -> int:
    """How bad it is: wrong rows, wrong answers, errors, aborts, nothing."""
    if judgement.kind == "race":
        return _WORST if judgement.rows_differ else _WORST - 1
    return {"error": 2, "aborts": 1}.get(judgement.kind, 0)


def tell_race(
    finding: Finding,
    stage: Stage,
    serial: SerialOutcomes,
    run: Run,
    judgement: Judgement,
) -> None:
    """Write into the finding what that run shows, by its name and with what cures it."""
    read = reader(stage.schema, stage.database.dialect)
    named = name(run, judgement, list(serial.orders.values()), read, stage.schema)
    finding.verdict = Verdict.RACE
    finding.anomaly = named.anomaly
    finding.severity = named.severity
    finding.tables = named.tables
    finding.sources = named.sources
    between = between_requests(run, named.tables[0], read) if named.tables else ""
    finding.summary = " ".join(filter(None, [named.summary, between]))
    finding.differences = judgement.differences
    finding.schedule = run.schedule
    finding.run = run
    finding.serial = serial.orders
    finding.cures = cures(named, run, stage.schema)
    finding.token = stage.token(finding)
