"""``mutate``: no read-modify-write is lost."""

from __future__ import annotations

import time
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from tests.writes.callers import Outcome, calls, errors, values
from tests.writes.conftest import Crowd
from tests.writes.models import Client, Order, Profile, Sheet

from crowdsafe import Store, mutate
from crowdsafe.errors import NotFound, Refused


def visit(session: Session, name: str) -> int:
    def change(profile: Profile) -> None:
        profile.visits += 1
        profile.prefs = {**profile.prefs, name: profile.visits}

    return mutate(session, Profile, 1, change).visits


def naive_visit(session: Session, name: str) -> int:
    profile = session.get_one(Profile, 1)
    time.sleep(0.1)
    profile.visits += 1
    profile.prefs = {**profile.prefs, name: profile.visits}
    return profile.visits


def read_profile(session: Session) -> tuple[int, dict[str, Any]]:
    profile = session.get_one(Profile, 1)
    return profile.visits, profile.prefs


def check_every_visit_counts(crowd: Crowd, outcomes: list[Outcome]) -> None:
    assert not errors(outcomes, Refused)
    seen = values(outcomes)
    assert sorted(seen) == list(range(1, len(outcomes) + 1))
    visits, prefs = crowd.do(read_profile)
    assert visits == len(outcomes)
    assert prefs == {f"u{n}": value for n, value in enumerate(seen)}


def test_calls_take_effect_one_after_the_other(crowd: Crowd) -> None:
    crowd.add(Profile(id=1, visits=0, prefs={}))
    check_every_visit_counts(crowd, crowd.run(calls(visit, [(f"u{n}",) for n in range(12)])))


def test_the_check_catches_the_naive_version(naive: Crowd) -> None:
    naive.add(Profile(id=1, visits=0, prefs={}))
    outcomes = naive.run(calls(naive_visit, [(f"u{n}",) for n in range(8)]))
    with pytest.raises(AssertionError):
        check_every_visit_counts(naive, outcomes)


def test_it_counts_the_version_and_notes_who(store: Store) -> None:
    def rename(order: Order) -> None:
        order.title = "b"

    store.write(lambda session: session.add(Order(id=1, title="a")))
    row = store.write(mutate, Order, 1, rename, by="mara")
    assert (row.title, row.version, row.updated_by) == ("b", 2, "mara")
    assert row.updated_at is not None
    again = store.write(mutate, Order, 1, rename, by="ivo")
    assert (again.version, again.updated_by) == (2, "mara"), "nothing changed"


def test_a_change_that_a_query_flushed_early_counts_too(store: Store) -> None:
    def work(session: Session) -> Any:
        def rename(order: Order) -> None:
            order.title = "b"
            session.execute(select(Client)).all()

        return mutate(session, Order, 1, rename, by="mara")

    store.write(lambda session: session.add(Order(id=1, title="a")))
    row = store.write(work)
    assert (row.title, row.version, row.updated_by) == ("b", 2, "mara")


def test_a_document_changed_in_place_is_saved(store: Store) -> None:
    def change(profile: Profile) -> None:
        profile.prefs["theme"] = "dark"
        profile.prefs["lists"].append(1)

    store.write(lambda session: session.add(Profile(id=1, prefs={"lists": []})))
    assert store.write(mutate, Profile, 1, change).prefs == {"lists": [1], "theme": "dark"}
    assert store.read(read_profile)[1] == {"lists": [1], "theme": "dark"}


def test_what_the_function_raises_undoes_it(store: Store) -> None:
    def change(profile: Profile) -> None:
        profile.visits = 99
        raise Refused("no")

    store.write(lambda session: session.add(Profile(id=1, visits=1)))
    with pytest.raises(Refused, match="no"):
        store.write(mutate, Profile, 1, change)
    assert store.read(read_profile)[0] == 1
    with pytest.raises(NotFound):
        store.write(mutate, Profile, 2, change)


def test_a_stale_loaded_row_is_read_anew(db_url: str, store: Store) -> None:
    """The session has seen the row before; another process has changed it since."""

    def work(session: Session) -> int:
        profile = session.get_one(Profile, 1)
        profile.__dict__["visits"] = 0  # what an old snapshot would show
        return visit(session, "me")

    store.write(lambda session: session.add(Profile(id=1, visits=7, prefs={})))
    assert store.write(work) == 8


def test_a_version_that_sqlalchemy_counts_is_counted_once(store: Store) -> None:
    def change(sheet: Sheet) -> None:
        sheet.text = "b"

    store.write(lambda session: session.add(Sheet(id=1, text="a")))
    assert store.write(mutate, Sheet, 1, change).version == 2
