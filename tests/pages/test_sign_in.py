"""Signing in and out by the pages, and what a role is not offered."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from crowdsafe.identity.passwords import PASSWORD_CHARS_MAX
from tests.pages.conftest import OpenDesk
from tests.pages.desk import PASSWORD

pytestmark = pytest.mark.browser


def test_a_visitor_signs_in_and_lands_where_they_wanted_to_go(desk: OpenDesk) -> None:
    window = desk(None)
    page = window.page
    page.goto("/factory/orders?stage=winding")
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    page.get_by_label("Username").fill("mara")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Orders")
    assert page.url.endswith("/factory/orders?stage=winding")
    expect(page.locator(".who")).to_contain_text("Mara Lindqvist Sales")
    cookie = next(c for c in window.context.cookies() if c["name"] == "crowdsafe_session")
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Lax"
    assert page.evaluate("document.cookie") == ""


def test_a_wrong_password_says_so_and_keeps_the_name(desk: OpenDesk) -> None:
    page = desk(None).open("/login")
    longest = str(PASSWORD_CHARS_MAX)
    expect(page.get_by_label("Password")).to_have_attribute("maxlength", longest)
    page.get_by_label("Username").fill("mara")
    page.get_by_label("Password").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("The username or the password is wrong.")
    expect(page.get_by_label("Username")).to_have_value("mara")
    expect(page.get_by_label("Password")).to_have_value("")


def test_signing_out_forgets_the_cookie(desk: OpenDesk) -> None:
    window = desk("mara")
    page = window.open("/factory/orders")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    page.goto("/factory/orders")
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    assert window.context.cookies() == []


def test_a_login_never_leads_to_another_site(desk: OpenDesk) -> None:
    window = desk(None)
    page = window.open("/login?to=https://evil.example/")
    page.get_by_label("Username").fill("mara")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.locator(".who")).to_contain_text("Mara Lindqvist")
    assert page.url == f"{window.base_url}/"


def test_what_a_role_may_not_do_is_not_offered(desk: OpenDesk) -> None:
    employee = desk("employee").open("/factory/orders")
    expect(employee.get_by_text("New order")).to_have_count(0)
    employee.goto("/factory/orders/40")
    expect(employee.get_by_role("button", name="Save")).to_have_count(0)
    expect(employee.locator("#notes")).to_be_disabled()
    expect(employee.locator("#moves button")).to_have_count(0)
    employee.goto("/factory/stock")
    offered = employee.get_by_role("button", name=re.compile("Allocate|Receive|Choose"))
    expect(offered).to_have_count(0)
    employee.goto("/factory/floor")
    expect(employee.locator(".board button")).to_have_count(0)
    employee.goto("/factory/invoices")
    expect(employee.get_by_text("New invoice")).to_have_count(0)
    employee.goto("/factory/leave")
    expect(employee.get_by_role("button", name=re.compile("Approve|Reject"))).to_have_count(0)
    team = desk("production_team").open("/factory/floor")
    assert team.locator(".board button").count() > 10
    team.goto("/factory/stock")
    expect(team.get_by_role("button", name="Receive")).to_have_count(1)
    expect(team.get_by_role("button", name="Allocate")).to_have_count(0)


def test_an_employee_sees_their_own_timesheets_only(desk: OpenDesk) -> None:
    page = desk("employee").open("/factory/timesheets")
    names = set(page.locator("#timesheets th").all_inner_texts())
    assert names == {"Liam Foster"}


def test_an_address_that_is_none_is_a_page_that_says_so(desk: OpenDesk) -> None:
    page = desk("mara").page
    for path in ("/factory/orders/abc", f"/factory/orders/{10**30}", "/factory/stock/0"):
        answer = page.goto(path)
        assert answer is not None
        assert answer.status == 404
        expect(page.get_by_role("heading", level=1)).to_have_text("Not found")
        expect(page.locator(".who")).to_contain_text("Mara Lindqvist")
