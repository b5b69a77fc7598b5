"""The planner's pages: ask, wait, watch it being written, read; and what is refused, and how."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from pydantic import ValidationError

from crowdsafe.systems.planner.request import IDEA_CHARS_MAX, IDEA_CHARS_MIN, PlanRequest
from tests.pages.conftest import OpenDesk
from tests.pages.desk import Desk, seconds_until
from tests.pages.planner_site import Office, Site, asked, prepared, running_site
from tests.pages.test_access import SCHEMES, violations

pytestmark = pytest.mark.browser

_CHECK = """async ([texts, limits]) => {
    const form = document.querySelector("script[src$='planner/idea.js']").src;
    const { textProblem } = await import(form.replace("idea.js", "fields.js"));
    return texts.map((text) => textProblem(text, limits));
}"""
DARK = 6
SIDEWAYS = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
QUICK = {"latency_s": 0.05, "outage": False, "rate_429": 0.0, "hang_rate": 0.0}
WATCHABLE = {**QUICK, "latency_s": 1.0, "latency_sigma": 0.05}
"""A plan in three rounds of a second; a browser that waits looks once a second."""
SLOW = {**QUICK, "latency_s": 600.0, "latency_sigma": 0.0, "latency_s_max": 600.0}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A planner that makes two plans at once."""
    folder = tmp_path_factory.mktemp("planner")
    settings = {"running_max": 2, "per_user": 1, "breaker_failures": 1, "breaker_cooldown_s": 0.2}
    with running_site(prepared(folder), **settings) as site:
        yield site


@pytest.fixture(scope="module")
def office(site: Site) -> Iterator[Office]:
    """Its API."""
    with Office(site.base_url) as office:
        yield office


@pytest.fixture
def desk(browser: Browser, site: Site, office: Office) -> Iterator[OpenDesk]:
    """Browser windows on the planner, clean when the test ends; the language model is quick.

    ERR_FAILED is what the browser notes of a request that a test cut off.
    """
    site.behave(**QUICK)
    with ExitStack() as stack:
        opened: list[Desk] = []

        def open_desk(username: str | None = "admin", **options: Any) -> Desk:
            new = Desk(browser, site.base_url, office, username, **options)
            stack.callback(new.close)
            opened.append(new)
            return new

        yield open_desk
        for each in opened:
            each.troubles = [said for said in each.troubles if "net::ERR_FAILED" not in said]
            each.check_clean()
    site.behave(**QUICK)


@pytest.fixture
def busy(site: Site, office: Office) -> Iterator[str]:
    """A job of the administrator's that is being written for as long as the test runs; its id."""
    site.behave(**SLOW)
    job_id = office.ask("admin")
    seconds_until(lambda: office.job("admin", job_id)["progress"] != {}, 10)
    yield job_id
    for job in office.planner("admin", "GET", "/jobs").json():
        office.planner("admin", "DELETE", f"/jobs/{job['job_id']}")
    site.behave(**QUICK)
    seconds_until(lambda: office.planner("admin", "GET", "/jobs").json() == [], 20)


def fill_in(page: Page, **fields: Any) -> None:
    """Fill the form in as a person does."""
    request = asked(**fields)
    page.get_by_label("What do you want to offer").fill(request["idea"])
    page.get_by_label("Kind of business").fill(request["business_type"])
    page.get_by_label("Where").fill(request["location"])
    page.get_by_label("Money to start with").select_option(request["budget"])
    page.get_by_label("Currency").select_option(request["currency"])
    page.get_by_label("Time to get there").select_option(request["timeline"])


def test_a_visitor_is_sent_to_the_login_and_back(desk: OpenDesk) -> None:
    page = desk(None).page
    for path in ("/planner/new", "/planner/plans", "/planner/jobs/abc", "/planner/queue"):
        page.goto(path)
        expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    page.goto("/planner")
    page.get_by_label("Username").fill("admin")
    page.get_by_label("Password").fill("crowd")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("business plan")


