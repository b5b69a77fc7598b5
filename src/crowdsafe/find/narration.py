"""Says on stderr how far the search is: one line that changes on a terminal, else plain lines."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from crowdsafe.find.model import Verdict

__all__ = ["Narrator"]

_COLOURS = {
    Verdict.RACE.value: "bold red",
    Verdict.PROVEN.value: "green",
    Verdict.NOT_FOUND.value: "cyan",
    Verdict.INCONCLUSIVE.value: "yellow",
}


class Narrator:
    """A context manager; ``tell`` takes the worker's events."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr, quiet=quiet, highlight=False)
        self._status: Status | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.quiet:
            self._status = self._console.status("starting the target")
            self._status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def tell(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "plan":
            self._say_now(f"{len(event['groups'])} sets of operations on {event['target']}")
        elif kind == "recording":
            self._say_now(f"recording {event['operation']}")
        elif kind == "trying":
            self._say_now(f"{event['done'] + 1} of {event['of']}: {_names(event['operations'])}")
        elif kind == "found":
            self._say_found(event["finding"])
        elif kind == "blamed":
            self._say(Verdict.INCONCLUSIVE.value, _names(event["operations"]), event["reason"])

    def _say_now(self, text: str) -> None:
        """What goes on; on a terminal only, where the next such line replaces it."""
        if self._status is not None:
            self._status.update(escape(text))

    def _say_found(self, finding: dict[str, Any]) -> None:
        told = finding["anomaly"] or finding["reason"]
        cost = f"{finding['schedules']} schedules, {finding['seconds']:.1f} s"
        self._say(finding["verdict"], _names(finding["operations"]), f"{told} ({cost})")

    def _say(self, verdict: str, names: str, told: str) -> None:
        colour = _COLOURS[verdict]
        line = f"[{colour}]{verdict:12}[/] {escape(names)}: {escape(told)}"
        self._console.print(line, soft_wrap=True)


def _names(operations: Any) -> str:
    return " × ".join(operations)
