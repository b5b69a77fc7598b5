"""Orders: numbers without a gap, stages that move once, cancel and delete."""

from __future__ import annotations

import re
from functools import partial
from itertools import pairwise

import pytest

from crowdsafe import next_number
from crowdsafe.errors import AlreadyMoved, ForbiddenTransition, InvalidInput, NotFound, StaleVersion
from crowdsafe.store.types import utcnow
from crowdsafe.systems.factory import schemas
from crowdsafe.systems.factory.errors import AlreadyInvoiced, OrderClosed, StageMoved
from crowdsafe.systems.factory.operations import invoices, orders, queries
from tests.systems.factory.plant import MARA, TOMAS, Plant, at_once, broken, refused


def test_an_order_takes_price_name_and_contact_from_what_is_known(plant: Plant) -> None:
    order = plant.order(1000, 5)
    schemas.Order.model_validate(order)
    assert re.fullmatch(r"ADM-\d{4}-0001", order["number"])
    assert (order["contact_name"], order["version"]) == ("Jane Roe", 1)
    assert [item["unit_price_cents"] for item in order["items"]] == [74, 74]
    assert order["subtotal_cents"] == 1005 * 74
    assert order["gst_cents"] == 7437
    assert order["total_cents"] == 81807


def test_numbers_have_no_gap_when_entered_at_once(plant: Plant) -> None:
    calls = [partial(plant.order, 5, store=store) for store in plant.stores(16)]
    calls[3] = partial(plant.store.write, _failing_half_way, plant)
    results = at_once(calls)
    refused(results, ZeroDivisionError)
    numbers = [result["number"][-4:] for result in results if isinstance(result, dict)]
    assert sorted(numbers) == [f"{number:04d}" for number in range(1, 16)]
    assert broken(plant.url) == []


def _failing_half_way(session, plant):  # type: ignore[no-untyped-def]
    orders.create_order(
        session,
        client_id=plant.client_id,
        items=[{"product_id": plant.product_id, "quantity": 1}],
        actor=MARA,
    )
    return 1 // 0


def test_a_deleted_number_is_not_used_again(plant: Plant) -> None:
    first = plant.order()
    plant.receive(100)
    plant.allocate(60, order_reference=first["number"])
    plant.store.write(orders.delete_order, order_id=first["id"], actor=MARA)
    assert plant.order()["number"].endswith("-0002")
    assert plant.store.read(queries.list_stock)["items"][0]["on_hand"] == 100
    with pytest.raises(NotFound):
        plant.store.read(queries.get_order, first["id"])


def test_numbers_go_on_past_9999(plant: Plant) -> None:
    year = str(utcnow().year)
    plant.order()
    for _ in range(3):  # the counter, moved on by ten thousand
        plant.store.write(_skip, year, 4000)
    assert plant.order()["number"] == f"ADM-{year}-12002"
    plant.store.write(_skip, year, -12000)
    plant.store.write(_renumber, f"ADM-{year}-12002", f"ADM-{year}-0002")


def _skip(session, year, count):  # type: ignore[no-untyped-def]
    from crowdsafe.writes.tables import Counter

    next_number(session, "factory.order", scope=year)
    row = session.get(Counter, ("factory.order", year), populate_existing=True)
    row.value += count - 1


def _renumber(session, before, after):  # type: ignore[no-untyped-def]
    from crowdsafe.systems.factory.models import Order

    session.query(Order).filter_by(number=before).one().number = after


def test_delete_needs_the_version_that_was_seen(plant: Plant) -> None:
    order = plant.order()
    with pytest.raises(StaleVersion):
        plant.store.write(orders.delete_order, order_id=order["id"], version=9, actor=MARA)
    plant.store.write(orders.delete_order, order_id=order["id"], version=1, actor=MARA)


def test_only_an_entered_order_is_deleted(plant: Plant) -> None:
    order = plant.order()
    _move(plant, order["id"], "order_entered", "paper_slitting")
    with pytest.raises(OrderClosed):
        plant.store.write(orders.delete_order, order_id=order["id"], actor=MARA)


def test_the_same_move_twice_is_one_move(plant: Plant) -> None:
    order = plant.order()
    call = partial(
        orders.move_stage,
        order_id=order["id"],
        from_stage="order_entered",
        to_stage="paper_slitting",
        actor=MARA,
    )
    results = at_once([partial(store.write, call) for store in plant.stores(8)])
    lost = refused(results, StageMoved)
    assert len(lost) == 7
    assert {error.data["current"] for error in lost} == {"paper_slitting"}
    assert {error.data["by"] for error in lost} == {"Mara Lindqvist"}
    log = plant.store.read(queries.get_order, order["id"])["stage_log"]
    assert [(row["from_stage"], row["to_stage"]) for row in log] == [
        ("order_entered", "paper_slitting")
    ]


def test_two_relative_moves_never_skip_a_stage(plant: Plant) -> None:
    order = plant.order()
    for before, after in pairwise(schemas.STAGES):
        call = partial(
            orders.move_stage, order_id=order["id"], from_stage=before, move="next", actor=TOMAS
        )
        results = at_once([partial(store.write, call) for store in plant.stores(4)])
        assert len(refused(results, AlreadyMoved)) == 3
        assert plant.store.read(queries.get_order, order["id"])["stage"] == after
    log = plant.store.read(queries.get_order, order["id"])["stage_log"]
    assert [row["to_stage"] for row in log] == list(schemas.STAGES[1:])


def test_stages_move_along_their_edges_only(plant: Plant) -> None:
    order = plant.order()
    with pytest.raises(ForbiddenTransition):
        _move(plant, order["id"], "order_entered", "winding")
    for wrong in ({"to_stage": "winding", "move": "next"}, {}, {"to_stage": "cancelled"}):
        with pytest.raises(InvalidInput):
            plant.store.write(
                orders.move_stage,
                order_id=order["id"],
                from_stage="order_entered",
                actor=MARA,
                **wrong,
            )
    with pytest.raises(NotFound):
        _move(plant, 999, "winding", "finishing")


def test_what_is_invoiced_is_not_cancelled(plant: Plant) -> None:
    order = plant.order()
    invoice = plant.store.write(invoices.invoice_order, order_id=order["id"], actor=MARA)
    with pytest.raises(AlreadyInvoiced) as refusal:
        plant.store.write(orders.cancel_order, order_id=order["id"], actor=MARA)
    assert refusal.value.data["invoice_number"] == invoice["number"]


def test_an_order_of_too_much_money_is_refused(plant: Plant) -> None:
    item = {
        "product_id": plant.product_id,
        "quantity": schemas.ITEM_QUANTITY_MAX,
        "unit_price_cents": schemas.PRICE_CENTS_MAX,
    }
    with pytest.raises(InvalidInput):
        plant.store.write(orders.create_order, client_id=plant.client_id, items=[item], actor=MARA)


def test_lists_page_without_a_gap_or_a_repeat(plant: Plant) -> None:
    ids = [plant.order()["id"] for _ in range(5)]
    seen, cursor = [], None
    while True:
        page = plant.store.read(queries.list_orders, cursor=cursor, limit=2)
        schemas.OrderPage.model_validate(page)
        seen += [row["id"] for row in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ids[::-1]
    assert plant.store.read(queries.list_orders, search="jane r")["items"]
    assert not plant.store.read(queries.list_orders, search="100%")["items"]
    assert not plant.store.read(queries.list_orders, stage="winding")["items"]


def _move(plant: Plant, order_id: int, before: str, after: str) -> None:
    plant.store.write(
        orders.move_stage, order_id=order_id, from_stage=before, to_stage=after, actor=MARA
    )