def test_from_the_form_over_live_progress_to_the_plan(desk: OpenDesk, site: Site) -> None:
    site.behave(**WATCHABLE)
    page = desk("sales").open("/planner/new")
    expect(page.locator("#quota-said")).to_have_text("5 of 5 plans left today")
    fill_in(page)
    page.get_by_role("button", name="Write my plan").click()
    page.wait_for_url("**/planner/jobs/*")
    expect(page.locator("[data-job=says]")).to_have_text("Your plan is being written")
    expect(page.locator("#sections li")).to_have_count(7)
    done = page.locator("#sections li[data-state=done]")
    expect(done.first).to_contain_text("written")
    assert page.locator("#progress").evaluate("bar => bar.value") >= 1
    expect(page.locator("#announcer")).to_contain_text("done.")
    page.wait_for_url("**/planner/plans/*", timeout=30_000)
    expect(page.get_by_role("heading", level=1)).to_contain_text("Porto, Portugal")
    expect(page.locator("article > section")).to_have_count(7)
    expect(page.locator("#offline-notice")).to_have_count(0)
    page.go_back()
    expect(page.locator("#quota-said")).to_have_text("4 of 5 plans left today")


def test_the_form_checks_as_the_server_does_and_keeps_what_was_typed(desk: OpenDesk) -> None:
    page = desk().open("/planner/new")
    page.get_by_role("button", name="Write my plan").click()
    idea = page.get_by_label("What do you want to offer")
    expect(idea).to_be_focused()
    expect(idea).to_have_attribute("aria-invalid", "true")
    expect(page.locator("[data-field=idea] .wrong")).to_have_text("Please fill this in.")
    expect(page.locator("[data-field=timeline] .wrong")).to_have_text("Please choose one.")
    idea.fill("Too short")
    expect(page.locator("[data-field=idea] .wrong")).to_contain_text("1 to go")
    idea.fill("x" * 4001)
    expect(page.locator("[data-field=idea] .wrong")).to_contain_text("Too long by 1")
    expect(page.locator("#idea-count")).to_have_text("1 too many")
    idea.fill("\N{OCTOPUS}" * 9 + " a shop")
    expect(page.locator("[data-field=idea] .wrong")).to_have_count(0)
    page.get_by_label("Currency").select_option("JPY")
    budget = page.get_by_label("Money to start with")
    expect(budget.locator("option").nth(1)).to_have_text("Under ¥500,000")
    budget.select_option("exact")
    page.get_by_label("Amount, in JPY").fill("-5")
    page.get_by_label("Where").fill("Kyoto")
    expect(page.locator("[data-field=amount] .wrong")).to_contain_text("A whole amount")
    page.reload()
    expect(idea).to_have_value("\N{OCTOPUS}" * 9 + " a shop")
    expect(page.get_by_label("Where")).to_have_value("Kyoto")
    expect(page.get_by_label("Amount, in JPY")).to_have_value("-5")
    page.get_by_role("button", name="Start empty").click()
    expect(idea).to_have_value("")
    page.reload()
    expect(idea).to_have_value("")


def test_a_starter_fills_the_form_and_another_takes_its_place(desk: OpenDesk) -> None:
    page = desk().open("/planner/new")
    page.get_by_role("button", name="Food truck").click()
    idea = page.get_by_label("What do you want to offer")
    expect(idea).to_have_value(re.compile("Lebanese"))
    expect(page.get_by_role("radio", name="Whoever asks")).to_be_checked()
    page.get_by_role("button", name="Tutoring").click()
    expect(idea).to_have_value(re.compile("mathematics"))
    idea.press_sequentially(" My own words.")
    expect(page.locator("#starters")).to_be_hidden()


