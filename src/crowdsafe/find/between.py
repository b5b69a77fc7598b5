"""Says of a race that it lies between the requests of one operation, not inside of one."""

from __future__ import annotations

from itertools import pairwise

from crowdsafe.find.analyst import Analyse
from crowdsafe.find.judge.patterns import letter
from crowdsafe.find.model import Answer, Run, Step, Verb

__all__ = ["between_requests"]


def between_requests(run: Run, table: str, analyse: Analyse) -> str:
    """The sentence, where what others wrote to the table only came between statements on it that
    belong to two requests of an operation; else ""."""
    gap: tuple[int, int, int, int] | None = None
    writes = _writes(run.steps, table, analyse)
    for place, answer in enumerate(run.answers):
        touches = [
            number
            for number, step in enumerate(run.steps)
            if step.operation == place and table in analyse(step.sql).tables
        ]
        for before, after in pairwise(touches):
            others = [who for who, at in writes if who != place and before < at < after]
            if not others:
                continue
            one, other = (_request(answer, run.steps[number].index) for number in (before, after))
            if one == other:
                return ""
            gap = gap or (others[0], one, other, place)
    if gap is None:
        return ""
    who, one, other, whose = gap
    return (
        f"{letter(who)} came between request {one} and request {other} of {letter(whose)}: what "
        "one operation does in several requests is held to be one."
    )


def _writes(steps: list[Step], table: str, analyse: Analyse) -> list[tuple[int, int]]:
    """Who wrote to the table, and the place of the step with which others could see it."""
    found: list[tuple[int, int]] = []
    for number, step in enumerate(steps):
        if table in analyse(step.sql).writes:
            commits = (
                later
                for later in range(number, len(steps))
                if (steps[later].operation, steps[later].connection)
                == (step.operation, step.connection)
                and analyse(steps[later].sql).verb is Verb.COMMIT
            )
            found.append((step.operation, next(commits, number)))
    return found


def _request(answer: Answer, statement: int) -> int:
    """In which of its requests an operation sent that statement, counted from 1."""
    answered = [reply.statements for reply in answer.replies]
    return 1 + sum(statement >= sent for sent in answered[:-1])
