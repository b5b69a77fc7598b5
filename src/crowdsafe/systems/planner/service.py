"""What one process runs of the planner: the queue's worker, the breaker, the limiter, who waits."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from crowdsafe.errors import CrowdsafeError
from crowdsafe.store import AsyncStore
from crowdsafe.store.session import after_commit
from crowdsafe.store.types import utcnow
from crowdsafe.systems.planner.generation import Patience, Plan, Upstream, generate
from crowdsafe.systems.planner.jobs import Report, Sections, plan_kind
from crowdsafe.systems.planner.operations.queries import ended_jobs, get_plan, job_view
from crowdsafe.systems.planner.operations.sharing import forget_sharers
from crowdsafe.systems.planner.operations.submitting import (
    Submitted,
    flight_of,
    plan_at_hand,
    submit,
)
from crowdsafe.systems.planner.pregenerate import pregenerating
from crowdsafe.systems.planner.request import PlanRequest
from crowdsafe.systems.planner.settings import PlannerSettings
from crowdsafe.systems.planner.waiting import JobWatch
from crowdsafe.traffic.breaker import BreakerSettings, DatabaseBreaker, ValkeyBreaker
from crowdsafe.traffic.cache import InProcessCache, for_user
from crowdsafe.traffic.queue import Job, JobQueue, Worker
from crowdsafe.traffic.quota import expire_reservations, forget_quotas
from crowdsafe.traffic.rates import DatabaseLimiter, Limiter, Rate, ValkeyLimiter
from crowdsafe.web.client_address import TrustedProxies

if TYPE_CHECKING:
    from valkey.asyncio import Valkey

__all__ = ["QUEUE", "Planner"]

log = logging.getLogger("crowdsafe.planner")

QUEUE = "planner"
_FAILING_SHARE = 0.5  # with a hundred calls a second, stray failures are no outage
_WRITING_SHARE = 0.8  # of a job's time; then what is left of the plan is written offline
_KEEP_HOUSE_EVERY_S = 60.0
_SHARERS_KEPT_S = 8 * 86_400.0
_QUOTAS_KEPT = timedelta(days=35)
_ROUNDS_MAX = 100
_LOOK_AGE_S_MAX = 0.01
_DRAIN_S = 1.0


class Planner:
    """The planner of one process; made by ``await Planner.open(store, settings)``.

    ``running(workers=True)`` also makes plans in this process; without, it serves requests whose
    plans the workers of other processes make.
    """

    def __init__(
        self,
        store: AsyncStore,
        settings: PlannerSettings,
        *,
        limiter: Limiter,
        breaker: Any,
        trusted: TrustedProxies,
        demo: bool,
    ) -> None:
        self.store = store
        self.settings = settings
        self.limiter = limiter
        self.breaker = breaker
        self.trusted = trusted
        self.demo = demo
        self.upstream: Upstream | None = None
        if self.upstream_kind == "none":
            self.settings = replace(settings, offline_fresh_s=settings.plan_fresh_s)
        self.queue = JobQueue(
            QUEUE,
            [plan_kind(settings, store, self._make, self._told)],
            per_user=settings.per_user,
            running_max=settings.running_max,
            queued_max=settings.queued_max,
            queued_per_user_max=settings.queued_per_user_max,
        )
        self._looks = InProcessCache(items_max=1000, bytes_max=32_000_000)
        self.watch = JobWatch(store, partial(ended_jobs, queue=self.queue))

    @classmethod
    async def open(
        cls,
        store: AsyncStore,
        settings: PlannerSettings | None = None,
        *,
        valkey: Valkey | None = None,
        trusted: TrustedProxies | None = None,
        demo: bool = False,
    ) -> Planner:
        """The planner on a store whose tables exist. With ``demo`` and no upstream of its own it
        asks a simulated one, which it starts. Raises ConfigError.
        """
        settings = settings or PlannerSettings.from_env()
        if demo:
            settings = settings.for_demo()
        rate = Rate.parse(settings.ip_rate)
        breaking = BreakerSettings(
            failures=settings.breaker_failures,
            failing_share=_FAILING_SHARE,
            cooldown_s=settings.breaker_cooldown_s,
            cooldown_max_s=12 * settings.breaker_cooldown_s,
            probe_s=max(60.0, 2 * settings.upstream_timeout_s),
        )
        name = "planner"
        return cls(
            store,
            settings,
            limiter=(
                DatabaseLimiter(store, rate, name=name)
                if valkey is None
                else ValkeyLimiter(valkey, rate, name=name)
            ),
            breaker=(
                DatabaseBreaker(store, name, breaking)
                if valkey is None
                else ValkeyBreaker(valkey, name, breaking)
            ),
            trusted=trusted or TrustedProxies.parse(settings.trusted_proxies),
            demo=demo,
        )

    @asynccontextmanager
    async def running(self, *, workers: bool = True) -> AsyncIterator[Planner]:
        """Serve for the length of the block; with ``workers`` make plans too.

        At its end plans that are not finished within a second go back into the queue, with the
        sections that they have.
        """
        async with AsyncExitStack() as stack:
            if workers:
                await self._open_upstream(stack)
                worker = Worker(self.store, self.queue, concurrency=self.settings.running_max)
                await stack.enter_async_context(worker.running(drain_s=_DRAIN_S))
                await stack.enter_async_context(_task(self._keep_house()))
                if self.settings.pregenerate:
                    idle = pregenerating(self.store, self.queue, self.settings)
                    await stack.enter_async_context(_task(idle))
            stack.push_async_callback(self.watch.stop)
            stack.push_async_callback(self._looks.close)
            yield self

    async def submit(
        self, user_id: int, request: PlanRequest, idempotency: tuple[str, Any] | None = None
    ) -> Submitted:
        """As ``operations.submitting.submit``; equal ones of a user in one process go together."""
        return await self.store.write(
            submit,
            queue=self.queue,
            settings=self.settings,
            user_id=user_id,
            request=request,
            idempotency=idempotency,
            lane=("planner", flight_of(request, user_id), user_id),
        )

    async def find(self, user_id: int, request: PlanRequest) -> Submitted:
        """The fresh plan that answers a request, or the job that ``submit`` gives.

        Equal requests of one user that come at once to this process are looked up once.
        """
        flight = flight_of(request, user_id)

        async def look() -> Submitted:
            plan_id = await self.store.read(plan_at_hand, flight, self.settings, user_id)
            if plan_id is not None:
                return Submitted(plan_id=plan_id)
            return await self.submit(user_id, request)

        return await self._looks.get_or_run(
            flight, look, scope=for_user(user_id), ttl_s=_LOOK_AGE_S_MAX
        )

    async def plan(self, plan_id: int, user_id: int) -> dict[str, Any]:
        """What an answer says of a plan, read once for all who wait for it. Raises NotFound."""
        return await self._looks.get_or_run(
            f"plan:{plan_id}",
            lambda: self.store.read(get_plan, plan_id, user_id=user_id),
            scope=for_user(user_id),
            ttl_s=_LOOK_AGE_S_MAX,
        )

    async def job(self, job_id: str, user_id: int) -> dict[str, Any]:
        """What an answer says of a job, read once for all who ask at once. Raises NotFound."""
        return await self._looks.get_or_run(
            f"job:{job_id}",
            lambda: self.store.read(job_view, self.queue, job_id, user_id=user_id),
            scope=for_user(user_id),
            ttl_s=_LOOK_AGE_S_MAX,
        )

    @property
    def upstream_kind(self) -> str:
        """Who writes the plans: an upstream that is configured, a simulated one, or nobody."""
        if self.settings.upstream_url is not None:
            return "configured"
        return "simulated" if self.demo else "none"

    async def breaker_state(self) -> dict[str, Any]:
        """Whether the upstream is left alone just now."""
        return asdict(await self.breaker.state())

    async def _make(self, request: PlanRequest, report: Report, saved: Sections) -> Plan:
        return await generate(
            request,
            self.upstream,
            breaker=self.breaker,
            report=report,
            offline_ok=self.settings.offline_ok,
            saved=saved,
            patience=Patience(plan_s=_WRITING_SHARE * self.settings.job_timeout_s),
        )

    def _told(self, session: Session, job: Job) -> None:
        if job.ended:
            after_commit(session, self.watch.nudge)

    async def _open_upstream(self, stack: AsyncExitStack) -> None:
        settings = self.settings
        url = settings.upstream_url
        if url is None and self.demo:
            from crowdsafe.systems.planner.simulated import simulated_upstream

            serving = await stack.enter_async_context(simulated_upstream())
            url = serving.base_url
        if url is None:
            log.info("no upstream is configured: plans are made offline, and marked as such")
            return
        self.upstream = settings.upstream_at(url)
        stack.push_async_callback(self.upstream.close)

    async def _keep_house(self) -> None:
        """Expire what nobody ended, a few at a time, for ever."""
        while True:
            await asyncio.sleep(_KEEP_HOUSE_EVERY_S * (0.5 + random.random()))
            try:
                for _ in range(_ROUNDS_MAX):
                    gone = await self.store.write(expire_reservations, limit=1000)
                    gone += await self.store.write(forget_sharers, older_s=_SHARERS_KEPT_S)
                    gone += await self.store.write(forget_quotas, before=utcnow() - _QUOTAS_KEPT)
                    if not gone:
                        break
            except Exception as error:
                expected = isinstance(error, CrowdsafeError)
                log.warning(
                    "could not keep house, trying again later: %s", error, exc_info=not expected
                )


@asynccontextmanager
async def _task(work: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    task.add_done_callback(_tell_failure)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task], timeout=_DRAIN_S)


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("%s ended and does not go on", task, exc_info=task.exception())
