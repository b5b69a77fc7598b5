"""Findings as JSON: a list of objects with stable keys, described in docs/FINDER.md."""

from __future__ import annotations

import json
from typing import Any

from crowdsafe.find.model import Answer, Finding, Run
from crowdsafe.find.report import Report
from crowdsafe.find.report.outcomes import differing_tables
from crowdsafe.find.report.words import cut

__all__ = ["as_data", "render"]

_ROWS_MAX = 50
_TEXT_MAX = 2000
_STEPS_MAX = 1000
_DEPTH_MAX = 40


def render(report: Report) -> str:
    """A list with an object for each finding, in the order in which they were found."""
    data = [as_data(finding) for finding in report.findings]
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def as_data(finding: Finding) -> dict[str, Any]:
    """One finding in plain data; texts are cut at 2000 characters, tables at 50 rows."""
    tables = differing_tables(finding)
    data = {
        "operations": list(finding.operations),
        "verdict": finding.verdict.value,
        "anomaly": finding.anomaly.value if finding.anomaly else None,
        "severity": finding.severity.value if finding.severity else None,
        "tables": list(finding.tables),
        "sources": list(finding.sources),
        "summary": finding.summary,
        "reason": finding.reason,
        "differences": list(finding.differences),
        "schedule": [list(pair) for pair in finding.schedule],
        "token": None,
        "outcomes": {
            "found": _outcome(finding.run, tables) if finding.run else None,
            "serial": [
                {"order": list(order), **_outcome(run, tables)}
                for order, run in finding.serial.items()
            ],
        },
        "steps": _steps(finding.run) if finding.run else [],
        "cures": [
            {"title": title, "plain": plain, "crowdsafe": part}
            for title, plain, part in finding.cures
        ],
        "isolation": finding.isolation,
        "matrix": [list(row) for row in finding.matrix],
        "schedules": finding.schedules,
        "schedules_to_find": finding.schedules_to_find,
        "seconds": round(finding.seconds, 3),
    }
    return {str(name): _plain(value) for name, value in data.items()} | {"token": finding.token}


def _outcome(run: Run, tables: list[str]) -> dict[str, Any]:
    return {"answers": [_answer(answer) for answer in run.answers], "tables": _rows(run, tables)}


def _rows(run: Run, tables: list[str]) -> dict[str, list[dict[str, Any]]]:
    state = run.state or {}
    return {
        name: [
            {column: _plain(value) for column, value in zip(state[name].columns, row, strict=False)}
            for row in state[name].rows[:_ROWS_MAX]
        ]
        for name in tables
        if name in state
    }


def _answer(answer: Answer) -> list[dict[str, Any]]:
    return [
        {
            "request": reply.request,
            "status": reply.status,
            "body": reply.body,
            "error": reply.error,
            "message": reply.message,
            "sqlstate": reply.sqlstate,
        }
        for reply in answer.replies
    ]


def _steps(run: Run) -> list[dict[str, Any]]:
    return [
        {
            "operation": step.operation,
            "sql": step.sql,
            "parameters": step.parameters,
            "source": str(step.source) if step.source else None,
            "waited_for": list(step.waited_for),
            "rowcount": step.rowcount,
            "error": step.error,
        }
        for step in run.steps[:_STEPS_MAX]
    ]


def _plain(value: Any, depth: int = 0) -> Any:
    """What JSON can hold: texts are cut and without lone surrogates, bytes become hexadecimal;
    what is nested more than 40 deep becomes text."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else str(value)  # no NaN or infinity in JSON
    if isinstance(value, bytes | bytearray | memoryview):
        return cut(bytes(value[:_TEXT_MAX]).hex(), _TEXT_MAX)
    if isinstance(value, dict) and depth < _DEPTH_MAX:
        return {_text(key): _plain(each, depth + 1) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset) and depth < _DEPTH_MAX:
        return [_plain(each, depth + 1) for each in value]
    return _text(value if isinstance(value, str) or depth < _DEPTH_MAX else "…")


def _text(value: Any) -> str:
    return cut(str(value), _TEXT_MAX).encode("utf-8", "replace").decode()
