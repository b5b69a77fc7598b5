/** The idea form: what is left of the day, checks beside the fields, and the way to the plan. */

import { get, Submission, whileBusy } from "../api.js";
import { announce, el, fillWith, pageData, setText, showMessage } from "../dom.js";
import { coalesce, live } from "../live.js";
import { Draft } from "./draft.js";
import { amountOf, length, say, sayProblem, textProblem } from "./fields.js";

const { profile, limits, labels, starters, again, user } = pageData("page-data");
const byId = (id) => document.getElementById(id);
const form = byId("idea-form");
const message = byId("idea-message");
const draft = new Draft(user);
const submission = new Submission();
const TEXTS = ["idea", "business_type", "location", "personalization"];
const field = (name) => form.querySelector(`[data-field="${name}"]`);
const number = (value) => value.toLocaleString("en");

// --- what the form holds ---------------------------------------------------------------------

function values() {
  return Object.fromEntries(new FormData(form));
}

function put(given) {
  for (const [name, value] of Object.entries(given)) {
    const control = form.elements.namedItem(name);
    if (control) control.value = value;
  }
  shown();
}

/** A request as the server keeps it, as values of this form. */
function fromRequest({ budget, personalization, ...rest }) {
  const wishes = typeof personalization === "string" ? personalization : Object.values(personalization ?? {}).join("\n");
  const exact = typeof budget === "number";
  return { ...rest, personalization: wishes, budget: exact ? "exact" : budget, amount: exact ? number(budget) : "" };
}

function empty() {
  return ["idea", "location", "personalization"].every((name) => !form.elements[name].value.trim());
}

function shown() {
  for (const name of ["idea", "personalization"]) {
    const size = length(form.elements[name].value);
    const max = limits[name][1];
    setText(byId(`${name}-count`), size > max ? `${number(size - max)} too many` : `${number(size)} of ${number(max)}`);
  }
  field("amount").hidden = form.elements.budget.value !== "exact";
  const currency = form.elements.currency.value;
  setText(form.querySelector("[data-currency]"), currency);
  for (const option of form.elements.budget.options) {
    const label = labels[currency][option.value];
    if (label) setText(option, label);
  }
  byId("starters").hidden = !(empty() || starters.some((each) => each.idea === form.elements.idea.value));
}

// --- checks, the same as the server's ----------------------------------------------------------

function problemOf(name) {
  const control = form.elements[name];
  if (TEXTS.includes(name)) return textProblem(control.value, limits[name]);
  if (name === "amount") {
    if (field("amount").hidden) return "";
    const max = limits.amount[1];
    return Number.isNaN(amountOf(control.value, max)) ? `A whole amount from 0 to ${number(max)}.` : "";
  }
  return control.value ? "" : "Please choose one.";
}

function check() {
  const wrong = [...TEXTS.slice(0, 3), "budget", "amount", "timeline", "personalization"].filter((name) => {
    const words = problemOf(name);
    say(field(name), words);
    return words;
  });
  if (wrong.length) form.elements[wrong[0]].focus();
  return wrong.length;
}

function request() {
  const { amount, ...given } = values();
  for (const name of TEXTS) given[name] = given[name].trim();
  if (given.budget === "exact") given.budget = amountOf(amount, limits.amount[1]);
  return given;
}

// --- what is left of the day -------------------------------------------------------------------

let ask = profile;
let renewal = null;

function showProfile(now, quiet = false) {
  const changed = now.reason !== ask.reason;
  ask = now;
  for (const [name, id] of [["said", "quota-said"], ["note", "quota-note"], ["running", "quota-running"], ["queued", "quota-queued"]]) {
    setText(byId(id), now[name]);
  }
  fillWith(byId("quota-pips"), now.pips.map((kind) => el("i", { class: kind })));
  byId("ask").disabled = !now.may_ask;
  setText(byId("reason"), now.reason);
  if (changed && !quiet && !now.reason) announce(`${now.said}.`);
  clearTimeout(renewal);
  renewal = setTimeout(refresh, Math.min(now.resets_in_s + 2, 86_400) * 1000);
}

const refresh = coalesce(async () => showProfile(await get("/planner/now/profile")));

// --- asking --------------------------------------------------------------------------------------

function goTo(data) {
  draft.clear();
  location.assign(data.plan_id ? `/planner/plans/${data.plan_id}` : `/planner/jobs/${data.job_id}`);
}

let retry = null;

function refused(problem) {
  const kind = problem.status === 0 || problem.status >= 500 ? "failed" : "refused";
  let left = [];
  if (problem.status === 422) {
    const exact = form.elements.budget.value === "exact";
    left = sayProblem(form, problem, (name) => (name === "budget" && exact ? "amount" : name));
    form.querySelector("[aria-invalid=true]")?.focus();
    if (!left.length) {
      showMessage(message, "refused", "Not sent yet: see the marked fields.");
      return;
    }
  }
  const words = left.length ? left.map((each) => each.message).join(" ") : problem.message;
  showMessage(message, kind, `${words} What you typed is kept.`);
  if (problem.status === 429) refresh();
  const wait_s = problem.retryAfter_s ?? 0;
  clearTimeout(retry);
  if (wait_s > 0 && wait_s <= 300) {
    retry = setTimeout(() => {
      if (ask.may_ask) showMessage(message, "ok", "You can try again now.");
    }, wait_s * 1000);
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (byId("ask").disabled) return;
  showMessage(message, "ok", "");
  clearTimeout(retry);
  if (check()) return;
  draft.write(values());
  const button = byId("ask");
  setText(button, "Asking…");
  try {
    const { data } = await whileBusy(form, () => submission.send("POST", "/planner/api/plans", request(), { prefer: "respond-async" }));
    goTo(data);
  } catch (problem) {
    if (problem.status === undefined) throw problem;
    refused(problem);
    setText(button, "Write my plan");
  }
});

form.addEventListener("input", (event) => {
  draft.write(values());
  shown();
  const place = event.target.closest("[data-field]");
  if (place?.querySelector(".wrong")) say(place, problemOf(place.dataset.field));
});

form.addEventListener("focusout", (event) => {
  const place = event.target.closest("[data-field]");
  if (place && event.target.value.trim()) say(place, problemOf(place.dataset.field));
});

byId("clear-draft").addEventListener("click", () => {
  draft.clear();
  form.reset();
  byId("kept").hidden = true;
  for (const each of form.querySelectorAll("[data-field]")) if (each.querySelector(".wrong")) say(each, "");
  showMessage(message, "ok", "");
  shown();
  form.elements.idea.focus();
});

starters.forEach((each) => {
  const button = el("button", { type: "button", class: "small", on: { click: () => start(each) } }, each.business_type);
  byId("starter-list").append(el("li", {}, button));
});

function start(starter) {
  put(fromRequest(starter));
  draft.write(values());
  form.elements.idea.focus();
  announce(`Filled in: ${starter.business_type}. Change what you like.`);
}

const before = draft.read();
if (before && !again) {
  put(before);
  byId("kept").hidden = empty();
} else if (again) {
  put(fromRequest(again));
} else {
  shown();
}
showProfile(profile, true);
live().on("job.changed", refresh);
live().onResync(refresh);
addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  setText(byId("ask"), "Write my plan");
  refresh();
});
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && refresh());
