"""What fixes a race, with the table and columns that it is about: as SQL or ORM, and as a part."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from crowdsafe.find.database.schema import Schema, Table
from crowdsafe.find.judge.anomalies import Named
from crowdsafe.find.judge.events import Event, events_of
from crowdsafe.find.judge.patterns import VERSION_WORDS, Pattern, asked_for_null
from crowdsafe.find.judge.recipes import RECIPES, filled
from crowdsafe.find.model import Anomaly, Run

__all__ = ["Cure", "cures"]

Cure = tuple[str, str, str]
"""A title, what to write as plain SQL or with the ORM in use, and the part of crowdsafe or ""."""

_SUM = re.compile(r"\b(sum|avg|count)\s*\(", re.IGNORECASE)
_UNIQUE_STATES = {"23505", "SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"}
_KEY_TOLD = re.compile(r"Key \(([^()]+)\)=|UNIQUE constraint failed: (.+)")
_SHARE = re.compile(r"\bfor\s+(key\s+)?share\b", re.IGNORECASE)
_NOT_EXISTS = re.compile(r".*\bnot\s+exists\s*\(", re.DOTALL)
_FIXED = re.compile(r'(\w+)["`]?\s*=(?!=)')
_MERGE = re.compile(r"\s*merge\b", re.IGNORECASE)
_REPEATABLE = re.compile(r"\bisolation\s+level\s+repeatable\s+read\b", re.IGNORECASE)
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
    shares: bool = False
    one_moment: bool = False
    goes_on: bool = False
    free: bool = False
    only: str = ""

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
            "was": "IS NULL" if self.free else "= :from",
            "was_orm": ".is_(None)" if self.free else " == from_",
            "was_here": "None" if self.free else "from_",
            "only": f" WHERE {self.only} IS NULL" if self.only else "",
            "index": f"{self.table.rpartition('.')[2]}_{'_'.join(self.unique)}_key",
        }


def cures(named: Named, run: Run, schema: Schema | None = None) -> tuple[Cure, ...]:
    """What fixes this race, the best first; each names the tables and columns that it is about.

    The ORM's form is given where the driver's SQL or the source lines show SQLAlchemy or Django.
    The names of model classes are guessed from the tables.
    """
    failed = _failed_insert(run) if named.anomaly in _BY_KEY else None
    if (
        failed
        and named.anomaly is not Anomaly.ERROR
        and named.tables[:1] != (min(failed[0].writes),)
    ):
        failed = None
    place = _place_of_insert(*failed, run) if failed else _place(named, run, schema)
    words = place.words()
    chosen = [RECIPES[each] for each in _recipes(named.anomaly, place)]
    return tuple(
        (each.title, each.plain(place.flavour, place.sqlite, words), filled(each.part, words))
        for each in chosen
    )


_BY_KEY = frozenset({Anomaly.ERROR, Anomaly.PHANTOM_INSERT})


def _place(named: Named, run: Run, schema: Schema | None) -> _Place:
    pattern = named.pattern
    table = pattern.table if pattern else next(iter(named.tables), "the_table")
    known = schema.tables.get(table) if schema else None
    key = known.primary_key[0] if known and known.primary_key else _key(pattern)
    unique = _unique_columns(pattern, known)
    texts = [step.sql for step in run.steps]
    nulls = asked_for_null(pattern.read) if pattern else []
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
        shares=any(_SHARE.search(text) for text in texts),
        one_moment=any(_REPEATABLE.search(text) for text in texts),
        free=pattern is not None and (pattern.before == "NULL" or pattern.column in nulls),
        only=next((name for name in nulls if known and name in known.column_names), ""),
        goes_on=pattern is not None and pattern.read.transaction != pattern.acted.transaction,
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
        if refused and event.writes and (event.inserts or _MERGE.match(step.sql)):
            found = looked.get((event.operation, min(event.writes)), ())
            by_name = tuple(name for name in found if name in event.sets)
            return event, by_name or _told_key(step.error or "")
    return None


def _told_key(error: str) -> tuple[str, ...]:
    """The columns of the key that an error names."""
    told = _KEY_TOLD.search(error)
    names = (told[1] or told[2]).split(",") if told else []
    return tuple(name.strip().rpartition(".")[2] for name in names)


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


def _unique_columns(pattern: Pattern | None, known: Table | None) -> tuple[str, ...]:
    """The columns by which a row was looked for before it was inserted, or the number's."""
    if pattern is None:
        return ("name",)
    inserted = tuple(pattern.acted.sets) or (known.column_names if known else ())
    looked = tuple(name for name in _looked_for(pattern.read) if name in inserted)
    if pattern.anomaly is Anomaly.DUPLICATE_NUMBER and pattern.column:
        return (*looked, pattern.column)
    own = (name for name in inserted if known is None or name not in known.primary_key)
    return looked or tuple(islice(own, 1)) or ("name",)


