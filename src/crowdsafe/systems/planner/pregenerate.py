"""Make plans that people are likely to ask for while nobody waits: off unless it is asked for."""

from __future__ import annotations

import asyncio
import logging
import random
from datetime import timedelta
from typing import NoReturn

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from crowdsafe.errors import CrowdsafeError, QuotaExceeded
from crowdsafe.store import AsyncStore
from crowdsafe.store.types import utcnow
from crowdsafe.systems.planner.models import SYSTEM_USER_ID, Plan
from crowdsafe.systems.planner.operations.submitting import (
    Submitted,
    flight_of,
    fresh_plan,
    submit_idle,
)
from crowdsafe.systems.planner.request import PlanRequest
from crowdsafe.systems.planner.settings import PlannerSettings
from crowdsafe.systems.planner.starters import STARTERS
from crowdsafe.traffic.queue import JobQueue, queue_view

__all__ = ["next_popular", "pregenerate_once", "pregenerating"]

log = logging.getLogger("crowdsafe.planner")

_POPULAR_FOR = timedelta(days=30)


async def pregenerating(store: AsyncStore, queue: JobQueue, settings: PlannerSettings) -> NoReturn:
    """Look every ``pregenerate_every_s`` seconds whether there is time for a plan, for ever."""
    while True:
        await asyncio.sleep(settings.pregenerate_every_s * (0.5 + random.random()))
        try:
            await pregenerate_once(store, queue, settings)
        except Exception as error:
            expected = isinstance(error, CrowdsafeError)
            log.warning("nothing was made ahead of time: %s", error, exc_info=not expected)


async def pregenerate_once(
    store: AsyncStore, queue: JobQueue, settings: PlannerSettings
) -> Submitted | None:
    """Queue the most popular starter that has no fresh plan; None when there is nothing to do.

    Holds: at most ``pregenerate_per_day`` plans a day over all processes, since each takes a unit
    of the system's own quota; only while nothing waits or runs; and as IDLE, so that a person's
    job that comes in the same moment goes first. A person who asks for the same plan while it
    waits gets a job of their own in its place. Does not hold: a call to the upstream that runs
    when a person's job comes in goes on to its end.
    Proved by ``tests/systems/planner/test_flow.py``.
    """
    request = await store.read(next_popular, queue=queue, settings=settings)
    if request is None:
        return None
    try:
        return await store.write(submit_idle, queue=queue, settings=settings, request=request)
    except QuotaExceeded:
        return None


def next_popular(
    session: Session, *, queue: JobQueue, settings: PlannerSettings
) -> PlanRequest | None:
    """The starter whose kind of business was asked for most in 30 days, if nobody waits."""
    view = queue_view(session, queue)
    if view.queued or view.running:
        return None
    kind = func.lower(Plan.business_type)
    counted = session.execute(
        select(kind, func.count())
        .where(Plan.created_at > utcnow() - _POPULAR_FOR, Plan.user_id != SYSTEM_USER_ID)
        .where(kind.in_([each.business_type.lower() for each in STARTERS]))
        .group_by(kind)
    )
    asked: dict[str, int] = {row[0]: row[1] for row in counted}
    for request in sorted(STARTERS, key=lambda each: -asked.get(each.business_type.lower(), 0)):
        flight = flight_of(request, SYSTEM_USER_ID)
        if fresh_plan(session, flight, settings, by_anyone=True) is None:
            return request
    return None
