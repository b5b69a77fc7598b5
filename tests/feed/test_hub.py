"""The hub: live delivery, resume, the seam between them, limits, outages."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

import pytest
from sqlalchemy import delete
from sqlalchemy.orm import Session
from tests.feed.support import (
    Reader,
    astore_at,
    eventually,
    hub_at,
    numbered,
    run,
    say,
    say_many,
)

from crowdsafe.errors import DatabaseUnavailable, InvalidInput, Overloaded
from crowdsafe.feed import head, prune_events, publish, read_events
from crowdsafe.feed.tables import FeedEvent
from crowdsafe.store import utcnow


def numbers(reader: Reader) -> list[int]:
    return [frame.data["n"] for frame in reader.events]


def test_an_event_reaches_those_who_follow_its_topic(db_url: str) -> None:
    async def main() -> None:
        async with astore_at(db_url) as store, hub_at(store) as hub:
            await eventually(hub._primed.is_set)
            news = Reader(hub.subscribe(["news"]))
            both = Reader(hub.subscribe(["news", "stock"]))
            await store.write(say, 1, "stock")
            await store.write(say, 2, "news")
            await store.write(say, 3, "elsewhere")
            await store.write(say, 4, "news")
            await both.seen(3)
            await news.seen(2)
            assert numbers(both) == [1, 2, 4]
            assert numbers(news) == [2, 4]
            assert [frame.event for frame in news.events] == ["said", "said"]
            assert [frame.id for frame in news.events] == [2, 4]

    run(main())


def test_the_writing_process_is_nudged_and_does_not_wait_for_the_poll(db_url: str) -> None:
    async def main() -> None:
        async with astore_at(db_url) as store, hub_at(store, poll_s=60) as hub:
            await eventually(hub._primed.is_set)
            reader = Reader(hub.subscribe(["news"]))
            await store.write(say, 1)
            await reader.seen(1)

    run(main())


def test_another_processes_events_are_seen_by_polling(db_url: str) -> None:
    async def main() -> None:
        async with astore_at(db_url) as store, hub_at(store, poll_s=0.05) as hub:
            await eventually(hub._primed.is_set)
            reader = Reader(hub.subscribe(["news"]))
            hub.nudge = lambda: None  # type: ignore[method-assign]
            await store.write(say, 1)
            await reader.seen(1)

    run(main())


def test_resume_at_every_cut_point(db_url: str) -> None:
    """Wherever a client was cut off, it gets the rest: nothing lost, nothing twice, in order."""
    count = 24

    async def main() -> None:
        async with astore_at(db_url) as store, hub_at(store, batch_max=5) as hub:
            for n in range(1, count):
                await store.write(say, n, "news" if n % 3 else "stock")
            await numbered(store)
            await eventually(lambda: hub.cursor == count - 1)
            for cut in range(count):
                reader = Reader(hub.subscribe(["news"], str(cut)))
                expected = [n for n in range(cut + 1, count) if n % 3]
                await reader.until(lambda r: r.last_id == count - 1)
                assert numbers(reader) == expected
                assert not reader.resyncs
                await reader.close()

    run(main())


def test_replay_and_live_meet_without_gap_or_double_while_others_publish(
    db_url: str, rng: random.Random
) -> None:
    count, cuts = 150, 20

    async def main() -> None:
        async with astore_at(db_url) as store, hub_at(store, poll_s=0.01, batch_max=7) as hub:
            await eventually(hub._primed.is_set)

            async def write_all() -> None:
                for n in range(1, count + 1):
                    await store.write(say, n, rng.choice(["news", "stock"]))

            async def follow() -> Reader:
                await asyncio.sleep(rng.random() * 0.3)
                reader = Reader(hub.subscribe(["news", "stock"], 0))
                while len(reader.events) < count:
                    before = reader.last_id
                    for _ in range(rng.randrange(1, 6)):
                        if len(reader.events) < count:
                            assert await reader.step()
                    if rng.random() < 0.3 and len(reader.events) < count:
                        await reader.close()
                        again = Reader(hub.subscribe(["news", "stock"], reader.last_id or before))
                        again.frames = reader.frames
                        reader = again
                await reader.close()
                return reader

            async with asyncio.timeout(60):
                *readers, _ = await asyncio.gather(*(follow() for _ in range(cuts)), write_all())
            for reader in readers:
                assert isinstance(reader, Reader)
                assert numbers(reader) == [*range(1, count + 1)]
                assert not reader.resyncs
            assert hub.stats.subscribers == 0
            assert not hub._channels
            assert not hub._by_topic

    run(main())


@pytest.mark.parametrize("bad", ["7", "x", "-1", "1e3", "999999999999999999999", "٣"])
def test_an_id_that_never_was_is_told_to_resync_and_then_goes_on(db_url: str, bad: str) -> None:
    async def main() -> None:
        async with astore_at(db_url) as store, hub_at(store) as hub:
            await store.write(say_many, range(1, 4))
            await eventually(lambda: hub.cursor == 3)
            reader = Reader(hub.subscribe(["news"], bad))
            await reader.until(lambda r: bool(r.resyncs))
            assert reader.resyncs[0].data == {"reason": "unknown-id", "id": 3}
            assert reader.resyncs[0].id == 3
            await store.write(say, 4)
            await reader.seen(1)
            assert numbers(reader) == [4]

    run(main())


def test_an_id_that_another_process_gave_is_not_mistaken_for_an_unknown_one(db_url: str) -> None:
    """This hub is behind: it has handed out 3, the client comes with 5 from another process."""

    async def main() -> None:
        async with astore_at(db_url) as store, hub_at(store, poll_s=60) as hub:
            await store.write(say_many, range(1, 4))
            await eventually(lambda: hub.cursor == 3)
            nudge, hub.nudge = hub.nudge, lambda: None  # type: ignore[method-assign]
            await store.write(say_many, range(4, 6))
            await numbered(store)
            reader = Reader(hub.subscribe(["news"], "5"))
            await store.write(say_many, range(6, 9))
            nudge()
            await reader.seen(3)
            assert numbers(reader) == [6, 7, 8]
            assert not reader.resyncs

    run(main())


def test_an_id_older_than_what_is_kept_is_told_to_resync(db_url: str) -> None:
    async def main() -> None:
        async with astore_at(db_url) as store, hub_at(store) as hub:
            await store.write(say_many, range(1, 11))
            await eventually(lambda: hub.cursor == 10)
            past = utcnow() - timedelta(days=1)
            assert await store.write(prune_events, 4, past) == 6
            for last, resyncs in ((5, 1), (6, 0), (9, 0), (10, 0)):
                reader = Reader(hub.subscribe(["news"], last))
                await reader.until(lambda r: r.last_id == 10)
                assert len(reader.resyncs) == resyncs, last
                assert numbers(reader) == ([] if resyncs else [*range(last + 1, 11)])
                await reader.close()
            assert await store.write(prune_events, 4, utcnow() + timedelta(days=1)) == 4
            assert await store.write(prune_events, 4, past) == 0
            for last, resyncs in ((9, 1), (10, 0)):
                reader = Reader(hub.subscribe(["news"], last))
                await reader.until(lambda r: r.last_id == 10)
                assert len(reader.resyncs) == resyncs
                await reader.close()

    run(main())


def test_too_far_behind_is_told_to_resync(db_url: str) -> None:
    async def main() -> None:
        async with astore_at(db_url) as store, hub_at(store, replay_events_max=5) as hub:
            await store.write(say_many, range(1, 11))
            await eventually(lambda: hub.cursor == 10)
            near, far = Reader(hub.subscribe(["news"], 5)), Reader(hub.subscribe(["news"], 4))
            await near.seen(5)
            await far.until(lambda r: bool(r.resyncs))
            assert far.resyncs[0].data["reason"] == "too-far-behind"

    run(main())


def test_the_hub_prunes_by_itself_and_never_what_it_has_not_handed_out(db_url: str) -> None:
    async def main() -> None:
        async with (
            astore_at(db_url) as store,
            hub_at(store, prune_every_s=0.1, keep_events=3) as hub,
        ):
            await eventually(hub._primed.is_set)
            reader = Reader(hub.subscribe(["news"]))
            for n in range(1, 21):
                await store.write(say, n)
            await reader.seen(20)
            assert numbers(reader) == [*range(1, 21)]
            kept: list[int] = []
            while len(kept) != 3:
                kept = [event.id for event in await store.read(read_events, 0)]
                await asyncio.sleep(0.02)
            assert kept == [18, 19, 20]

    run(main())


@pytest.mark.parametrize("limit", [{"pending_events_max": 20}, {"pending_bytes_max": 2000}])
def test_a_slow_stream_is_dropped_with_a_resync_and_the_others_are_not(
    db_url: str, limit: dict[str, int]
) -> None:
    async def main() -> None:
        async with astore_at(db_url) as store, hub_at(store, batch_max=10, **limit) as hub:
            await eventually(hub._primed.is_set)
            slow, quick = Reader(hub.subscribe(["news"])), Reader(hub.subscribe(["news"]))
            await slow.step()
            task = asyncio.create_task(quick.seen(100))
            for n in range(100):
                await store.write(say, n)
                assert slow.subscription.pending_bytes <= 20_000
            await task
            await slow.to_end()
            assert numbers(quick) == [*range(100)]
            assert [frame.event for frame in slow.frames if frame.event] == ["resync"]
            assert slow.frames[-1].data["reason"] == "slow"
            assert slow.subscription.dropped
            assert hub.stats.dropped == 1
            assert hub.stats.subscribers == 1
            # It comes back with the id of its resync, and misses nothing that came after it.
            back = Reader(hub.subscribe(["news"], slow.last_id))
            await back.until(lambda r: r.last_id == 100)
            assert slow.last_id is not None
            assert numbers(back) == [*range(slow.last_id, 100)]

    run(main())


def test_one_stream_too_many_is_refused_and_a_place_that_is_left_is_free(sqlite_url: str) -> None:
    async def main() -> None:
        async with astore_at(sqlite_url) as store, hub_at(store, subscribers_max=2) as hub:
            first, _second = hub.subscribe(["news"]), hub.subscribe(["news"])
            with pytest.raises(Overloaded, match="2 event streams") as refused:
                hub.subscribe(["news"])
            assert refused.value.status == 503
            assert refused.value.retry_after_s
            first.close()
            first.close()
            hub.subscribe(["news"])
            for topics in ([], [str(n) for n in range(33)], ["a b"]):
                hub.limits  # noqa: B018
                _second.close()
                with pytest.raises(InvalidInput):
                    hub.subscribe(topics)
        with pytest.raises(Overloaded, match="not running"):
            hub.subscribe(["news"])

    run(main())


def test_a_quiet_stream_gets_heartbeats_that_carry_its_position(db_url: str) -> None:
    async def main() -> None:
        async with astore_at(db_url) as store, hub_at(store, heartbeat_s=0.1) as hub:
            await eventually(hub._primed.is_set)
            reader = Reader(hub.subscribe(["quiet"]))
            await store.write(say_many, range(5))
            await reader.until(lambda r: r.last_id == 5)
            assert reader.frames[-1].other == [":"]
            assert not reader.events

    run(main())


def test_a_stream_has_an_end_and_what_follows_resumes(sqlite_url: str) -> None:
    async def main() -> None:
        async with (
            astore_at(sqlite_url) as store,
            hub_at(store, heartbeat_s=0.1, stream_s_max=0.3) as hub,
        ):
            await eventually(hub._primed.is_set)
            reader = Reader(hub.subscribe(["news"]))
            await store.write(say, 1)
            await reader.to_end()
            assert numbers(reader) == [1]
            assert hub.stats.subscribers == 0
            await store.write(say, 2)
            again = Reader(hub.subscribe(["news"], reader.last_id))
            await again.seen(1)
            assert numbers(again) == [2]

    run(main())


def test_a_page_that_starts_at_its_own_head_misses_nothing(db_url: str) -> None:
    async def main() -> None:
        async with astore_at(db_url) as store, hub_at(store) as hub:
            await store.write(say_many, range(1, 4))
            await numbered(store)
            rendered_at = await store.read(head)
            await store.write(say, 4)
            await eventually(lambda: hub.cursor == 4)
            reader = Reader(hub.subscribe(["news"], rendered_at))
            await reader.seen(1)
            assert numbers(reader) == [4]

    run(main())


def test_200_streams_see_an_event(db_url: str) -> None:
    async def main() -> None:
        async with astore_at(db_url) as store, hub_at(store) as hub:
            await eventually(hub._primed.is_set)
            readers = [Reader(hub.subscribe(["news"])) for _ in range(200)]
            tasks = [asyncio.create_task(reader.seen(1)) for reader in readers]
            await asyncio.sleep(0)
            async with asyncio.timeout(5):
                await store.write(say, 7)
                await asyncio.gather(*tasks)
            assert all(numbers(reader) == [7] for reader in readers)

    run(main())


def test_a_log_that_someone_emptied_makes_every_stream_resync(db_url: str) -> None:
    async def main() -> None:
        async with astore_at(db_url) as store, hub_at(store, poll_s=60) as hub:
            await store.write(say_many, range(1, 4))
            await eventually(lambda: hub.cursor == 3)
            reader = Reader(hub.subscribe(["news"]))
            nudge, hub.nudge = hub.nudge, lambda: None  # type: ignore[method-assign]
            await asyncio.sleep(0.5)  # a second look that the first write asked for is over
            await store.write(say_many, range(4, 7))
            await numbered(store)
            await store.write(lambda session: session.execute(delete(FeedEvent)) and None)
            nudge()
            await reader.until(lambda r: bool(r.resyncs))
            assert reader.resyncs[0].id == 6
            hub.nudge = nudge  # type: ignore[method-assign]
            await store.write(say, 7)
            await reader.seen(1)
            assert [frame.id for frame in reader.events] == [7]

    run(main())


def test_while_the_database_fails_the_hub_waits_and_then_goes_on_where_it_was(
    db_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with astore_at(db_url) as store, hub_at(store, backoff_s_max=0.2) as hub:
            await eventually(hub._primed.is_set)
            reader = Reader(hub.subscribe(["news"]))
            broken = True
            real = store.read

            async def read(fn: object, *args: object, **kwargs: object) -> object:
                if broken:
                    raise DatabaseUnavailable
                return await real(fn, *args, **kwargs)  # type: ignore[arg-type]

            store.read = read  # type: ignore[method-assign,assignment]
            await store.write(say, 1)
            await eventually(lambda: hub.stats.failing is not None)
            await store.write(say, 2)
            broken = False
            await reader.seen(2)
            assert numbers(reader) == [1, 2]
            await eventually(lambda: hub.stats.failing is None)

    run(main())
    said = [record.message for record in caplog.records if record.name == "crowdsafe.feed"]
    assert said[0].startswith("the event feed cannot read its log")
    assert any("reads again" in line for line in said)


def test_a_stream_that_asks_before_the_first_look_waits_for_it(sqlite_url: str) -> None:
    async def main() -> None:
        async with astore_at(sqlite_url) as store, hub_at(store) as hub:
            reader = Reader(hub.subscribe(["news"]))  # the hub has had no turn yet
            assert hub._cursor is None
            await reader.step()
            await store.write(say, 1)
            await reader.seen(1)

    run(main())


def test_stop_ends_every_stream_and_task(db_url: str) -> None:
    async def main() -> None:
        async with astore_at(db_url) as store:
            before = asyncio.all_tasks()
            async with hub_at(store) as hub:
                await eventually(hub._primed.is_set)
                readers = [Reader(hub.subscribe(["news"])) for _ in range(3)]
                tasks = [asyncio.create_task(reader.to_end()) for reader in readers]
                await asyncio.sleep(0.05)
            async with asyncio.timeout(2):
                await asyncio.gather(*tasks)
            assert hub.stats.subscribers == 0
            assert asyncio.all_tasks() == before
            hub.nudge()  # of no use, and no error

    run(main())


def test_one_events_data_may_be_large(db_url: str) -> None:
    def large(session: Session) -> None:
        for n in range(40):
            publish(session, "news", "large", {"n": n, "text": "x" * 60_000})

    async def main() -> None:
        async with astore_at(db_url) as store, hub_at(store) as hub:
            await eventually(hub._primed.is_set)
            reader = Reader(hub.subscribe(["news"]))
            task = asyncio.create_task(reader.seen(40))
            await store.write(large)
            await task
            assert numbers(reader) == [*range(40)]

    run(main())
