/** The table of orders: filter, new orders, and changes as they happen. */

import { get } from "../api.js";
import { el, setText, showMessage } from "../dom.js";
import { coalesce, live } from "../live.js";
import { Rows } from "../rows.js";
import { cents, id, onSubmit, pieces, values } from "./forms.js";

const API = "/factory/api";
const ITEMS_MAX = 100;

const body = document.getElementById("orders");
const filter = document.getElementById("filter");
const rows = new Rows(body, document.getElementById("order-row"), { max: 1000, after: hideUnwanted });

function matches(row) {
  const wanted = values(filter);
  const shown = (name) => row.querySelector(`[data-text=${name}]`)?.textContent ?? "";
  const stage = row.querySelector("[data-state-of=stage]").dataset.state;
  const priority = row.querySelector("[data-state-of=priority]").dataset.state;
  const text = `${shown("number")} ${shown("client")} ${shown("updated_by_name")}`.toLowerCase();
  return (
    (!wanted.stage || wanted.stage === stage) &&
    (!wanted.priority || wanted.priority === priority) &&
    (wanted.q ?? "").toLowerCase().split(/\s+/).every((word) => text.includes(word))
  );
}

function hideUnwanted(row) {
  row.hidden = !matches(row) && !row.contains(document.activeElement);
}

function countShown() {
  const shown = body.querySelectorAll(":scope > [data-key]:not([hidden])").length;
  setText(document.getElementById("order-count"), `${shown} shown`);
  document.getElementById("no-orders").hidden = shown > 0;
}

function applyFilter() {
  for (const row of body.querySelectorAll(":scope > [data-key]")) hideUnwanted(row);
  countShown();
  const query = new URLSearchParams(values(filter)).toString();
  history.replaceState(null, "", query ? `?${query}` : location.pathname);
}

filter.addEventListener("input", applyFilter);
filter.addEventListener("submit", (event) => {
  event.preventDefault();
  applyFilter();
});

// --- what the others do ----------------------------------------------------------------

const pending = new Map();
const refresh = coalesce(async () => {
  const wanted = [...pending.keys()];
  pending.clear();
  for (const key of wanted) {
    try {
      rows.put(await get(`${API}/orders/${key}`));
    } catch (problem) {
      if (problem.status !== 404) throw problem;
      rows.remove(key);
    }
  }
  countShown();
});

live().on("order.changed", (event) => {
  pending.set(event.id, true);
  refresh();
});
live().on("order.deleted", (event) => {
  rows.remove(event.id);
  countShown();
});
live().onResync(async () => {
  const page = await get(`${API}/orders?limit=200`);
  rows.replaceAll(page.items);
  showCursor(page.next_cursor);
  countShown();
});

// --- older ones ------------------------------------------------------------------------

const more = document.getElementById("more-orders");

function showCursor(cursor) {
  body.dataset.nextCursor = cursor ?? "";
  more.hidden = !cursor;
}

more.addEventListener("click", async () => {
  const page = await get(`${API}/orders?limit=200&cursor=${encodeURIComponent(body.dataset.nextCursor)}`);
  for (const order of page.items) rows.put(order, { atEnd: true, quiet: true });
  showCursor(page.next_cursor);
  countShown();
});

// --- a new one -------------------------------------------------------------------------

const form = document.getElementById("new-order");
const items = document.getElementById("new-items");

function addItem() {
  if (items.children.length >= ITEMS_MAX) return;
  const item = document.getElementById("new-item").content.firstElementChild.cloneNode(true);
  const part = (name) => item.querySelector(`[data-part=${name}]`);
  part("product_id").addEventListener("change", (event) => {
    part("unit_price_cents").value = event.target.selectedOptions[0]?.dataset.price ?? "";
  });
  item.querySelector("[data-action=remove]").addEventListener("click", () => {
    item.remove();
    if (items.children.length === 0) addItem();
    document.getElementById("add-item").focus();
  });
  items.append(item);
  return item;
}

function readItems() {
  return [...items.children].map((item) => {
    const part = (name) => item.querySelector(`[data-part=${name}]`).value;
    return {
      product_id: id(part("product_id"), "a product for each item"),
      quantity: pieces(part("quantity")),
      ...(part("unit_price_cents") && { unit_price_cents: cents(part("unit_price_cents")) }),
    };
  });
}

if (form) {
  addItem();
  document.getElementById("add-item").addEventListener("click", () => {
    addItem()?.querySelector("select").focus();
  });
  const message = document.getElementById("new-order-message");
  onSubmit(form, message, async (submission) => {
    const order = values(form);
    order.client_id = id(order.client_id, "a client");
    order.items = readItems();
    const { data } = await submission.send("POST", `${API}/orders`, order);
    rows.put(data);
    countShown();
    form.reset();
    items.replaceChildren();
    addItem();
    showMessage(message, "ok", "");
    message.append(el("a", { href: `/factory/orders/${data.id}` }, `Order ${data.number}`), " is entered.");
    message.className = "message message-ok";
    message.hidden = false;
    return "";
  });
}

applyFilter();
