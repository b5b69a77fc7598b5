/** The table of orders: filter, new orders, and changes as they happen. */

import { get } from "../api.js";
import { announce, el, pageData, setText, showMessage } from "../dom.js";
import { coalesce, follow, live } from "../live.js";
import { Rows } from "../rows.js";
import { cents, id, onPress, onSubmit, pieces, values } from "./forms.js";

const API = "/factory/api";
const ITEMS_MAX = 100;

const SEARCH_PAUSE_MS = 250;

const body = document.getElementById("orders");
const filter = document.getElementById("filter");
const rows = new Rows(body, document.getElementById("order-row"), { max: 1000, after: hideUnwanted });

// --- the filter: at once on the rows that are here, a moment later on all of them ---------

function matches(order) {
  const wanted = values(filter);
  const text = [order.number, order.client, order.contact_name, order.purchase_order].join(" ").toLowerCase();
  return (
    (!wanted.stage || wanted.stage === order.stage) &&
    (!wanted.priority || wanted.priority === order.priority) &&
    text.includes((wanted.q ?? "").trim().toLowerCase())
  );
}

const known = new Map(pageData("orders-data").map((order) => [order.id, order]));

function hideUnwanted(row, order) {
  known.set(order.id, order);
  row.hidden = !matches(order) && !row.contains(document.activeElement);
}

function countShown() {
  const shown = body.querySelectorAll(":scope > [data-key]:not([hidden])").length;
  setText(document.getElementById("order-count"), `${shown} shown`);
  document.getElementById("no-orders").hidden = shown > 0;
}

function query(cursor = "") {
  const wanted = values(filter);
  const found = new URLSearchParams({ limit: "200" });
  for (const [name, value] of [["search", wanted.q], ["stage", wanted.stage], ["priority", wanted.priority], ["cursor", cursor]]) {
    if (value) found.set(name, value);
  }
  return `${API}/orders?${found}`;
}

const reload = coalesce(async () => {
  const page = await get(query());
  rows.replaceAll(page.items);
  showCursor(page.next_cursor);
  countShown();
});

async function search() {
  await reload();
  announce(`${document.getElementById("order-count").textContent}.`);
}

let pause = null;

filter.addEventListener("input", () => {
  for (const row of body.querySelectorAll(":scope > [data-key]")) hideUnwanted(row, known.get(Number(row.dataset.key)));
  countShown();
  const shown = new URLSearchParams(values(filter)).toString();
  history.replaceState(null, "", shown ? `?${shown}` : location.pathname);
  clearTimeout(pause);
  pause = setTimeout(search, SEARCH_PAUSE_MS);
});
filter.addEventListener("submit", (event) => {
  event.preventDefault();
  search();
});

// --- what the others do ----------------------------------------------------------------

const refresh = follow(async (key) => {
  try {
    rows.put(await get(`${API}/orders/${key}`));
  } catch (problem) {
    if (problem.status !== 404) throw problem;
    rows.remove(key);
  }
  countShown();
});

live().on("order.changed", (event) => refresh(event.id));
live().on("order.deleted", (event) => {
  rows.remove(event.id);
  countShown();
});
live().onResync(reload);

// --- older ones ------------------------------------------------------------------------

const more = document.getElementById("more-orders");

function showCursor(cursor) {
  body.dataset.nextCursor = cursor ?? "";
  more.hidden = !cursor;
}

onPress(more, async () => {
  const page = await get(query(body.dataset.nextCursor));
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
