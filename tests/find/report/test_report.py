"""What a report as a whole says: exit codes, and whether some operations are free of races."""

from __future__ import annotations

import pytest

from crowdsafe.find.model import Finding, Verdict
from crowdsafe.find.report import Report, exit_code
from tests.find.report import samples


@pytest.mark.parametrize(
    ("findings", "code"),
    [
        ([samples.proven()], 0),
        ([samples.proven(), samples.not_found()], 0),
        ([samples.proven(), samples.racy_stock()], 1),
        ([samples.inconclusive(), samples.racy_stock()], 1),
        ([samples.inconclusive(), samples.proven()], 2),
        ([], 2),
    ],
    ids=["proven", "not-found", "race", "both", "inconclusive", "nothing"],
)
def test_exit_codes(findings: list[Finding], code: int) -> None:
    assert exit_code(Report("app", "db", findings)) == code


@pytest.mark.parametrize(
    ("verdict", "free"),
    [
        (Verdict.PROVEN, True),
        (Verdict.NOT_FOUND, True),
        (Verdict.RACE, False),
        (Verdict.INCONCLUSIVE, False),
    ],
)
def test_no_race_between_is_about_these_operations_alone(verdict: Verdict, free: bool) -> None:
    others = [Finding(("a", "a"), Verdict.RACE), Finding(("a", "b", "b"), Verdict.RACE)]
    report = Report("app", "db", [*others, Finding(("a", "b"), verdict)])
    assert report.no_race_between("a", "b") is free
    assert report.no_race_between("b", "a") is free
    assert not report.no_race_between("b", "b"), "what was not tried is not free of races"
