"""The toy databases behind real threads and tasks: operations that go through the gates."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from crowdsafe.find.gates.control import Link, keeper
from crowdsafe.find.model import Answer, Reply, Source, Statement
from tests.find.engine.toy import CELLS, Act, Done, Failed, Program, ToyPostgres, ToySqlite

__all__ = ["Rig", "Task", "ToyOperation"]

_WAIT_S = 20.0


class Rig:
    """A toy database that blocks threads: what a Controller needs of a database."""

    def __init__(self, programs: Sequence[Program], dialect: str) -> None:
        self.dialect = dialect
        self.programs = list(programs)
        self.locks = self
        self.reset_rows()

    def schema(self) -> None:
        return None

    def reset_rows(self) -> None:
        toy: type[Any] = ToyPostgres if self.dialect == "postgresql" else ToySqlite
        self.server = toy(CELLS, self.programs)
        self.changed = threading.Condition()
        self.done: dict[int, list[Done]] = {n: [] for n in range(len(self.programs))}
        self.links = [Link("toy", isolation="read committed") for _ in self.programs]
        self.seen: list[list[Any]] = [[] for _ in self.programs]

    @property
    def outcome(self) -> tuple[Any, ...]:
        return tuple(sorted(self.server.rows.items())), tuple(map(tuple, self.seen))

    def execute(self, who: int, act: Act) -> Any:
        """Blocks until the statement came through; raises Failed."""
        with self.changed:
            for one in self.server.execute(who, act):
                self.done[one.who].append(one)
            self.changed.notify_all()
            if not self.changed.wait_for(lambda: self.done[who], timeout=_WAIT_S):
                raise TimeoutError("blocked for ever")
            done = self.done[who].pop()
        self.seen[who].append((done.value, done.error))
        if done.error is not None:
            raise Failed(done.error)
        return done.value

    # The protocol of database.locks.

    def needed(self, link: Link, statement: Statement) -> frozenset[Link]:
        if self.dialect != "sqlite" or link not in self.links:
            return frozenset()
        who = self.links.index(link)
        act = next((a for p in self.programs for a in p.acts if a.sql == statement.text), None)
        if act is None:
            return frozenset()
        return frozenset(self.links[n] for n in self.server.needed(who, act))

    def waiting(self, links: Collection[Link]) -> dict[Link, frozenset[Link]]:
        with self.changed:
            found = self.server.waiting()
        return {
            self.links[who]: frozenset(self.links[n] for n in holders)
            for who, holders in found.items()
            if holders and self.links[who] in links
        }

    def left(self, link: Link, statement: Statement, failed: bool) -> None: ...
    def gone(self, link: Link) -> None: ...
    def reset(self) -> None: ...


@dataclass
class ToyOperation:
    """Runs one program of a rig through the gates, in a thread or as a task."""

    rig: Rig
    place: int
    is_async: bool = False

    @property
    def name(self) -> str:
        return f"op{self.place}"

    def run(self, limit: int | None = None) -> Answer:
        program = self.rig.programs[self.place]
        for act in program.acts:
            try:
                self.do(act)
            except Failed:
                if not program.autocommit:
                    self.do(Act("rollback"))
                break
        return Answer([Reply(self.name, body=list(self.rig.seen[self.place]))])

    def do(self, act: Act) -> Any:
        asked = keeper()
        assert asked is not None
        gate, operation = asked
        link = self.rig.links[self.place]
        passed = gate.enter(operation, link, act.sql, None, Source("toy.py", 1, "do"))
        error: BaseException | None = None
        try:
            return self.rig.execute(self.place, act)
        except Failed as failed:
            error = failed
            raise
        finally:
            link.in_transaction = (
                not self.rig.programs[self.place].autocommit
                if self.rig.dialect == "postgresql"
                else None
            )
            gate.leave(passed, error=error, sqlstate=str(error) if error else None)

    async def run_async(self, limit: int | None = None) -> Answer:
        return await asyncio.to_thread(self.run, limit)


@dataclass
class Task:
    """An operation made of a function."""

    function: Callable[[], Any]
    name: str = "task"
    is_async: bool = False
    made: list[Any] = field(default_factory=list)

    def run(self, limit: int | None = None) -> Answer:
        return Answer([Reply(self.name, body=self.function())])

    async def run_async(self, limit: int | None = None) -> Answer:
        return Answer([Reply(self.name, body=await self.function())])
