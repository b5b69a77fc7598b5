"""Reads a parsed statement: tables, columns, locks. Parsing is sqlglot's."""

from __future__ import annotations

import logging
import re
import threading
from dataclasses import dataclass
from typing import Any

import sqlglot
from sqlglot import exp

from crowdsafe.find.model import Verb
from crowdsafe.find.sql.catalogue import is_catalogue
from crowdsafe.find.sql.functions import counts, is_advisory, is_harmless

__all__ = ["Facts", "name_of", "read_tree"]

_Pairs = tuple[tuple[str, str], ...]
_READ = {"sqlite": "sqlite", "postgresql": "postgres"}
_CATALOGUES = frozenset({"pg_catalog", "information_schema"})
_PLAIN_SCHEMAS = frozenset({"", "public", "main"})
_WRITING: dict[type[exp.Expr], Verb] = {
    exp.Insert: Verb.INSERT,
    exp.Update: Verb.UPDATE,
    exp.Delete: Verb.DELETE,
    exp.Merge: Verb.UPDATE,
    exp.TruncateTable: Verb.DELETE,
}
_quiet = threading.local()


class _Hush(logging.Filter):
    """Drops what the parser says of statements that we parse; a target's own use is heard."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(_quiet, "on", False)


logging.getLogger("sqlglot").addFilter(_Hush("sqlglot"))


@dataclass(frozen=True, slots=True)
class Facts:
    """A :class:`~crowdsafe.find.model.Statement` without its text; expressions hold slots.

    ``targets`` are the tables that an INSERT goes to, ``values`` its columns and first row.
    """

    verb: Verb
    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    targets: frozenset[str] = frozenset()
    locks_rows: bool = False
    advisory: bool = False
    draws: bool = False
    counts: bool = False
    opaque: bool = False
    columns_read: frozenset[tuple[str, str]] | None = None
    columns_written: frozenset[tuple[str, str]] | None = None
    assignments: _Pairs = ()
    equalities: _Pairs = ()
    values: _Pairs = ()
    isolation: str | None = None
    on_conflict: bool = False


def name_of(text: str) -> str:
    """A table's name as the model wants it, from its text in a statement."""
    parts = [part.strip().strip('"`[]').lower() for part in text.split(".")]
    return ".".join(part for part in parts if part not in _PLAIN_SCHEMAS)


def read_tree(shape: str, dialect: str) -> Facts:
    """Parse one statement. What cannot be parsed is opaque; raises nothing."""
    _quiet.on = True
    try:
        tree = sqlglot.parse_one(shape, read=_READ[dialect])
    except (sqlglot.errors.SqlglotError, RecursionError, ValueError):
        return Facts(Verb.OTHER, opaque=True)
    finally:
        _quiet.on = False
    if isinstance(tree, exp.Command) or not isinstance(
        tree, exp.Query | exp.Insert | exp.Update | exp.Delete | exp.Merge | exp.TruncateTable
        | exp.Copy | exp.Values
    ):  # fmt: skip
        return Facts(Verb.OTHER, opaque=True)
    return _Reading(tree, dialect).facts()


