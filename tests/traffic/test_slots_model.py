"""Random takes, renewals, releases, deaths and pauses of slots, held against the rule itself."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from sqlalchemy import select

from crowdsafe.store import Settings, Store
from crowdsafe.traffic.rows import SlotRow
from crowdsafe.traffic.slots.database import _do, _Step

LEASE_US = 1_000_000
KEYS = st.sampled_from("ab")
HOLDERS = st.integers(0, 5).map("holder {}".format)


class SlotsMachine(RuleBasedStateMachine):
    """The slots of two keys on SQLite, with a clock of the test's own; holders may die at any time,
    which is to say that they do nothing any more."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.url = f"sqlite:///{Path(self.folder.name) / 'slots.db'}"
        self.store = Store(self.url, Settings(synchronous="NORMAL"))
        self.store.create_all()
        self.now_us = 1_700_000_000_000_000
        self.ends: dict[str, dict[str, int]] = {"a": {}, "b": {}}
        self.clock: Any = patch("crowdsafe.traffic.rows.time.time_ns", lambda: self.now_us * 1000)
        self.clock.start()

    def teardown(self) -> None:
        self.clock.stop()
        self.store.close()
        self.folder.cleanup()

    @initialize(limit=st.integers(1, 4))
    def choose(self, limit: int) -> None:
        self.limit = limit

    def holds(self, key: str) -> set[str]:
        return {holder for holder, end in self.ends[key].items() if end > self.now_us}

    def do(self, what: Any, key: str, holder: str) -> bool:
        step = _Step(what, key, holder)
        return self.store.write(_do, "test", self.limit, LEASE_US, step)

    @rule(key=KEYS, holder=HOLDERS)
    def take(self, key: str, holder: str) -> None:
        may = holder in self.holds(key) or len(self.holds(key)) < self.limit
        assert self.do("take", key, holder) is may
        if may:
            self.ends[key][holder] = self.now_us + LEASE_US

    @rule(key=KEYS, holder=HOLDERS)
    def renew(self, key: str, holder: str) -> None:
        may = holder in self.holds(key)
        assert self.do("renew", key, holder) is may
        if may:
            self.ends[key][holder] = self.now_us + LEASE_US

    @rule(key=KEYS, holder=HOLDERS)
    def give(self, key: str, holder: str) -> None:
        assert self.do("give", key, holder) is (holder in self.holds(key))
        self.ends[key].pop(holder, None)

    @rule(part=st.sampled_from([0.001, 0.3, 0.7, 1.0, 5.0]))
    def wait(self, part: float) -> None:
        self.now_us += round(part * LEASE_US)

    @rule()
    def crash(self) -> None:
        """The process dies, and another takes its place."""
        self.store.close()
        self.store = Store(self.url, Settings(synchronous="NORMAL"))

    @precondition(lambda self: hasattr(self, "limit"))
    @invariant()
    def never_more_than_the_limit(self) -> None:
        for key in self.ends:
            assert len(self.holds(key)) <= self.limit

    @invariant()
    def rows_hold_no_more_than_the_limit(self) -> None:
        rows = self.store.read(lambda session: len(session.scalars(select(SlotRow.key)).all()))
        assert rows <= 2


SlotsMachine.TestCase.settings = settings(
    max_examples=15,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestSlots = SlotsMachine.TestCase