def test_the_checks_find_what_the_server_finds_and_nothing_else(desk: OpenDesk) -> None:
    page = desk().open("/planner/new")
    texts = [
        *("", " ", "a shop", "x" * 10, "x" * 9, "  " + "x" * 9 + "  ", "x" * 4000, "x" * 4001),
        *("\N{OCTOPUS}" * 10, "\N{OCTOPUS}" * 9 + "x", "- - - - - - - -", "radios\x07and clocks"),
        *("first line\nsecond\tline", "\N{ARABIC LETTER BEH}" * 12, "1234567890", "a\x00bcdefghij"),
    ]
    found = page.evaluate(_CHECK, [texts, [IDEA_CHARS_MIN, IDEA_CHARS_MAX]])
    for text, here in zip(texts, found, strict=True):
        try:
            PlanRequest.model_validate(asked(idea=text))
        except ValidationError:
            assert here, f"only the server finds {text[:40]!r} wrong"
        else:
            assert not here, f"only the page finds {text[:40]!r} wrong: {here}"


def test_the_servers_findings_stand_beside_their_fields(desk: OpenDesk) -> None:
    page = desk().open("/planner/new")
    fill_in(page)
    problem = {
        "type": "/problems/invalid-input",
        "title": "Invalid input",
        "status": 422,
        "detail": "location: is not on this planet",
        "errors": [{"field": "location", "message": "is not on this planet"}],
    }
    page.route(
        "**/planner/api/plans",
        lambda route: route.fulfill(
            status=422, body=json.dumps(problem), content_type="application/problem+json"
        ),
    )
    page.get_by_role("button", name="Write my plan").click()
    expect(page.locator("[data-field=location] .wrong")).to_have_text("is not on this planet")
    expect(page.get_by_label("Where")).to_be_focused()
    expect(page.locator("#idea-message")).to_contain_text("see the marked fields")
    page.unroute("**/planner/api/plans")
    page.route("**/planner/api/plans", lambda route: route.abort())
    page.get_by_label("Where").fill("Lisbon")
    page.get_by_role("button", name="Write my plan").click()
    expect(page.locator("#idea-message")).to_contain_text("What you typed is kept.", timeout=20_000)
    expect(page.get_by_role("button", name="Write my plan")).to_be_enabled()
    page.reload()
    expect(page.get_by_label("Where")).to_have_value("Lisbon")


def test_a_spent_quota_is_said_before_it_bites_and_live(desk: OpenDesk, office: Office) -> None:
    page = desk("tomas").open("/planner/new")
    expect(page.locator("#quota-said")).to_have_text("1 of 1 plan left today")
    ask = page.get_by_role("button", name="Write my plan")
    expect(ask).to_be_enabled()
    fill_in(page)
    office.plan("tomas")  # on another device
    expect(page.locator("#quota-said")).to_have_text("0 of 1 plan left today")
    expect(page.locator("#quota-note")).to_contain_text("renewed at 00:00 UTC")
    expect(ask).to_be_disabled()
    expect(page.locator("#reason")).to_contain_text("No plan is left today.")
    page.reload()
    expect(ask).to_be_disabled()
    expect(ask).to_have_accessible_description(re.compile("No plan is left today"))
    expect(page.get_by_label("Where")).to_have_value("Porto, Portugal")
    expect(page.locator(".tiers [aria-current]")).to_contain_text("Free")


def test_a_refusal_of_the_server_is_shown_with_what_to_do(desk: OpenDesk, office: Office) -> None:
    page = desk("supervisor").open("/planner/new")
    page.route("**/planner/now/**", lambda route: route.abort())  # so that nothing tells it before
    office.plan("supervisor")
    fill_in(page)
    with page.expect_response("**/planner/api/plans") as refused:
        page.get_by_role("button", name="Write my plan").click()
    assert refused.value.status == 429
    expect(page.locator("#idea-message")).to_have_class("message message-refused")
    expect(page.locator("#idea-message")).to_contain_text("What you typed is kept.")
    page.unroute("**/planner/now/**")
    expect(page.locator("#reason")).to_contain_text("No plan is left today.", timeout=15_000)


