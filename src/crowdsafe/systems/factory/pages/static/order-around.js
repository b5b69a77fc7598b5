/** What stands beside an order's form: its stage and moves, history, invoices and stock. */

import { Submission } from "../api.js";
import { el, fillWith, pageData, setText } from "../dom.js";
import { formats } from "../format.js";
import { fill, localTimes } from "../rows.js";
import { run } from "./forms.js";

const { may, cancellable, allocatable } = pageData("page-data");
const byId = (id) => document.getElementById(id);
const moving = new Submission();

/** Shows all of it; `refresh` is called when a move was made here. */
export function showAround(order, refresh) {
  fill(byId("stage-now"), order);
  const log = order.stage_log.map((entry) => {
    const node = byId("stage-entry").content.firstElementChild.cloneNode(true);
    fill(node, entry);
    return node;
  });
  showList("stage-log", "no-log", log.reverse());
  const invoices = order.invoices.map((each) => line(each.number, formats.money(each.total_cents)));
  showList("order-invoices", "no-invoices", invoices);
  const allocations = order.allocations.map((each) => {
    const state = el("span", { class: "chip", data: { state: each.state } }, formats.label(each.state));
    return line(each.product, formats.number(each.quantity), " ", state);
  });
  showList("allocations", "no-allocations", allocations);
  hide("to-invoice", order.invoiced === "fully" || order.stage === "cancelled");
  hide("to-allocate", !allocatable.includes(order.stage));
  showMoves(order, refresh);
  localTimes();
}

/** The moves that this user may make from here. */
export function showMoves(order, refresh) {
  const moves = byId("moves");
  const had = moves.contains(document.activeElement);
  const button = (words, press, kind = null) =>
    el("button", { type: "button", class: kind, on: { click: (event) => press(event.currentTarget) } }, words);
  const buttons = (may.move_stage ? order.next_stages : []).map((stage) =>
    button(`Move to ${formats.label(stage).toLowerCase()}`, (pressed) => move(pressed, order, stage, refresh)),
  );
  if (may.cancel_orders && cancellable.includes(order.stage)) {
    buttons.push(button("Cancel the order", (pressed) => cancel(pressed, order, refresh), "danger"));
  }
  fillWith(moves, buttons);
  if (had) (moves.querySelector("button") ?? byId("main")).focus();
}

const line = (left, ...right) => el("li", { class: "spread" }, el("span", {}, left), el("span", {}, right));

function showList(id, emptyId, nodes) {
  fillWith(byId(id), nodes);
  byId(emptyId).hidden = nodes.length > 0;
}

function hide(id, hidden) {
  const node = byId(id);
  if (node) node.hidden = hidden;
}

function move(button, order, stage, refresh) {
  run(button, byId("stage-message"), async () => {
    const path = `/factory/api/orders/${order.id}/stage`;
    try {
      await moving.send("POST", path, { from_stage: order.stage, to_stage: stage });
    } catch (problem) {
      refresh();
      throw problem;
    }
    await refresh();
    return `Moved to ${formats.label(stage).toLowerCase()}.`;
  });
}

/** Asks once more: a cancelled order cannot be brought back. */
function cancel(button, order, refresh) {
  if (button.dataset.sure !== "yes") {
    button.dataset.sure = "yes";
    setText(button, "Cancel the order: press again to confirm");
    return;
  }
  run(button, byId("stage-message"), async () => {
    const { data } = await moving.send("POST", `/factory/api/orders/${order.id}/cancel`, {});
    await refresh();
    return `Cancelled; ${formats.number(data.released_quantity)} pieces went back to stock.`;
  });
}
