"""Databases in memory with row locks, commits and deadlocks, and random programs for them.

``ToyPostgres`` blocks a statement that needs a row of somebody else's transaction, wakes it when
that ends, and keeps the snapshot with which it began (READ COMMITTED). ``ToySqlite`` has one write
lock for all, snapshots for transactions, and a BUSY for who writes on an old one.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Act", "Done", "Failed", "Program", "ToyPostgres", "ToySqlite", "random_programs"]

Cell = tuple[str, int]


class Failed(Exception):
    """The statement failed, with a code."""


@dataclass(frozen=True)
class Act:
    """One statement: what it does to a row, and perhaps which other table it reads for that."""

    kind: str
    table: str = ""
    row: int = 0
    by: int = 0
    source: str = ""

    @property
    def sql(self) -> str:
        where = f"WHERE k = {self.row}"
        extra = f" + (SELECT sum(v) FROM {self.source})" if self.source else ""
        return {
            "read": f"SELECT v FROM {self.table} {where}",
            "lock": f"SELECT v FROM {self.table} {where} FOR UPDATE",
            "mul": f"UPDATE {self.table} SET v = v * 3 + {self.by}{extra} {where}",
            "put": f"UPDATE {self.table} SET v = ? {where}",
            "insert": f"INSERT INTO {self.table} (k, v) VALUES ({self.row}, {self.by})",
            "sweep": f"UPDATE {self.table} SET v = v * 2 + 1",
            "begin": "BEGIN",
            "immediate": "BEGIN IMMEDIATE",
            "commit": "COMMIT",
            "rollback": "ROLLBACK",
        }[self.kind]

    @property
    def cell(self) -> Cell:
        return self.table, self.row

    def cells(self, snapshot: dict[Cell, int]) -> set[Cell]:
        """The rows that it needs for itself."""
        if self.kind == "sweep":
            return {cell for cell in snapshot if cell[0] == self.table}
        return {self.cell} if self.kind in {"lock", "mul", "put", "insert"} else set()


@dataclass(frozen=True)
class Program:
    acts: tuple[Act, ...]
    autocommit: bool = False


@dataclass
class Done:
    """A statement came through, perhaps long after it was tried: with what it read, or failed."""

    who: int
    value: Any = None
    error: str | None = None


@dataclass
class _Session:
    autocommit: bool
    writes: dict[Cell, int] = field(default_factory=dict)
    locks: set[Cell] = field(default_factory=set)
    snapshot: dict[Cell, int] | None = None
    began: bool = False
    last: int = 0
    waits: tuple[Act, dict[Cell, int]] | None = None


class ToyPostgres:
    dialect = "postgresql"

    def __init__(self, cells: dict[Cell, int], programs: list[Program]) -> None:
        self.rows = dict(cells)
        self.sessions = [_Session(program.autocommit) for program in programs]
        self.queue: list[int] = []

    def needed(self, who: int, act: Act) -> set[int]:
        return set()

    def waiting(self) -> dict[int, set[int]]:
        return {who: self._holders(who) for who in self.queue}

    def execute(self, who: int, act: Act) -> list[Done]:
        """Try a statement; gives all that came through by it, itself first. If it is not among
        them, it waits."""
        session = self.sessions[who]
        session.waits = (act, dict(self.rows))
        self.queue.append(who)
        done: list[Done] = []
        if self._closes_circle(who):
            self._end(who, keep=False)
            done.append(self._through(who, Done(who, error="40P01")))
        return done + self._let_through()

    def _let_through(self) -> list[Done]:
        done: list[Done] = []
        while True:
            free = next((who for who in self.queue if not self._holders(who)), None)
            if free is None:
                return done
            done.append(self._through(free, self._take_effect(free)))

    def _through(self, who: int, done: Done) -> Done:
        self.queue.remove(who)
        session = self.sessions[who]
        session.waits = None
        if session.autocommit and done.error is None:
            self._end(who, keep=True)
        return done

    def _holders(self, who: int) -> set[int]:
        """Those whose transactions have the row, and those that came before for it."""
        own = self.sessions[who]
        assert own.waits is not None
        missing = own.waits[0].cells(own.waits[1]) - own.locks
        found = {n for n, s in enumerate(self.sessions) if n != who and missing & s.locks}
        for other in self.queue[: self.queue.index(who)]:
            waits = self.sessions[other].waits
            assert waits is not None
            if missing & waits[0].cells(waits[1]):
                found.add(other)
        return found

    def _closes_circle(self, who: int) -> bool:
        seen: set[int] = set()
        front = self._holders(who)
        while front:
            if who in front:
                return True
            seen |= front
            front = {h for n in front if n in self.queue for h in self._holders(n)} - seen
        return False

    def _take_effect(self, who: int) -> Done:  # noqa: PLR0911 - one a kind
        session = self.sessions[who]
        assert session.waits is not None
        act, snapshot = session.waits
        if act.kind in {"commit", "rollback"}:
            self._end(who, keep=act.kind == "commit")
            return Done(who)
        if act.kind == "begin":
            return Done(who)
        now = session.writes.get(act.cell, self.rows.get(act.cell))
        if act.kind == "insert":
            if now is not None:
                self._end(who, keep=False)
                return Done(who, error="23505")
            session.locks.add(act.cell)
            session.writes[act.cell] = act.by
            return Done(who)
        if act.kind == "read":
            session.last = -1 if now is None else now
            return Done(who, session.last)
        if act.kind == "sweep":
            cells = act.cells(snapshot)
            session.locks |= cells
            session.writes |= {c: ((self.rows | session.writes)[c] * 2 + 1) % 1009 for c in cells}
            return Done(who, len(cells))
        if now is None:
            return Done(who, 0)
        session.locks.add(act.cell)
        if act.kind == "lock":
            session.last = now
            return Done(who, now)
        if act.kind == "mul":
            extra = sum(v for (t, _), v in (snapshot | session.writes).items() if t == act.source)
            session.writes[act.cell] = (now * 3 + act.by + extra) % 1009
        else:
            session.writes[act.cell] = session.last + 1
        return Done(who, 1)

    def _end(self, who: int, *, keep: bool) -> None:
        session = self.sessions[who]
        if keep:
            self.rows.update(session.writes)
        session.writes.clear()
        session.locks.clear()


class ToySqlite:
    dialect = "sqlite"

    def __init__(self, cells: dict[Cell, int], programs: list[Program]) -> None:
        self.rows = dict(cells)
        self.version = 0
        self.writer: int | None = None
        self.sessions = [_Session(program.autocommit) for program in programs]
        self.versions = [0 for _ in programs]

    def waiting(self) -> dict[int, set[int]]:
        return {}

    def needed(self, who: int, act: Act) -> set[int]:
        """Whom a statement would wait for: the writer, when nothing was read before."""
        session = self.sessions[who]
        takes = act.kind in {"immediate", "mul", "put", "insert", "sweep"}
        if takes and self.writer not in {None, who} and session.snapshot is None:
            assert self.writer is not None
            return {self.writer}
        return set()

    def execute(self, who: int, act: Act) -> list[Done]:
        session = self.sessions[who]
        try:
            value = self._take_effect(who, session, act)
        except Failed as failed:
            return [Done(who, error=str(failed))]
        return [Done(who, value)]

    def _take_effect(self, who: int, session: _Session, act: Act) -> int:
        if act.kind in {"begin", "immediate"}:
            session.began = True
            if act.kind == "immediate":
                self._take_lock(who, session)
            return 0
        if act.kind in {"commit", "rollback"}:
            self._end(who, keep=act.kind == "commit")
            return 0
        if session.began and session.snapshot is None:
            session.snapshot, self.versions[who] = dict(self.rows), self.version
        seen = session.snapshot if session.snapshot is not None else self.rows
        now = session.writes.get(act.cell, seen.get(act.cell))
        if act.kind == "read":
            session.last = -1 if now is None else now
            return session.last
        self._take_lock(who, session)
        if act.kind == "insert" and now is not None:
            if not session.began:
                self._end(who, keep=False)
            raise Failed("UNIQUE")
        self._write(session, act, seen | session.writes)
        if not session.began:
            self._end(who, keep=True)
        return 1

    def _write(self, session: _Session, act: Act, seen: dict[Cell, int]) -> None:
        now = seen.get(act.cell)
        if act.kind == "sweep":
            session.writes |= {c: (seen[c] * 2 + 1) % 1009 for c in act.cells(seen)}
        elif act.kind == "insert":
            session.writes[act.cell] = act.by
        elif now is not None:
            extra = sum(v for (t, _), v in seen.items() if t == act.source)
            new = (now * 3 + act.by + extra) % 1009 if act.kind == "mul" else session.last + 1
            session.writes[act.cell] = new

    def _take_lock(self, who: int, session: _Session) -> None:
        if self.writer not in {None, who}:
            raise Failed("BUSY")
        if session.snapshot is not None and self.versions[who] != self.version:
            raise Failed("BUSY_SNAPSHOT")
        self.writer = who

    def _end(self, who: int, *, keep: bool) -> None:
        session = self.sessions[who]
        if keep and session.writes:
            self.rows.update(session.writes)
            self.version += 1
        session.writes.clear()
        session.snapshot, session.began = None, False
        if self.writer == who:
            self.writer = None


CELLS: dict[Cell, int] = {(f"t{t}", k): 2 + 3 * t + k for t in range(3) for k in range(2)}


def random_programs(rng: random.Random, dialect: str, count: int, acts_max: int) -> list[Program]:
    return [_random_program(rng, dialect, acts_max) for _ in range(count)]


def _random_program(rng: random.Random, dialect: str, acts_max: int) -> Program:
    autocommit = rng.random() < 0.25
    length = rng.randint(2, acts_max) - (not autocommit)
    acts = [_random_act(rng, dialect) for _ in range(max(1, length))]
    if autocommit:
        return Program(tuple(acts), autocommit=True)
    end = Act("rollback" if rng.random() < 0.1 else "commit")
    if dialect == "sqlite":
        begin = Act("immediate" if rng.random() < 0.4 else "begin")
        return Program((begin, *acts[: max(1, acts_max - 2)], end))
    return Program((*acts, end))


def _random_act(rng: random.Random, dialect: str) -> Act:
    kinds = ["read", "read", "mul", "put", "insert", "sweep"] + ["lock"] * (dialect == "postgresql")
    kind = rng.choice(kinds)
    table = f"t{rng.randrange(2 if rng.random() < 0.8 else 3)}"
    row = rng.randrange(2) + (2 if kind == "insert" else 0)
    source = f"t{rng.randrange(3)}" if kind == "mul" and rng.random() < 0.4 else ""
    return Act(kind, table, row, rng.randrange(1, 5), source)
