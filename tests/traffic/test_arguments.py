"""What a newcomer gets wrong comes out at once, named, and never passes for an outage."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import valkey as valkey_library

from crowdsafe.errors import ConfigError, InvalidInput, NotFound
from crowdsafe.store import AsyncStore, Store
from crowdsafe.traffic import (
    PUBLIC,
    DatabaseBreaker,
    DatabaseCache,
    DatabaseLimiter,
    DatabaseSlots,
    Decision,
    InProcessBreaker,
    InProcessCache,
    InProcessLimiter,
    InProcessSlots,
    Rate,
    ValkeyBreaker,
    ValkeyCache,
    ValkeyLimiter,
    ValkeySlots,
    as_async,
    check_rate,
    retrying,
)
from crowdsafe.traffic.breaker.guard import Breaker
from crowdsafe.traffic.queue import (
    JobQueue,
    Kind,
    RunningJob,
    Worker,
    cancel,
    enqueue,
    find_jobs,
    get_job,
    place_of,
)
from crowdsafe.traffic.quota import charge, extend, quota_state, refund, reserve

ODD: dict[str, Any] = {
    "none": None,
    "number": 5,
    "text": "5/minute",
    "bytes": b"x",
    "list": [],
}


def odd(*without: str) -> Any:
    kept = [name for name in ODD if name not in without]
    return pytest.mark.parametrize("wrong", [ODD[name] for name in kept], ids=kept)


async def works() -> str:
    return "ok"


MAKE_ON_STORE: dict[str, Callable[[Any], Any]] = {
    "breaker": lambda store: DatabaseBreaker(store, "x"),
    "cache": lambda store: DatabaseCache(store, name="x"),
    "limiter": lambda store: DatabaseLimiter(store, Rate(1, 1), name="x"),
    "slots": lambda store: DatabaseSlots(store, 1, name="x"),
    "worker": lambda store: Worker(store, QUEUE),
}
MAKE_ON_CLIENT: dict[str, Callable[[Any], Any]] = {
    "breaker": lambda client: ValkeyBreaker(client, "x"),
    "cache": lambda client: ValkeyCache(client, name="x"),
    "limiter": lambda client: ValkeyLimiter(client, Rate(1, 1), name="x"),
    "slots": lambda client: ValkeySlots(client, 1, name="x"),
}


def each(parts: dict[str, Any]) -> Any:
    return pytest.mark.parametrize("make", list(parts.values()), ids=list(parts))


@odd()
@each(MAKE_ON_STORE)
def test_what_is_no_store_is_refused(make: Callable[[Any], Any], wrong: Any) -> None:
    with pytest.raises(ConfigError, match="takes an AsyncStore"):
        make(wrong)


@odd()
@each(MAKE_ON_CLIENT)
def test_what_is_no_client_is_refused(make: Callable[[Any], Any], wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"valkey\.asyncio"):
        make(wrong)


@each(MAKE_ON_CLIENT)
def test_a_client_for_threads_is_refused(make: Callable[[Any], Any]) -> None:
    client = valkey_library.Valkey()
    with pytest.raises(ConfigError, match=r"not valkey\.client\.Valkey; .*valkey\.asyncio"):
        make(client)
    client.close()


@pytest.mark.parametrize("name", ["breaker", "cache", "worker"])
def test_what_needs_an_async_store_takes_no_other(name: str, sqlite_url: str) -> None:
    with Store(sqlite_url) as store, pytest.raises(ConfigError, match=r"not .*\.Store; open Async"):
        MAKE_ON_STORE[name](store)


def test_a_missing_table_is_no_outage(db_url: str) -> None:
    async def main() -> None:
        async with AsyncStore(db_url) as store:
            breaker = DatabaseBreaker(store, "x")
            for _ in range(3):
                with pytest.raises(ConfigError, match="create_all"):
                    await breaker.call(works)
            await store.create_all()
            assert await breaker.call(works) == "ok"
            assert not (await breaker.state()).alone

    asyncio.run(main())


class Wrong:
    """A keeper with a mistake in it, which may be away first."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    async def read(self) -> Any:
        raise self.errors.pop(0) if len(self.errors) > 1 else self.errors[0]

    change: Any = read