def test_a_job_waits_with_its_place_is_reloaded_and_cancelled(
    desk: OpenDesk, office: Office, busy: str
) -> None:
    second = office.ask("admin")
    third = office.ask("admin")
    page = desk("admin").open(f"/planner/jobs/{third}")
    expect(page.locator("[data-job=says]")).to_have_text("Waiting for its turn")
    expect(page.locator("[data-job=ahead_says]")).to_have_text("1 plan")
    page.reload()
    expect(page.locator("[data-job=ahead_says]")).to_have_text("1 plan")
    office.planner("admin", "DELETE", f"/jobs/{second}")
    expect(page.locator("[data-job=ahead_says]")).to_have_text("nobody", timeout=15_000)
    page.get_by_role("button", name="Cancel this plan").click()
    expect(page.locator("[data-job=says]")).to_have_text("Cancelled; nothing was charged")
    expect(page.locator("#job-message")).to_contain_text("Nothing is charged")
    expect(page.get_by_role("button", name="Cancel this plan")).to_be_hidden()
    assert office.job("admin", third)["state"] == "cancelled"
    page.get_by_role("link", name="Ask again").click()
    expect(page.get_by_label("What do you want to offer")).to_have_value(re.compile("old radios"))
    expect(page.get_by_label("Money to start with")).to_have_value("10k-25k")
    assert busy != third


def test_a_running_job_is_cancelled_and_its_unit_comes_back(
    desk: OpenDesk, site: Site, office: Office
) -> None:
    site.behave(**SLOW)
    job_id = office.ask("mara")
    page = desk("mara").open(f"/planner/jobs/{job_id}")
    expect(page.locator("#sections li[data-state=running]")).not_to_have_count(0)
    page.get_by_role("button", name="Cancel this plan").click()
    expect(page.locator("[data-job=state]")).to_have_text("Cancelled", timeout=15_000)
    expect(page.locator("#sections li", has_text="being written")).to_have_count(0)
    expect(page.locator("#sections li", has_text="not written")).not_to_have_count(0)
    page.goto("/planner/new")
    expect(page.locator("#quota-said")).to_have_text("1 of 1 plan left today")


def test_a_reload_in_the_middle_shows_what_is_written_and_goes_on(
    desk: OpenDesk, site: Site, office: Office
) -> None:
    site.behave(**WATCHABLE)
    job_id = office.ask("admin")
    page = desk("admin").open(f"/planner/jobs/{job_id}")
    expect(page.locator("#sections li[data-state=done]")).not_to_have_count(0, timeout=15_000)
    page.reload()
    expect(page.locator("#sections li[data-state=done]")).not_to_have_count(0)
    page.wait_for_url("**/planner/plans/*", timeout=30_000)


def test_a_page_whose_server_goes_away_says_so_and_goes_on(
    browser: Browser, tmp_path: Path
) -> None:
    database = prepared(tmp_path)
    with running_site(database) as site, Office(site.base_url) as office:
        site.behave(**WATCHABLE)
        job_id = office.ask("admin")
        window = Desk(browser, site.base_url, office, "admin")
        page = window.open(f"/planner/jobs/{job_id}")
        expect(page.locator("#sections li[data-state=done]")).not_to_have_count(0)
    expect(page.locator("#away")).to_be_visible()
    expect(page.locator("#live-status")).to_have_text("reconnecting")
    with running_site(database, port=site.port):
        expect(page.locator("#away")).to_be_hidden(timeout=20_000)
        page.wait_for_url("**/planner/plans/*", timeout=30_000)
        expect(page.locator("article > section")).to_have_count(7)
        window.troubles = [each for each in window.troubles if "net::ERR_" not in each]
        window.check_clean()
        window.close()


def test_the_list_follows_jobs_until_they_are_plans(
    desk: OpenDesk, site: Site, office: Office
) -> None:
    site.behave(latency_s=0.15, latency_sigma=0.05)
    page = desk("production_team").open("/planner/plans")
    expect(page.locator("#no-plans")).to_be_visible()
    office.ask("production_team")
    expect(page.locator("#jobs li")).to_have_count(1)
    expect(page.locator("#jobs-card")).to_be_visible()
    expect(page.locator("#plans tr")).to_have_count(1, timeout=30_000)
    expect(page.locator("#jobs-card")).to_be_hidden()
    expect(page.locator("#announcer")).to_contain_text("Ready:")
    page.locator("#plans a").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Porto")


