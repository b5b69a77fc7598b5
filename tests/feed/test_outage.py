"""PostgreSQL stops, is killed, and comes back: the feed goes on where it was."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import make_url
from tests.feed.support import Reader, eventually, hub_at, run, say
from tests.support.pg_server import PgServer

from crowdsafe.errors import CrowdsafeError
from crowdsafe.store import AsyncStore, Settings


@pytest.mark.postgres
@pytest.mark.parametrize("how", ["stop", "kill9"])
def test_streams_live_through_a_database_that_goes_and_comes(
    own_pg_server: PgServer, how: str
) -> None:
    async def main() -> None:
        settings = Settings(pool_size=4, deadline_s=1, connect_timeout_s=1, pool_timeout_s=1)
        store = AsyncStore(make_url(own_pg_server.url()), settings)
        await store.create_all()
        try:
            async with hub_at(store, backoff_s_max=0.3, heartbeat_s=0.2) as hub:
                await eventually(hub._primed.is_set)
                reader = Reader(hub.subscribe(["news"]))
                await store.write(say, 1)
                await reader.seen(1)

                await asyncio.to_thread(getattr(own_pg_server, how))
                await eventually(lambda: hub.stats.failing is not None)
                with pytest.raises(CrowdsafeError):
                    await store.write(say, 13)
                beats = len(reader.frames)
                await reader.until(lambda r: len(r.frames) > beats + 1)  # the stream lives on
                late = Reader(hub.subscribe(["news"], 0))
                with pytest.raises(CrowdsafeError):
                    await late.step()  # its answer ends, and the browser tries again

                await asyncio.to_thread(own_pg_server.start)
                await eventually(lambda: hub.stats.failing is None)
                await store.write(say, 2)
                await reader.seen(2)
                assert [frame.data["n"] for frame in reader.events] == [1, 2]
                assert not reader.resyncs
                assert hub.stats.subscribers == 1
                back = Reader(hub.subscribe(["news"], 0))
                await back.seen(2)
                await back.close()
        finally:
            await store.close()

    run(main())
