"""What can be published, and what is refused with a word on how to do better."""

from __future__ import annotations

import math
from typing import Any

import pytest
from sqlalchemy.orm import Session

from crowdsafe.errors import ConfigError, InvalidInput
from crowdsafe.feed import FeedLimits, number_events, publish, read_events
from crowdsafe.store import Store


def test_what_is_published_comes_back_as_it_was(db_url: str) -> None:
    data = {"text": "قهوة ☕ \u2028 \r\n\x00", "deep": [1, {"a": None}], "big": 2**60}

    def write(session: Session) -> None:
        publish(session, "factory", "order.changed", data, key=7)
        publish(session, "planner:user/7", "x", {})

    with Store(db_url) as store:
        store.create_all()
        store.write(write)
        store.write(number_events)
        first, second = store.read(read_events, 0)
    assert (first.id, first.topic, first.type, first.key) == (1, "factory", "order.changed", "7")
    assert first.data == data
    assert first.at.tzinfo is not None
    assert (second.id, second.topic, second.key, second.data) == (2, "planner:user/7", None, {})


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"topic": ""}, "topic"),
        ({"topic": "a b"}, "topic"),
        ({"topic": "x" * 101}, "topic"),
        ({"topic": "a\n"}, "topic"),
        ({"topic": None}, "topic"),
        ({"type": "data: x\n\n"}, "type"),
        ({"type": "resync"}, "type"),
        ({"type": "error"}, "type"),
        ({"key": "x" * 201}, "key"),
        ({"key": "a\x00"}, "key"),
        ({"data": {"x": math.nan}}, "data"),
        ({"data": {"x": object()}}, "data"),
        ({"data": {"x": "\ud800"}}, "data"),
        ({"data": {"x": "y" * 65_536}}, "data"),
    ],
)
def test_what_cannot_be_published_is_refused_by_name(
    sqlite_url: str, changed: dict[str, Any], field: str
) -> None:
    event = {"topic": "factory", "type": "t", "data": {}, "key": None} | changed
    with Store(sqlite_url) as store:
        store.create_all()
        with pytest.raises(InvalidInput) as refused:
            store.write(lambda session: publish(session, **event))
        assert refused.value.field == field
        assert store.read(read_events, 0) == []


def test_limits_are_above_zero() -> None:
    with pytest.raises(ConfigError, match="keep_events"):
        FeedLimits(keep_events=0)
