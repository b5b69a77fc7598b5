"""The server of the systems: assembles store, logins, feed, pages and systems into one app."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import Response

from crowdsafe.errors import CrowdsafeError
from crowdsafe.feed import FeedHub
from crowdsafe.identity import Identity, Passwords, seed_demo_users
from crowdsafe.identity.demo import demo_password
from crowdsafe.server.shared import check_valkey, open_valkey
from crowdsafe.store import AsyncStore, Store, utcnow
from crowdsafe.systems.factory.api import router as factory_api
from crowdsafe.systems.factory.models import metadata as factory_tables
from crowdsafe.systems.factory.pages import SECTION as FACTORY
from crowdsafe.systems.factory.pages import page_router as factory_pages
from crowdsafe.systems.factory.sweep import sweeping
from crowdsafe.systems.planner.api import router as planner_api
from crowdsafe.systems.planner.models import metadata as planner_tables
from crowdsafe.systems.planner.pages import SECTION as PLANNER
from crowdsafe.systems.planner.pages import page_router as planner_pages
from crowdsafe.systems.planner.service import Planner
from crowdsafe.systems.planner.settings import PlannerSettings
from crowdsafe.web import auth
from crowdsafe.web.client_address import TrustedProxies
from crowdsafe.web.fastapi import PROBLEM_RESPONSES, StoreDep, install
from crowdsafe.web.limits import OpenRequests
from crowdsafe.web.pages import Pages
from crowdsafe.web.problem import NotReady
from crowdsafe.web.services import Services
from crowdsafe.writes.once import forget_once

__all__ = [
    "ServerSettings",
    "begin_shutdown",
    "create_app",
    "open_planner",
    "open_store",
    "prepare",
]

log = logging.getLogger("crowdsafe.server")
_TABLES = (factory_tables, planner_tables)
_CLOSE_S_MAX = 0.7
_READY_S_MAX = 2.0
_KEEP_HOUSE_EVERY_S = 600.0
_ANSWERS_KEPT = timedelta(days=2)
_FORGET_ROUNDS_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What a server process has to know; plain values, so that they travel to the workers."""

    database: str
    demo: bool = False
    token_lifetime_s: int = 8 * 3600
    valkey: str | None = None
    trusted_proxies: Sequence[str] = ()
    jobs: bool = True
    """Whether server processes also do the jobs, or leave them to ``crowdsafe worker``."""


def prepare(settings: ServerSettings) -> None:
    """Create the tables, and with ``demo`` what the demo shows; before any process serves.

    May run again and in two processes at once: what is there stays. Raises ConfigError,
    DatabaseUnavailable.
    """
    if settings.valkey is not None:
        check_valkey(settings.valkey)
    store = Store(settings.database)
    try:
        store.create_all(*_TABLES)
        PlannerSettings.from_env().check_shared(valkey=settings.valkey is not None)
        TrustedProxies.parse(settings.trusted_proxies)
        if settings.demo:
            passwords = Passwords(threads=1)
            try:
                password_hash = passwords.hash(demo_password())
            finally:
                passwords.close()
            store.write(seed_demo_users, password_hash)
            from crowdsafe.systems.factory import demo as factory_demo
            from crowdsafe.systems.planner import demo as planner_demo

            factory_demo.seed(store)
            planner_demo.seed(store)
    finally:
        store.close()


def create_app(settings: ServerSettings) -> FastAPI:
    """The application; its lifespan opens the store and the feed, and closes them."""
    pages = Pages([FACTORY, PLANNER])

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            store = await open_store(settings, stack)
            identity = await Identity.open(store, token_lifetime_s=settings.token_lifetime_s)
            stack.callback(identity.close)
            hub = FeedHub(store)
            stack.push_async_callback(_bounded, hub.stop)
            await hub.start()
            planner = await open_planner(store, settings, stack)
            services = Services(store, identity, hub, pages.render, trusted=planner.trusted)
            services.add(planner)
            app.state.crowdsafe = services
            stack.callback(asyncio.create_task(_keep_house(store)).cancel)
            await stack.enter_async_context(sweeping(store))
            await stack.enter_async_context(planner.running(workers=settings.jobs))
            yield

    app = FastAPI(
        title="crowdsafe",
        version="0.1.0",
        summary="Systems that stay right when a crowd uses them at once.",
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        responses=PROBLEM_RESPONSES,
        openapi_tags=_TAGS,
        lifespan=lifespan,
    )
    app.state.requests = OpenRequests()
    app.include_router(auth.router)
    app.include_router(_health)
    app.include_router(pages.static_router())
    app.include_router(_home(pages))
    app.include_router(factory_api)
    app.include_router(factory_pages(pages))
    app.include_router(planner_api)
    app.include_router(planner_pages(pages))
    install(app, requests=app.state.requests)
    return app


