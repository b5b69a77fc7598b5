"""A scenario: what to find races in, in Python, for what a command line cannot say."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from crowdsafe.errors import ConfigError
from crowdsafe.find.targets.functions import Call, call_of
from crowdsafe.find.targets.request import Requests, parse

__all__ = ["Scenario", "Spec", "database_named_in", "name_apart", "spec_of"]

_SOURCE_BYTES_MAX = 1 << 20

Spec = Requests | Call


@dataclass(frozen=True, slots=True)
class Scenario:
    """The operations of one program, and what holds after them.

    ``target`` is an app or ``"module:app"`` (none for functions), ``setup`` runs once before the
    snapshot, ``login`` is used by all operations and ``logins`` by those that say
    ``as_="name"``. An invariant takes the state (table → rows as dicts) and returns False, or
    raises AssertionError, when it is broken.
    """

    operations: Sequence[str | Requests | Call | Callable[..., Any]]
    target: Any = None
    database: str | None = None
    setup: str | Callable[..., Any] | None = None
    login: str | None = None
    logins: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] | Sequence[str] = ()
    invariants: Sequence[Callable[..., Any]] = ()
    name: str = ""

    def specs(self) -> tuple[Spec, ...]:
        """The operations, each with the login of its user. Raises ConfigError."""
        if not self.operations:
            raise ConfigError("the scenario has no operations: give it at least one")
        return name_apart([self._with_login(spec_of(one)) for one in self.operations])

    def _with_login(self, spec: Spec) -> Spec:
        if not isinstance(spec, Requests) or spec.user is None:
            return spec
        if spec.user not in self.logins:
            raise ConfigError(
                f"{spec.name} is done as {spec.user!r}, whom logins= does not name: add "
                f"logins={{{spec.user!r}: 'POST /login ...'}}"
            )
        return replace(spec, login=self.logins[spec.user])


def spec_of(operation: str | Requests | Call | Callable[..., Any]) -> Spec:
    """What the user gave for an operation, in one form. Raises ConfigError."""
    if isinstance(operation, Requests):
        return operation
    if isinstance(operation, str):
        return parse(operation)
    return call_of(operation)


def name_apart(specs: Sequence[Spec]) -> tuple[Spec, ...]:
    """The operations with names that differ: a later one of the same name gets a number."""
    used: dict[str, int] = {}
    apart: list[Spec] = []
    for spec in specs:
        used[spec.name] = count = used.get(spec.name, 0) + 1
        apart.append(spec if count == 1 else replace(spec, name=f"{spec.name} #{count}"))
    return tuple(apart)


def database_named_in(file: Path) -> str | None:
    """The ``database="..."`` that a scenario file gives as plain text, without running the file:
    the drivers are patched before the target is imported. None when there is none."""
    if not file.is_file() or file.stat().st_size > _SOURCE_BYTES_MAX:
        return None
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return None  # importing the file will say it better
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _is_scenario(node.func):
            for keyword in node.keywords:
                value = keyword.value
                if keyword.arg == "database" and isinstance(value, ast.Constant):
                    return str(value.value) if value.value is not None else None
    return None


def _is_scenario(function: ast.expr) -> bool:
    return getattr(function, "id", getattr(function, "attr", None)) == "Scenario"