@pytest.mark.parametrize("error", [TypeError, AttributeError, KeyError], ids=lambda e: e.__name__)
def test_a_mistake_behind_a_breaker_comes_out(error: type[Exception]) -> None:
    async def main() -> None:
        breaker = Breaker("x", None, keeper=Wrong(error("the mistake")))
        for _ in range(3):
            with pytest.raises(error, match="the mistake"):
                await breaker.call(works)

    asyncio.run(main())


def test_a_mistake_that_shows_after_an_outage_comes_out_too() -> None:
    async def main() -> None:
        breaker = Breaker("x", None, keeper=Wrong(ConnectionError(), TypeError("the mistake")))
        assert await breaker.call(works) == "ok"
        await asyncio.sleep(1.1)
        assert await breaker.call(works) == "ok"
        await asyncio.sleep(0)
        with pytest.raises(TypeError, match="the mistake"):
            await breaker.call(works)

    asyncio.run(main())


@odd("none")
def test_settings_of_the_wrong_kind_are_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="BreakerSettings"):
        InProcessBreaker("x", wrong)


def five() -> Any:
    return 5


async def takes_one(one: int) -> int:
    return one


MISUSES: dict[str, Callable[[Breaker], Awaitable[Any]]] = {
    "no-function": lambda breaker: breaker.call(5),  # type: ignore[arg-type]
    "coroutine": lambda breaker: breaker.call(works()),  # type: ignore[arg-type]
    "not-async": lambda breaker: breaker.call(five),
    "arguments": lambda breaker: breaker.call(takes_one),
}


@each(MISUSES)
def test_a_call_that_cannot_be_made_is_no_failure_of_the_service(
    make: Callable[[Breaker], Awaitable[Any]],
) -> None:
    async def main() -> None:
        breaker = InProcessBreaker("x")
        for _ in range(10):
            with pytest.raises((ConfigError, TypeError), match=r"async function|takes_one\(\)"):
                await make(breaker)
        assert (await breaker.state()).failures == 0

    asyncio.run(main())


def test_a_missing_table_of_limits_and_queues_says_what_to_do(db_url: str) -> None:
    async def main() -> None:
        async with AsyncStore(db_url) as store:
            with pytest.raises(ConfigError, match="create_all"):
                await DatabaseLimiter(store, Rate(1, 1), name="x").check("a")
            with pytest.raises(ConfigError, match="create_all"):
                async with DatabaseSlots(store, 1, name="x").hold("a"):
                    pass
            with pytest.raises(ConfigError, match="create_all"):
                await store.write(enqueue, QUEUE, "k", user="a", payload={})
            with pytest.raises(ConfigError, match="create_all"):
                await store.write(reserve, "a", limit=1, period="p", expires_s=1)

    asyncio.run(main())


async def get(cache: Any, key: Any = "k", make: Any = works, **options: Any) -> Any:
    return await cache.get_or_run(key, make, **({"scope": PUBLIC, "ttl_s": 60} | options))


@pytest.mark.parametrize("on_outage", ["raise", "run"])
def test_a_missing_table_behind_a_cache_is_no_outage(db_url: str, on_outage: Any) -> None:
    async def main() -> None:
        async with AsyncStore(db_url) as store:
            cache = DatabaseCache(store, name="x", on_outage=on_outage)
            for _ in range(3):
                with pytest.raises(ConfigError, match="create_all"):
                    await get(cache)
            await store.create_all()
            assert await get(cache) == "ok"
            assert cache.stats().outages == 0
            await cache.close()

    asyncio.run(main())


BAD_MAKES: dict[str, Callable[[], Any]] = {
    "coroutine": works,
    "not-async": lambda: five,
    "number": lambda: 5,
}


