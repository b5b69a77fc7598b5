"""Stock: never below zero, never set aside twice, given back exactly once."""

from __future__ import annotations

import asyncio
import json
import threading
from datetime import timedelta
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from crowdsafe import AsyncStore
from crowdsafe.errors import NotFound
from crowdsafe.feed.tables import FeedEvent
from crowdsafe.store.options import Call, options_of
from crowdsafe.store.types import utcnow
from crowdsafe.systems.factory import schemas
from crowdsafe.systems.factory.errors import (
    AllocationMoved,
    InsufficientStock,
    OrderClosed,
    WrongClient,
)
from crowdsafe.systems.factory.models import Stock
from crowdsafe.systems.factory.operations import allocating, catalogue, orders, queries, stock
from crowdsafe.systems.factory.sweep import sweep_once
from tests.systems.factory.plant import MARA, TOMAS, Plant, at_once, broken, refused


def test_two_allocations_of_80_from_100(plant: Plant) -> None:
    plant.receive(100)
    results = at_once([partial(plant.allocate, 80, store) for store in plant.stores(2)])
    (short,) = refused(results, InsufficientStock)
    assert short.data["available"] == 20
    (won,) = (result for result in results if isinstance(result, dict))
    assert won["remaining_stock"] == 20


def test_a_crowd_gets_what_there_is_and_no_more(plant: Plant) -> None:
    stock_id = plant.receive(100)
    results = at_once([partial(plant.allocate, 7, store) for store in plant.stores(24)])
    assert len(refused(results, InsufficientStock)) == 10
    movements = plant.store.read(queries.stock_movements, stock_id)["items"]
    assert [row["balance_after"] for row in reversed(movements)] == list(range(100, 1, -7))
    (row,) = plant.store.read(queries.list_stock)["items"]
    assert (row["on_hand"], row["reserved"]) == (2, 98)


@pytest.mark.postgres
def test_a_naive_read_then_write_sells_160_of_100(pg_url: str) -> None:
    """What `take` replaces, so that one sees that the tests above can fail. SQLite, with one
    writer at a time, does not show it."""
    plant = Plant(pg_url)
    stock_id = plant.receive(100)
    both_have_read = threading.Barrier(2)

    def naive(session: Session, quantity: int) -> int:
        row = session.get_one(Stock, stock_id)
        enough = row.on_hand >= quantity
        both_have_read.wait(10)
        assert enough
        row.on_hand -= quantity
        return quantity

    sell = partial(naive, quantity=80)
    stores = plant.stores(2)
    results = at_once([partial(s.write, sell, isolation="read committed") for s in stores])
    assert results == [80, 80]
    assert plant.store.read(queries.list_stock)["items"][0]["on_hand"] == 20
    assert any("sum of its movements" in line for line in broken(pg_url))
    plant.close()


def test_reservations_done_together_are_as_if_one_after_the_other(plant: Plant) -> None:
    stock_id = plant.receive(100)
    combiner = options_of(allocating.allocate_stock).combiner
    assert combiner is not None
    pair = {"product_id": plant.product_id, "client_id": plant.client_id}
    asked = [(60, MARA), (50, TOMAS), (40, TOMAS), (1, MARA)]
    calls = [Call((), {**pair, "quantity": each, "actor": actor}) for each, actor in asked]
    calls[2].kwargs["order_reference"] = ""  # type: ignore[index]
    assert {combiner.lane(call) for call in calls} == {
        ("factory.stock", plant.client_id, plant.product_id)
    }
    for_an_order = Call((), {**calls[0].kwargs, "order_reference": "ADM-2026-0001"})
    assert combiner.lane(for_an_order) is None
    first, short, second, none_left = plant.store.write(
        lambda session: combiner.run(session, calls)
    )
    assert (first["remaining_stock"], second["remaining_stock"]) == (40, 0)
    assert (short.data["available"], none_left.data["available"]) == (40, 0)
    assert isinstance(short, InsufficientStock)
    movements = plant.store.read(queries.stock_movements, stock_id)["items"]
    assert [(row["quantity"], row["by"], row["id"]) for row in movements[:2]] == [
        (-40, "tomas", second["movement_id"]),
        (-60, "mara", first["movement_id"]),
    ]
    events = plant.store.read(_stock_events)
    assert [(event["on_hand"], event["by"]) for event in events[-2:]] == [
        (40, "Mara Lindqvist"),
        (0, "Tomas Reyes"),
    ]
    unknown = Call((), {**calls[0].kwargs, "product_id": 999})
    (refusal,) = plant.store.write(lambda session: combiner.run(session, [unknown]))
    assert isinstance(refusal, NotFound)


def _stock_events(session: Session) -> list[dict[str, Any]]:
    rows = session.scalars(
        select(FeedEvent.data).where(FeedEvent.type == "stock.changed").order_by(FeedEvent.seq)
    )
    return [json.loads(row) for row in rows]


