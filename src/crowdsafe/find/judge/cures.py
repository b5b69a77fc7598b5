"""What fixes a race, with the table and columns that it is about: as SQL or ORM, and as a part."""

from __future__ import annotations

import re
from dataclasses import dataclass

from crowdsafe.find.database.schema import Schema
from crowdsafe.find.judge.anomalies import Named
from crowdsafe.find.judge.events import Event, events_of
from crowdsafe.find.judge.patterns import Pattern
from crowdsafe.find.judge.recipes import RECIPES, filled
from crowdsafe.find.model import Anomaly, Run

__all__ = ["Cure", "cures"]

Cure = tuple[str, str, str]
"""A title, what to write as plain SQL or with the ORM in use, and the part of crowdsafe or ""."""

_SUM = re.compile(r"\b(sum|avg|count)\s*\(", re.IGNORECASE)
_UNIQUE_STATES = {"23505", "SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"}
_SQLITE = frozenset({"sqlite3", "aiosqlite", "sqlite"})
_DJANGO_CODE = re.compile(r"\.objects\b|\.save\(|\.aget\(|\.refresh_from_db\(|get_object_or_404")
_DJANGO_SQL = re.compile(r'"\w+"\."\w+"')
_ALCHEMY_CODE = re.compile(r"\bsession\.|\bselect\(|\.scalars?\(|\bdb\.(session|query|execute)")
_ALCHEMY_SQL = re.compile(r"\n(FROM|WHERE) |\bAS (\w+)_\w+\b")


@dataclass(frozen=True, slots=True)
class _Place:
    """The row that a race is about, in the words of the program that it is in."""

    table: str
    column: str
    key: str
    unique: tuple[str, ...]
    has_unique: bool
    flavour: str
    sqlite: bool
    grows: bool
    numeric: bool
    inserts: bool
    over_many: bool

    @property
    def model(self) -> str:
        """A guess at the name of the table's class: ``shop_order_items`` → ``OrderItem``."""
        words = self.table.rpartition(".")[2].split("_")
        if self.flavour == "django" and len(words) > 1:
            words = words[1:]
        last = words[-1]
        if last.endswith("ies"):
            words[-1] = last[:-3] + "y"
        elif last.endswith("s") and not last.endswith(("ss", "us", "is")):
            words[-1] = last[:-1]
        return "".join(word.capitalize() for word in words)

    def words(self) -> dict[str, str]:
        """What the recipes have blanks for."""
        return {
            "table": self.table,
            "column": self.column or "the_column",
            "key": self.key,
            "model": self.model,
            "columns": ", ".join(self.unique),
            "quoted": ", ".join(f'"{name}"' for name in self.unique),
            "given": ", ".join(f"{name}={name}" for name in self.unique),
            "index": f"{self.table.rpartition('.')[2]}_{'_'.join(self.unique)}_key",
        }


def cures(named: Named, run: Run, schema: Schema | None = None) -> tuple[Cure, ...]:
    """What fixes this race, the best first; each names the tables and columns that it is about.

    The ORM's form is given where the driver's SQL or the source lines show SQLAlchemy or Django.
    The names of model classes are guessed from the tables.
    """
    failed = _failed_insert(run) if named.anomaly is Anomaly.ERROR else None
    place = _place_of_insert(*failed, run) if failed else _place(named, run, schema)
    words = place.words()
    chosen = [RECIPES[each] for each in _recipes(named.anomaly, place)]
    return tuple(
        (each.title, each.plain(place.flavour, place.sqlite, words), filled(each.part, words))
        for each in chosen
    )


def _place(named: Named, run: Run, schema: Schema | None) -> _Place:
    pattern = named.pattern
    table = pattern.table if pattern else next(iter(named.tables), "the_table")
    known = schema.tables.get(table) if schema else None
    key = known.primary_key[0] if known and known.primary_key else _key(pattern)
    unique = _unique_columns(pattern)
    return _Place(
        table=table,
        column=(pattern.column if pattern else None) or "",
        key=key,
        unique=unique,
        has_unique=bool(known and any(set(each) <= set(unique) for each in known.unique)),
        flavour=_flavour(run),
        sqlite=any(step.driver.lower() in _SQLITE for step in run.steps),
        grows=pattern is not None and _grows(pattern),
        numeric=pattern is not None and pattern.numeric,
        inserts=pattern is not None and pattern.acted.inserts,
        over_many=pattern is not None and _over_many(pattern),
    )


