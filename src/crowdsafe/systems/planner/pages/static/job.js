/** One job, live: its place in the queue, its sections as they are written, its end. */

import { call, get, newKey } from "../api.js";
import { announce, pageData, setText, showMessage } from "../dom.js";
import { live } from "../live.js";
import { Rows } from "../rows.js";
import { whileSeen } from "./polling.js";

const LEAVE_MS = 1500;
const POLL_MS = 4000;
const byId = (id) => document.getElementById(id);
const message = byId("job-message");
let { job } = pageData("page-data");
const PATH = `/planner/now/jobs/${encodeURIComponent(job.id)}`;

const sections = new Rows(byId("sections"), null, {
  after: (row, section) => {
    row.dataset.state = section.state;
  },
});

function show(now) {
  const before = job;
  job = now;
  for (const name of ["says", "ahead_says", "wait_says", "note", "count"]) {
    setText(document.querySelector(`[data-job="${name}"]`), now[name]);
  }
  const chip = document.querySelector("[data-job=state]");
  chip.dataset.state = now.state;
  setText(chip, now.state_says);
  byId("place").hidden = now.state !== "queued";
  byId("progress").value = now.done;
  for (const section of now.sections) sections.put(section);
  if (document.activeElement === byId("cancel") && !now.waits) message.focus();
  byId("cancel").hidden = !now.waits || !now.mine;
  byId("cancel").disabled = !now.may_cancel;
  byId("leave-note").hidden = !now.waits;
  byId("ask-again").hidden = !["failed", "cancelled"].includes(now.state) || !now.mine;
  document.title = document.title.replace(/^[^·]*/, `${now.state_says} `);
  tell(before, now);
  if (now.state === "done") finish();
  if (now.state === "failed" && before.state !== "failed") showMessage(message, "failed", now.error);
}

/** A change of state and each finished section; not each step up in the queue. */
function tell(before, now) {
  if (before.state !== now.state || (before.ahead && now.ahead === 0)) announce(`${now.says}.`);
  else if (now.done > before.done) {
    const new_ones = now.sections.filter((each, i) => each.state !== before.sections[i].state && !["running", "waiting", "retrying"].includes(each.state));
    announce(`${new_ones.map((each) => `${each.title}: ${each.says}`).join(", ")}. ${now.count} done.`);
  }
}

let leaving = false;

function finish() {
  const address = `/planner/plans/${job.plan_id}`;
  const link = byId("open-plan");
  link.href = address;
  link.hidden = false;
  if (leaving) return;
  leaving = true;
  showMessage(message, "ok", "Your plan is ready. It opens by itself.");
  setTimeout(leave, LEAVE_MS);
  document.addEventListener("visibilitychange", leave);
}

/** To the plan, in place of this page: going back from there leads to where one came from. */
function leave() {
  if (document.visibilityState === "visible") location.replace(`/planner/plans/${job.plan_id}`);
}

const refresh = whileSeen(async () => show(await get(PATH)), POLL_MS, () => job.waits);

byId("cancel").addEventListener("click", async () => {
  const button = byId("cancel");
  button.setAttribute("aria-disabled", "true");
  try {
    await call("DELETE", `/planner/api/jobs/${encodeURIComponent(job.id)}`, { key: newKey() });
    showMessage(message, "ok", "Cancelled. Nothing is charged: the plan is yours to ask for again today.");
  } catch (problem) {
    if (problem.status === undefined) throw problem;
    showMessage(message, problem.passing ? "failed" : "refused", problem.message);
  } finally {
    button.removeAttribute("aria-disabled");
    await refresh();
  }
});

message.tabIndex = -1;
for (const type of ["job.changed", "job"]) live().on(type, refresh);
live().onResync(refresh);

/** The notice that the server is away follows the page's one connection. */
const page = document.documentElement;
new MutationObserver(() => {
  const away = page.dataset.live === "reconnecting";
  if (!away && !byId("away").hidden) refresh();
  byId("away").hidden = !away;
}).observe(page, { attributes: true, attributeFilter: ["data-live"] });
