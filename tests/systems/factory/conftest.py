"""Fixtures of the factory's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.systems.factory.plant import Plant, broken


@pytest.fixture
def plant(db_url: str) -> Iterator[Plant]:
    """A small plant, once on SQLite and once on PostgreSQL; checked by plain SQL at the end."""
    plant = Plant(db_url)
    try:
        yield plant
        wrong = [line for line in broken(db_url) if "factory.order" not in line]
        assert wrong == []
    finally:
        plant.close()