@each(BAD_MAKES)
@pytest.mark.parametrize("shared", [False, True], ids=["in-process", "database"])
def test_a_make_that_is_not_async_is_named(
    make: Callable[[], Any], shared: bool, sqlite_url: str
) -> None:
    async def main() -> None:
        async with AsyncStore(sqlite_url) as store:
            await store.create_all()
            cache = DatabaseCache(store, name="x") if shared else InProcessCache()
            with pytest.raises(ConfigError, match="async function"):
                await get(cache, make=make())
            await cache.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "wrong",
    [None, 5, b"k", [], "", "x" * 1001],
    ids=["none", "number", "bytes", "list", "empty", "long"],
)
@pytest.mark.parametrize("shared", [False, True], ids=["in-process", "database"])
def test_a_bad_cache_key_is_invalid_input(wrong: Any, shared: bool, sqlite_url: str) -> None:
    async def main() -> None:
        async with AsyncStore(sqlite_url) as store:
            cache = DatabaseCache(store, name="x") if shared else InProcessCache()
            for ask in (get(cache, wrong), cache.forget(wrong, scope=PUBLIC)):
                with pytest.raises(InvalidInput, match="a cache key") as raised:
                    await ask
                assert raised.value.field == "key"

    asyncio.run(main())


NOT_NUMBERS: dict[str, Any] = {
    "none": None,
    "text": "5",
    "bytes": b"5",
    "nan": float("nan"),
    "inf": float("inf"),
    "huge": 10**400,
    "true": True,
    "below": -1,
}
not_numbers = pytest.mark.parametrize("wrong", list(NOT_NUMBERS.values()), ids=list(NOT_NUMBERS))


@not_numbers
@pytest.mark.parametrize("name", ["ttl_s", "stale_s", "timeout_s"])
def test_times_of_a_value_are_numbers(name: str, wrong: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name} is "):
        asyncio.run(get(InProcessCache(), **{name: wrong}))


@not_numbers
@pytest.mark.parametrize(
    "name", ["items_max", "bytes_max", "value_bytes_max", "flights_max", "refreshes_max", "jitter"]
)
def test_limits_of_a_cache_are_numbers(name: str, wrong: Any) -> None:
    if name == "jitter" and wrong is True:
        wrong = 2
    with pytest.raises(ConfigError, match=f"{name} is "):
        InProcessCache(**{name: wrong})


@odd()
def test_a_size_is_told_by_a_function(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="size_of is"):
        InProcessCache(size_of=wrong)


def test_a_refused_decision_is_false() -> None:
    limiter = InProcessLimiter(Rate(1, 60))
    first, second = limiter.check("a"), limiter.check("a")
    assert isinstance(second, Decision)
    assert (bool(first), bool(second)) == (True, False)


MAKE_WITH_RATE: dict[str, Callable[[Any], Any]] = {
    "in-process": InProcessLimiter,
    "database": lambda rate: DatabaseLimiter(None, rate, name="x"),  # type: ignore[arg-type]
    "valkey": lambda rate: ValkeyLimiter(None, rate, name="x"),
}


@odd()
@each(MAKE_WITH_RATE)
def test_what_is_no_rate_is_refused(make: Callable[[Any], Any], wrong: Any) -> None:
    fix = r"Rate\.parse\('5/minute'\)" if isinstance(wrong, str) else r"Rate\(limit=5"
    with pytest.raises(ConfigError, match=f"rate is .*{fix}"):
        make(wrong)


@odd()
def test_what_is_no_rate_is_refused_in_a_write(wrong: Any, sqlite_url: str) -> None:
    with Store(sqlite_url) as store, pytest.raises(ConfigError, match="rate is "):
        store.write(check_rate, wrong, name="x", key="a")


@odd()
def test_what_is_no_limiter_gets_no_async_face(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="InProcessLimiter"):
        as_async(wrong)


