"""Ids follow the order of commits; a reader that follows them misses nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import BigInteger, MetaData, create_engine, func, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from tests.feed.support import say, say_many

from crowdsafe.feed import head, number_events, publish, read_events
from crowdsafe.feed.tables import FeedEvent
from crowdsafe.store import Store


class Base(DeclarativeBase):
    metadata = MetaData()


class Stock(Base):
    __tablename__ = "stock"

    id: Mapped[int] = mapped_column(primary_key=True)
    on_hand: Mapped[int] = mapped_column(BigInteger)


class NaiveReader:
    """What one writes first: remember the highest key, ask for those above it."""

    def __init__(self) -> None:
        self.cursor = 0
        self.seen: list[int] = []

    def read(self, session: Session) -> None:
        query = select(FeedEvent).where(FeedEvent.seq > self.cursor).order_by(FeedEvent.seq)
        for event in session.scalars(query):
            self.cursor = event.seq
            self.seen.append(int(event.data[5:-1]))


class OurReader(NaiveReader):
    def read(self, session: Session) -> None:
        for event in read_events(session, self.cursor):
            self.cursor = event.id
            self.seen.append(event.data["n"])


@pytest.mark.postgres
def test_the_first_inserted_that_commits_last_is_lost_to_a_naive_reader_and_not_to_ours(
    pg_url: str,
) -> None:
    with Store(pg_url) as store:
        store.create_all()
        engine = create_engine(store.url)
        naive, ours = NaiveReader(), OurReader()
        with Session(engine) as slow, Session(engine) as quick:
            say(slow, 1)
            say(quick, 2)
            quick.commit()
            store.write(number_events)
            store.read(naive.read)
            store.read(ours.read)
            assert naive.seen == ours.seen == [2]
            slow.commit()
        store.write(number_events)
        store.read(naive.read)
        store.read(ours.read)
        engine.dispose()
    assert naive.seen == [2], "the naive reader was expected to lose event 1"
    assert ours.seen == [2, 1]


def test_in_sqlite_the_order_of_insertion_is_that_of_commits(sqlite_url: str) -> None:
    with Store(sqlite_url) as store:
        store.create_all()
        ours = OurReader()

        def writer(first: int) -> None:
            with Store(sqlite_url) as own:
                for n in range(first, first + 100):
                    own.write(say, n)

        threads = [threading.Thread(target=writer, args=(first,)) for first in (0, 1000)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            store.read(ours.read)
        store.read(ours.read)
    for first in (0, 1000):
        assert [n for n in ours.seen if first <= n < first + 100] == [*range(first, first + 100)]
    assert len(ours.seen) == 200


def test_an_undone_write_leaves_neither_event_nor_gap(db_url: str) -> None:
    def fails(session: Session) -> None:
        say(session, 13)
        raise RuntimeError("undo me")

    def savepoint(session: Session) -> None:
        say(session, 2)
        with pytest.raises(RuntimeError), session.begin_nested():
            fails(session)
        say(session, 3)

    with Store(db_url) as store:
        store.create_all()
        store.write(say, 1)
        with pytest.raises(RuntimeError, match="undo me"):
            store.write(fails)
        store.write(savepoint)
        store.write(number_events)
        events = store.read(read_events, 0)
        assert store.read(head) == 3
    assert [(event.id, event.data["n"]) for event in events] == [(1, 1), (2, 2), (3, 3)]


@pytest.mark.postgres
def test_what_was_committed_and_never_numbered_is_numbered_by_anyone_later(pg_url: str) -> None:
    with Store(pg_url) as store:
        store.create_all()
        store.write(say, 1)  # and its process dies here
    with Store(pg_url) as other:
        assert other.read(read_events, 0) == []
        assert other.write(number_events) == 1
        assert [event.data["n"] for event in other.read(read_events, 0)] == [1]
        assert other.write(number_events) == 0


@pytest.mark.postgres
def test_writers_of_one_row_have_ids_in_the_order_of_their_commits(pg_url: str) -> None:
    """The second waits for the first's row before it draws a place, though it began earlier."""
    with Store(pg_url) as store:
        store.create_all(Base.metadata)
        store.write(lambda session: session.add(Stock(id=1, on_hand=100)))
        engine = create_engine(store.url)
        with Session(engine) as first, Session(engine) as second:
            second.execute(select(1))  # its transaction is the older one
            row = first.get_one(Stock, 1)
            row.on_hand = 90
            with first.no_autoflush:  # unsaved when it publishes: publish saves it first
                say(first, 90)

            def later() -> None:
                second.execute(update(Stock).values(on_hand=80))
                say(second, 80)
                second.commit()

            thread = threading.Thread(target=later)
            thread.start()
            thread.join(0.3)
            assert thread.is_alive(), "the second writer was expected to wait for the row"
            first.commit()
            thread.join()
        engine.dispose()
        store.write(number_events)
        assert [event.data["n"] for event in store.read(read_events, 0)] == [90, 80]


@pytest.mark.postgres
def test_a_sequencer_at_work_is_not_waited_for(pg_url: str) -> None:
    with Store(pg_url) as store:
        store.create_all()
        store.write(say, 1)
        store.write(number_events)
        store.write(say, 2)
        engine = create_engine(store.url)
        with Session(engine) as busy:
            assert number_events(busy) == 1
            assert store.write(number_events) is None
            busy.rollback()  # it dies
        engine.dispose()
        assert store.write(number_events) == 1
        assert [event.id for event in store.read(read_events, 0)] == [1, 2]


@pytest.mark.postgres
def test_many_sequencers_and_many_writers_leave_no_gap_and_no_double(pg_url: str) -> None:
    writers, each = 4, 60
    with Store(pg_url) as store:
        store.create_all()
        ours = OurReader()
        done = threading.Event()

        def write_some(writer: int) -> None:
            for n in range(each):
                store.write(say, writer * 1000 + n, key=str(writer))

        def until_done(work: Callable[[], object]) -> None:
            while not done.is_set():
                work()

        def number() -> None:
            store.write(number_events, 7)

        with ThreadPoolExecutor() as pool:
            others = [pool.submit(until_done, number) for _ in range(2)]
            others.append(pool.submit(until_done, lambda: store.read(ours.read)))
            for writing in [pool.submit(write_some, writer) for writer in range(writers)]:
                writing.result()
            done.set()
            for other in others:
                other.result()
        while store.write(number_events):
            pass
        store.read(ours.read)
        ids = [event.id for event in store.read(read_events, 0, limit=1000)]
        rows = store.read(lambda session: session.scalar(select(func.count(FeedEvent.seq))))
    assert ids == [*range(1, writers * each + 1)]
    assert rows == writers * each
    assert len(ours.seen) == len(set(ours.seen)) == writers * each
    for writer in range(writers):
        mine = [n for n in ours.seen if n // 1000 == writer]
        assert mine == sorted(mine)


def test_the_head_survives_pruning(db_url: str) -> None:
    with Store(db_url) as store:
        store.create_all()
        store.write(say_many, range(5))
        store.write(number_events)
        store.write(lambda session: session.query(FeedEvent).delete() and None)
        assert store.read(head) == 5
        store.write(publish, "news", "said", {"n": 9})
        store.write(number_events)
        assert [event.id for event in store.read(read_events, 0)] == [6]
