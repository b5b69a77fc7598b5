"""``edit``: what only one changed is kept, what both changed is asked."""

from __future__ import annotations

import time
from typing import Any

import pytest
from sqlalchemy.orm import Session
from tests.writes.callers import Call, Outcome, calls, errors, values
from tests.writes.conftest import Crowd
from tests.writes.models import Client, Lamp, Order, Sheet

from crowdsafe import Conflict, Store, edit
from crowdsafe.errors import ConfigError, InvalidInput, NotFound

BASE = {"title": "old", "notes": None, "priority": 0}


def an_order() -> Order:
    return Order(id=1, **BASE)


def save(session: Session, changes: dict[str, Any], by: str) -> tuple[str, ...]:
    return edit(session, Order, 1, base=BASE, changes=changes, by=by, version=1).applied


def naive_save(session: Session, changes: dict[str, Any], by: str) -> tuple[str, ...]:
    order = session.get_one(Order, 1)
    time.sleep(0.1)
    for name, value in changes.items():
        setattr(order, name, value)
    order.version, order.updated_by = order.version + 1, by
    return tuple(changes)


def read_order(session: Session) -> tuple[Any, ...]:
    order = session.get_one(Order, 1)
    return order.title, order.notes, order.priority, order.version


EDITS = [
    *(({"title": "new"}, "ann"), ({"notes": "call them"}, "bob"), ({"priority": 5}, "cem")),
    *(({"title": "newer"}, "dan"), ({"notes": "do not"}, "eve"), ({"priority": 9}, "fay")),
]


def check_nothing_is_lost(crowd: Crowd, outcomes: list[Outcome]) -> None:
    """Six edits of one base, two for each of three fields: three are saved, three are asked."""
    saved = {outcome_fields[0] for outcome_fields in values(outcomes)}
    conflicts = errors(outcomes, Conflict)
    assert len(conflicts) == 3
    assert saved == {"title", "notes", "priority"}
    now = dict(zip(("title", "notes", "priority"), crowd.do(read_order)[:3], strict=True))
    assert crowd.do(read_order)[3] == 4
    for outcome, (changes, by) in zip(outcomes, EDITS, strict=True):
        [(name, value)] = changes.items()
        if outcome.error is None:
            assert now[name] == value, f"the saved edit of {by} was overwritten"
        else:
            assert outcome.error.fields == {name: (BASE[name], value, now[name])}


def test_edits_at_once(crowd: Crowd) -> None:
    crowd.add(an_order())
    check_nothing_is_lost(crowd, crowd.run(calls(save, EDITS)))


def test_the_check_catches_the_naive_version(naive: Crowd) -> None:
    naive.add(an_order())
    outcomes = naive.run(calls(naive_save, EDITS))
    with pytest.raises(AssertionError):
        check_nothing_is_lost(naive, outcomes)


def test_the_same_edit_by_all_is_fine(crowd: Crowd) -> None:
    crowd.add(an_order())
    outcomes = crowd.run([Call(save, ({"title": "same"}, f"user{n}")) for n in range(8)])
    assert sorted(values(outcomes)) == [*[()] * 7, ("title",)]
    assert crowd.do(read_order) == ("same", None, 0, 2)


def test_a_conflict_stores_nothing_and_says_what_there_is(store: Store) -> None:
    store.write(lambda session: session.add(an_order()))
    store.write(save, {"title": "theirs", "priority": 1}, "mara")
    with pytest.raises(Conflict) as caught:
        store.write(save, {"title": "yours", "notes": "kept?"}, "ivo")
    conflict = caught.value
    assert conflict.fields == {"title": ("old", "yours", "theirs")}
    assert (conflict.version, conflict.by, conflict.based_on, conflict.status) == (
        2,
        "mara",
        1,
        409,
    )
    assert conflict.at is not None
    assert store.read(read_order) == ("theirs", None, 1, 2)
    done = store.write(
        edit,
        Order,
        1,
        base={"title": "theirs"},
        changes={"title": "yours"},
        by="ivo",
        version=2,
    )
    assert (done.applied, done.version, done.merged) == (("title",), 3, False)


def test_a_merge_says_that_it_was_one(store: Store) -> None:
    store.write(lambda session: session.add(an_order()))
    store.write(save, {"title": "theirs"}, "mara")
    done = store.write(edit, Order, 1, base=BASE, changes={"notes": "x"}, version=1, by="ivo")
    assert (done.merged, done.version, done.applied) == (True, 3, ("notes",))
    assert (done.row.title, done.row.notes, done.row.updated_by) == ("theirs", "x", "ivo")


def test_what_changes_nothing_counts_nothing(store: Store) -> None:
    store.write(lambda session: session.add(an_order()))
    done = store.write(edit, Order, 1, base=BASE, changes={"title": "old"}, by="ivo")
    assert (done.applied, done.version) == ((), 1)
    empty = store.write(edit, Order, 1, base={}, changes={}, by="ivo")
    assert (empty.applied, empty.version, empty.row.updated_by) == ((), 1, None)


@pytest.mark.parametrize(
    ("base", "changes", "field"),
    [
        ({"nope": 1}, {"nope": 2}, "nope"),
        ({"id": 1}, {"id": 2}, "id"),
        ({"version": 1}, {"version": 9}, "version"),
        ({"updated_by": None}, {"updated_by": "me"}, "updated_by"),
        ({}, {"title": "x"}, "title"),
    ],
)
def test_fields_that_cannot_be_edited(
    store: Store, base: dict[str, Any], changes: dict[str, Any], field: str
) -> None:
    store.write(lambda session: session.add(an_order()))
    with pytest.raises(InvalidInput) as caught:
        store.write(edit, Order, 1, base=base, changes=changes)
    assert caught.value.field == field


def test_versions_that_cannot_be(store: Store) -> None:
    store.write(lambda session: session.add(an_order()))
    with pytest.raises(InvalidInput):
        store.write(edit, Order, 1, base=BASE, changes={"title": "x"}, version=7)
    with pytest.raises(NotFound):
        store.write(edit, Order, 2, base=BASE, changes={"title": "x"})
    with pytest.raises(ConfigError):
        store.write(edit, Lamp, 1, base={}, changes={})


def test_a_row_with_a_joined_relationship_can_be_edited(store: Store) -> None:
    def seed(session: Session) -> None:
        session.add(Client(id=1, name="Zeta"))
        session.add(Order(id=1, client_id=1, **BASE))

    store.write(seed)
    assert store.write(save, {"title": "x"}, "mara") == ("title",)
    done = store.write(edit, Order, 1, base={"tags": []}, changes={"tags": ["a", "b"]})
    assert done.row.tags == ["a", "b"]


def test_a_version_that_sqlalchemy_counts_is_counted_once(store: Store) -> None:
    store.write(lambda session: session.add(Sheet(id=1, text="a")))
    done = store.write(edit, Sheet, 1, base={"text": "a"}, changes={"text": "b"})
    assert (done.version, done.row.text) == (2, "b")
