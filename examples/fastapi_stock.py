"""The stock operation served by FastAPI: `python examples/fastapi_stock.py --port 8002`.

It shares its default database with flask_stock.py: start both, and they sell from one stock.
`curl -N http://127.0.0.1:8002/events` shows what either of them does.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import uvicorn
from fastapi import Body, FastAPI, Request, Response
from stock_operations import DATABASE, Base, allocate, levels, restock

from crowdsafe import AsyncStore
from crowdsafe.feed import FeedHub
from crowdsafe.web.fastapi import Services, install, json_answer
from crowdsafe.web.sse import EventStream, event_stream, feed_running


def make_app(database: str) -> FastAPI:
    """The application; FastAPI's part in it is to read the request and to send the answer."""
    store = AsyncStore(database)
    hub = FeedHub(store)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await store.create_all(Base.metadata)
        await store.write(restock)
        async with feed_running(hub):
            yield
        await store.close()

    app = FastAPI(title="stock", lifespan=lifespan)

    @app.post("/stock/allocate")
    async def allocate_stock(
        product_id: Annotated[Any, Body()] = None, quantity: Annotated[Any, Body()] = None
    ) -> Response:
        done = await store.write(allocate, product_id=product_id, quantity=quantity)
        return json_answer(done)

    @app.get("/stock")
    async def stock() -> Response:
        return json_answer(await store.read(levels))

    @app.get("/events")
    async def events(request: Request) -> EventStream:
        return event_stream(request, hub, ["stock"])

    install(app, Services(store, feed=hub))
    return app


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=8002)
    parser.add_argument("--database", default=DATABASE)
    options = parser.parse_args()
    uvicorn.run(make_app(options.database), host="127.0.0.1", port=options.port)


if __name__ == "__main__":
    main()
