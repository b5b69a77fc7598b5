"""Run the server: one process, or several that share one listening socket and are watched over.

A worker gets the socket and one end of a pipe. Whoever dies first, the other notices: the parent
starts a dead worker anew (not for ever), and a worker whose parent is gone stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from types import FrameType

import uvicorn

from crowdsafe.errors import ConfigError
from crowdsafe.server.app import ServerSettings, begin_shutdown, create_app
from crowdsafe.server.head import HEAD_BYTES_MAX, HTTP
from crowdsafe.server.patience import Patience

__all__ = ["WORKERS_MAX", "bind", "run_here", "run_worker", "run_workers"]

log = logging.getLogger("crowdsafe.server")

WORKERS_MAX = 64
_BACKLOG = 2048
_CONNECTIONS_MAX = 4000
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_REQUESTS_END_S = 2.5
_GRACE_S = 2.9
_TICKS_A_LOOK = 10
_LAST_RESORT_S = 3.9
_STOP_S = 4.2
_RESTARTS_MAX = 5
_RESTARTS_WITHIN_S = 30.0
_EXIT_CONFIG = 2
_WORKER_ENV = "CROWDSAFE_WORKER"


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free one. Raises ConfigError naming the fix."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise ConfigError(
            f"the host {host!r} is not an address of this machine: use --host 127.0.0.1, or "
            "--host 0.0.0.0 for all networks"
        ) from None
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(_bind_advice(host, port, error)) from None
    listener.setblocking(False)
    return listener


def _bind_advice(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        other = port + 1 if port < 65535 else 8000
        return (
            f"port {port} on {host} is in use: stop the program that has it, or choose another "
            f"one with --port {other}"
        )
    if error.errno == errno.EACCES:
        return f"port {port} needs privileges: choose one above 1023, such as --port 8000"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"the host {host!r} is not an address of this machine: use --host 127.0.0.1"
    return f"cannot listen on {host} port {port}: {error.strerror}"


class _Server(uvicorn.Server):
    """Uvicorn's server, which here ends its streams first, exits with code 0 on a signal, and
    does not wait for requests without an end."""

    def __init__(
        self,
        config: uvicorn.Config,
        on_shutdown: Callable[[], None],
        signals: Sequence[signal.Signals],
    ) -> None:
        super().__init__(config)
        self._on_shutdown = on_shutdown
        self._signals = signals
        self._patience = Patience()

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS_A_LOOK == 0:
            self._patience.look(self.server_state.connections, time.monotonic())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_shutdown()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        with _signals_to(self._stop, self._signals):
            yield

    def handle_parent_gone(self, pipe: int) -> None:
        """Stop when the other end of the pipe was closed: the parent process has ended."""
        asyncio.get_running_loop().remove_reader(pipe)
        self._stop()

    def _stop(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        if not self.should_exit:
            self.should_exit = True
            _exit_within(_LAST_RESORT_S)


def _exit_within(limit_s: float) -> None:
    """End the process by force when something keeps it alive for longer than that."""

    def end() -> None:
        log.error("the server did not stop within %.1f s and is ended by force", limit_s)
        os._exit(0)

    timer = threading.Timer(limit_s, end)
    timer.daemon = True
    timer.start()


def run_here(settings: ServerSettings, listener: socket.socket) -> int:
    """Serve in this process until SIGINT or SIGTERM; returns the exit code."""
    return asyncio.run(_serve(settings, listener, parent=None))


def run_worker() -> int:
    """What a worker process does: its settings and descriptors come in its environment."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    given = json.loads(os.environ.pop(_WORKER_ENV))
    listener = socket.socket(fileno=given["listener"])
    settings = ServerSettings(**given["settings"])
    return asyncio.run(_serve(settings, listener, parent=given["parent"]))


