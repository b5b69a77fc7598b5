"""The values that a statement was run with, by column, for people to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crowdsafe.find.model import Statement
from crowdsafe.find.sql.lexing import Lexed, Slot, lex, restore
from crowdsafe.find.sql.shapes import shape_of

__all__ = ["values_of"]

_SHOWN_MAX = 80


def values_of(statement: Statement, sql: str, parameters: Any) -> dict[str, str]:
    """Columns that a statement sets or compares, with its parameters filled in.

    ``{"on_hand": "on_hand - 80", "id": "1"}`` for ``UPDATE stock SET on_hand = on_hand - %s WHERE
    id = %s``. What is set comes first and wins over what is compared. Of a run with many rows of
    parameters, and of an INSERT of many rows, the first row is shown. Texts are cut at 80
    characters; empty for an opaque statement.
    """
    if statement.opaque:
        return {}
    dialect = "postgresql" if "%" in sql or "$" in sql or "::" in sql else "sqlite"
    bound = _one_row(parameters)
    shown: dict[str, str] = {}
    for lexed in lex(sql, dialect):
        for column, value in _pairs(lexed, dialect, bound):
            shown.setdefault(column, value)
    return shown


def _pairs(lexed: Lexed, dialect: str, bound: Any) -> list[tuple[str, str]]:
    facts = shape_of(lexed.shape, dialect)
    texts = tuple(_shown(slot, bound) for slot in lexed.slots)
    found = (*facts.values, *facts.assignments, *facts.equalities)
    return [(column, _cut(restore(value, texts))) for column, value in found]


def _one_row(parameters: Any) -> Any:
    """The first row of the parameters of an executemany."""
    if isinstance(parameters, list | tuple) and parameters:
        first = parameters[0]
        if isinstance(first, Mapping | tuple | list) and all(
            type(row) is type(first) for row in parameters
        ):
            return first
    return parameters


def _shown(slot: Slot, bound: Any) -> str:
    if slot.kind != "place":
        return slot.text
    try:
        return _literal(_bound(slot, bound))
    except (KeyError, IndexError, TypeError):
        return slot.text


def _bound(slot: Slot, bound: Any) -> Any:
    text = slot.text
    if isinstance(bound, Mapping):
        return bound[text[2:-2] if text.startswith("%(") else text[1:]]
    if not isinstance(bound, Sequence) or isinstance(bound, str | bytes):
        raise TypeError("these parameters have no places")
    number = text.lstrip("?$")
    return bound[int(number) - 1] if number.isdigit() else bound[slot.nth]


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"x'{bytes(value).hex()}'"
    if isinstance(value, int | float):
        return str(value)
    return "'" + str(value).replace("'", "''") + "'"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 1] + "…"
