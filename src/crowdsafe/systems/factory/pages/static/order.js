/**
 * One order: the editor with its stale badge and conflict dialog, and beside it the
 * stage, invoices and stock, which follow what the others do.
 */

import { get, Submission } from "../api.js";
import "../conflict-dialog.js";
import { announce, pageData, setText, showMessage } from "../dom.js";
import { formats } from "../format.js";
import { coalesce, live } from "../live.js";
import { merge, same } from "../merge.js";
import { fill } from "../rows.js";
import { cents, dollars, pieces, run } from "./forms.js";
import { showAround, showMoves } from "./order-around.js";
import { FIELDS, flat, patch, PARTS, withGone } from "./order-record.js";

const { editing, priorities } = pageData("page-data");
const GST_PERCENT = 10;
const firstName = (name) => name.split(" ")[0];
const byId = (id) => document.getElementById(id);

let order = pageData("order-data"); // as the server has it, as far as this page knows
let started = order; // what the editor started from
let addedCount = 0;
const path = `/factory/api/orders/${order.id}`;
const editor = byId("editor");
const items = byId("items");

// --- the form as a record ----------------------------------------------------------------

const read = {
  description: (text) => text.trim(),
  quantity: (text) => pieces(text),
  unit_price_cents: (text) => cents(text),
};
const write = { description: (v) => v, quantity: (v) => String(v), unit_price_cents: dollars };
const partOf = (row, part) => row.querySelector(`[data-part=${part}]`);
const rowOf = (id) => items.querySelector(`tr[data-item="${CSS.escape(String(id))}"]`);

/** What the editor holds now. Throws when a number cannot be read. */
function yours() {
  const record = {};
  for (const name of FIELDS) record[name] = editor.elements[name].value;
  record.due_date ||= null;
  for (const name of FIELDS) {
    // White space at the ends is nobody's change: the server does not store it.
    if (typeof record[name] === "string" && record[name].trim() === (started[name] ?? "").trim()) {
      record[name] = started[name];
    }
  }
  for (const item of started.items) {
    const row = rowOf(item.id);
    for (const part of PARTS) {
      record[`items.${item.id}.${part}`] = row ? read[part](partOf(row, part).value) : null;
    }
  }
  return record;
}

/** Items that were added here: {"items.new-1": {...}}. */
function added() {
  const found = {};
  for (const row of items.querySelectorAll("tr[data-product]")) {
    found[`items.${row.dataset.item}`] = {
      product_id: Number(row.dataset.product),
      ...Object.fromEntries(PARTS.map((part) => [part, read[part](partOf(row, part).value)])),
    };
  }
  return found;
}

function addRow(item) {
  const row = byId("item-row").content.firstElementChild.cloneNode(true);
  row.dataset.item = item.id;
  fill(row, item);
  for (const part of PARTS) partOf(row, part).value = write[part](item[part]);
  items.append(row);
  return row;
}

const setControl = (control, value) => {
  if (control.value !== value) control.value = value;
};

/** Puts a record into the form, touching only controls whose value differs. */
function show(record, from) {
  for (const name of FIELDS) setControl(editor.elements[name], record[name] ?? "");
  const wanted = new Map(from.items.map((item) => [String(item.id), item]));
  for (const row of [...items.children]) {
    const id = row.dataset.item;
    const gone = record[`items.${id}.quantity`] === null || !wanted.has(id);
    if (!row.dataset.product && gone) row.remove();
  }
  for (const item of from.items) {
    if (record[`items.${item.id}.quantity`] === null) continue;
    const row = rowOf(item.id) ?? addRow(item);
    fill(row, item);
    for (const part of PARTS) setControl(partOf(row, part), write[part](record[`items.${item.id}.${part}`]));
  }
}

/** Amounts and totals of what the form holds now; a number that cannot be read counts as it was. */
function showTotals() {
  let subtotal = 0;
  for (const row of items.children) {
    const was = started.items.find((item) => String(item.id) === row.dataset.item);
    const number = (part) => {
      try {
        return read[part](partOf(row, part).value);
      } catch {
        return was?.[part] ?? 0;
      }
    };
    const amount = number("quantity") * number("unit_price_cents");
    setText(row.querySelector("[data-text=amount_cents]"), formats.money(amount));
    subtotal += amount;
  }
  const gst = Math.floor((subtotal * GST_PERCENT + 50) / 100);
  setText(byId("subtotal"), formats.money(subtotal));
  setText(byId("gst"), formats.money(gst));
  setText(byId("total"), formats.money(subtotal + gst));
}

/** The editor starts again from `next`, holding `record`. */
function startFrom(next, record = flat(next)) {
  started = next;
  show(record, next);
  setText(byId("version"), next.version);
  byId("stale").hidden = true;
  showTotals();
}

function dropAdded() {
  for (const row of items.querySelectorAll("tr[data-product]")) row.remove();
}

// --- the others --------------------------------------------------------------------------

let saving = false;

/** Takes in what the server has now. */
const refresh = coalesce(async () => {
  const next = await get(path);
  if (next.version < order.version) return;
  const moved = next.stage !== order.stage;
  order = next;
  showAround(order, refresh);
  if (moved) announce(`The order is now in ${formats.label(order.stage).toLowerCase()}.`);
  if (!saving) compare();
});

