"""The demo plant: seeded once by however many processes, and consistent."""

from __future__ import annotations

from collections import Counter
from functools import partial

from crowdsafe import Store
from crowdsafe.systems.factory import demo, demo_data
from crowdsafe.systems.factory.models import metadata
from crowdsafe.systems.factory.operations import queries
from tests.systems.factory.plant import at_once, broken


def test_two_processes_seed_one_plant(db_url: str) -> None:
    with Store(db_url) as one, Store(db_url) as two:
        one.create_all(metadata)
        assert sorted(at_once([partial(demo.seed, one), partial(demo.seed, two)])) == [False, True]
        orders = one.read(queries.list_orders, limit=100)["items"]
        assert Counter(order["stage"] for order in orders) == dict(demo_data.STAGE_COUNTS)
        assert len(one.read(queries.list_clients)) == 12
        assert len(one.read(queries.list_products)) == 20
        assert len(one.read(queries.list_employees)) == 12
        assert {row["invoiced"] for row in orders} == {"no", "fully"}
        assert one.read(queries.list_allocations)["items"]
    assert broken(db_url) == []
