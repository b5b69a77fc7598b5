/** Stock as it is now; allocate from it and receive into it. */

import { get } from "../api.js";
import { pageData } from "../dom.js";
import { number } from "../format.js";
import { coalesce, follow, live } from "../live.js";
import { Rows } from "../rows.js";
import { id, onSubmit, pieces, values } from "./forms.js";

const API = "/factory/api";
const find = document.getElementById("find");
const body = document.getElementById("stock");
const known = new Map(pageData("stock-data").map((each) => [each.id, each]));
const rows = new Rows(body, document.getElementById("stock-row"), { max: 1000, after: hideUnwanted });

function hideUnwanted(row) {
  const text = row.textContent.toLowerCase();
  const wanted = find.value.toLowerCase().split(/\s+/).every((word) => text.includes(word));
  row.hidden = !wanted && !row.contains(document.activeElement);
}

find.addEventListener("input", () => {
  for (const row of body.querySelectorAll(":scope > [data-key]")) hideUnwanted(row);
});

function put(stock) {
  known.set(stock.id, stock);
  rows.put(stock, { atEnd: true });
}

/** One stock row: the list pages by id, so the page of one after the id before is that row. */
const fetchRow = async (key) => (await get(`${API}/stock?cursor=${key - 1}&limit=1`)).items[0];

const refresh = follow(async (key) => {
  const stock = await fetchRow(key);
  if (stock?.id === key) put(stock);
});

live().on("stock.changed", (event) => refresh(event.id));
live().onResync(
  coalesce(async () => {
    for (const stock of (await get(`${API}/stock?limit=200`)).items) put(stock);
  }),
);

body.addEventListener("click", (event) => {
  const button = event.target.closest("[data-action=choose]");
  const form = document.getElementById("allocate");
  if (!button || !form) return;
  const stock = known.get(Number(button.closest("tr").dataset.key));
  form.elements.client_id.value = stock.client_id;
  form.elements.product_id.value = stock.product_id;
  form.elements.quantity.focus();
});

function withForm(name, work) {
  const form = document.getElementById(name);
  if (!form) return;
  onSubmit(form, form.querySelector(".message"), async (submission) => {
    const body = values(form);
    body.client_id = id(body.client_id, "a client");
    body.product_id = id(body.product_id, "a product");
    body.quantity = pieces(body.quantity ?? "");
    const { data } = await submission.send("POST", `${API}/stock/${name}`, body);
    form.elements.quantity.value = "";
    return work(data);
  });
}

withForm("allocate", (done) => {
  const what = done.order_reference ? `for ${done.order_reference}` : "for 30 minutes";
  return `${number(done.allocated_quantity)} set aside ${what}; ${number(done.remaining_stock)} left.`;
});
withForm("receive", (done) => `${number(done.received_quantity)} received; ${number(done.on_hand)} on hand.`);
