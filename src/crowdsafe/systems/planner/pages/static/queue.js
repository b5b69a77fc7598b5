/** The operator's view: who waits and runs, and how the language model does, every two seconds. */

import { get } from "../api.js";
import { announce, el, fillWith, setText } from "../dom.js";
import { fill, Rows } from "../rows.js";
import { whileSeen } from "./polling.js";

const POLL_MS = 2000;
const byId = (id) => document.getElementById(id);
const tiles = new Rows(byId("tiles"), null);
const users = new Rows(byId("users"), byId("user-row"), {
  after: (row, user) => {
    row.querySelector("progress").value = user.share;
  },
});
const upstream = byId("upstream");
const pill = byId("queue-fresh");
let breaker = upstream.querySelector("[data-part=state]").dataset.state;

function showBreaker(now) {
  const chip = upstream.querySelector("[data-part=state]");
  chip.dataset.state = now.state;
  setText(chip, now.title);
  setText(upstream.querySelector("[data-part=says]"), now.says);
  fillWith(upstream.querySelector("[data-part=facts]"), now.facts.flatMap((fact) => [el("dt", {}, fact.label), el("dd", {}, fact.value)]));
  if (now.state !== breaker) announce(`The language model: ${now.title}. ${now.says}`);
  breaker = now.state;
}

const PILL = { live: "live", reconnecting: "reconnecting", out: "signed out" };

function mark(state) {
  if (pill.dataset.state === state) return;
  pill.dataset.state = state;
  setText(pill, PILL[state]);
  if (state === "live") announce("Live again.");
  if (state === "reconnecting") announce("No answer from the server. Trying again.");
}

whileSeen(async () => {
  let now;
  try {
    now = await get("/planner/now/queue");
  } catch (problem) {
    mark(problem.passing ? "reconnecting" : "out");
    throw problem;
  }
  mark("live");
  for (const tile of now.tiles) fill(tiles.find(tile.id), tile);
  users.replaceAll(now.users);
  byId("no-users").hidden = users.count > 0;
  showBreaker(now.breaker);
}, POLL_MS);
