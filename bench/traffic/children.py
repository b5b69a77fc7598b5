"""Child processes that are told when to go and say what they found; none outlives its block."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.pg_server import ROOT

START_S_MAX = 90.0


@dataclass(slots=True)
class Child:
    """One `python -m ...` with its words read line by line."""

    process: subprocess.Popen[str]
    lines: queue.SimpleQueue[str | None] = field(default_factory=queue.SimpleQueue)
    complaints: list[str] = field(default_factory=list)

    def go(self, word: str = "go") -> None:
        """Send a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def wait_for(self, word: str, within_s: float = START_S_MAX) -> str:
        """The next line that begins with ``word``; RuntimeError when none comes."""
        end = time.monotonic() + within_s
        while True:
            try:
                line = self.lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise RuntimeError(f"no {word!r} within {within_s:g} s") from None
            if line is None:
                raise RuntimeError(f"ended: {self.last_words()}")
            if line.startswith(word):
                return line.strip()

    def result(self, within_s: float) -> dict[str, Any]:
        """What it prints as JSON."""
        found: dict[str, Any] = json.loads(self.wait_for("{", within_s))
        return found

    def last_words(self) -> str:
        """The line of its complaints that says most: the last one that is not part of a list."""
        said = [line.strip() for line in self.complaints if line[:1].strip()]
        return said[-1] if said else "without a word"

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def children(commands: Sequence[Sequence[str]]) -> Iterator[list[Child]]:
    """Start a process for each command (module and arguments), and end them all."""
    started: list[Child] = []
    try:
        for words in commands:
            process = subprocess.Popen(
                [sys.executable, "-m", *words], cwd=ROOT, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            child = Child(process)
            started.append(child)
            threading.Thread(target=_read, args=(child,), daemon=True).start()
            threading.Thread(target=_listen, args=(child,), daemon=True).start()
        yield started
    finally:
        for child in started:
            if child.process.poll() is None:
                child.kill()


def _read(child: Child) -> None:
    assert child.process.stdout is not None
    for line in child.process.stdout:
        child.lines.put(line)
    child.process.wait()
    child.lines.put(None)


def _listen(child: Child) -> None:
    assert child.process.stderr is not None
    for line in child.process.stderr:
        child.complaints = [*child.complaints, line][-20:]