/** Whether the editor is behind, and says so. A version without a change of its fields is not. */
function compare() {
  if (order.version <= started.version) return;
  const theirs = withGone(flat(order), flat(started));
  if (same(theirs, flat(started))) {
    started = order;
    setText(byId("version"), order.version);
    return;
  }
  const who = firstName(order.updated_by_name);
  setText(byId("stale-text"), `${who} saved version ${order.version} while you were editing version ${started.version}.`);
  if (editing) setText(byId("bring-in"), `Bring in ${who}’s changes`);
  byId("stale").hidden = false;
  if (!editing) startFrom(order);
}

live().on("order.changed", (event) => {
  if (event.id === order.id && event.version > order.version) refresh();
});
live().on("order.deleted", (event) => {
  if (event.id !== order.id) return;
  showMessage(byId("stage-message"), "refused", `${event.by} deleted this order.`);
});
live().onResync(refresh);

// --- saving ------------------------------------------------------------------------------

const FIELD_VIEWS = {
  due_date: { kind: "date", format: formats.day, edit: (v) => v, parse: (text) => text || null },
  priority: { kind: "select", options: priorities },
  notes: { kind: "textarea" },
};
const PART_VIEWS = {
  quantity: { label: "pieces", format: String, parse: pieces },
  unit_price_cents: { label: "price each", format: formats.money, edit: dollars, parse: cents },
  description: { label: "description", parse: (text) => text },
};

/** The fields as the conflict dialog shows them. */
function views(record) {
  const codes = new Map([...started.items, ...order.items].map((item) => [String(item.id), item.product_code]));
  return Object.keys(record).map((name) => {
    const [, id, part] = /^items\.(\d+)\.(\w+)$/.exec(name) ?? [];
    if (part) return { name, ...PART_VIEWS[part], label: `${codes.get(id)} ${PART_VIEWS[part].label}` };
    const label = document.querySelector(`label[for="${name}"]`).textContent;
    return { name, label, parse: (text) => text, ...FIELD_VIEWS[name] };
  });
}

/**
 * Asks what to keep of `mine` and of the version `shown`, which may be older than `order`
 * by the time of the answer. Returns the record to save, or null for "Keep editing".
 */
async function decide(mine, shown) {
  const base = flat(started);
  const theirs = withGone(flat(shown), base);
  return byId("conflict").decide({
    by: firstName(shown.updated_by_name),
    baseVersion: started.version,
    version: shown.version,
    fields: views({ ...base, ...theirs }),
    base,
    yours: mine,
    theirs,
  });
}

const submission = new Submission();

/** Saves; on a conflict asks, and saves the decision against the newest version. */
async function save() {
  let from = started;
  let mine = yours();
  for (;;) {
    const body = patch(withGone(flat(from), mine), mine, added());
    if (!body) return "Nothing to save: you changed nothing.";
    try {
      const { data } = await submission.send("PATCH", path, { ...body, version: from.version });
      const others = data.merged ? `, together with what ${firstName(order.version > from.version ? order.updated_by_name : "the others")} had changed` : "";
      order = data.order;
      dropAdded();
      startFrom(order);
      showAround(order, refresh);
      return `Saved as version ${order.version}${others}.`;
    } catch (problem) {
      if (problem.status !== 409 || !problem.data.conflicts) throw problem;
    }
    const shown = await get(path);
    order = shown;
    showAround(order, refresh);
    const decided = await decide(mine, shown);
    if (!decided) return "Not saved. Your values are still here.";
    from = shown;
    mine = decided;
  }
}

async function bringIn() {
  const mine = yours();
  const base = flat(started);
  const shown = order;
  const { merged, conflicts } = merge(base, mine, withGone(flat(shown), base));
  if (Object.keys(conflicts).length === 0) {
    startFrom(shown, merged);
    return `You are editing version ${shown.version} now; your own changes are kept and not saved yet.`;
  }
  const decided = await decide(mine, shown);
  if (!decided) return "";
  startFrom(shown, decided);
  return save();
}

async function whileSaving(control, work) {
  saving = true;
  try {
    await run(control, byId("editor-message"), work);
  } finally {
    saving = false;
    compare();
  }
}

if (editing) {
  editor.addEventListener("submit", (event) => {
    event.preventDefault();
    whileSaving(editor, save);
  });
  items.addEventListener("input", showTotals);
  byId("bring-in").addEventListener("click", (event) => whileSaving(event.currentTarget, bringIn));
  byId("revert").addEventListener("click", () => {
    dropAdded();
    startFrom(order);
    showMessage(byId("editor-message"), "ok", "");
  });
  items.addEventListener("click", (event) => {
    const button = event.target.closest("[data-action=remove]");
    if (!button) return;
    button.closest("tr").remove();
    showTotals();
    byId("add-product").focus();
  });
  byId("add-product").addEventListener("change", (event) => {
    const { code, name, price } = event.target.selectedOptions[0].dataset;
    if (!event.target.value) return;
    addedCount += 1;
    const row = addRow({ id: `new-${addedCount}`, product_code: code, description: name, quantity: 1, unit_price_cents: Number(price), amount_cents: Number(price), invoiced_quantity: 0 });
    row.dataset.product = event.target.value;
    event.target.value = "";
    showTotals();
    partOf(row, "quantity").select();
  });
} else {
  for (const input of items.querySelectorAll("input")) input.readOnly = true;
}
// A browser that comes back to this page may have filled in what it held before; saved against
// the newer version, that would undo what the others did in between.
startFrom(order);
showMoves(order, refresh);
