"""Starts the process that runs the target, watches it, and goes on after a crash or a hang.

What one pair of operations does to the process (``os._exit``, a segmentation fault, a hang that
holds the interpreter) is a finding of that pair: inconclusive, with the reason. The others go on
in a new process, at most as many as there are pairs.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from crowdsafe.errors import ConfigError
from crowdsafe.find.leftovers import discard
from crowdsafe.find.model import Finding, Verdict
from crowdsafe.find.stacks import where_it_hangs
from crowdsafe.find.wire import unpack

__all__ = ["Outcome", "Supervisor"]

_LINES_KEPT = 200
_FATAL = "Fatal Python error"
_LINES_SHOWN = 5
_EVENTS_AHEAD_MAX = 10_000
_START_S_MAX = 120.0
_SILENT_S_MAX = 30.0
_END_S_MAX = 15.0
_STACKS_S = 0.5

Group = tuple[int, ...]


@dataclass(slots=True)
class Outcome:
    """What the processes told. ``interrupted`` when the user ended it before its end."""

    target: str = ""
    database: str = ""
    operations: list[str] = field(default_factory=list)
    findings: dict[Group, Finding] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False


class Supervisor:
    """Does one job in as many processes as it takes.

    ``hang_s`` is how long an operation may make no progress; the process itself ends such a
    hang, and is killed when it has not for 30 s more. The budget is for the search: what a start,
    a crash or a hang takes does not count. ``command`` is the process's.
    """

    def __init__(
        self,
        job: dict[str, Any],
        *,
        tell: Callable[[dict[str, Any]], None] = lambda _: None,
        command: tuple[str, ...] = (sys.executable, "-m", "crowdsafe.find.worker"),
        hang_s: float = 10.0,
        silent_s: float = _SILENT_S_MAX,
    ) -> None:
        self._job = job
        self._tell = tell
        self._command = command
        self._limit_s = hang_s + silent_s
        self._left: list[Group] | None = None
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Raises ConfigError when the job is refused, or its target cannot even be started."""
        restarts = 0
        budget_s = float(self._job.get("budget_s", 60.0))
        while self._left is None or (self._left and restarts <= len(self.outcome.findings)):
            spent_s = sum(finding.seconds for finding in self.outcome.findings.values())
            try:
                self._one_process(max(1.0, budget_s - spent_s))
            except KeyboardInterrupt:
                self.outcome.interrupted = True
                break
            restarts += 1
        return self.outcome

    def _one_process(self, budget_s: float) -> None:
        """One process, until it ends; what it leaves undone stays in ``_left``."""
        job = dict(self._job)
        if self._left is not None:
            job |= {"only": self._left, "budget_s": budget_s}
        child = _Child(self._command, job, self._limit_s)
        before = None if self._left is None else len(self._left)
        at = _Place()
        try:
            for event in child.events():
                self._take(event, at)
        finally:
            died = child.end()
        if died is not None:
            if at.working and not self._job.get("in_place"):
                discard(at.working)
            self._blame(at, died)
        elif self._left and len(self._left) == before:
            self._blame(at, "the process ended without a result")

    def _take(self, event: dict[str, Any], at: _Place) -> None:
        kind, outcome = event["event"], self.outcome
        if kind == "refused":
            raise ConfigError(event["message"])
        if kind == "plan":
            at.working = event.get("working")
            if self._left is None:
                self._left = [tuple(group) for group in event["groups"]]
                outcome.target, outcome.database = event["target"], event["database"]
                outcome.operations = event["operations"]
        elif kind == "recording":
            at.recording = event["operation"]
        elif kind == "trying":
            at.recording = None
            at.trying = tuple(event["group"])
        elif kind == "found":
            self._settle(tuple(event["group"]), unpack(event["finding"]))
        elif kind == "notes":
            outcome.notes += [note for note in event["notes"] if note not in outcome.notes]
        self._tell(event)

    def _settle(self, group: Group, finding: Finding) -> None:
        assert self._left is not None
        self.outcome.findings[group] = finding
        self._left = [other for other in self._left if other != group]

    def _blame(self, at: _Place, why: str) -> None:
        """Say of what the process was at that it cannot be told. Raises ConfigError when that was
        the start."""
        if self._left is None:
            raise ConfigError(f"the target could not be started: {why}")
        names = self.outcome.operations
        if at.trying is not None and at.trying in self._left:
            blamed = [at.trying]
        elif at.recording in names:
            number = names.index(at.recording)
            why = f"{at.recording} alone: {why}"
            blamed = [group for group in self._left if number in group]
        else:
            blamed = list(self._left)
        for group in blamed:
            members = tuple(names[number] for number in group)
            finding = Finding(members, Verdict.INCONCLUSIVE, reason=why)
            self._settle(group, finding)
            self._tell({"event": "blamed", "operations": members, "reason": why})


