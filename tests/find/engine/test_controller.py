"""Operations run one statement at a time, the same way each time, and always come to an end."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from crowdsafe.find.engine import Budget, Controller, Search, in_order
from crowdsafe.find.gates.control import Link, keeper
from crowdsafe.find.model import Run, Schedule
from tests.find.engine.rig import Rig, Task, ToyOperation
from tests.find.engine.simulation import Simulation, every_outcome
from tests.find.engine.toy import Act, Program, random_programs

COMMIT = Act("commit")
RACY = Program((Act("read", "t0"), Act("put", "t0"), COMMIT))
Ask = Callable[[str], Any]


@pytest.fixture
def rig() -> Rig:
    return Rig([RACY, RACY], "postgresql")


@pytest.fixture
def controller(rig: Rig) -> Iterator[Controller]:
    with Controller(rig, hang_s=5.0, stall_s=0.05) as made:  # type: ignore[arg-type]
        yield made


def operations_of(rig: Rig, *, is_async: bool = False) -> list[ToyOperation]:
    return [ToyOperation(rig, place, is_async) for place in range(len(rig.programs))]


def ask(sql: str, link: Link) -> None:
    """What a gate does with a statement, of a database that says yes to everything."""
    asked = keeper()
    assert asked is not None
    gate, number = asked
    gate.leave(gate.enter(number, link, sql, None, None))


async def ask_async(sql: str, link: Link) -> None:
    asked = keeper()
    assert asked is not None
    gate, number = asked
    gate.leave(await gate.enter_async(number, link, sql, None, None))


def told(run: Run) -> list[tuple[int, int, str]]:
    return [(step.operation, step.index, step.sql) for step in run.steps]


@pytest.mark.parametrize("is_async", [False, True], ids=["threads", "tasks"])
@pytest.mark.parametrize("dialect", ["postgresql", "sqlite"])
def test_threads_and_tasks_give_what_the_simulation_gives(dialect: str, is_async: bool) -> None:
    for seed in range(15):
        programs = random_programs(random.Random(seed), dialect, 2, 4)
        every = every_outcome(Simulation(programs, dialect), 1000)
        assert every is not None
        rig = Rig(programs, dialect)
        outcomes: set[Any] = set()
        with Controller(rig, hang_s=10.0) as controller:  # type: ignore[arg-type]
            search = Search(
                controller,
                operations_of(rig, is_async=is_async),
                reset=rig.reset_rows,
                after=lambda _run, rig=rig, outcomes=outcomes: outcomes.add(rig.outcome),
                budget=Budget(10**6, 10**6),
            )
            for _ in search:
                pass
        assert search.complete, search.why_not
        assert outcomes == every[0], f"seed {seed}"


def test_the_same_schedule_gives_the_same_run(rig: Rig, controller: Controller) -> None:
    schedule: Schedule = ((0, 2), (1, 2), (0, 1), (1, 1))
    runs = []
    for _ in range(10):
        rig.reset_rows()
        runs.append((controller.replay(operations_of(rig), schedule), rig.outcome))
    assert {run.schedule for run, _ in runs} == {schedule}
    assert len({(tuple(told(run)), outcome) for run, outcome in runs}) == 1
    waiting = [step for step in runs[0][0].steps if step.waited_for]
    assert [(step.operation, step.index, step.waited_for) for step in waiting] == [(1, 1, (0,))]
    assert told(runs[0][0])[2:5] == [
        (1, 0, RACY.acts[0].sql),
        (0, 2, "COMMIT"),
        (1, 1, RACY.acts[1].sql),
    ]


def test_one_after_another_is_a_schedule_too(rig: Rig, controller: Controller) -> None:
    run = controller.replay(operations_of(rig), in_order((1, 0)))
    assert [step.operation for step in run.steps] == [1, 1, 1, 0, 0, 0]
    assert run.schedule == ((1, 3), (0, 3))


def test_says_where_a_schedule_cannot_be_kept(rig: Rig, controller: Controller) -> None:
    run = controller.replay(operations_of(rig), ((0, 5), (1, 1), (0, 1)))
    assert run.problem is not None
    assert "part 1 A has ended after 3 of 5" in run.problem
    rig.reset_rows()
    run = controller.replay(operations_of(rig), ((0, 2), (1, 3), (0, 1), (1, 1)))
    assert "B waits in the database after 2 of 3" in str(run.problem)
    assert len(run.steps) == 6, "the operations are run to their ends all the same"


def test_a_deadlock_ends_the_statement_that_closes_the_circle() -> None:
    one = Program((Act("mul", "t0"), Act("mul", "t1"), COMMIT))
    other = Program((Act("mul", "t1"), Act("mul", "t0"), COMMIT))
    rig = Rig([one, other], "postgresql")
    with Controller(rig, hang_s=5.0) as controller:  # type: ignore[arg-type]
        run = controller.replay(operations_of(rig), ((0, 1), (1, 1), (0, 1), (1, 2), (0, 1)))
    assert run.problem is None
    assert run.deadlocked
    assert [step.operation for step in run.steps if step.sqlstate == "40P01"] == [1]


def test_operations_with_a_limit_of_nothing_do_not_run(rig: Rig, controller: Controller) -> None:
    run = controller.replay(operations_of(rig), in_order((0, 1)), limits=[0, None])
    assert {step.operation for step in run.steps} == {1}
    assert run.answers[0].replies == []


def test_others_go_on_while_one_waits_inside_of_the_process(controller: Controller) -> None:
    lock = threading.Lock()
    seen: list[str] = []

    def guarded(name: str) -> Callable[[], None]:
        link = Link("toy")

        def operation() -> None:
            with lock:
                ask("SELECT v FROM t0", link)
                ask("UPDATE t0 SET v = 1", link)
                seen.append(name)

        return operation

    tasks = [Task(guarded(name), name) for name in "ab"]
    run = controller.replay(tasks, ((0, 1), (1, 1), (0, 1), (1, 1)))
    assert seen == ["a", "b"]
    assert len(run.steps) == 4
    search = Search(controller, tasks, reset=lambda: None, after=lambda _run: None)
    assert len(list(search)) >= 2
    assert not search.complete
    assert "inside of the process" in str(search.why_not)


def test_async_locks_of_the_process_stall_too(controller: Controller) -> None:
    lock = asyncio.Lock()

    async def guarded() -> None:
        link = Link("toy")
        async with lock:
            await ask_async("SELECT v FROM t0", link)
            await ask_async("UPDATE t0 SET v = 1", link)

    tasks = [Task(guarded, str(n), is_async=True) for n in range(2)]
    picked: list[int] = []

    def alternate(situation: Any) -> int:
        picked.append(situation.able[-1 if len(picked) % 2 else 0])
        return picked[-1]

    run = controller.run(tasks, alternate)
    assert run.problem is None
    assert [step.operation for step in run.steps] == [0, 0, 1, 1]


def test_a_busy_operation_is_not_taken_for_a_stuck_one(controller: Controller) -> None:
    def busy() -> None:
        link = Link("toy")
        ask("SELECT v FROM t0", link)
        until = time.thread_time() + 0.3
        while time.thread_time() < until:
            pass
        ask("UPDATE t0 SET v = 1", link)

    run = controller.replay([Task(busy), Task(busy)], ((0, 2), (1, 2)))
    assert run.problem is None
    assert [step.operation for step in run.steps] == [0, 0, 1, 1]


@pytest.mark.parametrize("is_async", [False, True], ids=["thread", "task"])
def test_a_hang_ends_with_a_problem_and_unwinds_the_others(rig: Rig, is_async: bool) -> None:
    unwound: list[str] = []
    never = threading.Event()

    def stuck() -> None:
        ask("SELECT v FROM t0", Link("toy"))
        never.wait(20)

    async def stuck_async() -> None:
        await ask_async("SELECT v FROM t0", Link("toy"))
        await asyncio.get_running_loop().create_future()

    def parked() -> None:
        try:
            lock_holder = Link("toy")
            ask("UPDATE t0 SET v = 1", lock_holder)
            threading.Event().wait(20)
        finally:
            unwound.append("parked")

    first = Task(stuck_async, "stuck", is_async=True) if is_async else Task(stuck, "stuck")
    with Controller(rig, hang_s=0.6, stall_s=0.02) as controller:  # type: ignore[arg-type]
        began = time.monotonic()
        run = controller.run([first], lambda situation: situation.able[0])
        assert "hang" in str(run.problem)
        assert "stuck waits inside of the process" in str(run.problem)
        assert time.monotonic() - began < 15
        assert controller.broken is not is_async, "a task can be cancelled, a thread cannot"
    never.set()


def test_what_is_parked_unwinds_when_the_run_is_given_up(rig: Rig) -> None:
    unwound: list[int] = []

    def operation() -> None:
        try:
            ask("UPDATE t0 SET v = 1", Link("toy"))
        except BaseException as error:
            unwound.append(1)
            assert not isinstance(error, Exception)
            raise

    def interrupted(_situation: Any) -> int:
        raise KeyboardInterrupt

    with Controller(rig) as controller:  # type: ignore[arg-type]
        with pytest.raises(KeyboardInterrupt):
            controller.trace([Task(operation), Task(operation)], interrupted, eager=True)
        assert unwound == [1, 1]
        assert not controller.broken
        assert controller.replay(operations_of(rig), in_order((0, 1))).problem is None


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError])
def test_whatever_an_operation_raises_is_recorded(
    rig: Rig, controller: Controller, error: type[BaseException]
) -> None:
    def fails() -> None:
        raise error("enough")

    run = controller.replay([Task(fails), *operations_of(rig)[1:]], in_order((0, 1)))
    assert run.problem is None
    assert run.answers[0].replies[0].error == error.__name__
    assert len(run.steps) == 3


def test_threads_of_an_operation_belong_to_it(controller: Controller) -> None:
    def operation() -> None:
        import contextvars

        link = Link("toy")
        context = contextvars.copy_context()
        thread = threading.Thread(
            target=context.run, args=(lambda: ask("UPDATE t1 SET v = 2", Link("toy")),)
        )
        ask("SELECT v FROM t0", link)
        thread.start()

    run = controller.replay([Task(operation), Task(operation)], ((0, 2), (1, 2)))
    assert run.problem is None
    assert [step.operation for step in run.steps] == [0, 0, 1, 1]
    assert [step.connection for step in run.steps] == [0, 1, 0, 1]


def test_background_tasks_of_an_operation_belong_to_it(controller: Controller) -> None:
    kept: list[Any] = []

    async def operation() -> None:
        async def later() -> None:
            await asyncio.sleep(0.002)
            await ask_async("UPDATE t1 SET v = 2", Link("toy"))

        await ask_async("SELECT v FROM t0", Link("toy"))
        kept.append(asyncio.create_task(later()))

    tasks = [Task(operation, is_async=True) for _ in range(2)]
    run = controller.replay(tasks, ((0, 2), (1, 2)))
    assert run.problem is None
    assert [step.operation for step in run.steps] == [0, 0, 1, 1]


def test_statements_of_one_operation_come_one_by_one(controller: Controller) -> None:
    flying: list[int] = []

    async def one(number: int) -> None:
        asked = keeper()
        assert asked is not None
        gate, operation = asked
        passed = await gate.enter_async(operation, Link("toy"), f"SELECT {number}", None, None)
        flying.append(number)
        await asyncio.sleep(0.001)
        assert flying == [number]
        flying.clear()
        gate.leave(passed)

    async def operation() -> None:
        await asyncio.gather(*(one(number) for number in range(4)))

    run = controller.replay([Task(operation, is_async=True)], ((0, 4),))
    assert [step.sql for step in run.steps] == [f"SELECT {n}" for n in range(4)]


def test_a_task_that_is_cancelled_at_its_gate_leaves_it(controller: Controller) -> None:
    async def operation() -> str:
        first = asyncio.create_task(ask_async("SELECT 1", Link("toy")))
        second = asyncio.create_task(ask_async("SELECT 2", Link("toy")))
        await first
        second.cancel()
        await asyncio.wait({second})
        await ask_async("SELECT 3", Link("toy"))
        return "done"

    run = controller.replay([Task(operation, is_async=True)], ((0, 3),))
    assert run.problem is None
    assert run.answers[0].replies[0].body == "done"
    assert run.steps[-1].sql == "SELECT 3"


def test_tasks_that_block_their_loop_get_one_each(controller: Controller) -> None:
    async def operation() -> None:
        link = Link("toy")
        ask("SELECT v FROM t0", link)
        ask("UPDATE t0 SET v = 1", link)

    tasks = [Task(operation, is_async=True) for _ in range(2)]
    assert controller.replay(tasks, in_order((0, 1))).problem is None
    run = controller.replay(tasks, ((0, 1), (1, 1), (0, 1), (1, 1)))
    assert run.problem is None
    assert [step.operation for step in run.steps] == [0, 1, 0, 1]


def test_coroutines_can_be_called_on_the_loop(controller: Controller) -> None:
    async def start() -> int:
        await asyncio.sleep(0)
        return 42

    assert controller.call(start()) == 42


def test_nothing_is_stopped_outside_of_operations(controller: Controller) -> None:
    assert keeper() is None
