"""A page whose server goes away says so, comes back by itself, and has missed nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Route, expect

from tests.pages.conftest import OpenDesk
from tests.pages.desk import Desk, Plant
from tests.support.servers import running_server, start_server

pytestmark = pytest.mark.browser


def test_nothing_is_missed_while_the_server_is_away(browser: Browser, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'two.db'}"
    serving = start_server(url, tmp_path)
    try:
        with running_server(url, tmp_path) as other, Plant(other.base_url) as plant:
            order = plant.new_order()
            window = Desk(browser, serving.base_url, plant, "tomas")
            page = window.open(f"/factory/orders/{order['id']}")
            page.fill("#contact_name", "Li Wei")
            serving.kill9()
            expect(page.locator("#live-status")).to_have_text("reconnecting")
            expect(page.locator("#announcer")).to_have_text("Connection lost. Reconnecting.")
            plant.edit(order, "mara", notes="Ring twice.")
            serving = start_server(url, tmp_path, port=serving.port)
            expect(page.locator("#live-status")).to_have_text("live", timeout=20_000)
            expect(page.locator("#stale-text")).to_have_text(
                "Mara saved version 2 while you were editing version 1."
            )
            expect(page.locator("#contact_name")).to_have_value("Li Wei")
            window.troubles = [each for each in window.troubles if "net::ERR_" not in each]
            window.check_clean()
            window.close()
    finally:
        serving.stop()


def test_a_save_whose_answer_is_lost_is_saved_once(browser: Browser, tmp_path: Path) -> None:
    with (
        running_server(f"sqlite:///{tmp_path / 'lost.db'}", tmp_path) as server,
        Plant(server.base_url) as plant,
    ):
        order = plant.new_order()
        window = Desk(browser, server.base_url, plant, "mara")
        page = window.open(f"/factory/orders/{order['id']}")
        page.fill("#notes", "Ring twice.")
        keys: list[str] = []
        replayed: list[str | None] = []

        def lose_the_first(route: Route) -> None:
            request = route.request
            if request.method != "PATCH":
                route.continue_()
                return
            keys.append(request.headers["idempotency-key"])
            answer = route.fetch()
            replayed.append(answer.headers.get("idempotency-replayed"))
            if len(keys) == 1:
                route.abort()
            else:
                route.fulfill(response=answer)

        page.route("**/factory/api/orders/*", lose_the_first)
        page.get_by_role("button", name="Save", exact=True).click()
        expect(page.locator("#editor-message")).to_have_text("✓Saved as version 2.")
        assert len(keys) == 2
        assert len(set(keys)) == 1
        assert replayed == [None, "true"]
        assert plant.get(f"/orders/{order['id']}")["version"] == 2
        window.troubles = [each for each in window.troubles if "net::ERR_" not in each]
        window.check_clean()
        window.close()


def test_a_resync_reloads_what_was_missed(desk: OpenDesk, plant: Plant) -> None:
    window = desk("mara")
    page = window.open("/factory/orders")
    missed: list[str] = []

    def say_resync(route: Route) -> None:
        if not missed:
            missed.append(plant.new_order()["number"])
        body = "retry: 100\nid: 1\nevent: resync\ndata: {}\n\n"
        route.fulfill(body=body, content_type="text/event-stream")

    page.route("**/factory/api/events*", say_resync)
    page.goto("/factory/orders?q=nothing-like-it")
    page.get_by_label("Find").fill("")
    expect(page.locator("#orders th").first).to_have_text(missed[0])


_VISIBILITY = """
    let state = "visible";
    Object.defineProperty(document, "visibilityState", { get: () => state });
    window.setVisibility = (to) => {
        state = to;
        document.dispatchEvent(new Event("visibilitychange"));
    };
"""


def test_a_hidden_tab_gives_its_connection_back_and_catches_up(
    desk: OpenDesk, plant: Plant
) -> None:
    window = desk("mara")
    window.page.add_init_script(_VISIBILITY)
    window.page.clock.install()
    page = window.open("/factory/orders")
    page.evaluate("setVisibility('hidden')")
    page.clock.fast_forward(31_000)
    expect(page.locator("#live-status")).to_have_text("paused")
    order = plant.new_order()
    row = page.locator(f"#orders tr[data-key='{order['id']}']")
    expect(row).to_have_count(0)
    page.evaluate("setVisibility('visible')")
    expect(page.locator("#live-status")).to_have_text("live")
    expect(row).to_have_count(1)


def test_whoever_is_signed_out_is_told_and_keeps_what_they_typed(
    desk: OpenDesk, plant: Plant
) -> None:
    order = plant.new_order()
    window = desk("mara")
    window.page.add_init_script(_VISIBILITY)
    window.page.clock.install()
    page = window.open(f"/factory/orders/{order['id']}")
    page.fill("#notes", "Half written")
    window.context.clear_cookies()
    page.evaluate("setVisibility('hidden')")
    page.clock.fast_forward(31_000)
    page.evaluate("setVisibility('visible')")
    expect(page.locator("#live-status")).to_have_text("signed out")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator("#editor-message")).to_contain_text("You are signed out.")
    expect(page.locator("#notes")).to_have_value("Half written")
