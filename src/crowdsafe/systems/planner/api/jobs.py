"""Jobs over HTTP: where they stand, live, and how to cancel one."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from crowdsafe.errors import NotFound
from crowdsafe.systems.planner import schemas
from crowdsafe.systems.planner.api.common import JobId, PlannerDep, answers
from crowdsafe.systems.planner.errors import JobEnded, JobShared
from crowdsafe.systems.planner.operations import queries
from crowdsafe.systems.planner.operations.cancelling import cancel_job
from crowdsafe.systems.planner.operations.finishing import job_topic
from crowdsafe.web.fastapi import CurrentUser, FeedDep, StoreDep, json_answer
from crowdsafe.web.sse import event_stream

__all__ = ["router"]

router = APIRouter()


@router.get("/jobs", summary="Your jobs that wait or run", responses=answers(list[schemas.JobBody]))
async def list_jobs(planner: PlannerDep, store: StoreDep, user: CurrentUser) -> Response:
    """Those that run first."""
    return json_answer(await store.read(queries.list_jobs, planner.queue, user_id=user.id))


@router.get(
    "/jobs/{job_id}", summary="Where a job stands", responses=answers(schemas.JobBody, NotFound)
)
async def get_job(
    job_id: JobId, planner: PlannerDep, store: StoreDep, user: CurrentUser
) -> Response:
    """404 for another user's, unless you asked for the same public plan. `last_event_id` is where
    the live events go on from this answer."""
    return json_answer(await store.read(queries.job_view, planner.queue, job_id, user_id=user.id))


@router.get(
    "/jobs/{job_id}/events",
    summary="Progress of a job as server-sent events",
    responses={
        200: {
            "description": "Events `job.changed` with state, progress and, in the end, plan_id; "
            "`resync` when some were missed.",
            "content": {"text/event-stream": {}},
        },
        **{k: v for k, v in answers(None, NotFound).items() if k != 200},
    },
)
async def events(
    job_id: JobId,
    request: Request,
    planner: PlannerDep,
    store: StoreDep,
    hub: FeedDep,
    user: CurrentUser,
) -> Response:
    """Resumes after `Last-Event-ID`."""
    job = await store.read(queries.job_for, planner.queue, job_id, user_id=user.id)
    return event_stream(request, hub, [job_topic(job.id)])


@router.delete(
    "/jobs/{job_id}",
    summary="Cancel a job",
    responses=answers(schemas.JobBody, NotFound, JobEnded, JobShared),
)
async def cancel(
    job_id: JobId, planner: PlannerDep, store: StoreDep, user: CurrentUser
) -> Response:
    """One that waits ends at once and gives its unit back; one that runs is told to stop, and
    `cancel_requested` says so. Only by who asked first. 409 `job-ended` when it is too late,
    and `job-shared` when others wait for it too: then it goes on."""
    await store.write(cancel_job, planner.queue, job_id, user_id=user.id)
    return json_answer(await store.read(queries.job_view, planner.queue, job_id, user_id=user.id))
