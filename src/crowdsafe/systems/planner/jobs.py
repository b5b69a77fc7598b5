"""The job that makes a plan: generation in between two transactions, and what it may save."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy.orm import Session

from crowdsafe.store import AsyncStore, write
from crowdsafe.store.types import utcnow
from crowdsafe.systems.planner.generation import SECTIONS, Plan
from crowdsafe.systems.planner.generation.errors import UpstreamRefused
from crowdsafe.systems.planner.models import SavedSection
from crowdsafe.systems.planner.operations.finishing import drop_job, store_plan, tell_job
from crowdsafe.systems.planner.operations.submitting import KIND
from crowdsafe.systems.planner.request import PlanRequest
from crowdsafe.systems.planner.settings import PlannerSettings
from crowdsafe.traffic.queue import GiveUp, Job, Kind, RunningJob, hold_lease
from crowdsafe.writes.rows import table_of, upsert

__all__ = ["Make", "Report", "Sections", "plan_kind"]

Report = Callable[[str, str], Awaitable[None]]
Make = Callable[[PlanRequest, Report, "Sections"], Awaitable[Plan]]
"""Makes a plan: reports each section's state, and saves what is finished."""


class Sections:
    """The finished sections of one job, in the database: a second run does not pay for them.

    Holds: none is left behind by a run whose job has ended meanwhile, or was begun again.
    Proved by ``tests/systems/planner/test_crash.py``.
    """

    def __init__(self, store: AsyncStore, job_id: str, token: str) -> None:
        self._store = store
        self._job_id = job_id
        self._token = token

    async def get(self, section: str) -> dict[str, Any] | None:
        """What was put for this section, or None."""
        return await self._store.read(_saved, self._job_id, section)

    async def put(self, section: str, data: dict[str, Any]) -> None:
        """Keep the section; it is on disk when this returns. Raises LeaseLost."""
        await self._store.write(_save, self._job_id, self._token, section, data)


def plan_kind(
    settings: PlannerSettings,
    store: AsyncStore,
    make: Make,
    told: Callable[[Session, Job], None],
) -> Kind:
    """The kind of the queue's jobs. ``told`` is called in the transaction of every change."""

    async def run(job: RunningJob) -> None:
        request = PlanRequest.model_validate(job.payload["request"])
        states: dict[str, str] = dict.fromkeys(SECTIONS, "waiting")

        async def report(section: str, state: str) -> None:
            states[section] = state
            done = sum(1 for each in states.values() if each == "done")
            await job.progress({"sections": dict(states), "done": done, "of": len(states)})

        try:
            plan = await make(request, report, Sections(store, job.id, job.token))
        except UpstreamRefused as error:
            raise GiveUp(error.message) from error
        body = plan.to_json()

        @write(isolation="read committed")
        def finish(session: Session) -> dict[str, Any]:
            return store_plan(session, job.job, body)

        job.finish_with(finish)

    def changed(session: Session, job: Job) -> None:
        tell_job(session, job)
        told(session, job)

    return Kind(
        KIND,
        run,
        attempts=settings.job_attempts,
        lease_s=settings.lease_s,
        timeout_s=settings.job_timeout_s,
        dropped=drop_job,
        changed=changed,
    )


def _saved(session: Session, job_id: str, section: str) -> dict[str, Any] | None:
    found = session.get(SavedSection, (job_id, section))
    return None if found is None else found.body


@write(isolation="read committed")
def _save(session: Session, job_id: str, token: str, section: str, data: dict[str, Any]) -> None:
    hold_lease(session, job_id, token)
    table = table_of(SavedSection)
    insert = upsert(session, table).values(job_id=job_id, section=section, body=data)
    session.execute(
        insert.on_conflict_do_update(
            index_elements=["job_id", "section"],
            set_={"body": insert.excluded.body, "saved_at": utcnow()},
        )
    )