class _Reading:
    def __init__(self, tree: exp.Expr, dialect: str) -> None:
        self.tree = tree
        self.dialect = dialect
        self.sources: dict[str, str] = {}
        self.occurrences: list[str] = []
        self.writes: dict[str, Verb] = {}
        self.inserted: set[str] = set()
        self.reads: set[str] = set()
        self.unknown_function = False
        self.advisory = False
        self.draws = False
        self.counts = False

    def facts(self) -> Facts:
        self._find_tables()
        self._find_functions()
        conflict = self._on_conflict()
        targets = frozenset(self.inserted)
        reads = frozenset(self.reads)
        verb = next(iter(self.writes.values()), Verb.SELECT)
        return Facts(
            verb=verb,
            reads=reads | targets if conflict else reads,
            writes=frozenset(self.writes),
            targets=targets,
            locks_rows=any(True for _ in self.tree.find_all(exp.Lock)),
            advisory=self.advisory,
            draws=self.draws,
            counts=self.counts,
            opaque=self.unknown_function or self.counts,
            columns_read=self._columns_read(),
            columns_written=self._columns_written(),
            assignments=self._assignments(),
            equalities=self._equalities(),
            values=self._values(),
            on_conflict=conflict,
        )

    def _find_tables(self) -> None:
        targets = {
            id(target): verb
            for kind, verb in _WRITING.items()
            for node in self.tree.find_all(kind)
            for target in _targets(node)
        }
        if isinstance(self.tree, exp.Copy) and self.tree.args.get("kind"):
            targets |= {id(table): Verb.INSERT for table in self.tree.find_all(exp.Table)}
        for table in self.tree.find_all(exp.Table):
            name = _table_name(table)
            if name is None or table.find_ancestor(exp.Lock) or _is_cte(table, name):
                continue
            self.sources[table.alias_or_name.lower()] = name
            self.occurrences.append(name)
            verb = targets.get(id(table))
            if verb is not None:
                self.writes[name] = verb
            if verb is Verb.INSERT:
                self.inserted.add(name)
            else:
                self.reads.add(name)

    def _find_functions(self) -> None:
        for call in self.tree.find_all(exp.Anonymous):
            name = str(call.this).lower()
            if is_advisory(name):
                self.advisory = True
            elif name == "nextval":
                self.draws = True
            elif counts(name):
                self.counts = True
            elif self.dialect == "postgresql" and not is_harmless(name):
                self.unknown_function = True

    def _on_conflict(self) -> bool:
        return any(
            insert.args.get("conflict") is not None or insert.args.get("alternative") is not None
            for insert in self.tree.find_all(exp.Insert)
        )

    def _columns_read(self) -> frozenset[tuple[str, str]] | None:
        """None where a column cannot be given to a table for certain."""
        if not self.sources:
            return frozenset()
        if any(not isinstance(star.parent, exp.Count) for star in self.tree.find_all(exp.Star)):
            return None
        only = next(iter(self.sources.values())) if len(self.sources) == 1 else None
        found: set[tuple[str, str]] = set()
        for column in self.tree.find_all(exp.Column):
            if _is_assigned(column):
                continue
            table = self.sources.get(column.table.lower()) if column.table else only
            if table is None:
                return None
            found.add((table, column.name.lower()))
        return frozenset(found)

    def _columns_written(self) -> frozenset[tuple[str, str]] | None:
        """The columns that a plain UPDATE sets; whole rows come and go otherwise: None."""
        if not self.writes:
            return frozenset()
        if not isinstance(self.tree, exp.Update) or len(self.writes) > 1:
            return None
        (table,) = self.writes
        columns = [column for column, _ in self._assignments()]
        return frozenset((table, column) for column in columns) if columns else None

    def _assignments(self) -> _Pairs:
        pairs: list[tuple[str, str]] = []
        for node in self.tree.find_all(exp.Update, exp.OnConflict):
            for item in node.args.get("expressions") or ():
                if isinstance(item, exp.EQ):
                    pairs += _set_pairs(item.this, item.expression)
        return tuple(pairs)

    def _equalities(self) -> _Pairs:
        """Only what every row that the statement touches fulfils."""
        table = self._only_table()
        where = self.tree.args.get("where")
        if table is None or where is None:
            return ()
        pairs: list[tuple[str, str]] = []
        for part in _conjuncts(where.this):
            if not isinstance(part, exp.EQ):
                continue
            for column, value in ((part.this, part.expression), (part.expression, part.this)):
                if (
                    isinstance(column, exp.Column)
                    and self.sources.get(column.table.lower(), table) == table
                    and _is_constant(value)
                ):
                    pairs.append((column.name.lower(), _text(value)))
                    break
        return tuple(pairs)

    def _only_table(self) -> str | None:
        """The one table that WHERE is about, if it stands in the statement only once."""
        tree = self.tree
        if tree.args.get("joins") or tree.args.get("with_") or tree.args.get("using"):
            return None
        if isinstance(tree, exp.Update | exp.Delete):
            if tree.args.get("from_"):
                return None
            first: Any = tree.this
        elif isinstance(tree, exp.Select) and tree.args.get("from_"):
            first = tree.args["from_"].this
        else:
            return None
        name = _table_name(first) if isinstance(first, exp.Table) else None
        return name if name and self.occurrences.count(name) == 1 else None

    def _values(self) -> _Pairs:
        if not isinstance(self.tree, exp.Insert):
            return ()
        schema, rows = self.tree.this, self.tree.expression
        if not isinstance(schema, exp.Schema) or not isinstance(rows, exp.Values):
            return ()
        first = rows.expressions[0] if rows.expressions else None
        if not isinstance(first, exp.Tuple) or len(first.expressions) != len(schema.expressions):
            return ()
        pairs = zip(schema.expressions, first.expressions, strict=True)
        return tuple((column.name.lower(), _text(value)) for column, value in pairs)


