/** The floor board: one column a stage; a move names the stage that its sender saw. */

import { get, Submission } from "../api.js";
import { el, fillWith, pageData, setText, showMessage } from "../dom.js";
import { label } from "../format.js";
import { coalesce, live } from "../live.js";
import { fill, flash } from "../rows.js";
import { run } from "./forms.js";

const API = "/factory/api";
const { edges, may } = pageData("page-data");
const board = document.querySelector(".board");
const message = document.getElementById("floor-message");
const column = (stage) => board.querySelector(`[data-stage="${CSS.escape(stage)}"].board-column`);
const cardOf = (key) => board.querySelector(`.board-card[data-key="${CSS.escape(String(key))}"]`);

function showMoves(card) {
  if (!may.move_stage) return;
  const targets = edges[card.dataset.stage] ?? [];
  const number = card.querySelector("[data-text=number]").textContent;
  const buttons = targets.map((stage) =>
    el(
      "button",
      { type: "button", class: "small", on: { click: (event) => move(event.target, card, stage) } },
      el("span", { "aria-hidden": "true" }, "→ "),
      label(stage),
      el("span", { class: "unseen" }, `: move ${number}`),
    ),
  );
  fillWith(card.querySelector("[data-moves]"), buttons);
}

function countCards() {
  for (const each of board.querySelectorAll(".board-column")) {
    setText(each.querySelector("[data-count]"), each.querySelectorAll(".board-card").length);
  }
}

/** Shows an order where it is now; one that left the board is taken away. */
function put(order) {
  const known = cardOf(order.id);
  if (known && order.version < Number(known.dataset.version)) return;
  const target = column(order.stage);
  if (!target) {
    known?.remove();
    countCards();
    return;
  }
  const card = known ?? document.getElementById("board-card").content.firstElementChild.cloneNode(true);
  const changed = fill(card, order);
  card.dataset.key = order.id;
  card.dataset.version = order.version;
  if (card.dataset.stage !== order.stage || !known) {
    const hadFocus = card.contains(document.activeElement);
    card.dataset.stage = order.stage;
    target.querySelector("[data-cards]").prepend(card);
    showMoves(card);
    if (hadFocus) (card.querySelector("button") ?? card.querySelector("a")).focus();
    countCards();
    flash(card);
  } else if (changed) {
    flash(card);
  }
}

const submission = new Map();

function move(button, card, stage) {
  const key = card.dataset.key;
  if (!submission.has(key)) submission.set(key, new Submission());
  run(button, message, async () => {
    const seen = card.dataset.stage;
    try {
      await submission.get(key).send("POST", `${API}/orders/${key}/stage`, { from_stage: seen, to_stage: stage });
    } finally {
      put(await get(`${API}/orders/${key}`));
    }
    return `${card.querySelector("[data-text=number]").textContent} is in ${label(stage).toLowerCase()} now.`;
  });
}

const pending = new Set();
const refresh = coalesce(async () => {
  const wanted = [...pending];
  pending.clear();
  for (const key of wanted) {
    try {
      put(await get(`${API}/orders/${key}`));
    } catch (problem) {
      if (problem.status !== 404) throw problem;
      cardOf(key)?.remove();
      countCards();
    }
  }
});

live().on("order.changed", (event) => {
  pending.add(event.id);
  refresh();
});
live().on("order.deleted", (event) => {
  cardOf(event.id)?.remove();
  countCards();
});
live().onResync(() => {
  showMessage(message, "ok", "");
  for (const card of board.querySelectorAll(".board-card")) pending.add(Number(card.dataset.key));
  refresh();
});

board.querySelectorAll(".board-card").forEach(showMoves);