def test_unknown_things_are_not_found(plant: Plant) -> None:
    for wrong in ({"product_id": 999}, {"client_id": 999}, {"order_reference": "ADM-2020-0001"}):
        known = {"product_id": plant.product_id, "client_id": plant.client_id}
        with pytest.raises(NotFound):
            plant.store.write(
                allocating.allocate_stock, **{**known, "quantity": 1, "actor": MARA, **wrong}
            )


def test_a_product_without_stock_is_insufficient(plant: Plant) -> None:
    with pytest.raises(InsufficientStock) as refusal:
        plant.allocate(1)
    assert refusal.value.data["available"] == 0


def test_an_allocation_belongs_to_its_order(plant: Plant) -> None:
    plant.receive(100)
    order = plant.order()
    got = plant.allocate(30, order_reference=order["number"])
    assert got["expires_at"] is None
    shown = plant.store.read(queries.get_order, order["id"])
    assert [(row["quantity"], row["state"]) for row in shown["allocations"]] == [(30, "active")]
    assert shown["version"] == order["version"] + 1


def test_another_clients_stock_is_refused(plant: Plant) -> None:
    other = plant.store.write(catalogue.add_client, name="Harbour Films")
    order = plant.order()
    with pytest.raises(WrongClient):
        plant.store.write(
            allocating.allocate_stock,
            product_id=plant.product_id,
            client_id=other["id"],
            quantity=1,
            order_reference=order["number"],
            actor=MARA,
        )


def test_cancel_gives_back_exactly_once(plant: Plant) -> None:
    plant.receive(100)
    order = plant.order()
    plant.allocate(60, order_reference=order["number"])
    cancel = partial(orders.cancel_order, order_id=order["id"], actor=MARA)
    results = at_once([partial(store.write, cancel) for store in plant.stores(6)])
    assert [r["released_quantity"] for r in results if isinstance(r, dict)] == [60]
    assert plant.store.read(queries.list_stock)["items"][0]["on_hand"] == 100


def test_allocating_against_cancelling_leaves_nothing_behind(plant: Plant) -> None:
    """Whoever is first: no stock stays set aside for a cancelled order."""
    plant.receive(1000)
    for _ in range(5):
        order = plant.order()
        calls = [
            partial(plant.allocate, 10, store, order_reference=order["number"])
            for store in plant.stores(4)
        ]
        cancel = partial(orders.cancel_order, order_id=order["id"], actor=MARA)
        results = at_once([*calls, partial(plant.other.write, cancel)])
        refused(results, OrderClosed)
    (row,) = plant.store.read(queries.list_stock)["items"]
    assert (row["on_hand"], row["reserved"]) == (1000, 0)


def test_what_is_delivered_is_used_up(plant: Plant) -> None:
    plant.receive(100)
    order = plant.order()
    plant.allocate(60, order_reference=order["number"])
    path = ["order_entered", "paper_slitting", "winding", "finishing", "delivery", "invoicing"]
    for before, after in pairwise(path):
        plant.store.write(
            orders.move_stage,
            order_id=order["id"],
            from_stage=before,
            to_stage=after,
            actor=MARA,
        )
    (row,) = plant.store.read(queries.list_stock)["items"]
    assert (row["on_hand"], row["reserved"]) == (40, 0)


def test_a_reservation_is_given_back_exactly_once(plant: Plant) -> None:
    plant.receive(100)
    kept = plant.allocate(10)["allocation_id"]
    due = [plant.allocate(10, reservation_s=-1)["allocation_id"] for _ in range(4)]
    assert plant.store.read(queries.list_stock)["items"][0]["on_hand"] == 50

    async def sweep_twice() -> int:
        async with AsyncStore(plant.url) as one, AsyncStore(plant.url) as two:
            return sum(await asyncio.gather(sweep_once(one), sweep_once(two)))

    release = partial(stock.release_allocation, allocation_id=due[0], actor=MARA)
    results = at_once(
        [
            lambda: asyncio.run(sweep_twice()),
            lambda: asyncio.run(sweep_twice()),
            partial(plant.store.write, release),
        ]
    )
    lost = refused(results, AllocationMoved)
    assert sum(count for count in results if isinstance(count, int)) == 3 + len(lost)
    (row,) = plant.store.read(queries.list_stock)["items"]
    assert (row["on_hand"], row["reserved"]) == (90, 10)
    states = plant.store.read(queries.list_allocations, state=None)["items"]
    assert [r["id"] for r in states if r["state"] == "active"] == [kept]


def test_the_sweep_takes_bounded_batches(plant: Plant) -> None:
    plant.receive(100)
    for _ in range(5):
        plant.allocate(1, reservation_s=-1)
    assert len(plant.store.read(stock.due_reservations, limit=3)) == 3
    later = utcnow() + timedelta(hours=1)
    plant.allocate(1)
    assert len(plant.store.read(stock.due_reservations, now=later)) == 6


def test_an_answer_is_shaped_as_documented(plant: Plant) -> None:
    plant.receive(100)
    schemas.Allocated.model_validate(plant.allocate(10), strict=True)
    schemas.StockPage.model_validate(plant.store.read(queries.list_stock), strict=True)
    page = plant.store.read(queries.list_allocations)
    schemas.ReservationPage.model_validate(page, strict=True)