@not_numbers
def test_times_of_slots_and_limiters_are_numbers(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="wait_s is "):
        InProcessSlots(1).hold("a", wait_s=wrong)
    with pytest.raises(ConfigError, match="lease_s is "):
        DatabaseSlots(None, 1, name="x", lease_s=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="timeout_s is "):
        ValkeyLimiter(None, Rate(1, 1), name="x", timeout_s=wrong)
    with pytest.raises(ConfigError, match="timeout_s is "):
        ValkeySlots(None, 1, name="x", timeout_s=wrong)


@not_numbers
@pytest.mark.parametrize("name", ["timeout_s", "wait_s", "wait_max_s", "retry_after_max_s"])
def test_times_of_retries_are_numbers(name: str, wrong: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name} is "):
        retrying(on=OSError, **{name: wrong})


@odd("none")
@pytest.mark.parametrize("name", ["retry_after", "rng"])
def test_what_retries_ask_is_of_the_right_kind(name: str, wrong: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name} is "):
        retrying(on=OSError, **{name: wrong})


ODD_TEXT: dict[str, Any] = {
    "surrogate": "\ud800",
    "nul": "a\x00b",
    "empty": "",
    "long": "x" * 300,
    "number": 7,
    "huge": 10**30,
    "list": [],
}
odd_text = pytest.mark.parametrize("wrong", list(ODD_TEXT.values()), ids=list(ODD_TEXT))

QUOTA_CALLS: dict[str, Callable[[Store, Any], Any]] = {
    "reserve-key": lambda store, text: store.write(
        reserve, text, limit=5, period="p", expires_s=60
    ),
    "reserve-id": lambda store, text: store.write(
        reserve, "k", limit=5, period="p", expires_s=60, id=text
    ),
    "charge": lambda store, text: store.write(charge, text),
    "refund": lambda store, text: store.write(refund, text),
    "extend": lambda store, text: store.write(extend, text, 60),
    "state": lambda store, text: store.read(quota_state, text, "p", 5),
}


@pytest.fixture
def store(db_url: str) -> Iterator[Store]:
    with Store(db_url) as opened:
        opened.create_all()
        yield opened


def test_odd_text_never_reaches_the_driver_from_quotas(store: Store) -> None:
    for call in QUOTA_CALLS.values():
        for wrong in ODD_TEXT.values():
            with pytest.raises(InvalidInput, match="has 1 to"):
                call(store, wrong)


async def ran(job: RunningJob) -> None:
    pass


QUEUE = JobQueue("q", [Kind("k", ran)])
QUEUE_CALLS: dict[str, tuple[type[Exception], Callable[[Store, Any], Any]]] = {
    "user": (
        InvalidInput,
        lambda store, text: store.write(enqueue, QUEUE, "k", user=text, payload={}),
    ),
    "key": (
        InvalidInput,
        lambda store, text: store.write(enqueue, QUEUE, "k", user="u", payload={}, key=text),
    ),
    "id": (
        InvalidInput,
        lambda store, text: store.write(enqueue, QUEUE, "k", user="u", payload={}, id=text),
    ),
    "kind": (
        InvalidInput,
        lambda store, text: store.write(enqueue, QUEUE, text, user="u", payload={}),
    ),
    "find-user": (InvalidInput, lambda store, text: store.read(find_jobs, QUEUE, user=text)),
    "find-state": (InvalidInput, lambda store, text: store.read(find_jobs, QUEUE, state=text)),
    "get": (NotFound, lambda store, text: store.read(get_job, QUEUE, text)),
    "cancel": (NotFound, lambda store, text: store.write(cancel, QUEUE, text)),
    "place": (NotFound, lambda store, text: store.read(place_of, QUEUE, text)),
}


def test_odd_text_never_reaches_the_driver_from_queues(store: Store) -> None:
    for error, call in QUEUE_CALLS.values():
        for wrong in ODD_TEXT.values():
            with pytest.raises(error) as raised:
                call(store, wrong)
            json.dumps(str(raised.value), ensure_ascii=False).encode()
    assert store.read(find_jobs, QUEUE) == []


