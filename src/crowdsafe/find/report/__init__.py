"""What was found, for people and for machines: terminal, HTML, JSON, SARIF, JUnit, a test.

``html``, ``json``, ``sarif`` and ``junit`` each have ``render(report) -> str``; ``terminal`` has
``show(report, console)`` and ``render(report)``, ``regression`` has ``write_test``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from crowdsafe.find.model import Finding, Verdict

__all__ = ["EXIT_FOUND", "EXIT_NOTHING", "EXIT_UNSURE", "Report", "exit_code"]

EXIT_NOTHING = 0
EXIT_FOUND = 1
EXIT_UNSURE = 2


@dataclass(slots=True, repr=False)
class Report:
    """Everything that one call of ``find`` has to say.

    ``database`` is the address with its password hidden, ``notes`` what holds for the whole (a
    table without a primary key, a second database that the target talks to). ``str(report)`` is
    what the terminal shows, without colour.
    """

    target: str
    database: str
    findings: list[Finding]
    seconds: float = 0.0
    version: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def races(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.verdict is Verdict.RACE]

    @property
    def inconclusive(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.verdict is Verdict.INCONCLUSIVE]

    def between(self, *operations: str) -> list[Finding]:
        """The findings of exactly these operations, in whichever order."""
        wanted = sorted(operations)
        return [finding for finding in self.findings if sorted(finding.operations) == wanted]

    def no_race_between(self, *operations: Any) -> bool:
        """Whether these operations (or their names) were tried at once and showed no race.

        False, too, when nothing could be told of them. True says "proven" or "not found within
        the budget": look at the verdict to know which.
        """
        names = [each if isinstance(each, str) else each.name for each in operations]
        tried = self.between(*names)
        bad = {Verdict.RACE, Verdict.INCONCLUSIVE}
        return bool(tried) and all(finding.verdict not in bad for finding in tried)

    def __repr__(self) -> str:
        verdicts = ", ".join(finding.verdict.value for finding in self.findings[:20])
        return f"<Report on {self.target}: {verdicts or 'nothing'}>"

    def __str__(self) -> str:
        from crowdsafe.find.report.terminal import render

        return render(self)


def exit_code(report: Report) -> int:
    """1 when a race was found, 2 when something was inconclusive or nothing was tried, else 0."""
    if report.races:
        return EXIT_FOUND
    return EXIT_UNSURE if report.inconclusive or not report.findings else EXIT_NOTHING