def _targets(node: exp.Expr) -> list[exp.Expr]:
    if isinstance(node, exp.TruncateTable):
        return list(node.expressions)
    if isinstance(node, exp.Delete) and node.args.get("tables"):
        return list(node.args["tables"])
    target = node.this
    if isinstance(target, exp.Schema):
        target = target.this
    return [target] if isinstance(target, exp.Table) else []


def _table_name(table: exp.Table) -> str | None:
    """None for a function in FROM and for what belongs to the database itself."""
    if not isinstance(table.this, exp.Identifier):
        return None
    schema, name = table.db.lower(), table.name.lower()
    if schema in _CATALOGUES or (name.startswith("sqlite_") and name != "sqlite_sequence"):
        return None
    if not schema and is_catalogue(name):
        return None
    return name if schema in _PLAIN_SCHEMAS else f"{schema}.{name}"


def _is_cte(table: exp.Table, name: str) -> bool:
    """Whether it names a WITH query; inside of that query itself it names a real table."""
    node: exp.Expr | None = table
    came_from: exp.CTE | None = None
    while node is not None:
        if isinstance(node, exp.CTE):
            came_from = node
        with_ = node.args.get("with_")
        if isinstance(with_, exp.With) and any(
            cte.alias.lower() == name and (cte is not came_from or with_.args.get("recursive"))
            for cte in with_.expressions
        ):
            return True
        node = node.parent
    return False


def _is_assigned(column: exp.Column) -> bool:
    """Whether it stands on the left of a SET."""
    parent = column.parent
    if isinstance(parent, exp.Tuple):
        column, parent = parent, parent.parent  # type: ignore[assignment]
    if not isinstance(parent, exp.EQ) or parent.this is not column:
        return False
    return (
        isinstance(parent.parent, exp.Update | exp.OnConflict) and parent.arg_key == "expressions"
    )


def _set_pairs(left: exp.Expr, right: exp.Expr) -> list[tuple[str, str]]:
    if isinstance(left, exp.Tuple):
        values = right.expressions if isinstance(right, exp.Tuple) else []
        if len(values) != len(left.expressions):
            return [(column.name.lower(), _text(right)) for column in left.expressions]
        pairs = zip(left.expressions, values, strict=True)
        return [(column.name.lower(), _text(value)) for column, value in pairs]
    return [(left.name.lower(), _text(right))]


def _conjuncts(condition: exp.Expr) -> list[exp.Expr]:
    if isinstance(condition, exp.Paren):
        return _conjuncts(condition.this)
    if isinstance(condition, exp.And):
        return [*_conjuncts(condition.left), *_conjuncts(condition.right)]
    return [condition]


def _is_constant(value: exp.Expr) -> bool:
    while isinstance(value, exp.Cast | exp.Paren | exp.Neg):
        value = value.this
    return isinstance(value, exp.Literal | exp.Placeholder | exp.Parameter | exp.Boolean)


def _text(value: exp.Expr) -> str:
    return re.sub(r"CAST\((:p\d+|'\d+'|\d+) AS [\w ]+\)", r"\1", value.sql())
