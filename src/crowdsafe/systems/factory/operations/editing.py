"""Editing an order: a three-way merge over its fields and its items, under the order's lock."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import Any

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from crowdsafe import write
from crowdsafe.errors import InvalidInput
from crowdsafe.systems.factory.errors import EditConflict, ItemInvoiced, OrderClosed
from crowdsafe.systems.factory.models import CANCELLED, Order, OrderEdit, OrderItem
from crowdsafe.systems.factory.operations.common import (
    Actor,
    at,
    iso,
    lock_order,
    names_of,
    tell_order,
    touch,
)
from crowdsafe.systems.factory.operations.orders import check_subtotal, priced_items
from crowdsafe.systems.factory.operations.views import order_view
from crowdsafe.systems.factory.schemas import (
    ITEMS_MAX,
    Day,
    ItemQuantity,
    Line,
    NewItem,
    PriceCents,
    Priority,
    Prose,
)
from crowdsafe.writes import merge
from crowdsafe.writes.merge import same

EDITS_MAX = 200
"""How many past edits a conflict looks through for who changed a field."""

_FIELDS: dict[str, TypeAdapter[Any]] = {
    "contact_name": TypeAdapter(Line),
    "purchase_order": TypeAdapter(Line),
    "delivery_address": TypeAdapter(Line),
    "notes": TypeAdapter(Prose),
    "priority": TypeAdapter(Priority),
    "due_date": TypeAdapter(Day | None),
}
_ITEM_FIELDS: dict[str, TypeAdapter[Any]] = {
    "quantity": TypeAdapter(ItemQuantity),
    "unit_price_cents": TypeAdapter(PriceCents),
    "description": TypeAdapter(Line),
}
_ITEM = re.compile(r"items\.(\d{1,16})(?:\.([a-z_]+))?")
_NEW_ITEM = re.compile(r"items\.new-\d{1,6}")


@write(isolation="read committed")
def edit_order(
    session: Session,
    *,
    order_id: int,
    changes: Mapping[str, Any],
    base: Mapping[str, Any],
    version: int,
    actor: Actor,
) -> dict[str, Any]:
    """Merge an editor's changes into the order: `base` is what the editor started from.

    Keys are as in `schemas.EditOrder`. A value missing from `base` is the present one while
    `version` is the present version, and null otherwise. Raises EditConflict (each field's base,
    yours and theirs; version, by, at), InvalidInput, ItemInvoiced, OrderClosed, NotFound.

    Holds: what only one side changed is kept, from both sides; a field that both changed to
    different values is never overwritten; all of a save is applied or none of it. The order's
    row is locked before anything is compared.
    Does not hold: fields are compared one by one, so two edits that only make no sense together
    are both kept.
    Test: test_disjoint_fields_both_survive, test_the_same_field_conflicts.
    """
    order = lock_order(session, order_id)
    if version > order.version:
        raise InvalidInput(
            f"There is no version {version} yet; the order is at {order.version}.", field="version"
        )
    if order.stage in (CANCELLED, "cleared"):
        raise OrderClosed(
            f"Order {order.number} is {order.stage} and is kept as it is.",
            current=order.stage,
            number=order.number,
        )
    items = _items(session, order_id)
    wanted = _checked(changes)
    theirs = {key: _present(order, items, key) for key in wanted}
    started = _started(theirs if version == order.version else {}, base, wanted)
    outcome = merge(started, wanted, theirs)
    if outcome.conflicts:
        raise _conflict(session, order, version, outcome.conflicts)
    applied = [key for key in wanted if not same(outcome.merged[key], theirs[key])]
    merged = version != order.version
    if applied:
        _apply(session, order, items, {key: outcome.merged[key] for key in applied})
        touch(order, actor)
        session.add(
            OrderEdit(order_id=order_id, version=order.version, fields=applied, by=actor.username)
        )
        tell_order(session, order, "edited", actor, fields=applied)
    return {"order": order_view(session, order), "merged": merged, "applied": applied}


def _checked(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes with every value valid and as JSON. Raises InvalidInput."""
    wanted = {key: _checked_value(key, value) for key, value in changes.items()}
    for key in wanted:
        found = _ITEM.fullmatch(key)
        if found and found[2] and f"items.{found[1]}" in wanted:
            raise InvalidInput(f"{key}: the same save removes this item.", field=key)
    return wanted


def _checked_value(key: str, value: Any) -> Any:
    if key in _FIELDS:
        valid = _valid(key, _FIELDS[key], value)
        return iso(valid) if isinstance(valid, date) else valid
    if _NEW_ITEM.fullmatch(key):
        item: NewItem = _valid(key, TypeAdapter(NewItem), value)
        return item.model_dump()
    found = _ITEM.fullmatch(key)
    if found and found[2] is None:
        if value is not None:
            raise InvalidInput(f"{key}: null removes the item; else name a field.", field=key)
        return None
    if found and found[2] in _ITEM_FIELDS:
        return _valid(key, _ITEM_FIELDS[found[2]], value)
    raise InvalidInput(f"{key!r} is not a field that can be edited.", field=key[:80])


