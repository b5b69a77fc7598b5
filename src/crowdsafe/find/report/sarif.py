"""Findings as SARIF 2.1.0 (OASIS, 2020), for code hosts: the races at the lines that make them."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

from crowdsafe.find.judge.anomalies import explanation
from crowdsafe.find.model import Anomaly, Finding, Severity, Source, Verdict
from crowdsafe.find.report import Report
from crowdsafe.find.report.scene import Kind, Line, scene_of
from crowdsafe.find.report.words import clean, legend, letter, title, together

__all__ = ["render"]

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/schemas/sarif-schema-2.1.0.json"
_LEVELS = {Severity.HIGH: "error", Severity.MEDIUM: "warning", Severity.LOW: "note"}
_ROOT = "SRCROOT"


def render(report: Report) -> str:
    """One run with a rule for each anomaly and a result for each race; what was inconclusive is
    among the notifications of the run, so that it is not taken for a pass."""
    rules = sorted({each.anomaly for each in report.races if each.anomaly}, key=str)
    run = {
        "tool": {
            "driver": {
                "name": "crowdsafe find",
                "version": report.version or "0",
                "rules": [_rule(anomaly) for anomaly in rules],
            }
        },
        "invocations": [
            {
                "executionSuccessful": True,
                "toolExecutionNotifications": [_notification(each) for each in report.inconclusive],
            }
        ],
        "originalUriBaseIds": {_ROOT: {"description": {"text": "where crowdsafe find was run"}}},
        "columnKind": "unicodeCodePoints",
        "results": [_result(each, rules) for each in report.races if each.anomaly],
    }
    log = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(log, indent=2, ensure_ascii=True) + "\n"


def _rule(anomaly: Anomaly) -> dict[str, Any]:
    words = anomaly.value
    return {
        "id": _rule_id(anomaly),
        "name": "".join(word.capitalize() for word in re.split(r"[\s-]+", words)),
        "shortDescription": {"text": f"{words[0].upper()}{words[1:]}."},
        "fullDescription": {"text": explanation(anomaly)},
        "defaultConfiguration": {"level": "error"},
    }


def _rule_id(anomaly: Anomaly) -> str:
    return re.sub(r"[\s-]+", "-", anomaly.value)


def _result(finding: Finding, rules: list[Anomaly]) -> dict[str, Any]:
    assert finding.anomaly is not None
    result: dict[str, Any] = {
        "ruleId": _rule_id(finding.anomaly),
        "ruleIndex": rules.index(finding.anomaly),
        "level": _LEVELS[finding.severity or Severity.MEDIUM],
        "message": {"text": _message(finding)},
        "locations": [{"physicalLocation": each} for each in _places(finding)],
        "partialFingerprints": {"crowdsafeRace/v1": _fingerprint(finding)},
    }
    flow = _flow(finding)
    if flow is not None:
        result["codeFlows"] = [flow]
    if finding.token:
        result["properties"] = {"token": finding.token}
    return result


def _message(finding: Finding) -> str:
    who = ", ".join(f"{sign}: {clean(name)}" for sign, name in legend(finding.operations))
    return f"{title(finding)}. {clean(finding.summary)} ({who})"


def _places(finding: Finding) -> list[dict[str, Any]]:
    places = []
    for source in finding.sources:
        file, _, line = source.rpartition(":")
        if file and line.isdigit():
            places.append(_place(file, int(line)))
    return places[:10]


def _place(file: str, line: int, code: str = "") -> dict[str, Any]:
    region: dict[str, Any] = {"startLine": max(1, line)}
    if code:
        region["snippet"] = {"text": clean(code)}
    return {"artifactLocation": _artifact(file), "region": region}


def _artifact(file: str) -> dict[str, str]:
    """Relative to where the command was run, where it is below that."""
    path = PurePath(file)
    if path.is_absolute():
        if not path.is_relative_to(Path.cwd()):
            return {"uri": Path(file).as_uri()}
        path = path.relative_to(Path.cwd())
    return {"uri": quote(path.as_posix()), "uriBaseId": _ROOT}


def _fingerprint(finding: Finding) -> str:
    """The same in each run, and when lines move: the anomaly, the tables, the operations, the
    files."""
    files = sorted({source.rpartition(":")[0] for source in finding.sources})
    said = [finding.anomaly, sorted(finding.tables), sorted(finding.operations), files]
    return hashlib.sha256(json.dumps(said, ensure_ascii=True).encode()).hexdigest()[:32]


def _flow(finding: Finding) -> dict[str, Any] | None:
    """A thread flow for each operation; ``executionOrder`` tells how they interleave."""
    scene = scene_of(finding)
    if scene is None:
        return None
    flows = []
    for operation, (sign, _) in enumerate(legend(scene.operations)):
        lines = [line for line in scene.lines if line.operation == operation and line.source]
        locations = [_flow_location(line) for line in lines if line.number]
        if locations:
            flows.append({"id": sign, "locations": locations})
    if not flows:
        return None
    return {
        "message": {"text": clean(together(finding.operations))},
        "threadFlows": flows,
    }


def _flow_location(line: Line) -> dict[str, Any]:
    source: Source | None = line.source
    assert source is not None
    wrong = f" ({line.wrong})" if line.wrong else ""
    return {
        "executionOrder": line.number,
        "importance": "essential" if line.wrong else "important",
        "location": {
            "physicalLocation": _place(source.file, source.line, source.code),
            "message": {"text": clean(f"{letter(line.operation)} {_said(line)}{wrong}")},
        },
    }


def _said(line: Line) -> str:
    return f"does {line.text}" if line.kind is Kind.MARK else line.text


def _notification(finding: Finding) -> dict[str, Any]:
    assert finding.verdict is Verdict.INCONCLUSIVE
    text = f"{together(finding.operations)}: {finding.reason}"
    return {"level": "error", "message": {"text": clean(text)}}
