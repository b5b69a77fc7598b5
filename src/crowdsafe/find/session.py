"""The target on a copy of its database: drivers patched, the app started, its users logged in."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from crowdsafe.errors import ConfigError
from crowdsafe.find.database import open_database
from crowdsafe.find.engine import Controller
from crowdsafe.find.gates import install_all
from crowdsafe.find.model import Finding
from crowdsafe.find.pools import let_go
from crowdsafe.find.stage import Invariant, Job, Stage
from crowdsafe.find.targets import (
    Call,
    Scenario,
    Spec,
    Target,
    call,
    load,
    load_function,
    name_apart,
    routes_of,
    spec_of,
)
from crowdsafe.find.token import Token, encode

__all__ = ["Session"]

_CALL = "call "
_ROUTES_SHOWN = 8


class Session(Stage):
    """A context manager around the patched drivers, the working copy and the loaded target."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._stack = ExitStack()
        self.specs: tuple[Spec, ...] = ()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.database = open_database(self.job.database, in_place=self.job.in_place)
            stack.callback(self.database.close)
            stack.callback(install_all(self.database.redirect))
            let_go(self.database.redirect, None)
            self.controller = stack.enter_context(Controller(self.database, hang_s=self.job.hang_s))
            stack.callback(let_go, self.database.redirect, self.controller.call)
            self.target: Target = load(self.job.target)
            self._set_up()
            self.controller.call(self.target.startup())
            stack.callback(lambda: self.controller.call(self.target.shutdown()))
            self.operations = self.target.prepare(
                self.specs,
                login=self.job.login or (self.scenario.login if self.scenario else None),
                headers=self._headers(),
                on_loop=self.controller.call,
            )
            self.keep()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def token(self, finding: Finding) -> str | None:
        """What shows that race again; None where it holds an operation that has no name."""
        specs = {spec.name: spec for spec in self.specs}
        in_scenario = self.scenario is not None and not self.job.operations
        texts = [
            name if in_scenario else _text(specs[name])
            for name in finding.operations
            if name in specs
        ]
        if None in texts or not isinstance(self.job.target, str | None):
            return None
        return encode(
            Token(
                target=self.job.target or "",
                database=self.database.shown_url,
                operations=tuple(text for text in texts if text is not None),
                schedule=finding.schedule,
                setup=self.job.setup if isinstance(self.job.setup, str) else None,
                login=self.job.login,
                headers=self.job.headers,
                scenario=in_scenario,
            )
        )

    @property
    def scenario(self) -> Scenario | None:
        return self.target.scenario

    @property
    def invariants(self) -> tuple[Invariant, ...]:
        return (*self.job.invariants, *(self.scenario.invariants if self.scenario else ()))

    def _set_up(self) -> None:
        """Run the setup, and learn what the operations are."""
        setup = self.job.setup or (self.scenario.setup if self.scenario else None)
        if setup is not None:
            made = load_function(setup)()
            if inspect.isawaitable(made):
                self.controller.call(_awaited(made))
        if self.job.operations:
            self.specs = name_apart([_spec(one) for one in self.job.operations])
        elif self.scenario is not None:
            self.specs = self.scenario.specs()
        else:
            routes = routes_of(self.target.app)[:_ROUTES_SHOWN]
            known = f" (the app has {', '.join(routes)})" if routes else ""
            raise ConfigError(
                "there is no operation to try: give at least one request, such as "
                f"--request 'POST /orders {{\"product_id\": 1}}'{known}"
            )

    def _headers(self) -> tuple[str, ...]:
        given = self.scenario.headers if self.scenario else ()
        if isinstance(given, Mapping):
            given = [f"{name}: {value}" for name, value in given.items()]
        return (*given, *self.job.headers)


def _spec(operation: Any) -> Spec:
    """An operation as it was given; ``call module:function`` names a function."""
    if isinstance(operation, str) and operation.startswith(_CALL):
        return call(load_function(operation.removeprefix(_CALL).strip()))
    return spec_of(operation)


def _text(spec: Spec) -> str | None:
    """What names that operation in another process; None for a function without a name."""
    if isinstance(spec, Call):
        return f"{_CALL}{spec.reference}" if spec.reference and not spec.args else None
    return spec.text


async def _awaited(made: Awaitable[object]) -> object:
    return await made
