"""An application with a stream and a page to publish by; run by uvicorn in the tests."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request

from crowdsafe.feed import FeedHub, FeedLimits, publish
from crowdsafe.store import AsyncStore
from crowdsafe.web.fastapi import Services, install
from crowdsafe.web.sse import EventStream, event_stream, feed_running


def make_app(url: str, **limits: Any) -> FastAPI:
    store = AsyncStore(url)
    hub = FeedHub(store, poll_s=0.05, limits=FeedLimits(**limits))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await store.create_all()
        async with feed_running(hub):
            yield
        await store.close()

    app = FastAPI(lifespan=lifespan)
    app.state.hub = hub

    @app.get("/events")
    async def events(request: Request) -> EventStream:
        return event_stream(request, hub, ["news"])

    @app.post("/say/{n}")
    async def say(n: int, pad: int = 0) -> None:
        await store.write(publish, "news", "said", {"n": n, "pad": "x" * pad})

    @app.get("/stats")
    async def stats() -> dict[str, int]:
        return {"subscribers": hub.stats.subscribers, "dropped": hub.stats.dropped}

    install(app, Services(store, feed=hub))
    return app


def app() -> FastAPI:
    """For `uvicorn --factory`."""
    return make_app(
        os.environ["SSE_TEST_URL"], subscribers_max=int(os.environ.get("SSE_TEST_MAX", "100"))
    )
