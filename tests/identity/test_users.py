"""Users, demo logins and the signing secret, when several come at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import func, select

from crowdsafe.errors import ConfigError, InvalidInput, NotFound
from crowdsafe.identity import (
    DEMO_USERS,
    ROLES,
    DuplicateUser,
    add_user,
    seed_demo_users,
    set_active,
    set_roles,
    signing_secret,
    user_by_id,
)
from crowdsafe.identity.tables import SecretRow, UserRow
from crowdsafe.identity.users import credentials_of
from crowdsafe.store import Store


def at_once(url: str, count: int, call: Callable[[Store, int], Any]) -> list[Any]:
    """Run ``call`` in as many threads, half of them on another store; results or exceptions."""
    results: list[Any] = [None] * count
    with Store(url) as one, Store(url) as two:
        one.create_all()
        barrier = threading.Barrier(count)

        def run(number: int) -> None:
            barrier.wait(10)
            try:
                results[number] = call((one, two)[number % 2], number)
            except Exception as error:
                results[number] = error

        threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    return results


def count_of(url: str, model: type) -> int:
    with Store(url) as store:
        return store.read(lambda session: session.scalar(select(func.count()).select_from(model)))


def test_one_name_is_given_once(db_url: str) -> None:
    results = at_once(
        db_url,
        8,
        lambda store, number: store.write(
            add_user, username="Mara", name=f"M {number}", roles=["sales"], password_hash="x"
        ),
    )
    assert sum(isinstance(result, DuplicateUser) for result in results) == 7, results
    assert count_of(db_url, UserRow) == 1


def test_demo_users_are_seeded_once_by_whoever_comes_first(db_url: str) -> None:
    results = at_once(db_url, 6, lambda store, number: store.write(seed_demo_users, f"h{number}"))
    assert max(results) > 0
    assert sum(results) == len(DEMO_USERS) == count_of(db_url, UserRow)


def test_the_demo_has_every_role_and_two_more_sales_people() -> None:
    roles = [user.role for user in DEMO_USERS]
    assert set(roles) == set(ROLES)
    assert roles.count("sales") == 3
    assert {"mara", "tomas"} <= {user.username for user in DEMO_USERS}


def test_all_processes_get_one_secret(db_url: str) -> None:
    results = at_once(db_url, 8, lambda store, _: store.write(signing_secret))
    assert len(set(results)) == 1
    assert len(results[0]) >= 32
    assert count_of(db_url, SecretRow) == 1


def test_a_secret_from_outside(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(sqlite_url) as store:
        store.create_all()
        monkeypatch.setenv("CROWDSAFE_SECRET", "short")
        with pytest.raises(ConfigError, match="at least 32"):
            store.write(signing_secret)
        monkeypatch.setenv("CROWDSAFE_SECRET", "s" * 32)
        assert store.write(signing_secret) == "s" * 32


def test_roles_and_being_switched_off(db_url: str) -> None:
    with Store(db_url) as store:
        store.create_all()
        user = store.write(
            add_user, username="wen", name="  Wen \n Zhao ", roles=["sales"], password_hash="x"
        )
        assert (user.username, user.name) == ("wen", "Wen Zhao")
        store.write(set_roles, username="WEN", roles=["admin", "sales", "admin"])
        found = store.read(user_by_id, user.id)
        assert found is not None
        assert found.public() == {
            "id": user.id,
            "username": "wen",
            "name": "Wen Zhao",
            "roles": ["admin", "sales"],
        }
        store.write(set_active, username="wen", active=False)
        assert store.read(user_by_id, user.id) is None
        credentials = store.read(credentials_of, "wen")
        assert credentials is not None
        assert not credentials.active
        with pytest.raises(NotFound):
            store.write(set_active, username="nobody", active=True)


@pytest.mark.parametrize(
    "change",
    [
        {"username": ""},
        {"username": "two words"},
        {"username": "-x"},
        {"username": "x" * 65},
        {"username": "mara\x00"},
        {"username": "mära"},
        {"roles": []},
        {"roles": ["king"]},
        {"name": "x" * 201},
        {"name": "a\x07b"},
    ],
)
def test_what_cannot_be_a_user(sqlite_url: str, change: dict[str, Any]) -> None:
    good = {"username": "mara", "name": "Mara", "roles": ["sales"], "password_hash": "x"}
    with Store(sqlite_url) as store:
        store.create_all()
        with pytest.raises(InvalidInput):
            store.write(add_user, **{**good, **change})
    assert count_of(sqlite_url, UserRow) == 0
