"""The planner on a real server with a simulated language model that does as it is told."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from sqlalchemy import select
from sqlalchemy.orm import Session

from crowdsafe.feed import FeedHub
from crowdsafe.identity import Identity, Passwords, seed_demo_users
from crowdsafe.identity.tables import UserRow
from crowdsafe.store import AsyncStore, Store
from crowdsafe.systems.planner.api import router as planner_api
from crowdsafe.systems.planner.models import Profile, metadata
from crowdsafe.systems.planner.pages import SECTION, page_router
from crowdsafe.systems.planner.service import Planner
from crowdsafe.systems.planner.settings import PlannerSettings
from crowdsafe.systems.planner.simulated import Behaviour, Serving, simulated_upstream
from crowdsafe.web import auth
from crowdsafe.web.fastapi import install
from crowdsafe.web.limits import OpenRequests
from crowdsafe.web.pages import Pages
from crowdsafe.web.services import Services
from tests.pages.desk import PASSWORD, Plant, seconds_until
from tests.support.ports import free_port

START_S_MAX = 20.0
END_S_MAX = 10.0
TIERS = {"admin": "pro_plus", "sales": "pro"}
"""Who is not on the free tier."""
QUICK = Behaviour(latency_s=0.05, latency_sigma=0.1)
IDEA = "A workshop that repairs old radios and teaches people how, number {}"
_numbers = count(1)


def asked(**fields: Any) -> dict[str, Any]:
    """A request that no other test makes."""
    return {
        "idea": IDEA.format(next(_numbers)),
        "location": "Porto, Portugal",
        "budget": "10k-25k",
        "timeline": "1-year",
        "business_type": "Repair shop",
        "currency": "EUR",
        **fields,
    }


class Office(Plant):
    """The planner's API as its users call it."""

    def planner(
        self, username: str, method: str, path: str, body: Any = None, **headers: str
    ) -> httpx.Response:
        """One request to the API as this user."""
        headers |= {"Authorization": f"Bearer {self.token(username)}", "Prefer": "respond-async"}
        url = f"/planner/api{path}"
        return self._client.request(method, url, json=body, headers=headers)

    def ask(self, username: str, **fields: Any) -> str:
        """Ask for a plan that nobody asked for before; the job's id."""
        answer = self.planner(username, "POST", "/plans", asked(**fields))
        assert answer.status_code == 202, answer.text
        return str(answer.json()["job_id"])

    def job(self, username: str, job_id: str) -> Any:
        """Where a job stands."""
        return self.planner(username, "GET", f"/jobs/{job_id}").json()

    def plan(self, username: str, **fields: Any) -> int:
        """A plan that is finished; its id."""
        job_id = self.ask(username, **fields)
        seconds_until(lambda: self.job(username, job_id)["state"] == "done", 30)
        return int(self.job(username, job_id)["plan_id"])

    def body(self, username: str, plan_id: int) -> Any:
        """A plan as the API gives it."""
        return self.planner(username, "GET", f"/plans/{plan_id}").json()


class Site:
    """One running server, and the knobs of its language model."""

    def __init__(self, database: str, settings: PlannerSettings, port: int | None = None) -> None:
        self.port = port or free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.upstream: Serving | None = None
        self._started = threading.Event()
        config = uvicorn.Config(
            self._app(database, settings),
            host="127.0.0.1",
            port=self.port,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def behave(self, **knobs: Any) -> None:
        """Make the language model slow, failing or quick from now on."""
        assert self.upstream is not None
        self.upstream.behave(**knobs)

    def start(self) -> None:
        """Wait until it serves."""
        self._thread.start()
        seconds_until(lambda: self._server.started, START_S_MAX)

    def stop(self) -> None:
        """End the streams and the server."""
        self._server.should_exit = True
        self._thread.join(END_S_MAX)
        assert not self._thread.is_alive(), "the server did not end"

    def _app(self, database: str, settings: PlannerSettings) -> FastAPI:
        pages = Pages([SECTION])

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            async with AsyncExitStack() as stack:
                store = AsyncStore(database)
                stack.push_async_callback(store.close)
                identity = await Identity.open(store)
                stack.callback(identity.close)
                hub = FeedHub(store)
                await hub.start()
                stack.push_async_callback(hub.stop)
                self.upstream = await stack.enter_async_context(simulated_upstream(QUICK))
                told = replace(settings, upstream_url=self.upstream.base_url)
                planner = await Planner.open(store, told)
                services = Services(store, identity, hub, pages.render)
                services.add(planner)
                app.state.crowdsafe = services
                yield_to = await stack.enter_async_context(planner.running())
                assert yield_to is planner
                yield

        app = FastAPI(lifespan=lifespan)
        app.include_router(auth.router)
        app.include_router(pages.static_router())
        app.include_router(planner_api)
        app.include_router(page_router(pages))
        install(app, requests=OpenRequests())
        return app


def _give_tiers(session: Session) -> None:
    rows = session.execute(select(UserRow.username, UserRow.id))
    ids = {row.username: row.id for row in rows}
    session.add_all(Profile(user_id=ids[name], tier=tier) for name, tier in TIERS.items())


def prepared(folder: Path) -> str:
    """A SQLite file of its own with the demo's logins; its address."""
    database = f"sqlite:///{folder / 'planner.db'}"
    store = Store(database)
    passwords = Passwords(threads=1)
    try:
        store.create_all(metadata)
        store.write(seed_demo_users, passwords.hash(PASSWORD))
        store.write(_give_tiers)
    finally:
        passwords.close()
        store.close()
    return database


@contextmanager
def running_site(database: str, *, port: int | None = None, **settings: Any) -> Iterator[Site]:
    """A site on a database that is prepared."""
    site = Site(database, PlannerSettings(**settings), port)
    site.start()
    try:
        yield site
    finally:
        site.stop()
