"""The child process that runs the target: it gets a job on stdin and tells findings on stdout.

One JSON object a line. What the target prints goes to stderr. The process that started it watches
it, ends it when it hangs, and goes on with another one after a crash; when that process is gone,
this one ends too.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO

from crowdsafe.errors import ConfigError, CrowdsafeError
from crowdsafe.find.finder import hunt
from crowdsafe.find.matrix import isolation_rows
from crowdsafe.find.model import Finding, Verdict
from crowdsafe.find.predict import groups
from crowdsafe.find.replaying import replay
from crowdsafe.find.session import Session
from crowdsafe.find.stacks import where_it_hangs
from crowdsafe.find.stage import Job
from crowdsafe.find.targets import database_named_in, source_file
from crowdsafe.find.wire import pack

__all__ = ["main", "work"]

_ALIVE_EVERY_S = 1.0


class _Teller:
    """Writes events to the pipe, from any thread, and says every second how far things are."""

    def __init__(self, pipe: TextIO) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()
        self._parent = os.getppid()
        self.session: Session | None = None
        threading.Thread(target=self._stay_alive, daemon=True, name="crowdsafe-find-alive").start()

    def __call__(self, event: dict[str, Any]) -> None:
        with self._lock:
            self._pipe.write(json.dumps(event, default=str) + "\n")
            self._pipe.flush()

    def _stay_alive(self) -> None:
        pause = threading.Event()
        while not pause.wait(_ALIVE_EVERY_S):
            if os.getppid() != self._parent:
                os.kill(os.getpid(), signal.SIGTERM)
                return
            with contextlib.suppress(OSError, ValueError):  # the pipe closes as we end
                self({"event": "alive", "moved": self._moved()})

    def _moved(self) -> list[float]:
        """Changes whenever anything went on."""
        if self.session is None:
            return []
        return [self.session.runs, self.session.controller.progress_at]


def main() -> NoReturn:
    """Do the job of stdin. Exit code 0 when it was done or refused in words."""
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    job = json.loads(sys.stdin.readline())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = [str(job.get("target") or "crowdsafe")]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)
    faulthandler.enable()
    tell = _Teller(pipe)
    with _stacks_into(job.pop("stacks", None)):
        try:
            work(job, tell)
        except CrowdsafeError as error:
            tell({"event": "refused", "message": error.message})
        except KeyboardInterrupt:
            _leave(1)
    tell({"event": "end"})
    _leave(0)


def _leave(code: int) -> NoReturn:
    """End at once: the target's threads, pools and exit handlers may not hold this process up."""
    sys.stderr.flush()
    os._exit(code)


def _stop(_: int, __: Any) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _stacks_into(path: str | None) -> Iterator[None]:
    """Write the stacks of all threads to that file on SIGUSR1."""
    if path is None or not hasattr(signal, "SIGUSR1"):
        yield
        return
    with Path(path).open("w") as file:
        faulthandler.register(signal.SIGUSR1, file=file, all_threads=True)
        yield
        faulthandler.unregister(signal.SIGUSR1)


def work(job: dict[str, Any], tell: _Teller) -> None:
    """Find, or replay when the job has a token. Raises CrowdsafeError."""
    if job.get("token"):
        given = {name: job[name] for name in ("target", "database", "in_place", "hang_s")}
        report = replay(job["token"], **given)
        about = {"target": report.target, "database": report.database, "operations": []}
        tell({"event": "plan", "groups": [[0]], **about})
        for finding in report.findings:
            tell({"event": "found", "group": [0], "finding": pack(finding)})
        tell({"event": "notes", "notes": report.notes})
        return
    only = job.pop("only", None)
    isolation = job.pop("isolation", False)
    with Session(_job(job)) as session:
        tell.session = session
        wanted = [tuple(group) for group in only] if only else _groups(session, job)
        tell(
            {
                "event": "plan",
                "target": session.target.name,
                "database": session.database.shown_url,
                "working": session.database.working_url,
                "operations": [operation.name for operation in session.operations],
                "groups": wanted,
            }
        )
        group: tuple[int, ...] = ()

        def follow(event: dict[str, Any]) -> None:
            nonlocal group
            group = event.get("group", group)
            tell(event)

        for finding in hunt(session, only=wanted, progress=follow, rest=False):
            if session.controller.broken:
                _add_place(finding)
            elif isolation and finding.verdict is Verdict.RACE:
                operations = [session.operations[number] for number in group]
                finding.matrix = isolation_rows(session, operations)
            tell({"event": "found", "group": group, "finding": pack(finding)})
        tell({"event": "notes", "notes": session.notes(), "broken": session.controller.broken})


def _job(job: dict[str, Any]) -> Job:
    """The session's job; the database is the scenario's own where none was named."""
    values = {key: value for key, value in job.items() if key not in {"self_only", "token"}}
    file = None if values["operations"] else source_file(values["target"])
    values["database"] = values["database"] or (database_named_in(file) if file else None)
    if not values["database"]:
        raise ConfigError(
            "which database does it use? Say --database sqlite:///dev.db or "
            "--database postgresql://user@host/name"
            + (", or write it as plain text in the scenario: database='...'" if file else "")
        )
    for name in ("operations", "headers"):
        values[name] = tuple(values[name])
    return Job(**values)


def _groups(session: Session, job: dict[str, Any]) -> list[tuple[int, ...]]:
    count = len(session.operations)
    if job.get("self_only"):
        return [(number, number) for number in range(count)]
    return groups(count, triples=session.job.triples)


def _add_place(finding: Finding) -> None:
    """Say of a hang at which line of the target it is: its threads still stand there."""
    if finding.verdict is not Verdict.INCONCLUSIVE:
        return
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        place = where_it_hangs(file.read())
    finding.reason += f"; it stands at {place}" if place else ""


if __name__ == "__main__":
    main()
