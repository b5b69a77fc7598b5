/** The list of plans: jobs move on and become plans while one looks. */

import { get } from "../api.js";
import { announce } from "../dom.js";
import { live } from "../live.js";
import { localTimes, Rows } from "../rows.js";
import { whileSeen } from "./polling.js";

const POLL_MS = 3000;
const byId = (id) => document.getElementById(id);
const older = new URLSearchParams(location.search).has("before");
const jobs = new Rows(byId("jobs"), byId("job-row"), {
  after: (row, job) => {
    row.dataset.state = job.state;
    row.querySelector("progress").value = job.done;
  },
});
const plans = new Rows(byId("plans"), byId("plan-row"));

function show(now) {
  const before = jobs.count;
  const known = new Set([...byId("plans").querySelectorAll("[data-key]")].map((row) => row.dataset.key));
  jobs.replaceAll(now.jobs);
  byId("jobs-card").hidden = jobs.count === 0;
  if (older) return;
  for (const plan of [...now.plans].reverse()) plans.put(plan, { quiet: known.has(String(plan.id)) });
  localTimes(byId("plans"));
  byId("no-plans").hidden = plans.count > 0;
  const fresh = now.plans.filter((plan) => !known.has(String(plan.id)));
  if (fresh.length && before) announce(`Ready: ${fresh.map((plan) => plan.title).join(", ")}`);
}

const refresh = whileSeen(async () => show(await get("/planner/now/plans")), POLL_MS, () => jobs.count > 0);
for (const type of ["job.changed", "job"]) live().on(type, refresh);
live().onResync(refresh);