def test_what_is_asked_of_a_queue_is_named(store: Store) -> None:
    asks: list[tuple[str, dict[str, Any]]] = [
        (name, {name: wrong}) for name in ("delay_s", "expires_s") for wrong in NOT_NUMBERS.values()
    ]
    asks += [("priority", {"priority": wrong}) for wrong in (None, "HIGH", True, False, 3, [])]
    asks += [("id", {"id": wrong}) for wrong in (-1, True, float("nan"), b"x", "a b")]
    for name, ask in asks:
        with pytest.raises(InvalidInput, match=f"{name} is "):
            store.write(enqueue, QUEUE, "k", user="u", payload={}, **ask)
    for limit in (*NOT_NUMBERS.values(), 0, 1001, 1.0):
        with pytest.raises(InvalidInput, match="limit is "):
            store.read(find_jobs, QUEUE, limit=limit)
    with pytest.raises(InvalidInput, match="one of queued, running, done"):
        store.read(find_jobs, QUEUE, state="bogus")


COUNTS = ("per_user", "running_max", "queued_max", "queued_per_user_max", "idle_max")


@not_numbers
def test_limits_of_a_queue_are_numbers(wrong: Any) -> None:
    for name in (*COUNTS, "keep_s", "expected_run_s"):
        with pytest.raises(ConfigError, match=rf"JobQueue\.{name} is "):
            JobQueue("q", **{name: wrong})
    for name in ("attempts", "lease_s", "timeout_s", "retry_wait_s"):
        with pytest.raises(ConfigError, match=rf"Kind\.{name} is "):
            Kind("k", ran, **{name: wrong})
    if wrong is not None:
        with pytest.raises(ConfigError, match=r"Kind\.running_max is "):
            Kind("k", ran, running_max=wrong)


def test_counts_of_a_queue_are_whole() -> None:
    for name in COUNTS:
        for wrong in (1.5, 2.0, 10**30):
            with pytest.raises(ConfigError, match=rf"JobQueue\.{name} is .*whole number"):
                JobQueue("q", **{name: wrong})  # type: ignore[arg-type]


@odd()
def test_what_a_kind_runs_is_a_function(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"Kind\.run is "):
        Kind("k", wrong)
    if wrong is not None:
        for name in ("dropped", "changed"):
            with pytest.raises(ConfigError, match=rf"Kind\.{name} is "):
                Kind("k", ran, **{name: wrong})
    with pytest.raises(ConfigError, match=r"JobQueue\.kinds"):
        JobQueue("q", [wrong])
    with pytest.raises(ConfigError, match=r"JobQueue\.kinds is "):
        JobQueue("q", 5)  # type: ignore[arg-type]


@odd_text
def test_names_of_parts_are_text_that_every_backend_holds(wrong: Any) -> None:
    makes: list[Callable[[Any], Any]] = [JobQueue, InProcessBreaker, lambda name: Kind(name, ran)]
    for make in makes:
        with pytest.raises(ConfigError, match="name has 1 to 80"):
            make(wrong)


def test_what_a_worker_is_given_is_named(sqlite_url: str) -> None:
    store = AsyncStore(sqlite_url)
    for wrong in (*NOT_NUMBERS.values(), 0, 1.5, 10_000):
        with pytest.raises(ConfigError, match="concurrency is "):
            Worker(store, QUEUE, concurrency=wrong)
    for wrong in (None, "1", float("nan"), float("inf"), 0, -1, 10**400):
        with pytest.raises(ConfigError, match="poll_s is "):
            Worker(store, QUEUE, poll_s=wrong)
    for wrong in ODD.values():
        with pytest.raises(ConfigError, match="must be a JobQueue"):
            Worker(store, wrong)
    asyncio.run(store.close())
