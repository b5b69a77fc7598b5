"""Job queues, each opened around one job's code: enqueue a job of a user, and work jobs off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from bench.traffic.first_come import FirstCome
from crowdsafe.store import AsyncStore
from crowdsafe.traffic import JobQueue, Kind, RunningJob, Worker, enqueue

Handler = Callable[[str], Awaitable[None]]
"""The job's code, given the user whose job it is."""

CONNECTIONS = 16
PER_USER_MAX = 100_000
POLL_S = 0.05
"""How often DBOS looks for work: its shortest sensible interval; it is 1 s by default."""


@dataclass(frozen=True, slots=True)
class Queue:
    """An open queue."""

    enqueue: Callable[[str], Awaitable[Any]]
    working: Callable[[], AbstractAsyncContextManager[Any]]


Opened = AbstractAsyncContextManager[Queue]
Open = Callable[[str, Handler, int], Opened]
"""From a URL, the job's code, and how many jobs run at a time."""


@asynccontextmanager
async def ours(url: str, handler: Handler, concurrency: int) -> AsyncIterator[Queue]:
    """The fair claim, without a limit per user that would be fair by itself."""
    queue = _our_queue(handler, concurrency)
    async with AsyncStore(url) as store:
        await store.create_all()
        worker = Worker(store, queue, concurrency=concurrency)
        yield Queue(lambda user: _enqueue(store, queue, user), worker.running)


@asynccontextmanager
async def first_come(url: str, handler: Handler, concurrency: int) -> AsyncIterator[Queue]:
    """The same table and the same enqueue, claimed in the order of ids."""
    queue = _our_queue(handler, concurrency)
    async with AsyncStore(url) as store:
        await store.create_all()
        worker = FirstCome(store, queue.name, handler, concurrency)
        yield Queue(lambda user: _enqueue(store, queue, user), worker.running)


def _our_queue(handler: Handler, concurrency: int) -> JobQueue:
    async def run(job: RunningJob) -> None:
        await handler(job.user)

    return JobQueue(
        "bench", kinds=[Kind("job", run)], per_user=concurrency, running_max=4 * concurrency,
        queued_max=PER_USER_MAX, queued_per_user_max=PER_USER_MAX,
    )  # fmt: skip


async def _enqueue(store: AsyncStore, queue: JobQueue, user: str) -> None:
    await store.write(enqueue, queue, "job", user=user, payload={})


@asynccontextmanager
async def procrastinate(url: str, handler: Handler, concurrency: int) -> AsyncIterator[Queue]:
    import procrastinate as library

    connector = library.PsycopgConnector(conninfo=url, min_size=4, max_size=CONNECTIONS)
    app = library.App(connector=connector)

    @app.task(name="job")
    async def job(user: str) -> None:
        await handler(user)

    @asynccontextmanager
    async def working() -> AsyncIterator[None]:
        worker = app.run_worker_async(
            concurrency=concurrency, install_signal_handlers=False, fetch_job_polling_interval=0.5
        )
        async with _in_background(worker):
            yield

    async with app.open_async():
        if not await app.check_connection_async():
            await app.schema_manager.apply_schema_async()
        yield Queue(lambda user: job.defer_async(user=user), working)


@asynccontextmanager
async def pgqueuer(url: str, handler: Handler, concurrency: int) -> AsyncIterator[Queue]:
    import asyncpg
    from pgqueuer import PgQueuer
    from pgqueuer.db import AsyncpgPoolDriver
    from pgqueuer.models import Job
    from pgqueuer.queries import Queries

    async with asyncpg.create_pool(url, min_size=4, max_size=CONNECTIONS) as pool:
        driver = AsyncpgPoolDriver(pool)
        queries = Queries(driver)
        if not await queries.schema_is_installed():
            await queries.install()
        app = PgQueuer(driver)

        @app.entrypoint("job")
        async def job(job: Job) -> None:
            await handler((job.payload or b"").decode())

        @asynccontextmanager
        async def working() -> AsyncIterator[None]:
            # It asks for a limit of two batches at least. Its log is what jobs are counted in, so
            # it is not folded away.
            run = app.run(
                batch_size=max(1, concurrency // 2), max_concurrent_tasks=concurrency,
                log_aggregation_interval=timedelta(0),
            )  # fmt: skip
            async with _in_background(run):
                yield

        yield Queue(lambda user: queries.enqueue("job", user.encode()), working)


@asynccontextmanager
async def dbos(url: str, handler: Handler, concurrency: int) -> AsyncIterator[Queue]:
    """Its launch starts its workers, so jobs are enqueued through its client."""
    from dbos import DBOS, DBOSClient, EnqueueOptions

    @DBOS.workflow(name="job")
    async def job(user: str) -> None:
        await handler(user)

    def launch() -> None:
        DBOS(
            config={
                "name": "bench", "system_database_url": url, "application_version": "1",
                "sys_db_pool_size": CONNECTIONS, "log_level": "ERROR",
            }
        )  # fmt: skip
        DBOS.launch()

    def register() -> DBOSClient:
        launch()
        DBOS.register_queue("bench", worker_concurrency=concurrency, polling_interval_sec=POLL_S)
        DBOS.destroy()
        return DBOSClient(system_database_url=url, system_database_pool_size=CONNECTIONS)

    client = await asyncio.to_thread(register)

    @asynccontextmanager
    async def working() -> AsyncIterator[None]:
        await asyncio.to_thread(launch)
        try:
            yield
        finally:
            await asyncio.to_thread(DBOS.destroy)

    def put(user: str) -> Awaitable[Any]:
        options = EnqueueOptions(queue_name="bench", workflow_name="job", app_version="1")
        return client.enqueue_async(options, user)

    yield Queue(put, working)
    await asyncio.to_thread(client.destroy)


@asynccontextmanager
async def _in_background(work: Any) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task], timeout=10)


QUEUES: dict[str, Open] = {
    "ours": ours,
    "first-come": first_come,
    "procrastinate": procrastinate,
    "pgqueuer": pgqueuer,
    "dbos": dbos,
}
