"""Several processes on one database: exact, alive, and nothing acknowledged is lost."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session
from tests.store.conftest import prepare
from tests.store.models import Base, balance, deposit, note, notes
from tests.support.pg_server import ROOT

from crowdsafe import Settings, Store
from crowdsafe.errors import ConfigError, DeadlineExceeded

SPAWN = multiprocessing.get_context("spawn")
DEADLINE_S = 20


def _deposit_often(url: str, times: int, barrier: Any, results: Any) -> None:
    slowest = 0.0
    with Store(url, Settings(deadline_s=DEADLINE_S)) as store:
        barrier.wait(60)
        for _ in range(times):
            started = time.monotonic()
            store.write(deposit, 1)
            slowest = max(slowest, time.monotonic() - started)
    results.put(slowest)


@pytest.mark.parametrize("processes", [2, 4])
def test_counts_are_exact_and_nobody_fails_or_starves(url: str, processes: int) -> None:
    barrier, results = SPAWN.Barrier(processes), SPAWN.Queue()
    running = [
        SPAWN.Process(target=_deposit_often, args=(url, 50, barrier, results))
        for _ in range(processes)
    ]
    for process in running:
        process.start()
    slowest = [results.get(timeout=90) for _ in running]
    for process in running:
        process.join(20)
    assert [process.exitcode for process in running] == [0] * processes
    with Store(url) as store:
        assert store.read(balance) == 50 * processes
    assert max(slowest) < DEADLINE_S, slowest


def _naive_often(url: str, times: int, barrier: Any, results: Any) -> None:
    from sqlalchemy import create_engine

    from crowdsafe.store.database import parse_url

    engine = create_engine(parse_url(url), connect_args={"timeout": 30} if "sqlite" in url else {})
    for _ in range(times):
        barrier.wait(60)
        with Session(engine) as session:
            deposit(session, 1)
            time.sleep(0.002)
            session.commit()
    results.put(0.0)


def test_the_same_by_plain_sessions_loses_writes(url: str) -> None:
    barrier, results = SPAWN.Barrier(2), SPAWN.Queue()
    running = [
        SPAWN.Process(target=_naive_often, args=(url, 50, barrier, results)) for _ in range(2)
    ]
    for process in running:
        process.start()
    for _ in running:
        results.get(timeout=90)
    for process in running:
        process.join(20)
    with Store(url) as store:
        assert store.read(balance) < 100


def _create(url: str, barrier: Any, results: Any) -> None:
    with Store(url) as store:
        barrier.wait(60)
        try:
            store.create_all(Base.metadata)
            results.put("ok")
        except Exception as error:
            results.put(repr(error))


def test_two_processes_may_create_the_tables_at_once(db_url: str) -> None:
    barrier, results = SPAWN.Barrier(3), SPAWN.Queue()
    running = [SPAWN.Process(target=_create, args=(db_url, barrier, results)) for _ in range(3)]
    for process in running:
        process.start()
    assert [results.get(timeout=60) for _ in running] == ["ok"] * 3
    for process in running:
        process.join(20)
    with Store(db_url) as store:
        store.create_all(Base.metadata)
        assert store.write(note, "works") == 1


class TestForeignLock:
    """A connection that is not crowdsafe's holds SQLite's write lock."""

    @pytest.fixture
    def path(self, sqlite_url: str) -> Path:
        prepare(sqlite_url)
        return Path(sqlite_url.removeprefix("sqlite:///"))

    def test_held_for_a_second_writes_wait_and_succeed(self, path: Path, sqlite_url: str) -> None:
        with Store(sqlite_url) as store, held(path) as release:
            started = time.monotonic()
            threading.Timer(1, release).start()
            assert store.write(deposit, 1, deadline_s=30) == 1
            assert time.monotonic() - started > 0.9

    def test_held_too_long_writes_give_up_in_time(self, path: Path, sqlite_url: str) -> None:
        with Store(sqlite_url, Settings(deadline_s=1.5)) as store:
            with held(path):
                started = time.monotonic()
                errors: list[BaseException] = []

                def call() -> None:
                    try:
                        store.write(deposit, 1)
                    except BaseException as error:
                        errors.append(error)

                threads = [threading.Thread(target=call) for _ in range(4)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(10)
                assert time.monotonic() - started < 8, "far below the usual deadline"
                assert [type(error) for error in errors] == [DeadlineExceeded] * 4
                assert store.read(balance, deadline_s=30) == 0, "readers are not held up"
            assert store.write(deposit, 1, deadline_s=30) == 1

    def test_a_process_that_is_stopped_in_its_turn_blocks_nobody_for_ever(
        self, sqlite_url: str, path: Path
    ) -> None:
        with writer(sqlite_url, "stopped") as process:
            acknowledged(process, 5)
            os.kill(process.pid, signal.SIGSTOP)
            try:
                with Store(sqlite_url, Settings(deadline_s=1)) as store:
                    started = time.monotonic()
                    try:
                        store.write(note, "while it sleeps")
                    except DeadlineExceeded:
                        assert "while it sleeps" not in store.read(notes, deadline_s=30)
                    assert time.monotonic() - started < 8, "far below the usual deadline"
            finally:
                os.kill(process.pid, signal.SIGCONT)
            with Store(sqlite_url) as store:
                store.write(note, "afterwards")

    def test_a_killed_process_frees_its_turn_though_a_child_of_it_lives_on(
        self, sqlite_url: str
    ) -> None:
        prepare(sqlite_url)
        command = [sys.executable, "-c", FORKS_IN_ITS_TURN, sqlite_url]
        with (
            Store(sqlite_url) as store,
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent,
        ):
            assert parent.stdout is not None
            assert parent.stdout.readline() == b"in its turn\n"
            parent.kill()
            parent.wait(10)
            store.write(note, "the child still lives")
            parent.communicate(timeout=10)


FORKS_IN_ITS_TURN = """
import os, sys
from crowdsafe import Store

