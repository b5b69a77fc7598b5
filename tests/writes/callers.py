"""The same calls from every kind of caller: threads, asyncio tasks, two processes, plain sessions.

A call is a function of a session and its arguments; all calls of a crowd are released at once.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from crowdsafe import AsyncStore, Settings, Store
from crowdsafe.store import Isolation
from crowdsafe.store.database import parse_url

SETTINGS = Settings(deadline_s=40, pool_size=8, pool_timeout_s=30)
RELEASE_S_MAX = 30
ANSWER_S_MAX = 90


@dataclass(frozen=True)
class Call:
    """One call: of which function, with what."""

    fn: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a call gave or raised."""

    value: Any = None
    error: BaseException | None = None


def calls(fn: Callable[..., Any], many: Iterable[tuple[Any, ...]]) -> list[Call]:
    return [Call(fn, args) for args in many]


def values(outcomes: Sequence[Outcome]) -> list[Any]:
    return [outcome.value for outcome in outcomes if outcome.error is None]


def errors(outcomes: Sequence[Outcome], kind: type[BaseException]) -> list[Any]:
    """The errors; AssertionError when one is of another kind."""
    found = [outcome.error for outcome in outcomes if outcome.error is not None]
    others = [error for error in found if not isinstance(error, kind)]
    assert not others, f"unexpected: {others!r}"
    return found


def from_threads(url: str, isolation: Isolation | None, todo: Sequence[Call]) -> list[Outcome]:
    with Store(url, SETTINGS) as store:
        return released(
            lambda call: store.write(call.fn, *call.args, isolation=isolation, **call.kwargs), todo
        )


def from_tasks(url: str, isolation: Isolation | None, todo: Sequence[Call]) -> list[Outcome]:
    async def one(store: AsyncStore, call: Call) -> Outcome:
        try:
            return Outcome(
                await store.write(call.fn, *call.args, isolation=isolation, **call.kwargs)
            )
        except Exception as error:
            return Outcome(error=error)

    async def main() -> list[Outcome]:
        async with AsyncStore(url, SETTINGS) as store:
            return await asyncio.gather(*(one(store, call) for call in todo))

    return asyncio.run(main())


def from_sessions(url: str, isolation: Isolation | None, todo: Sequence[Call]) -> list[Outcome]:
    """Each call in a plain Session of an engine that knows nothing of crowdsafe."""
    parsed = parse_url(url)
    sqlite = parsed.get_backend_name() == "sqlite"
    engine = create_engine(
        parsed,
        connect_args={"timeout": 30} if sqlite else {},
        pool_size=len(todo),
        **({"isolation_level": isolation.upper()} if isolation else {}),
    )

    def run(call: Call) -> Any:
        with Session(engine) as session:
            value = call.fn(session, *call.args, **call.kwargs)
            session.commit()
            return value

    try:
        return released(run, todo)
    finally:
        engine.dispose()


def released(run: Callable[[Call], Any], todo: Sequence[Call]) -> list[Outcome]:
    """Run each call in a thread of its own, all let go at the same moment."""
    barrier = threading.Barrier(len(todo))

    def one(call: Call) -> Outcome:
        barrier.wait(RELEASE_S_MAX)
        try:
            return Outcome(run(call))
        except Exception as error:
            return Outcome(error=error)

    with ThreadPoolExecutor(len(todo)) as pool:
        return list(pool.map(one, todo))


class Pair:
    """Two processes that stay, and take calls when told to."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._barrier = context.Barrier(2)
        self._pipes: list[Any] = []
        self._processes: list[Any] = []
        for _ in range(2):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, self._barrier), daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)

    def __call__(
        self, url: str, isolation: Isolation | None, todo: Sequence[Call]
    ) -> list[Outcome]:
        for n, pipe in enumerate(self._pipes):
            pipe.send((url, isolation, todo[n::2]))
        outcomes: list[Outcome] = [Outcome()] * len(todo)
        for n, pipe in enumerate(self._pipes):
            assert pipe.poll(ANSWER_S_MAX), "a process does not answer"
            outcomes[n::2] = pipe.recv()
        return outcomes

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(10)


def _serve(pipe: Any, barrier: Any) -> None:
    while (job := pipe.recv()) is not None:
        url, isolation, todo = job
        with Store(url, SETTINGS) as store:
            barrier.wait(RELEASE_S_MAX)

            def run(call: Call, store: Store = store, isolation: Any = isolation) -> Any:
                return store.write(call.fn, *call.args, isolation=isolation, **call.kwargs)

            pipe.send(released(run, todo))
