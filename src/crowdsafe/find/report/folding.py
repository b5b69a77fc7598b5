"""Findings that say the same thing, put together."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable

from crowdsafe.find.model import Finding

__all__ = ["same_races", "same_reasons"]


def same_races(findings: Iterable[Finding]) -> list[list[Finding]]:
    """The races, those of one name in the same tables and lines of the program together."""
    races = (finding for finding in findings if finding.anomaly is not None)
    return _together(races, lambda one: (one.anomaly, one.tables, one.sources or one.operations))


def same_reasons(findings: Iterable[Finding]) -> list[list[Finding]]:
    """What is no race, by verdict and reason."""
    others = (finding for finding in findings if finding.anomaly is None)
    return _together(others, lambda one: (one.verdict, one.reason))


def _together(
    findings: Iterable[Finding], key: Callable[[Finding], Hashable]
) -> list[list[Finding]]:
    found: dict[Hashable, list[Finding]] = {}
    for finding in findings:
        found.setdefault(key(finding), []).append(finding)
    return list(found.values())