async def open_store(settings: ServerSettings, stack: AsyncExitStack) -> AsyncStore:
    """The store with its tables; ``stack`` closes it."""
    store = AsyncStore(settings.database)
    stack.push_async_callback(_bounded, store.close)
    await store.create_all(*_TABLES)
    return store


async def open_planner(
    store: AsyncStore, settings: ServerSettings, stack: AsyncExitStack
) -> Planner:
    """The planner, on Valkey where there is one; ``stack`` closes what it opens."""
    valkey = None
    if settings.valkey is not None:
        valkey = open_valkey(settings.valkey)
        stack.push_async_callback(_bounded, valkey.aclose)
    trusted = TrustedProxies.parse(settings.trusted_proxies) if settings.trusted_proxies else None
    return await Planner.open(
        store, PlannerSettings.from_env(), valkey=valkey, trusted=trusted, demo=settings.demo
    )


def begin_shutdown(app: FastAPI, within_s: float) -> None:
    """End the live streams and waits for jobs now, what else still runs after ``within_s`` s."""
    services = getattr(app.state, "crowdsafe", None)
    if isinstance(services, Services):
        services.feed.end_streams()
        services.part(Planner).watch.release()
    requests: OpenRequests = app.state.requests
    requests.begin_shutdown(within_s)


_health = APIRouter(tags=["health"])


@_health.get("/healthz", summary="Is the process alive?")
async def healthz() -> dict[str, str]:
    """200 as long as the process can answer; asks nobody else."""
    return {"status": "alive"}


@_health.get("/readyz", summary="Can it do work?")
async def readyz(store: StoreDep) -> dict[str, str]:
    """200 when the database answers within two seconds, else a 503 problem."""
    try:
        async with asyncio.timeout(_READY_S_MAX):
            health = await store.health()
    except TimeoutError:
        raise NotReady("The database did not answer in time.", retry_after_s=2) from None
    if not health.ok:
        raise NotReady("The database does not answer; try again shortly.", retry_after_s=2)
    return {"status": "ready", "database": health.database}


def _home(pages: Pages) -> APIRouter:
    router = pages.router()

    @router.get("/")
    async def home(request: Request) -> Response:
        """What is here."""
        user = await auth.optional_user(request)
        return pages.render(request, "home.html", {"user": user})

    return router


async def _keep_house(store: AsyncStore) -> None:
    """Forget answers under idempotency keys that are older than two days, a few at a time."""
    while True:
        await asyncio.sleep(_KEEP_HOUSE_EVERY_S * (0.5 + random.random()))
        try:
            for _ in range(_FORGET_ROUNDS_MAX):
                if not await store.write(forget_once, before=utcnow() - _ANSWERS_KEPT):
                    break
                await asyncio.sleep(0.1)
        except Exception as error:
            expected = isinstance(error, CrowdsafeError)
            log.warning(
                "could not forget old answers, trying again later: %s",
                error,
                exc_info=not expected,
            )


async def _bounded(close: Callable[[], Awaitable[None]]) -> None:
    """Wait for a part to close, but not for long: the process is about to end anyway."""
    try:
        async with asyncio.timeout(_CLOSE_S_MAX):
            await close()
    except TimeoutError:
        log.warning("a part did not close within %.1f s", _CLOSE_S_MAX)


_DESCRIPTION = """\
Every refusal is `application/problem+json` (RFC 9457) with a stable `type`; its page at that
address says what to do. Send `Idempotency-Key` with a change, and repeat the change as often as
you like: it happens once. A change is committed before its answer leaves.
"""
_TAGS = [
    {"name": "login", "description": "Access tokens for programs, a cookie for the pages."},
    {"name": "health", "description": "For whoever watches over the process."},
    {"name": "factory", "description": "Misty Manufacturing: orders, stock, staff, invoices."},
    {"name": "planner", "description": "PlanSpark: business plans from a language model."},
]
