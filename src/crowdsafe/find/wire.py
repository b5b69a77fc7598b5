"""Findings as JSON, for the way from the worker process to the one that the user started."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from crowdsafe.find.model import Finding, Rows, Run, State
from crowdsafe.find.targets.plain import plain

__all__ = ["pack", "unpack"]

_ROWS_MAX = 500
_STEPS_MAX = 5000


def pack(finding: Finding) -> Any:
    """The finding as JSON-like data. Of the states only the tables that the finding names go
    along (all where it names none), at most 500 rows of each."""
    tables = frozenset(finding.tables)
    slim = replace(
        finding,
        run=_slim(finding.run, tables) if finding.run else None,
        serial={order: _slim(run, tables) for order, run in finding.serial.items()},
    )
    return _packed(slim)


def unpack(data: Any) -> Finding:
    """The finding again. Raises ValueError or TypeError for what is none."""
    made = _unpacked(data, Finding)
    assert isinstance(made, Finding)
    return made


def _slim(run: Run, tables: frozenset[str]) -> Run:
    return replace(run, steps=run.steps[:_STEPS_MAX], state=_some(run.state, tables))


def _some(state: State | None, tables: frozenset[str]) -> State | None:
    if state is None:
        return None
    return {
        name: Rows(rows.columns, rows.key, rows.rows[:_ROWS_MAX])
        for name, rows in state.items()
        if not tables or name in tables
    }


def _packed(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        if type(value).__module__ == Finding.__module__:
            return {field.name: _packed(getattr(value, field.name)) for field in fields(value)}
        return plain(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: _packed(item) for key, item in value.items()}
        return [[_packed(key), _packed(item)] for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [_packed(item) for item in value]
    return plain(value)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _unpacked(data: Any, kind: Any) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if origin in {Union, UnionType}:
        (inner,) = [one for one in args if one is not NoneType]
        return None if data is None else _unpacked(data, inner)
    if isinstance(kind, type) and is_dataclass(kind):
        hints = _hints(kind)
        return kind(**{name: _unpacked(item, hints[name]) for name, item in data.items()})
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(data)
    if origin is tuple:
        many = len(args) == 2 and args[1] is Ellipsis
        kinds = [args[0]] * len(data) if many else args
        return tuple(_unpacked(item, one) for item, one in zip(data, kinds, strict=True))
    if origin in {list, Sequence}:
        return [_unpacked(item, args[0]) for item in data]
    if origin in {dict, Mapping}:
        pairs = data.items() if isinstance(data, dict) else data
        return {_unpacked(key, args[0]): _unpacked(item, args[1]) for key, item in pairs}
    return data
