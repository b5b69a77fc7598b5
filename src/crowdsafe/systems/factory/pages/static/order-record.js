/**
 * An order as one flat record of the fields that can be edited, the shape in which the
 * API merges: "notes", "items.7.quantity". An item that was removed has null fields.
 */

import { same } from "../merge.js";

export const FIELDS = ["contact_name", "purchase_order", "priority", "due_date", "delivery_address", "notes"];
export const PARTS = ["description", "quantity", "unit_price_cents"];

export function flat(order) {
  const record = {};
  for (const name of FIELDS) record[name] = order[name];
  for (const item of order.items) {
    for (const part of PARTS) record[`items.${item.id}.${part}`] = item[part];
  }
  return record;
}

/** `record` with null for every item field of `other` that it lacks: those items are gone. */
export function withGone(record, other) {
  const whole = { ...record };
  for (const name of Object.keys(other)) if (!Object.hasOwn(whole, name)) whole[name] = null;
  return whole;
}

const itemOf = (name) => /^items\.(\d+)\./.exec(name)?.[1];

/**
 * The body of a PATCH that makes `yours` out of `base`; null when they are equal.
 * All fields of an item gone means that the item is removed.
 */
export function patch(base, yours, added = {}) {
  const changes = { ...added };
  const started = {};
  const removed = new Set();
  for (const [name, value] of Object.entries(yours)) {
    const item = itemOf(name);
    if (item && value === null && !same(base[name] ?? null, null)) removed.add(item);
  }
  for (const [name, value] of Object.entries(yours)) {
    if (removed.has(itemOf(name)) || same(base[name] ?? null, value)) continue;
    changes[name] = value;
    started[name] = base[name] ?? null;
  }
  for (const item of removed) {
    changes[`items.${item}`] = null;
    started[`items.${item}`] = Object.fromEntries(PARTS.map((part) => [part, base[`items.${item}.${part}`]]));
  }
  return Object.keys(changes).length ? { base: started, changes } : null;
}
