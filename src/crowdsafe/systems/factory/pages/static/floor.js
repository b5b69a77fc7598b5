/** The floor board: one column a stage; a move names the stage that its sender saw. */

import { get, Submission } from "../api.js";
import { el, fillWith, pageData, setText } from "../dom.js";
import { label } from "../format.js";
import { coalesce, follow, live } from "../live.js";
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
    } catch (problem) {
      refresh(Number(key));
      throw problem;
    }
    await refresh(Number(key));
    return `${card.querySelector("[data-text=number]").textContent} is in ${label(stage).toLowerCase()} now.`;
  });
}

const refresh = follow(async (key) => {
  try {
    put(await get(`${API}/orders/${key}`));
  } catch (problem) {
    if (problem.status !== 404) throw problem;
    cardOf(key)?.remove();
    countCards();
  }
});

live().on("order.changed", (event) => refresh(event.id));
live().on("order.deleted", (event) => {
  cardOf(event.id)?.remove();
  countCards();
});
/** What is on the board, and the newest orders, which may not be on it yet. */
const reload = coalesce(async () => {
  const page = await get(`${API}/orders?open_only=true&limit=200`);
  for (const order of page.items) put(order);
  const found = new Set(page.items.map((order) => String(order.id)));
  for (const card of board.querySelectorAll(".board-card")) {
    if (!found.has(card.dataset.key) && card.dataset.stage !== "cleared") refresh(Number(card.dataset.key));
  }
});
live().onResync(reload);

board.querySelectorAll(".board-card").forEach(showMoves);
