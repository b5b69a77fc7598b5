/** Invoices: the list, and a new one for all or a part of what is not invoiced yet. */

import { get } from "../api.js";
import { fillWith, setText } from "../dom.js";
import { money, number } from "../format.js";
import { coalesce, live } from "../live.js";
import { fill, localTimes, Rows } from "../rows.js";
import { onPress, onSubmit, pieces, run } from "./forms.js";

const API = "/factory/api";
const byId = (name) => document.getElementById(name);
const rows = new Rows(byId("invoices"), byId("invoice-row"), { max: 2000 });

function put(invoice, options) {
  rows.put(invoice, options);
  byId("no-invoices").hidden = rows.count > 0;
}

const refresh = coalesce(async () => {
  const page = await get(`${API}/invoices?limit=50`);
  for (const invoice of page.items.reverse()) if (!rows.find(invoice.id)) put(invoice);
});
live().on("invoice.created", refresh);
live().onResync(refresh);

const more = byId("more");
onPress(more, async () => {
  const page = await get(`${API}/invoices?limit=50&cursor=${more.dataset.cursor}`);
  for (const invoice of page.items) put(invoice, { atEnd: true, quiet: true });
  more.dataset.cursor = page.next_cursor ?? "";
  more.hidden = !page.next_cursor;
  localTimes();
});

// --- a new one ---------------------------------------------------------------------------

let order = null;
const items = byId("invoice-items");
const inputs = () => [...items.querySelectorAll("input")];

/** What the form asks for: a list of items, and whether it is all that is left. */
function wanted() {
  const parts = inputs()
    .filter((input) => !["", "0"].includes(input.value.trim()))
    .map((input) => ({ item_id: Number(input.closest("tr").dataset.item), quantity: pieces(input.value) }));
  const left = order.items.filter((item) => item.invoiced_quantity < item.quantity);
  const whole =
    parts.length === left.length &&
    left.every((item) => parts.find((part) => part.item_id === item.id)?.quantity === item.quantity - item.invoiced_quantity);
  return { parts, whole };
}

function showKind() {
  if (!order) return;
  try {
    const { parts, whole } = wanted();
    const net = parts.reduce((sum, part) => sum + part.quantity * order.items.find((item) => item.id === part.item_id).unit_price_cents, 0);
    setText(byId("invoice-kind"), parts.length ? `${whole ? "All that is left" : "A part"}: ${money(net)} + GST` : "");
  } catch (error) {
    setText(byId("invoice-kind"), error.message);
  }
}

async function choose(orderId) {
  order = orderId ? await get(`${API}/orders/${orderId}`) : null;
  const found = (order?.items ?? []).map((item) => {
    const row = byId("invoice-item").content.firstElementChild.cloneNode(true);
    row.dataset.item = item.id;
    fill(row, item);
    const input = row.querySelector("input");
    const left = item.quantity - item.invoiced_quantity;
    input.value = left;
    input.readOnly = left === 0;
    input.setAttribute("aria-label", `Pieces of ${item.product_code} to invoice now, at most ${number(left)}`);
    return row;
  });
  fillWith(items, found);
  byId("invoice-table").hidden = found.length === 0;
  showKind();
}

const form = byId("new-invoice");
if (form) {
  const select = byId("invoice-order");
  const message = form.querySelector(".message");
  const chosen = () => run(select, message, () => choose(select.value));
  select.addEventListener("change", chosen);
  items.addEventListener("input", showKind);
  if (select.value) chosen();
  onSubmit(form, message, async (submission) => {
    if (!order) throw new Error("Choose an order.");
    const { parts, whole } = wanted();
    if (parts.length === 0) throw new Error("Nothing to invoice: enter pieces.");
    const { data } = await submission.send("POST", `${API}/orders/${order.id}/invoice`, whole ? {} : { items: parts });
    put(data);
    const { number: orderNumber, id } = order;
    if (whole) {
      select.querySelector(`option[value="${id}"]`)?.remove();
      select.value = "";
      await choose("");
    } else {
      await choose(id);
    }
    return `Invoice ${data.number} of ${money(data.total_cents)} for ${orderNumber}.`;
  });
}
