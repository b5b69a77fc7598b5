"""The fair queue, its quotas and slots together against a simple model, through any steps.

A failure prints the steps that lead to it, made small, and the seed that brings them back.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from tests.traffic.traffic_machine import run_machine
from tests.traffic.traffic_parts import prepare

from crowdsafe.store import Settings, Store


@pytest.fixture
def store(db_url: str) -> Iterator[Store]:
    prepare(db_url)
    with Store(db_url, Settings(synchronous="NORMAL", pool_size=4)) as opened:
        yield opened


def test_users_workers_crashes_and_time_keep_to_the_model(store: Store, rng: random.Random) -> None:
    examples = 80 if store.dialect == "sqlite" else 20
    run_machine(store, examples, 35, rng.randrange(2**32))