def fork(session):
    if os.fork() == 0:
        sys.stdin.read()
        os._exit(0)
    print("in its turn", flush=True)
    sys.stdin.read()

Store(sys.argv[1]).write(fork)
"""


@contextmanager
def held(path: Path) -> Iterator[Any]:
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    released = threading.Event()

    def release() -> None:
        if not released.is_set():
            released.set()
            connection.execute("ROLLBACK")

    yield release
    release()
    connection.close()


@contextmanager
def writer(url: str, name: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.store.worker", url, name],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


def acknowledged(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(count)]


def kill_and_check(url: str, rng: random.Random, kills: int) -> None:
    said: list[str] = []
    with Store(url) as store, writer(url, "survivor") as survivor:
        said += acknowledged(survivor, 3)
        for n in range(kills):
            with writer(url, f"victim{n}") as victim:
                said += acknowledged(victim, 1 + rng.randrange(20))
                time.sleep(rng.random() * 0.02)
                victim.kill()
                started = time.monotonic()
                store.write(note, f"after-{n}")
                assert time.monotonic() - started < 8, "the survivors go on at once"
                said += [f"after-{n}", *_whole_lines(victim)]
            said += acknowledged(survivor, 5)
        survivor.kill()
        said += _whole_lines(survivor)
        # In one read: PostgreSQL may still be about to commit for a process that is dead.
        stored, counted = store.read(lambda session: (notes(session), balance(session)))
        assert not set(said) - set(stored), "acknowledged writes are missing"
        assert len(stored) == len(set(stored))
        both = [text for text in stored if not text.startswith("after-")]
        assert counted == len(both), "a write was stored by half"


def _whole_lines(process: subprocess.Popen[str]) -> list[str]:
    rest, _ = process.communicate()
    return rest.rpartition("\n")[0].split()


def check_integrity(url: str) -> None:
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()


def test_kill_9_loses_nothing_acknowledged(url: str, rng: random.Random) -> None:
    kill_and_check(url, rng, 5)
    check_integrity(url)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_9_many_times(url: str, rng: random.Random) -> None:
    kill_and_check(url, rng, 50)
    check_integrity(url)


class TestSchema:
    def test_a_newer_database_is_refused(self, url: str) -> None:
        from sqlalchemy import text

        with Store(url) as store:
            store.write(lambda s: s.execute(text("UPDATE crowdsafe_schema SET version = 99")))
            with pytest.raises(ConfigError, match="99") as caught:
                store.create_all()
        assert "\n" not in caught.value.message
