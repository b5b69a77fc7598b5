"""Setting stock aside, for an order or for a while: the plant's hottest write.

Reservations of one stock row that come at the same time are done together: the row is read and
written once, and movements, allocations and events go in by one statement each.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import Table, bindparam, select
from sqlalchemy.orm import Session

from crowdsafe.errors import CrowdsafeError, Insufficient, NotFound
from crowdsafe.store.options import Call, combined_by, options_of
from crowdsafe.store.types import utcnow
from crowdsafe.systems.factory.errors import InsufficientStock, OrderClosed, WrongClient
from crowdsafe.systems.factory.models import Allocation, Order, Stock
from crowdsafe.systems.factory.operations.common import (
    Actor,
    iso,
    lock_order,
    tell_all,
    tell_order,
    touch,
)
from crowdsafe.systems.factory.operations.stock import (
    OPEN_FOR_STOCK,
    require_known,
    stock_news,
    tell_stock,
)
from crowdsafe.writes import Taken, take
from crowdsafe.writes.bulk import insert_rows

RESERVATION_S = 30 * 60
"""Seconds that a reservation without an order lasts."""

_ORDER_NUMBER = re.compile(r"ADM-\d{4}-\d{4,}")
_TABLE = cast(Table, Allocation.__table__)
_ASKED = {"product_id", "client_id", "quantity", "actor"}
_FIND = select(Stock.id).where(
    Stock.client_id == bindparam("the_client"), Stock.product_id == bindparam("the_product")
)


class _ReservationsTogether:
    """Reservations of one stock row, decided in the order of the calls by `take`'s own combiner.

    An allocation for an order locks that order too, and goes alone.
    """

    def lane(self, call: Call) -> Hashable | None:
        if call.args or not call.kwargs.keys() >= _ASKED or call.kwargs.get("order_reference"):
            return None
        return ("factory.stock", call.kwargs["client_id"], call.kwargs["product_id"])

    def run(self, session: Session, calls: Sequence[Call]) -> list[Any]:
        pair = {name: calls[0].kwargs[name] for name in ("product_id", "client_id")}
        asked = [call.kwargs["quantity"] for call in calls]
        stock_id = _stock_id(session, **pair)
        if stock_id is None:
            unknown = _unknown(session, **pair)
            return [unknown or _short(0, quantity, **pair) for quantity in asked]
        outcomes = _take_all(session, stock_id, calls)
        answers: list[Any] = [
            None if isinstance(outcome, Taken) else _refusal(outcome, quantity, **pair)
            for outcome, quantity in zip(outcomes, asked, strict=True)
        ]
        won = [(i, taken) for i, taken in enumerate(outcomes) if isinstance(taken, Taken)]
        if not won:
            return answers
        now = utcnow()
        rows = [_row(taken, calls[i].kwargs, None, now) for i, taken in won]
        ids = insert_rows(session.connection(), _TABLE, rows)
        tell_all(session, "stock.changed", [_news(calls[i], taken) for i, taken in won])
        for (i, taken), row, allocation_id in zip(won, rows, ids, strict=True):
            answers[i] = _answer(taken, row, allocation_id)
        return answers


@combined_by(_ReservationsTogether())
def allocate_stock(
    session: Session,
    *,
    product_id: int,
    client_id: int,
    quantity: int,
    actor: Actor,
    order_reference: str | None = None,
    reservation_s: float = RESERVATION_S,
) -> dict[str, Any]:
    """Set stock aside: for the order that `order_reference` numbers, or as a reservation.

    A reservation gives its stock back by itself after `reservation_s` seconds; a reference
    that is no order's number is its label. Raises InsufficientStock (`available`), NotFound
    (product, client, order), OrderClosed, WrongClient.

    Holds, at read committed: on_hand never falls below zero (one conditional UPDATE decides, or
    for calls that are done together one decision under the row's lock); on_hand, movement and
    allocation change together or not at all; no stock goes to an order that was cancelled or
    deleted meanwhile (the order's row is locked first).
    Does not hold: a repeat allocates again, unless it carries the same Idempotency-Key.
    Test: test_two_allocations_of_80_from_100, test_a_crowd_gets_what_there_is_and_no_more,
    test_nothing_is_lost_or_doubled_by_5_kills.
    """
    order = _order_for(session, order_reference, client_id) if order_reference else None
    pair = {"product_id": product_id, "client_id": client_id}
    asked = {"actor": actor, "order_reference": order_reference, "reservation_s": reservation_s}
    stock_id = _stock_id(session, **pair)
    if stock_id is None:
        raise _unknown(session, **pair) or _short(0, quantity, **pair)
    try:
        taken = take(session, Stock.on_hand, quantity, where=stock_id, entry=_entry(asked))
    except Insufficient as error:
        raise _refusal(error, quantity, **pair) from error
    row = _row(taken, asked, order, utcnow())
    (allocation_id,) = insert_rows(session.connection(), _TABLE, [row])
    told = {"reserved_delta": quantity, "order_id": row["order_id"]}
    tell_stock(session, stock_id, (client_id, product_id), taken, "allocation", actor, **told)
    if order is not None:
        touch(order, actor)
        tell_order(session, order, "allocated", actor)
    return _answer(taken, row, allocation_id)


def _take_all(session: Session, stock_id: int, calls: Sequence[Call]) -> list[Any]:
    """A Taken or a refusal for each call."""
    combiner = options_of(take).combiner
    assert combiner is not None
    takes = [
        Call(
            (Stock.on_hand, call.kwargs["quantity"]),
            {"where": stock_id, "entry": _entry(call.kwargs)},
        )
        for call in calls
    ]
    return combiner.run(session, takes)


def _entry(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The further columns of the movement."""
    return {
        "kind": "allocation",
        "reference": asked.get("order_reference") or "",
        "by": asked["actor"].username,
    }


def _row(
    taken: Taken, asked: Mapping[str, Any], order: Order | None, now: datetime
) -> dict[str, Any]:
    """The allocation's columns."""
    lasts_s = asked.get("reservation_s", RESERVATION_S)
    return {
        "stock_id": taken.key,
        "quantity": taken.quantity,
        "state": "active",
        "order_id": order.id if order else None,
        "reference": asked.get("order_reference") or "",
        "expires_at": None if order else now + timedelta(seconds=lasts_s),
        "movement_id": taken.entry_id,
        "by": asked["actor"].username,
        "at": now,
    }


def _answer(taken: Taken, row: Mapping[str, Any], allocation_id: int) -> dict[str, Any]:
    return {
        "allocated_quantity": taken.quantity,
        "remaining_stock": taken.balance,
        "movement_id": taken.entry_id,
        "allocation_id": allocation_id,
        "order_reference": row["reference"] or None,
        "expires_at": iso(row["expires_at"]),
    }


def _news(call: Call, taken: Taken) -> tuple[dict[str, Any], Actor]:
    pair = (call.kwargs["client_id"], call.kwargs["product_id"])
    told = stock_news(taken.key, pair, taken, "allocation", reserved_delta=taken.quantity)
    return told, call.kwargs["actor"]


def _stock_id(session: Session, *, product_id: int, client_id: int) -> int | None:
    names = {"the_client": client_id, "the_product": product_id}
    return session.connection().execute(_FIND, names).scalar_one_or_none()


def _unknown(session: Session, *, product_id: int, client_id: int) -> NotFound | None:
    """NotFound when product or client do not exist; None when there is merely no stock yet."""
    try:
        require_known(session, product_id=product_id, client_id=client_id)
    except NotFound as unknown:
        return unknown
    return None


def _refusal(error: CrowdsafeError, quantity: int, **pair: int) -> CrowdsafeError:
    return _short(error.available, quantity, **pair) if isinstance(error, Insufficient) else error


def _short(available: int, quantity: int, **pair: int) -> InsufficientStock:
    return InsufficientStock(
        f"{available} pieces are left and {quantity} were asked for; ask for at most {available}, "
        "or wait until stock is received.",
        available=available,
        requested=quantity,
        **pair,
    )


def _order_for(session: Session, reference: str, client_id: int) -> Order | None:
    """The order that the reference numbers, locked; None for a mere label."""
    order_id = session.scalar(select(Order.id).where(Order.number == reference))
    if order_id is None:
        if _ORDER_NUMBER.fullmatch(reference):
            raise NotFound(f"There is no order {reference}.")
        return None
    order = lock_order(session, order_id)
    if order.stage not in OPEN_FOR_STOCK:
        raise OrderClosed(
            f"Order {order.number} is in stage {order.stage}: no stock can be set aside for it.",
            current=order.stage,
            number=order.number,
        )
    if order.client_id != client_id:
        raise WrongClient(
            f"Order {order.number} belongs to another client than this stock; "
            "allocate that client's stock.",
            client_id=order.client_id,
        )
    return order