async def _serve(settings: ServerSettings, listener: socket.socket, parent: int | None) -> int:
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="on",
        backlog=_BACKLOG,
        limit_concurrency=_CONNECTIONS_MAX,
        timeout_graceful_shutdown=_GRACE_S,  # type: ignore[arg-type]
        timeout_keep_alive=30,
        server_header=False,
        proxy_headers=False,
        ws="none",
        http=HTTP,
        h11_max_incomplete_event_size=HEAD_BYTES_MAX,
    )
    # Ctrl-C reaches a whole process group; a worker leaves it to its parent, which ends it.
    signals = _SIGNALS if parent is None else (signal.SIGTERM,)
    server = _Server(config, lambda: begin_shutdown(app, _REQUESTS_END_S), signals)
    if parent is not None:
        asyncio.get_running_loop().add_reader(parent, lambda: server.handle_parent_gone(parent))
    await server.serve(sockets=[listener])
    return 0 if server.started else 1


@dataclass(slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    pipe: int


def run_workers(settings: ServerSettings, listener: socket.socket, count: int) -> int:
    """Keep ``count`` worker processes running until SIGINT or SIGTERM; returns the exit code.

    A worker that dies is started anew, at most five times in thirty seconds; then all stop with
    exit code 1.

    Holds: on a signal, requests that were read are answered (after two and a half seconds with a
    503), and all have ended within five. Does not hold: a connection that the kernel took in but no
    worker has read yet is reset. Proved by ``tests/cli/test_serve.py``.
    """
    stop = _StopFlag()
    restarts: deque[float] = deque()
    workers: list[_Worker] = []
    code = 0
    with _signals_to(stop.set, _SIGNALS):
        workers = [_start(settings, listener) for _ in range(count)]
        while not stop.is_set:
            time.sleep(0.05)
            for index, worker in enumerate(workers):
                ended = worker.process.poll()
                if ended is None or stop.is_set:
                    continue
                os.close(worker.pipe)
                code = _may_restart(worker.process.pid, ended, restarts)
                if code:
                    workers.pop(index)
                    stop.is_set = True
                    break
                workers[index] = _start(settings, listener)
        listener.close()
        _stop_all(workers)
    return code


class _StopFlag:
    def __init__(self) -> None:
        self.is_set = False

    def set(self, _number: int, _frame: FrameType | None) -> None:
        self.is_set = True


def _may_restart(pid: int, ended: int, restarts: deque[float]) -> int:
    """0 when a worker may be started anew, else the exit code to stop with."""
    how = f"by signal {-ended}" if ended < 0 else f"with exit code {ended}"
    if ended == _EXIT_CONFIG:
        return _EXIT_CONFIG
    now = time.monotonic()
    restarts.append(now)
    while now - restarts[0] > _RESTARTS_WITHIN_S:
        restarts.popleft()
    if len(restarts) > _RESTARTS_MAX:
        log.error(
            "worker %d ended %s; that is more than %d in %.0f seconds, so all stop: "
            "look for the cause above",
            pid,
            how,
            _RESTARTS_MAX,
            _RESTARTS_WITHIN_S,
        )
        return 1
    log.warning("worker %d ended %s; starting another", pid, how)
    return 0


def _start(settings: ServerSettings, listener: socket.socket) -> _Worker:
    reading, writing = os.pipe()
    given = {
        "settings": asdict(settings),
        "listener": listener.fileno(),
        "parent": reading,
    }
    process = subprocess.Popen(  # noqa: S603 - this interpreter, with our own code
        [sys.executable, "-c", _WORKER_CODE],
        env={**os.environ, _WORKER_ENV: json.dumps(given)},
        pass_fds=(listener.fileno(), reading),
        stdin=subprocess.DEVNULL,
    )
    os.close(reading)
    return _Worker(process, writing)


_WORKER_CODE = "import sys; from crowdsafe.cli import worker; sys.exit(worker())"


def _stop_all(workers: list[_Worker]) -> None:
    """Ask all to stop, and kill what is left shortly before five seconds are over."""
    for worker in workers:
        worker.process.terminate()
    end = time.monotonic() + _STOP_S
    for worker in workers:
        try:
            worker.process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("worker %d did not stop in time and is killed", worker.process.pid)
            worker.process.kill()
            worker.process.wait()
        os.close(worker.pipe)


@contextlib.contextmanager
def _signals_to(
    handler: Callable[[int, FrameType | None], None], signals: Sequence[signal.Signals]
) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
