"""Findings as JUnit XML: a test case for each set of operations."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from crowdsafe.find.model import Finding, Verdict
from crowdsafe.find.report import Report
from crowdsafe.find.report.words import clean, together

__all__ = ["render"]


def render(report: Report) -> str:
    """A race is a failure, an inconclusive set an error, one that was not searched to its end is
    skipped, and a proven one passes."""
    found = [finding.verdict for finding in report.findings]
    counts = {
        "tests": str(len(found)),
        "failures": str(found.count(Verdict.RACE)),
        "errors": str(found.count(Verdict.INCONCLUSIVE)),
        "skipped": str(found.count(Verdict.NOT_FOUND)),
        "time": f"{report.seconds:.3f}",
    }
    suites = ET.Element("testsuites", {"name": "crowdsafe find", **counts})
    suite = ET.SubElement(suites, "testsuite", {"name": clean(report.target), **counts})
    for finding in report.findings:
        _case(suite, finding, report)
    ET.indent(suites)
    return ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: ET.Element, finding: Finding, report: Report) -> None:
    case = ET.SubElement(
        suite,
        "testcase",
        {
            "classname": clean(report.target) or "crowdsafe",
            "name": together(finding.operations, 200),
            "time": f"{finding.seconds:.3f}",
        },
    )
    match finding.verdict:
        case Verdict.RACE:
            kind = finding.anomaly.value if finding.anomaly else "race"
            message = clean(finding.summary) or kind
            failure = ET.SubElement(case, "failure", {"message": message, "type": kind})
            failure.text = _story(finding, report)
        case Verdict.INCONCLUSIVE:
            ET.SubElement(case, "error", {"message": clean(finding.reason), "type": "inconclusive"})
        case Verdict.NOT_FOUND:
            reason = clean(finding.reason) or "not searched to the end"
            ET.SubElement(case, "skipped", {"message": reason})
        case Verdict.PROVEN:
            pass


def _story(finding: Finding, report: Report) -> str:
    from crowdsafe.find.report.terminal import render as in_text

    alone = Report(report.target, report.database, [finding], finding.seconds, report.version)
    return clean(in_text(alone, width=100))
