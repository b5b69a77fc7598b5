"""``get_or_create``: one row, whoever comes first, and nobody fails."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from tests.writes.callers import Outcome, calls, errors, values
from tests.writes.conftest import Crowd
from tests.writes.models import Client, Tag

from crowdsafe import Store, get_or_create
from crowdsafe.errors import ConfigError, CrowdsafeError, InvalidInput


def tag(session: Session, name: str, colour: str) -> tuple[int, str | None, bool]:
    row, created = get_or_create(session, Tag, {"colour": colour}, name=name)
    return row.id, row.colour, created


def naive_tag(session: Session, name: str, colour: str) -> tuple[int, str | None, bool]:
    found = session.scalars(select(Tag).where(Tag.name == name)).first()
    if found is not None:
        return found.id, found.colour, False
    time.sleep(0.1)
    made = Tag(name=name, colour=colour)
    session.add(made)
    session.flush()
    return made.id, made.colour, True


def read_tags(session: Session) -> list[tuple[int, str | None]]:
    return [(row.id, row.colour) for row in session.scalars(select(Tag))]


def check_one_row(crowd: Crowd, outcomes: list[Outcome]) -> None:
    assert not errors(outcomes, CrowdsafeError)
    [row] = crowd.do(read_tags)
    assert {(id, colour) for id, colour, _ in values(outcomes)} == {row}
    assert [created for _, _, created in values(outcomes)].count(True) == 1


TODO = [("red tape", f"colour{n}") for n in range(12)]


def test_calls_at_once_leave_one_row(crowd: Crowd) -> None:
    check_one_row(crowd, crowd.run(calls(tag, TODO)))


def test_the_check_catches_the_naive_version(naive: Crowd) -> None:
    outcomes = naive.run(calls(naive_tag, TODO[:8]))
    with pytest.raises(AssertionError):
        check_one_row(naive, outcomes)


def test_different_rows_do_not_meet(crowd: Crowd) -> None:
    outcomes = crowd.run(calls(tag, [(f"t{n}", "c") for n in range(8)]))
    assert all(created for _, _, created in values(outcomes))
    assert len(crowd.do(read_tags)) == 8


def test_the_row_is_a_row_of_the_session(store: Store) -> None:
    def work(session: Session) -> None:
        row, _ = get_or_create(session, Tag, name="x")
        row.colour = "blue"

    store.write(work)
    store.write(work)
    assert [colour for _, colour in store.read(read_tags)] == ["blue"]


def test_a_row_that_is_not_flushed_yet_is_found(store: Store) -> None:
    def work(session: Session) -> bool:
        session.add(Tag(name="x"))
        return get_or_create(session, Tag, name="x")[1]

    assert store.write(work) is False


def test_without_a_unique_constraint_it_is_refused(store: Store) -> None:
    with pytest.raises(ConfigError, match="unique constraint"):
        store.write(lambda session: get_or_create(session, Client, name="x"))
    with pytest.raises(ConfigError):
        store.write(lambda session: get_or_create(session, Tag, name="x", colour="red"))
    with pytest.raises(InvalidInput):
        store.write(lambda session: get_or_create(session, Tag))
    with pytest.raises(InvalidInput, match="None"):
        store.write(lambda session: get_or_create(session, Tag, name=None))


def test_defaults_that_break_another_constraint(store: Store) -> None:
    store.write(lambda session: session.add(Tag(name="a", slug="s")))
    with pytest.raises((IntegrityError, InvalidInput)):
        store.write(lambda session: get_or_create(session, Tag, {"slug": "s"}, name="b"))
    assert len(store.read(read_tags)) == 1