def test_what_is_somebody_elses_is_not_there(desk: OpenDesk, office: Office) -> None:
    plan_id = office.plan("admin")
    job_id = office.ask("admin")
    page = desk("employee").page
    for path in (f"/planner/plans/{plan_id}", f"/planner/jobs/{job_id}", "/planner/jobs/none"):
        answer = page.goto(path)
        assert answer is not None
        assert answer.status == 404
        expect(page.get_by_role("heading", level=1)).to_have_text("Not found")
        assert "radios" not in page.content()
    answer = page.goto("/planner/queue")
    assert answer is not None
    assert answer.status == 403
    assert page.get_by_role("link", name="Queue").count() == 0


def test_a_public_plan_is_there_for_who_asks_for_the_same(desk: OpenDesk, office: Office) -> None:
    fields = asked(audience="public")
    plan_id = office.plan("admin", **fields)
    page = desk("sales").page
    answer = page.goto(f"/planner/plans/{plan_id}")
    assert answer is not None
    assert answer.status == 404
    assert office.planner("sales", "POST", "/plans", fields).json()["plan_id"] == plan_id
    page = desk("sales").open(f"/planner/plans/{plan_id}")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Porto")


def test_an_offline_plan_says_so(desk: OpenDesk, site: Site, office: Office) -> None:
    site.behave(outage=True)
    plan_id = office.plan("manager")
    office.plan("admin")  # with this one most of the last calls have failed
    page = desk("manager").open(f"/planner/plans/{plan_id}")
    expect(page.locator("#offline-notice")).to_contain_text("written offline")
    expect(page.locator(".paper .chip").first).to_have_text("Written offline")
    queue = desk("admin").open("/planner/queue")
    expect(queue.locator("#upstream .chip")).to_have_text(re.compile("Left alone|Being tried"))
    site.behave(outage=False)
    seconds_until(lambda: office.body("admin", office.plan("admin"))["source"] == "upstream", 30)
    expect(queue.locator("#upstream .chip")).to_have_text("Answering")


def test_a_plan_is_read_charted_and_downloaded(desk: OpenDesk, office: Office) -> None:
    plan_id = office.plan("admin", timeline="3-years", currency="CHF")
    window = desk("admin")
    page = window.open(f"/planner/plans/{plan_id}")
    chart = page.locator("figure.chart svg:visible")
    expect(chart).to_have_attribute("aria-label", re.compile("Cash starts at CHF.*Revenue is CHF"))
    expect(chart.locator(".direct").first).to_contain_text("Cash")
    expect(chart.locator("polyline")).to_have_count(2)
    month_by_month = page.get_by_role("region", name="Month by month")
    expect(month_by_month.locator("tbody tr")).to_have_count(36)
    page.get_by_role("link", name="4 Financial projections").click()
    expect(page.locator("#financials h2")).to_be_in_viewport()
    with page.expect_download() as downloading:
        page.get_by_role("link", name="Download JSON").click()
    body = json.loads(downloading.value.path().read_text())
    assert downloading.value.suggested_filename == f"plan-{plan_id}.json"
    assert body["plan_id"] == plan_id
    assert len(body["sections"]) == 7
    page.emulate_media(media="print")
    expect(page.locator(".contents")).to_be_hidden()
    expect(page.locator("#roadmap")).to_be_visible()


def test_the_operator_sees_who_waits_live(desk: OpenDesk, office: Office, busy: str) -> None:
    page = desk("admin").open("/planner/queue")
    row = page.locator("#users tr", has_text="Alice Hammond")
    expect(row.locator("[data-text=running]")).to_have_text("1")
    expect(row.locator("[data-text=queued]")).to_have_text("0")
    waiting = office.ask("admin")
    expect(row.locator("[data-text=queued]")).to_have_text("1")
    expect(page.locator("#tiles [data-key=queued] [data-text=value]")).to_have_text("1")
    office.planner("admin", "DELETE", f"/jobs/{waiting}")
    expect(row.locator("[data-text=queued]")).to_have_text("0")
    assert busy


