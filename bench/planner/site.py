"""`crowdsafe serve` with the planner, its simulated upstream beside it, and people to ask."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
from sqlalchemy.orm import Session
from tests.support.pg_server import ROOT
from tests.support.servers import Server, free_port, running_server

from crowdsafe.identity.tables import UserRow
from crowdsafe.identity.tokens import Tokens, signing_secret
from crowdsafe.store import Store
from crowdsafe.systems.planner.models import Profile

START_S_MAX = 20.0
LOOK_EVERY_S = 0.1
NO_PASSWORD = "none"
TIER = "pro_plus"
"""As many plans a day as one likes: what users who ask for several need."""


@dataclass(slots=True)
class Site:
    """A running server; ``url`` is its database."""

    url: str
    server: Server
    _people: int = field(default=0)

    def people(self, count: int) -> list[str]:
        """Tokens of so many new users: rows and signatures, since 500 argon2 logins would be most
        of what is measured."""
        first = self._people
        self._people += count

        def add(session: Session) -> list[int]:
            rows = [
                UserRow(
                    username=f"bench-{number}", name=f"Bench {number}", roles=["employee"],
                    password_hash=NO_PASSWORD,
                )
                for number in range(first, first + count)
            ]  # fmt: skip
            session.add_all(rows)
            session.flush()
            session.add_all([Profile(user_id=row.id, tier=TIER) for row in rows])
            return [row.id for row in rows]

        with Store(self.url) as store:
            tokens = Tokens(store.write(signing_secret))
            return [tokens.issue(user_id) for user_id in store.write(add)]


@contextlib.contextmanager
def running_site(url: str, folder: Path, upstream_url: str) -> Iterator[Site]:
    """A server of one process on this database."""
    env = {"CROWDSAFE_PLANNER_UPSTREAM_URL": upstream_url}
    with running_server(url, folder, env=env) as server:
        answer = httpx.get(f"{server.base_url}/planner/api/plans", timeout=10)
        if answer.status_code != 401:
            raise RuntimeError(f"the server has no planner: {answer.status_code}")
        yield Site(url, server)


@contextlib.contextmanager
def simulated(latency_s: float, sigma: float, seed: int) -> Iterator[str]:
    """A simulated upstream in a process of its own; the URL of its API."""
    port = free_port()
    command = [
        sys.executable, "-m", "crowdsafe.systems.planner.simulated", "--port", str(port),
        "--latency-s", str(latency_s), "--latency-sigma", str(sigma), "--seed", str(seed),
    ]  # fmt: skip
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            _wait_for(port, process)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()


def stats(upstream_url: str) -> dict[str, Any]:
    """What the simulated upstream has counted."""
    found: dict[str, Any] = httpx.get(upstream_url.replace("/v1", "/stats"), timeout=10).json()
    return found


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_S_MAX
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{port}/stats", timeout=2)
        except httpx.TransportError as error:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("the simulated upstream did not start") from error
            time.sleep(0.05)
        else:
            return


class Memory:
    """The most memory that a process and its children have had at once, in MiB, and the CPU
    seconds that they took, for the length of a block."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.most_mib = 0.0
        self.cpu_s = 0.0

    def __enter__(self) -> Self:
        self._before_s = self._cpu_s()
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
        self.cpu_s = self._cpu_s() - self._before_s

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            self._look()

    def _look(self) -> None:
        used = 0
        for process in (self._process, *self._process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                used += process.memory_info().rss
        self.most_mib = max(self.most_mib, used / 2**20)

    def _cpu_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)