def _valid(key: str, adapter: TypeAdapter[Any], value: Any) -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        reason = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise InvalidInput(f"{key}: {reason}.", field=key) from error


def _started(
    present: Mapping[str, Any], base: Mapping[str, Any], wanted: Mapping[str, Any]
) -> dict[str, Any]:
    return {key: base.get(key, present.get(key)) for key in wanted}


def _items(session: Session, order_id: int) -> dict[int, OrderItem]:
    rows = session.scalars(
        select(OrderItem)
        .where(OrderItem.order_id == order_id)
        .order_by(OrderItem.id)
        .execution_options(populate_existing=True)
    )
    return {item.id: item for item in rows}


def _present(order: Order, items: Mapping[int, OrderItem], key: str) -> Any:
    """The value of a key now, as JSON; None for an item that is not there."""
    if key == "due_date":
        return iso(order.due_date)
    if key in _FIELDS:
        return getattr(order, key)
    found = _ITEM.fullmatch(key)
    item = items.get(int(found[1])) if found else None
    if item is None or found is None:
        return None
    if found[2]:
        return getattr(item, found[2])
    return {name: getattr(item, name) for name in _ITEM_FIELDS}


def _conflict(
    session: Session,
    order: Order,
    version: int,
    conflicts: Mapping[str, tuple[Any, Any, Any]],
) -> EditConflict:
    """The refusal, with who last changed each field since the editor's version, and when."""
    edits = session.scalars(
        select(OrderEdit)
        .where(OrderEdit.order_id == order.id, OrderEdit.version > version)
        .order_by(OrderEdit.id.desc())
        .limit(EDITS_MAX)
    ).all()
    names = names_of(session, [*(edit.by for edit in edits), order.updated_by])
    fields: dict[str, dict[str, Any]] = {}
    for key, (base, yours, theirs) in conflicts.items():
        last = next((edit for edit in edits if _touches(edit.fields, key)), None)
        fields[key] = {"base": base, "yours": yours, "theirs": theirs}
        fields[key]["by"] = names[last.by] if last else None
        fields[key]["at"] = at(last.at) if last else None
    newest = next((e for e in edits if any(_touches(e.fields, key) for key in fields)), None)
    username = newest.by if newest else order.updated_by
    return EditConflict(
        f"{names[username]} saved other values for {', '.join(fields)} of order {order.number}, "
        f"which is at version {order.version} now; choose a value for each, then save again.",
        conflicts=fields,
        version=order.version,
        by=names[username],
        username=username,
        at=at(newest.at if newest else order.updated_at),
    )


def _touches(edited: list[str], key: str) -> bool:
    """Whether an edit of these fields changed `key`, or an item that it is a part of or holds."""
    return any(
        field == key or field.startswith(f"{key}.") or key.startswith(f"{field}.")
        for field in edited
    )


def _apply(
    session: Session, order: Order, items: dict[int, OrderItem], values: Mapping[str, Any]
) -> None:
    for key, value in values.items():
        if key in _FIELDS:
            dated = key == "due_date" and value is not None
            setattr(order, key, date.fromisoformat(value) if dated else value)
        elif _NEW_ITEM.fullmatch(key):
            line = priced_items(session, [value])[0]
            line.order_id = order.id
            session.add(line)
            session.flush()
            items[line.id] = line
        else:
            _apply_to_item(session, items, key, value)
    if not items:
        raise InvalidInput("An order keeps at least one item; cancel it instead.", field="items")
    if len(items) > ITEMS_MAX:
        raise InvalidInput(f"An order has at most {ITEMS_MAX} items.", field="items")
    check_subtotal(item.quantity * item.unit_price_cents for item in items.values())
    session.flush()


def _apply_to_item(session: Session, items: dict[int, OrderItem], key: str, value: Any) -> None:
    found = _ITEM.fullmatch(key)
    item = items.get(int(found[1])) if found else None
    if item is None or found is None:
        raise InvalidInput(f"{key}: this order has no such item.", field=key)
    name = found[2]
    if item.invoiced_quantity and (name != "quantity" or value < item.invoiced_quantity):
        raise ItemInvoiced(
            f"{item.invoiced_quantity} pieces of item {item.id} are invoiced: it can grow, but "
            "not be removed, changed or cut below that.",
            item_id=item.id,
            invoiced_quantity=item.invoiced_quantity,
        )
    if name is None:
        session.delete(items.pop(item.id))
    else:
        setattr(item, name, value)
