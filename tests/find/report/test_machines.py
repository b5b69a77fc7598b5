"""JSON, SARIF and JUnit: what tools read is complete, valid and the same in each run."""

from __future__ import annotations

import json as json_codec
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from crowdsafe.find.model import Finding, Verdict
from crowdsafe.find.report import json, junit, sarif
from tests.find.report import samples

ODD = "\x00\x1b<&\"'>\ud800 ]]> \u2028" + "x" * 100_000


def odd_finding() -> Finding:
    """A finding in which everything that comes from the target is hostile."""
    finding = samples.racy_stock()
    assert finding.run is not None
    finding.operations = (ODD, ODD)
    finding.summary = finding.reason = ODD
    finding.differences = (ODD,)
    finding.cures = ((ODD, ODD, ODD),)
    for step in finding.run.steps:
        step.sql, step.parameters = step.sql + f" -- {ODD[:50]}", {"a": ODD, "b": b"\xff" * 9999}
    for answer in finding.run.answers:
        answer.replies[0].body = {"v": [ODD, math.nan, math.inf, {1: b"x"}, object()]}
    return finding


# --- JSON -----------------------------------------------------------------------------------

KEYS = {
    *("operations", "verdict", "anomaly", "severity", "tables", "sources", "schedule", "token"),
    *("outcomes", "summary", "reason", "schedules", "seconds", "cures"),
}


def data(*findings: Finding) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    text = json.render(samples.report(*findings))
    text.encode("utf-8")
    loaded: list[dict[str, Any]] = json_codec.loads(text, parse_constant=refuse)
    return loaded


def test_every_finding_has_all_keys() -> None:
    found = data()
    assert len(found) == len(samples.all_findings())
    for each in found:
        assert each.keys() >= KEYS
        assert each["verdict"] in {"race", "proven", "not-found", "inconclusive"}


def test_a_race_has_the_outcomes_side_by_side() -> None:
    [each] = data(samples.duplicate_create())
    assert each["anomaly"] == "duplicate create" and each["severity"] == "high"
    assert len(each["outcomes"]["found"]["tables"]["users"]) == 2
    assert [one["order"] for one in each["outcomes"]["serial"]] == [[0, 1], [1, 0]]
    assert [len(one["tables"]["users"]) for one in each["outcomes"]["serial"]] == [1, 1]
    assert each["outcomes"]["found"]["answers"][1][0]["status"] == 201
    assert each["schedule"] == [[0, 1], [1, 1], [0, 1], [1, 1]]


def test_odd_values_are_cut_and_are_json() -> None:
    text = json.render(samples.report(odd_finding()))
    assert len(text) < 200_000
    assert data(odd_finding())


def test_what_is_nested_deep_is_cut() -> None:
    finding = samples.racy_stock()
    deep: dict[str, Any] = {}
    for _ in range(900):
        deep = {"a": deep}
    assert finding.run is not None
    finding.run.answers[0].replies[0].body = deep
    assert "…" in json.render(samples.report(finding))


# --- SARIF ----------------------------------------------------------------------------------


def log(*findings: Finding) -> dict[str, Any]:
    loaded: dict[str, Any] = json_codec.loads(sarif.render(samples.report(*findings)))
    return loaded


def test_the_log_has_what_the_schema_requires() -> None:
    whole = log()
    assert whole["version"] == "2.1.0" and whole["$schema"].endswith("sarif-schema-2.1.0.json")
    [run] = whole["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"] == "crowdsafe find"
    ids = [rule["id"] for rule in driver["rules"]]
    assert len(ids) == len(set(ids))
    assert run["invocations"][0]["executionSuccessful"] is True
    for rule in driver["rules"]:
        assert rule["shortDescription"]["text"] and rule["fullDescription"]["text"]
    for result in run["results"]:
        _check_result(result, ids)


def _check_result(result: dict[str, Any], rules: list[str]) -> None:
    assert rules[result["ruleIndex"]] == result["ruleId"]
    assert result["level"] in {"error", "warning", "note", "none"}
    assert result["message"]["text"]
    assert all(isinstance(value, str) for value in result["partialFingerprints"].values())
    for location in result["locations"]:
        _check_place(location["physicalLocation"])
    for flow in result["codeFlows"]:
        orders = []
        for thread in flow["threadFlows"]:
            assert thread["id"] and thread["locations"]
            for each in thread["locations"]:
                orders.append(each["executionOrder"])
                assert each["importance"] in {"important", "essential", "unimportant"}
                assert each["location"]["message"]["text"]
                _check_place(each["location"]["physicalLocation"])
        assert len(orders) == len(set(orders)) and min(orders) >= 1


def _check_place(place: dict[str, Any]) -> None:
    uri = place["artifactLocation"]["uri"]
    assert uri.isascii() and " " not in uri and "\\" not in uri
    relative = not uri.startswith("file:")
    assert (place["artifactLocation"].get("uriBaseId") == "SRCROOT") is relative
    assert place["region"]["startLine"] >= 1


def test_races_have_results_and_what_was_inconclusive_is_notified() -> None:
    [run] = log()["runs"]
    assert len(run["results"]) == 7
    [note] = run["invocations"][0]["toolExecutionNotifications"]
    assert "exit code 3" in note["message"]["text"]


def test_fingerprints_stay_when_lines_move_and_differ_between_races() -> None:
    def fingerprint(finding: Finding) -> str:
        [result] = log(finding)["runs"][0]["results"]
        return str(result["partialFingerprints"]["crowdsafeRace/v1"])

    moved = samples.racy_stock()
    moved.sources = ("shop/stock.py:51", "shop/stock.py:54")
    moved.token, moved.seconds, moved.schedules = "other", 9.0, 77
    assert fingerprint(moved) == fingerprint(samples.racy_stock())
    others = [fingerprint(each) for each in samples.all_findings() if each.anomaly]
    assert len(set(others)) == 6, "the long one is the racy stock again"


def test_paths_are_relative_to_where_it_ran(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    finding = samples.racy_stock()
    finding.sources = (f"{tmp_path}/a b/x.py:3", "/elsewhere/y.py:4", "<string>:1", "odd")
    [result] = log(finding)["runs"][0]["results"]
    uris = [each["physicalLocation"]["artifactLocation"]["uri"] for each in result["locations"]]
    assert uris == ["a%20b/x.py", "file:///elsewhere/y.py", "%3Cstring%3E"]


# --- JUnit ----------------------------------------------------------------------------------


def test_each_pair_is_a_test_case_with_its_outcome() -> None:
    root = ET.fromstring(junit.render(samples.report()))
    [suite] = root
    kinds = [[child.tag for child in case] for case in suite]
    assert kinds == [["failure"]] * 7 + [[], ["skipped"], ["error"]]
    assert {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "10",
        "failures": "7",
        "errors": "1",
        "skipped": "1",
    }
    failure = suite[0][0]
    assert failure.get("type") == "lost update" and "overwrites A" in (failure.text or "")
    assert "budget of 60 s" in (suite[8][0].get("message") or "")


@pytest.mark.parametrize("verdict", list(Verdict))
def test_odd_values_are_xml_and_json(verdict: Verdict) -> None:
    finding = odd_finding()
    finding.verdict = verdict
    report = samples.report(finding)
    report.target = report.database = ODD
    assert ET.fromstring(junit.render(report)) is not None
    assert json_codec.loads(sarif.render(report))["version"] == "2.1.0"
