"""A worker as one writes it first: on crowdsafe's own table of jobs, in the order of their ids."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Table, bindparam, select, update
from sqlalchemy.orm import Session

from crowdsafe.store import AsyncStore, CrowdsafeBase, utcnow, write

IDLE_S = 0.01


class FirstCome:
    """Claims as many jobs as it has room for, runs each, and completes those that are through.

    What ends at the same time is completed in one statement, together with the next claim.
    """

    def __init__(
        self,
        store: AsyncStore,
        queue: str,
        handler: Callable[[str], Awaitable[None]],
        concurrency: int,
    ) -> None:
        self._store = store
        self._handler = handler
        self._concurrency = concurrency
        self._running: dict[asyncio.Task[None], int] = {}
        jobs = CrowdsafeBase.metadata.tables["crowdsafe_jobs"]
        self._turn = _turn(jobs, queue)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work in the background for the length of the block."""
        loop = asyncio.create_task(self._run())
        try:
            yield
        finally:
            loop.cancel()
            await asyncio.gather(loop, *self._running, return_exceptions=True)

    async def _run(self) -> None:
        ended: list[int] = []
        while True:
            room = self._concurrency - len(self._running)
            claimed = await self._store.write(self._turn, ended, room)
            for number, user in claimed:
                self._running[asyncio.ensure_future(self._handler(user))] = number
            ended = []
            if not self._running:
                await asyncio.sleep(IDLE_S)
                continue
            done, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
                ended.append(self._running.pop(task))


def _turn(jobs: Table, queue: str) -> Callable[[Session, Sequence[int], int], list[Any]]:
    first = (
        select(jobs.c.id)
        .where(jobs.c.queue == queue, jobs.c.state == "queued")
        .order_by(jobs.c.id)
        .limit(bindparam("room"))
        .with_for_update(skip_locked=True)
    )
    claim = (
        update(jobs)
        .where(jobs.c.id.in_(first.scalar_subquery()))
        .values(state="running", started_at=bindparam("now"), attempts=jobs.c.attempts + 1)
        .returning(jobs.c.id, jobs.c.user_key)
    )
    complete = (
        update(jobs)
        .where(jobs.c.id.in_(bindparam("ended", expanding=True)))
        .values(state="done", finished_at=bindparam("now"))
    )

    @write(isolation="read committed")
    def turn(session: Session, ended: Sequence[int], room: int) -> list[Any]:
        connection = session.connection()
        now = {"now": utcnow()}
        if ended:
            connection.execute(complete, now | {"ended": list(ended)})
        return [tuple(row) for row in connection.execute(claim, now | {"room": room})]

    return turn
