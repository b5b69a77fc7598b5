/** The ledger of one stock row, the newest first. */

import { get } from "../api.js";
import { coalesce, live } from "../live.js";
import { fill, localTimes, Rows } from "../rows.js";
import { onPress } from "./forms.js";

const figures = document.getElementById("figures");
const key = Number(figures.dataset.stock);
const path = `/factory/api/stock/${key}/movements`;
const rows = new Rows(document.getElementById("movements"), document.getElementById("movement-row"), { max: 2000 });

const refresh = coalesce(async () => {
  const [page, stock] = await Promise.all([
    get(`${path}?limit=50`),
    get(`/factory/api/stock?cursor=${key - 1}&limit=1`),
  ]);
  for (const movement of page.items.reverse()) if (!rows.find(movement.id)) rows.put(movement);
  fill(figures, stock.items[0]);
});

live().on("stock.changed", (event) => {
  if (event.id === key) refresh();
});
live().onResync(refresh);

const more = document.getElementById("more");
onPress(more, async () => {
  const page = await get(`${path}?limit=50&cursor=${more.dataset.cursor}`);
  for (const movement of page.items) rows.put(movement, { atEnd: true, quiet: true });
  more.dataset.cursor = page.next_cursor ?? "";
  more.hidden = !page.next_cursor;
  localTimes();
});
