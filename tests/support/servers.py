"""`crowdsafe serve` as a real process: started, watched, ended, killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.support.ports import free_port

START_S_MAX = 90.0
END_S_MAX = 10.0
LOG_TAIL_CHARS = 8000


@dataclass
class Server:
    """One running `crowdsafe serve`, in a process group of its own."""

    base_url: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """Process id of the server's first process, which is also its group's id."""
        return self.process.pid

    def output(self) -> str:
        """The end of what the server has printed, to show with a failure."""
        return self.log.read_text(errors="replace")[-LOG_TAIL_CHARS:]

    def kill9(self) -> None:
        """kill -9 of the server and of all its workers: nobody gets to say goodbye."""
        self._signal_group(signal.SIGKILL)
        self.process.wait(END_S_MAX)

    def terminate(self) -> int:
        """SIGTERM to the first process, as a service manager does; the exit code.

        AssertionError when it takes longer than END_S_MAX.
        """
        if self.process.poll() is None:
            self.process.terminate()
        return self._ended()

    def interrupt(self) -> int:
        """SIGINT to the whole group, as Ctrl-C in a terminal does; the exit code, as above."""
        self._signal_group(signal.SIGINT)
        return self._ended()

    def _ended(self) -> int:
        try:
            return self.process.wait(END_S_MAX)
        except subprocess.TimeoutExpired:
            self.kill9()
            raise AssertionError(f"did not end in {END_S_MAX} s:\n{self.output()}") from None

    def stop(self) -> None:
        """End it whatever its state: for the end of a test."""
        if self.process.poll() is None:
            self.terminate()
        self._signal_group(signal.SIGKILL)  # a worker that outlived its parent

    def wait_ready(self, within_s: float = START_S_MAX) -> None:
        """Wait until /readyz says 200; AssertionError with the output when it does not."""
        deadline = time.monotonic() + within_s
        seen = "no answer"
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"ended with {self.process.returncode}:\n{self.output()}")
            try:
                answer = httpx.get(f"{self.base_url}/readyz", timeout=2)
            except httpx.TransportError as error:
                seen = repr(error)
            else:
                if answer.status_code == 200:
                    return
                seen = f"{answer.status_code} {answer.text[:500]}"
            time.sleep(0.05)
        raise AssertionError(f"not ready in {within_s} s ({seen}):\n{self.output()}")

    def _signal_group(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return


def start_server(
    url: str,
    data_dir: Path,
    *,
    workers: int = 1,
    demo: bool = True,
    port: int | None = None,
    env: Mapping[str, str] | None = None,
    args: Sequence[str] = (),
    wait: bool = True,
) -> Server:
    """Start `crowdsafe serve` on database `url`, with `args` besides, and wait until it is ready.

    The caller ends it, by `stop()`, or uses `running_server` instead. Two servers on one database:
    call it twice with the same `url`.
    """
    port = port or free_port()
    data_dir.mkdir(parents=True, exist_ok=True)
    log = data_dir / f"server-{port}.log"
    command = [
        *(sys.executable, "-m", "crowdsafe.cli", "serve", "--host", "127.0.0.1"),
        *("--port", str(port), "--database", url, "--data", str(data_dir)),
        *("--workers", str(workers)),
        *(["--demo"] if demo else []),
        *args,
    ]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            start_new_session=True,
        )
    server = Server(f"http://127.0.0.1:{port}", port, process, log)
    if wait:
        try:
            server.wait_ready()
        except BaseException:
            server.kill9()
            raise
    return server


@contextmanager
def running_server(
    url: str,
    data_dir: Path,
    *,
    workers: int = 1,
    demo: bool = True,
    env: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """A server for the length of a block; its output is printed when the block fails."""
    server = start_server(url, data_dir, workers=workers, demo=demo, env=env)
    try:
        yield server
    except BaseException:
        print(f"--- output of the server on port {server.port}\n{server.output()}")
        raise
    finally:
        server.stop()