def test_an_operator_who_is_signed_out_is_told_once(desk: OpenDesk) -> None:
    window = desk("admin")
    page = window.open("/planner/queue")
    asked_again: list[str] = []
    window.context.clear_cookies()
    expect(page.locator("#queue-fresh")).to_have_text("signed out")
    expect(page.locator("#announcer")).to_contain_text("You are signed out.")
    page.on("request", lambda request: asked_again.append(request.url))
    page.wait_for_timeout(2500)
    assert asked_again == []


def test_what_a_user_typed_stays_text(desk: OpenDesk, office: Office) -> None:
    evil = "<img src=x onerror=alert(1)> <script>alert(2)</script> & sons"
    plan_id = office.plan("admin", idea=f"{evil} sell soap", location=evil, business_type=evil)
    page = desk("admin").open(f"/planner/plans/{plan_id}")
    expect(page.locator(".paper")).to_contain_text("<script>alert(2)</script>")
    page.goto("/planner/plans")
    expect(page.locator("#plans")).to_contain_text("<img src=x")
    assert page.locator("img").count() == 0


def test_older_plans_have_a_page_of_their_own(desk: OpenDesk, office: Office) -> None:
    first, second = office.plan("admin"), office.plan("admin")
    page = desk("admin").open(f"/planner/plans?before={second}")
    expect(page.locator(f"#plans tr[data-key='{first}']")).to_be_visible()
    expect(page.locator(f"#plans tr[data-key='{second}']")).to_have_count(0)
    office.plan("admin")
    expect(page.locator("#plans tr").first).to_have_attribute("data-key", str(first))


@pytest.fixture
def paths(office: Office, busy: str) -> list[str]:
    """Every page, one of each kind; first those that are looked at in the dark as well."""
    waiting = office.ask("admin", idea="Repairs " + "of_one_very_long_word" * 12)
    cancelled = office.ask("admin")
    office.planner("admin", "DELETE", f"/jobs/{cancelled}")
    plans = office.planner("admin", "GET", "/plans").json()["items"]
    return [
        "/planner/new",
        f"/planner/jobs/{busy}",
        f"/planner/jobs/{waiting}",
        "/planner/plans",
        f"/planner/plans/{plans[0]['plan_id']}",
        "/planner/queue",
        f"/planner/new?again={cancelled}",
        f"/planner/jobs/{cancelled}",
        f"/planner/plans/{plans[-1]['plan_id']}",
        "/planner/plans/99999999",
    ]


def test_axe_finds_nothing_and_nothing_scrolls_sideways(desk: OpenDesk, paths: list[str]) -> None:
    found: dict[str, list[str]] = {}
    wide: dict[str, int] = {}
    window = desk("admin")
    for path in paths:
        page = window.open(path)
        found[path] = violations(page)
        assert page.locator("h1").count() == 1, path
        for width in (320, 400, 1280):
            page.set_viewport_size({"width": width, "height": 900})
            wide[f"{path} {width}"] = page.evaluate(SIDEWAYS)
    dark = desk("admin", scheme="dark")
    found |= {f"{path} dark": violations(dark.open(path)) for path in paths[:DARK]}
    assert {path: each for path, each in found.items() if each} == {}
    assert {path: by for path, by in wide.items() if by > 0} == {}


def test_axe_finds_nothing_on_a_form_with_mistakes(desk: OpenDesk) -> None:
    for scheme in SCHEMES:
        page = desk("admin", scheme=scheme, width=400).open("/planner/new")
        page.get_by_label("Money to start with").select_option("exact")
        page.get_by_role("button", name="Write my plan").click()
        page.locator(".wrong").first.wait_for()
        assert violations(page) == []
        assert page.evaluate(SIDEWAYS) == 0