def _failed_insert(run: Run) -> tuple[Event, tuple[str, ...]] | None:
    """The INSERT that a unique constraint refused, and the columns by which its operation had
    looked for the row before."""
    looked: dict[tuple[int, str], tuple[str, ...]] = {}
    for event in events_of(run, failed=True):
        for table in event.looks:
            looked[event.operation, table] = tuple(event.where)
        step = event.step
        refused = step.error is not None and (
            step.sqlstate in _UNIQUE_STATES or "unique" in step.error.lower()
        )
        if refused and event.inserts and event.writes:
            found = looked.get((event.operation, min(event.writes)), ())
            return event, tuple(name for name in found if name in event.sets)
    return None


def _place_of_insert(insert: Event, looked: tuple[str, ...], run: Run) -> _Place:
    return _Place(
        table=min(insert.writes),
        column="",
        key="id",
        unique=looked or tuple(list(insert.sets)[:1]) or ("name",),
        has_unique=True,
        flavour=_flavour(run),
        sqlite=any(step.driver.lower() in _SQLITE for step in run.steps),
        grows=False,
        numeric=False,
        inserts=True,
        over_many=False,
    )


def _key(pattern: Pattern | None) -> str:
    if pattern is None:
        return "id"
    return next(iter(pattern.acted.where), None) or next(iter(pattern.missed.where), "id")


def _unique_columns(pattern: Pattern | None) -> tuple[str, ...]:
    """The columns by which a row was looked for before it was inserted, or the number's."""
    if pattern is None:
        return ("name",)
    looked = tuple(name for name in pattern.read.where if name in pattern.acted.sets)
    if pattern.anomaly is Anomaly.DUPLICATE_NUMBER and pattern.column:
        return (*looked, pattern.column)
    return looked or tuple(list(pattern.acted.sets)[:1]) or ("name",)


def _grows(pattern: Pattern) -> bool:
    """Whether the number was counted up: by its expression, or by the value read before."""
    column = pattern.column or ""
    value = pattern.acted.sets.get(column, "")
    if pattern.acted.in_place:
        return "+" in value
    before = pattern.before
    try:
        return before is not None and float(value.strip("'")) > float(before.strip("'"))
    except ValueError:
        return False


def _over_many(pattern: Pattern) -> bool:
    """Whether the decision was made over several rows, so that a check of one is not enough."""
    return len(pattern.read.given) > 1 or bool(_SUM.search(pattern.read.step.sql))


def _flavour(run: Run) -> str:
    """ "django", "sqlalchemy" or "sql", from the source lines, then from how the SQL is spelled."""
    code = " ".join(step.source.code for step in run.steps if step.source)
    if _DJANGO_CODE.search(code):
        return "django"
    if _ALCHEMY_CODE.search(code):
        return "sqlalchemy"
    texts = [step.sql for step in run.steps]
    if any(_DJANGO_SQL.search(text) for text in texts):
        return "django"
    return "sqlalchemy" if any(_ALCHEMY_SQL.search(text) for text in texts) else "sql"


# --- which for what ------------------------------------------------------------------------

_ALWAYS: dict[Anomaly, tuple[str, ...]] = {
    Anomaly.DUPLICATE_NUMBER: ("counter", "unique"),
    Anomaly.PHANTOM_INSERT: ("parent", "serializable"),
    Anomaly.WRITE_SKEW: ("serializable", "parent"),
    Anomaly.TORN_STEPS: ("one transaction", "lock"),
    Anomaly.NON_REPEATABLE_READ: ("one moment",),
    Anomaly.DIRTY_READ: ("no dirty reads",),
    Anomaly.STALE_ANSWER: ("one moment", "serializable"),
    Anomaly.INVARIANT: ("serializable", "lock"),
    Anomaly.DEADLOCK: ("same order", "retry"),
    Anomaly.ABORTS: ("retry",),
    Anomaly.UNSERIALIZABLE: ("serializable", "lock"),
}


def _recipes(anomaly: Anomaly, place: _Place) -> tuple[str, ...]:
    insert = "on conflict" if place.has_unique else "unique"
    match anomaly:
        case Anomaly.LOST_UPDATE if place.over_many:
            return ("serializable", "lock")
        case Anomaly.LOST_UPDATE if place.numeric:
            return ("count up" if place.grows else "count down", "lock")
        case Anomaly.LOST_UPDATE:
            return ("version", "lock") if place.column else ("lock", "serializable")
        case Anomaly.DOUBLE_TRANSITION:
            return ("move" if place.column else "remove", "lock")
        case Anomaly.DUPLICATE_CREATE:
            return (insert, "once")
        case Anomaly.ERROR:
            return (insert, "retry") if place.inserts else ("retry", "serializable")
        case _:
            return _ALWAYS[anomaly]
