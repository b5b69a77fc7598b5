"""Finds the races of a backend: it runs its operations at once, statement by statement.

:func:`find` tries operations (requests to an ASGI or WSGI app, or functions) with themselves and
with each other on a copy of the database, under every schedule that could matter, and reports
what no serial order gives. ``crowdsafe find`` is the same from the command line.

Nothing is imported until it is used, since pytest loads this package in every run.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crowdsafe.find.finder import find
    from crowdsafe.find.model import Anomaly, Finding, Severity, Verdict
    from crowdsafe.find.recording.marking import operation
    from crowdsafe.find.replaying import replay
    from crowdsafe.find.report import Report, exit_code
    from crowdsafe.find.targets import Scenario, call, request

__all__ = [
    "Anomaly",
    "Finding",
    "Report",
    "Scenario",
    "Severity",
    "Verdict",
    "call",
    "exit_code",
    "find",
    "operation",
    "replay",
    "request",
]

_HOMES = {
    "Anomaly": "model",
    "Finding": "model",
    "Report": "report",
    "Scenario": "targets",
    "Severity": "model",
    "Verdict": "model",
    "call": "targets",
    "exit_code": "report",
    "find": "finder",
    "operation": "recording.marking",
    "replay": "replaying",
    "request": "targets",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
