"""The target as the finder uses it: started, its users logged in, its operations ready."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal

from crowdsafe.errors import ConfigError
from crowdsafe.find.model import Answer, Operation
from crowdsafe.find.targets import asgi, wsgi
from crowdsafe.find.targets.conversation import demand_files
from crowdsafe.find.targets.functions import Call, FunctionOperation
from crowdsafe.find.targets.http import (
    AsyncRequestOperation,
    RequestOperation,
    drive,
    drive_async,
)
from crowdsafe.find.targets.login import header_of, logged_in, page_before
from crowdsafe.find.targets.messages import RawReply, RawRequest
from crowdsafe.find.targets.request import Request
from crowdsafe.find.targets.scenario import Scenario, Spec
from crowdsafe.find.targets.visitor import Visitor

__all__ = ["OnLoop", "Target"]

OnLoop = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine on the loop that all async operations share, and waits for its result."""

_PREPARATION_S_MAX = 120.0


class Target:
    """An app, or functions. ``startup()`` and ``shutdown()`` belong on the operations' loop."""

    def __init__(
        self,
        kind: Literal["asgi", "wsgi", "functions"],
        app: Any,
        name: str,
        *,
        scenario: Scenario | None = None,
    ) -> None:
        self.kind = kind
        self.app = app
        self.name = name
        self.scenario = scenario
        self._lifespan = asgi.Lifespan(app) if kind == "asgi" else None

    @property
    def is_async(self) -> bool:
        return self.kind == "asgi"

    async def startup(self) -> None:
        """Start the app as its server would. Raises ConfigError."""
        if self._lifespan is not None:
            await self._lifespan.startup()

    async def shutdown(self) -> None:
        if self._lifespan is not None:
            await self._lifespan.shutdown()

    def operation(self, spec: Spec, visitor: Visitor | None = None) -> Operation:
        """The operation, done by that visitor. Raises ConfigError for requests without an app."""
        if isinstance(spec, Call):
            return FunctionOperation(spec)
        visitor = visitor or Visitor()
        if self.kind == "asgi":
            return AsyncRequestOperation(spec, visitor, self._send_async)
        if self.kind == "wsgi":
            return RequestOperation(spec, visitor, self._send)
        raise ConfigError(f"{spec.name} is a request, but no app was named to send it to")

    def prepare(
        self,
        specs: Sequence[Spec],
        *,
        login: str | None = None,
        headers: Sequence[str] = (),
        on_loop: OnLoop | None = None,
    ) -> list[Operation]:
        """Log the users in, fetch the forms' tokens, and make the operations.

        It sends requests to the app, which may write: do it after the setup and the startup, and
        before the snapshot. ``on_loop`` is needed by an ASGI app. Each login is done once;
        operations of one login share its session. Raises ConfigError when a login is refused.
        """
        send = self._driver(on_loop)
        users: dict[str | None, Visitor] = {}
        return [self._prepared(spec, login, headers, send, users) for spec in specs]

    def _prepared(
        self,
        spec: Spec,
        login: str | None,
        headers: Sequence[str],
        send: Callable[[tuple[Request, ...], Visitor], Answer],
        users: dict[str | None, Visitor],
    ) -> Operation:
        if isinstance(spec, Call):
            return self.operation(spec)
        if spec.user is not None and spec.login is None:
            raise ConfigError(
                f"{spec.name} is done as {spec.user!r}: say how they log in, with "
                f"Scenario(logins={{{spec.user!r}: 'POST /login ...'}})"
            )
        demand_files(spec.requests)
        text = spec.login or login
        if text not in users:
            visitor = Visitor(tuple(header_of(header) for header in headers))
            users[text] = logged_in(text, visitor, send) if text else visitor
        visitor = users[text].copy()
        operation = self.operation(spec, visitor)
        page_before(spec, visitor, send, login=text)
        return operation

    def _driver(self, on_loop: OnLoop | None) -> Callable[[tuple[Request, ...], Visitor], Answer]:
        if self.kind != "asgi":
            return lambda requests, visitor: _aside(lambda: drive(requests, visitor, self._send))
        if on_loop is None:
            raise ConfigError("an ASGI app is prepared on the loop that it runs on: give on_loop=")
        return lambda requests, visitor: _answer(
            on_loop(drive_async(requests, visitor, self._send_async))
        )

    def _send(self, request: RawRequest) -> RawReply:
        return wsgi.send(self.app, request)

    async def _send_async(self, request: RawRequest) -> RawReply:
        state = self._lifespan.state if self._lifespan is not None else None
        return await asgi.send(self.app, request, state)


def _answer(value: Any) -> Answer:
    assert isinstance(value, Answer)
    return value


def _aside(work: Callable[[], Answer]) -> Answer:
    """Do it in a thread of its own, as connections that a framework keeps for each thread then
    end with it. At most 120 s."""
    box: list[Answer | BaseException] = []

    def run() -> None:
        try:
            box.append(work())
        except BaseException as error:  # handed to the caller below
            box.append(error)

    thread = threading.Thread(target=run, name="crowdsafe-find-prepare", daemon=True)
    thread.start()
    thread.join(_PREPARATION_S_MAX)
    if not box:
        raise ConfigError(f"the app did not answer within {_PREPARATION_S_MAX:g} s")
    if isinstance(box[0], BaseException):
        raise box[0]
    return box[0]
