"""A real server with demo data, and a real Chromium with one context for each user."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.conftest import find_chromium
from tests.pages.desk import LAUNCH_ARGS, Desk, Plant
from tests.support.servers import Server, running_server

OpenDesk = Callable[..., Desk]


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server process on a SQLite file of its own, with the demo's plant."""
    folder = tmp_path_factory.mktemp("pages")
    with running_server(f"sqlite:///{folder / 'pages.db'}", folder) as running:
        yield running


@pytest.fixture(scope="package")
def plant(server: Server) -> Iterator[Plant]:
    """The API of that server, to set a scene and to look at what was stored."""
    with Plant(server.base_url) as plant:
        yield plant


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=find_chromium(), args=LAUNCH_ARGS)
        yield launched
        launched.close()


@pytest.fixture
def desk(browser: Browser, server: Server, plant: Plant) -> Iterator[OpenDesk]:
    """Opens desks: `desk("mara")` is a browser window in which Mara is signed in.

    When the test ends, no window may have seen a script error, a violation of the content
    security policy, or a request to another machine.
    """
    with ExitStack() as stack:
        opened: list[Desk] = []

        def open_desk(username: str | None = "mara", **options: Any) -> Desk:
            new = Desk(browser, server.base_url, plant, username, **options)
            stack.callback(new.close)
            opened.append(new)
            return new

        yield open_desk
        for each in opened:
            each.check_clean()
