"""A job that fails says so in the log: with the lines of its code, unless its error says enough."""

from __future__ import annotations

import asyncio
import logging

import pytest
from tests.traffic.queue_help import eventually, opened, queue_of, run

from crowdsafe.errors import Refused
from crowdsafe.traffic.queue import Kind, RunningJob, Worker, enqueue, get_job


async def broken(job: RunningJob) -> None:
    if job.payload["plain"]:
        raise Refused("this is closed today")
    await asyncio.sleep(0)
    raise ValueError("never")


@pytest.mark.parametrize("plain", [False, True], ids=["bug", "refusal"])
def test_a_failing_job_is_logged(
    sqlite_url: str, caplog: pytest.LogCaptureFixture, plain: bool
) -> None:
    queue = queue_of(Kind("job", broken, attempts=1))

    async def main() -> None:
        async with opened(sqlite_url) as store, Worker(store, queue, 1).running(drain_s=0):
            payload = {"plain": plain}
            made = await store.write(enqueue, queue, "job", user="ann", payload=payload)

            async def ended() -> bool:
                return (await store.read(get_job, queue, made.job.id)).ended

            await eventually(ended)

    with caplog.at_level(logging.WARNING, logger="crowdsafe.queue"):
        run(main())
    [told] = [record for record in caplog.records if record.name == "crowdsafe.queue"]
    assert told.levelno == logging.WARNING
    assert "failed in attempt 1" in told.getMessage()
    assert bool(told.exc_info) is not plain
