"""SQLAlchemy names a parameter after its column, which does not make it the column."""

from __future__ import annotations

import pytest

from crowdsafe.find.judge.events import events_of
from crowdsafe.find.model import Run, Step
from crowdsafe.find.sql import analyse


@pytest.mark.parametrize(
    ("sql", "in_place"),
    [
        pytest.param(
            "UPDATE users SET done = %(done)s WHERE id = %(users_id)s", False, id="pyformat"
        ),
        pytest.param("UPDATE users SET done = :done WHERE id = :users_id", False, id="colon"),
        pytest.param("UPDATE users SET done = done + %(done)s", True, id="counted"),
        pytest.param("UPDATE users SET done = coalesce(done::int, 0) + 1", True, id="cast"),
    ],
)
def test_only_the_column_itself_is_changed_in_place(sql: str, in_place: bool) -> None:
    parameters = {"done": True, "users_id": 1}
    run = Run((), [Step(0, 0, sql, parameters, driver="psycopg")], [])

    (event,) = events_of(run, lambda text: analyse(text, "postgresql"))

    assert event.in_place is in_place
