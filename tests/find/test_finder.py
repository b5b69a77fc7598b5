"""What is tried at all, and what is said of the rest."""

from __future__ import annotations

import pytest
from fastapi import FastAPI

from crowdsafe.errors import ConfigError
from crowdsafe.find.finder import find, hunt
from crowdsafe.find.model import Anomaly, Finding, Verdict
from tests.find.shelf import Shelf


def said(findings: list[Finding]) -> dict[tuple[str, ...], Verdict]:
    return {finding.operations: finding.verdict for finding in findings}


def test_each_with_itself_and_with_each_other(shelf: Shelf) -> None:
    report = find(None, shelf.calls("sell", "sell_safely"), database=shelf.url)
    assert said(report.findings) == {
        ("sell", "sell"): Verdict.RACE,
        ("sell_safely", "sell_safely"): Verdict.PROVEN,
        ("sell", "sell_safely"): Verdict.RACE,
    }
    assert report.findings[0].anomaly is Anomaly.LOST_UPDATE
    assert shelf.rows() == [(1, 10, "")]


def test_what_shares_no_table_is_proven_without_a_schedule(shelf: Shelf) -> None:
    with shelf.session("sell", "add_other") as session:
        (finding,) = hunt(session, only=[(0, 1)])
    assert (finding.verdict, finding.schedules) == (Verdict.PROVEN, 0)
    assert "share no table" in finding.reason


def test_what_sends_nothing_is_not_proven(shelf: Shelf) -> None:
    with shelf.session("nothing") as session:
        (finding,) = hunt(session)
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert "nothing sends nothing to" in finding.reason


def test_no_operation_is_an_error(shelf: Shelf) -> None:
    with pytest.raises(ConfigError, match="no operation to try"):
        find(None, [], database=shelf.url)


@pytest.mark.parametrize("hanging", ["hang", "hang_the_third_time"], ids=["alone", "later"])
def test_after_a_hang_the_rest_is_said_not_to_be_tried(shelf: Shelf, hanging: str) -> None:
    operations = shelf.calls("add_other", hanging, "sell")
    report = find(None, operations, database=shelf.url, hang_s=0.5)
    assert len(report.findings) == len(said(report.findings)) == 6
    untried = [one for one in report.findings if one.reason.startswith("not tried: ")]
    assert {one.verdict for one in untried} == {Verdict.INCONCLUSIVE}
    assert all(one.reason.startswith(f"not tried: {hanging} hung before") for one in untried)
    names = {one.operations for one in untried}
    if hanging == "hang":
        assert names == {("add_other",) * 2, ("sell",) * 2, ("add_other", "sell")}
    else:
        assert ("sell", "sell") in names
        assert (hanging, hanging) not in names


def test_the_rest_can_be_left_to_another_process(shelf: Shelf) -> None:
    with shelf.session("hang", "sell", hang_s=0.5) as session:
        findings = list(hunt(session, rest=False))
    assert [one.operations for one in findings] == [("hang", "hang"), ("hang", "sell")]


@pytest.mark.parametrize("request_", ["POST /take @nofile", "POST /take photo=@nofile&n=1"])
def test_a_body_in_a_file_that_is_not_there(shelf: Shelf, request_: str) -> None:
    with pytest.raises(ConfigError, match=r"there is no file .*/nofile to send"):
        find(FastAPI(), [request_], database=shelf.url)


def test_without_an_operation_the_routes_of_the_app_are_told(shelf: Shelf) -> None:
    app = FastAPI()
    app.add_api_route("/take", lambda: None, methods=["POST"])
    with pytest.raises(ConfigError, match=r"\(the app has POST /take\)"):
        find(app, [], database=shelf.url)
