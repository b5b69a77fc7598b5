"""An operation reaches its threads, and does not sleep."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from crowdsafe.find.gates import context, control
from crowdsafe.find.gates.patches import Patches
from crowdsafe.find.gates.redirect import Redirect
from crowdsafe.find.gates.sources import calling_line
from tests.find.gates.watching import Watching, operating


@pytest.fixture(autouse=True)
def carried(tmp_path: Path) -> Iterator[None]:
    undo = context.install(Redirect("sqlite", str(tmp_path), str(tmp_path)))
    yield
    undo()


def test_threads_belong_to_the_operation_that_starts_them() -> None:
    seen: list[int | None] = []

    def note() -> None:
        seen.append(control.current_operation())

    class Own(threading.Thread):
        def run(self) -> None:
            note()

    with operating(Watching(), 3):
        threads: list[threading.Thread] = [
            threading.Thread(target=note),
            Own(),
            threading.Timer(0, note),
        ]
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join()
    outside = threading.Thread(target=note)
    outside.start()
    outside.join()
    assert seen == [3, 3, 3, None]


def test_calls_in_an_executor_belong_to_who_submits_them() -> None:
    with ThreadPoolExecutor(1) as executor:
        with operating(Watching(), 1):
            first = executor.submit(control.current_operation)
        with operating(Watching(), 2):
            second = executor.submit(control.current_operation)
            mapped = list(executor.map(lambda _: control.current_operation(), "ab"))
        outside = executor.submit(control.current_operation)
    assert (first.result(), second.result(), outside.result()) == (1, 2, None)
    assert mapped == [2, 2]


def test_executors_of_the_loop_belong_to_the_task() -> None:
    async def both() -> tuple[int | None, int | None]:
        loop = asyncio.get_running_loop()
        one = await loop.run_in_executor(None, control.current_operation)
        return one, await asyncio.to_thread(control.current_operation)

    with operating(Watching(), 5):
        assert asyncio.run(both()) == (5, 5)


def test_what_a_loop_hands_to_a_thread_is_asked_for_by_the_line_that_awaits_it() -> None:
    """An async view of Django asks through threads whose stacks hold nothing of it."""

    async def ask() -> object:
        return await asyncio.to_thread(calling_line)

    with operating(Watching(), 5):
        source = asyncio.run(ask())
    assert getattr(source, "code", None) == "return await asyncio.to_thread(calling_line)"


def test_sleeps_cost_nothing_in_an_operation_until_there_are_too_many() -> None:
    start = time.monotonic()
    with operating(Watching()):
        for _ in range(context.SLEEPS_MAX - 1):
            time.sleep(10)
        asyncio.run(asyncio.sleep(10))
        assert time.monotonic() - start < 10
        start = time.monotonic()
        time.sleep(0.05)
        assert time.monotonic() - start >= 0.05
    with operating(Watching()), pytest.raises(ValueError, match="non-negative"):
        time.sleep(-1)


def test_sleeps_are_slept_outside() -> None:
    start = time.monotonic()
    time.sleep(0.02)
    asyncio.run(asyncio.sleep(0.02))
    assert time.monotonic() - start >= 0.04


def test_a_sleep_that_was_imported_by_name_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    original = object()
    module = types.ModuleType("crowdsafe_test_sleeper")
    vars(module)["nap"] = original
    monkeypatch.setitem(sys.modules, module.__name__, module)
    patches = Patches()
    patches.set_everywhere(original, "another")
    assert vars(module)["nap"] == "another"
    patches.undo()
    assert vars(module)["nap"] is original