def _looked_for(read: Event) -> Sequence[str]:
    """The columns that a read fixed; of an INSERT those in its NOT EXISTS."""
    if not read.inserts:
        return tuple(read.where)
    return list(dict.fromkeys(_FIXED.findall(_NOT_EXISTS.sub("", read.step.sql.lower(), 1))))


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
    """ "django", "sqlalchemy" or "sql", from the source lines and from how the SQL is spelled:
    ``session.get`` alone may be that of a visitor's session."""
    code = " ".join(step.source.code for step in run.steps if step.source)
    if _DJANGO_CODE.search(code):
        return "django"
    texts = [step.sql for step in run.steps]
    is_alchemy = any(_ALCHEMY_SQL.search(text) for text in texts)
    if not is_alchemy and any(_DJANGO_SQL.search(text) for text in texts):
        return "django"
    return "sqlalchemy" if is_alchemy or _ALCHEMY_CODE.search(code) else "sql"


# --- which for what ------------------------------------------------------------------------

_ALWAYS: dict[Anomaly, tuple[str, ...]] = {
    Anomaly.DUPLICATE_NUMBER: ("counter", "unique"),
    Anomaly.PHANTOM_INSERT: ("parent", "serializable"),
    Anomaly.WRITE_SKEW: ("serializable", "parent"),
    Anomaly.TORN_STEPS: ("one transaction", "lock"),
    Anomaly.DIRTY_READ: ("no dirty reads",),
    Anomaly.INVARIANT: ("serializable", "lock"),
    Anomaly.DEADLOCK: ("same order", "retry"),
    Anomaly.ABORTS: ("retry",),
    Anomaly.UNSERIALIZABLE: ("serializable", "lock"),
}


def _recipes(anomaly: Anomaly, place: _Place) -> tuple[str, ...]:
    insert = "on conflict" if place.has_unique else "unique"
    match anomaly:
        case Anomaly.LOST_UPDATE:
            return _of_lost_update(place)
        case Anomaly.DOUBLE_TRANSITION:
            return ("move" if place.column else "remove", "lock")
        case Anomaly.DUPLICATE_CREATE:
            return (insert, "once")
        case Anomaly.ERROR:
            return (insert, "retry") if place.inserts else ("retry", "serializable")
        case Anomaly.PHANTOM_INSERT if place.inserts and place.has_unique:
            return (insert, "parent")
        case Anomaly.DEADLOCK if place.shares:
            return ("lock", "retry")
        case Anomaly.NON_REPEATABLE_READ | Anomaly.STALE_ANSWER:
            return _of_moments(anomaly, place)
        case _:
            return _ALWAYS[anomaly]


def _of_lost_update(place: _Place) -> tuple[str, ...]:
    if place.over_many:
        return ("serializable", "lock")
    if place.numeric and not VERSION_WORDS.search(place.column):
        return ("count up" if place.grows else "count down", "lock")
    return ("version", "lock") if place.column else ("lock", "serializable")


def _of_moments(anomaly: Anomaly, place: _Place) -> tuple[str, ...]:
    if place.goes_on:
        return ("before commit", "one moment")
    if place.one_moment:
        return ("serializable",)
    return ("one moment", "serializable") if anomaly is Anomaly.STALE_ANSWER else ("one moment",)