@dataclass(slots=True)
class _Place:
    """What a process is at."""

    working: str | None = None
    trying: Group | None = None
    recording: str | None = None


class _Child:
    """One process: its events, and what it was that ended it."""

    def __init__(self, command: tuple[str, ...], job: dict[str, Any], limit_s: float) -> None:
        self._limit_s = limit_s
        self._hung: str | None = None
        self._ended = False
        self._folder = tempfile.TemporaryDirectory(prefix="crowdsafe-watch-")
        self._stacks = Path(self._folder.name) / "stacks"
        self._process = subprocess.Popen(  # noqa: S603  (our own interpreter and module)
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            start_new_session=True,
        )
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue(_EVENTS_AHEAD_MAX)
        self._said: deque[str] = deque(maxlen=_LINES_KEPT)
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it died at once: its exit code says more
            line = json.dumps(job | {"stacks": str(self._stacks)}, default=str)
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        self._readers = [
            threading.Thread(target=read, args=(pipe,), daemon=True)
            for read, pipe in (
                (self._read_events, self._process.stdout),
                (self._read_said, self._process.stderr),
            )
        ]
        for reader in self._readers:
            reader.start()

    def events(self) -> Iterator[dict[str, Any]]:
        """Its events until its end, or until it makes no progress for too long."""
        limit_s, alive = _START_S_MAX, None
        moved = time.monotonic()
        while True:
            rest = moved + limit_s - time.monotonic()
            try:
                event = self._events.get(timeout=max(0.0, rest))
            except queue.Empty:
                self._hung = f"nothing went on for {limit_s:g} s{self._where()}"
                return
            if event is None:
                return
            if event["event"] != "alive":
                moved, limit_s = time.monotonic(), self._limit_s
                self._ended = event["event"] in {"end", "refused"}
                yield event
            elif event["moved"] != alive:
                alive, moved = event["moved"], time.monotonic()

    def end(self) -> str | None:
        """See that it has ended. What was wrong with it, or None when it ended well."""
        process = self._process
        if self._hung is None and not self._ended and process.poll() is None:
            _signal(process, signal.SIGTERM)
        if self._hung is not None:
            process.kill()
        try:
            process.wait(_END_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for reader in self._readers:
            reader.join(_END_S_MAX)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        self._folder.cleanup()
        if self._hung is not None:
            return self._hung
        return None if self._ended else self._death(process.returncode)

    def _death(self, code: int) -> str:
        lines = [line for line in self._said if line.strip(" ^~")]
        fatal = next((n for n, line in enumerate(lines) if line.startswith(_FATAL)), len(lines))
        how = f"exit code {code}" if code >= 0 else _signal_name(-code)
        if place := where_it_hangs("\n".join(lines[fatal:])):
            how += f" at {place}"
        said = lines[:fatal][-_LINES_SHOWN:]
        told = f"; its last words: {' | '.join(said)}" if said else ""
        return f"the process died with {how}{told}"

    def _where(self) -> str:
        """The target's line that it stands at, as its stacks tell."""
        if not hasattr(signal, "SIGUSR1"):
            return ""
        _signal(self._process, signal.SIGUSR1)
        time.sleep(_STACKS_S)
        try:
            place = where_it_hangs(self._stacks.read_text(errors="replace"))
        except OSError:
            return ""
        return f", at {place}" if place else ""

    def _read_events(self, pipe: IO[bytes]) -> None:
        for line in pipe:
            try:
                event = json.loads(line)
            except ValueError:
                event = None
            if isinstance(event, dict) and "event" in event:
                self._events.put(event)
            else:
                self._said.append(line.decode(errors="replace").rstrip())
        self._events.put(None)

    def _read_said(self, pipe: IO[bytes]) -> None:
        for line in pipe:
            self._said.append(line.decode(errors="replace").rstrip())


def _environment() -> dict[str, str]:
    paths = [str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(number)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
