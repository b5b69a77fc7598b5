/** Timesheets: enter a week, submit, approve, reopen. */

import { pageData, setText } from "../dom.js";
import { clock, money } from "../format.js";
import { decisions } from "./decisions.js";
import { id, minutes, onSubmit, values } from "./forms.js";

const { may, own } = pageData("page-data");
const byId = (name) => document.getElementById(name);

function actions(sheet) {
  const found = [];
  const mine = may.see_staff || sheet.employee_id === own;
  if (sheet.status === "draft" && mine) {
    found.push({ name: "submit", label: "Submit", primary: true, said: (s) => `${s.employee}’s week is submitted.` });
  }
  if (sheet.status === "draft" && mine) found.push({ label: "Edit", run: startEditing });
  if (sheet.status === "submitted" && may.approve_timesheets) {
    found.push({ name: "approve", label: "Approve", primary: true, said: (s) => `${s.employee}’s week is approved: ${pay(s)}.` });
  }
  if (sheet.status !== "draft" && may.reopen_timesheets) {
    found.push({ name: "reopen", label: "Reopen", said: (s) => `${s.employee}’s week is a draft again.` });
  }
  return found;
}

function pay(sheet) {
  const cents = sheet.pay_calculations.reduce((sum, each) => sum + each.gross_cents, 0);
  return sheet.pay_calculations.length ? money(cents) : "";
}

const table = decisions({
  body: byId("timesheets"),
  template: byId("timesheet-row"),
  message: byId("sheet-message"),
  empty: byId("no-timesheets"),
  path: "/factory/api/timesheets",
  event: "timesheet.changed",
  view: (sheet) => ({ ...Object.fromEntries(sheet.minutes.map((each, day) => [`day_${day}`, each])), pay: pay(sheet) }),
  actions,
  records: pageData("timesheet-data"),
});

const form = byId("new-timesheet");
const days = form ? [...form.querySelectorAll("[data-day]")] : [];
let editing = null; // the draft in the form, as it was when it was put there

/** Puts a draft into the form: the next save replaces its hours, if nobody saved meanwhile. */
function startEditing(sheet) {
  editing = sheet;
  form.closest("details").open = true;
  form.elements.employee_id.value = sheet.employee_id;
  form.elements.week_start.value = sheet.week_start;
  sheet.minutes.forEach((each, day) => (days[day].value = each ? clock(each) : ""));
  showEditing();
  days[0].focus();
}

function showEditing() {
  for (const name of ["employee_id", "week_start"]) form.elements[name].disabled = Boolean(editing);
  byId("stop-editing").hidden = !editing;
  setText(byId("sheet-title"), editing ? `Edit ${editing.employee}’s week` : "New timesheet");
  setText(byId("sheet-save"), editing ? "Save the hours" : "Create timesheet");
}

function stopEditing() {
  editing = null;
  form.reset();
  showEditing();
}

async function saveHours(submission) {
  const body = { minutes: days.map((input) => minutes(input.value)) };
  const path = `/factory/api/timesheets/${editing.id}`;
  const { data } = await submission.send("PUT", path, body, { version: editing.version });
  table.put(data);
  stopEditing();
  return `${data.employee}’s hours are saved.`;
}

if (form) {
  byId("stop-editing").addEventListener("click", stopEditing);
  onSubmit(form, form.querySelector(".message"), async (submission) => {
    if (editing) return saveHours(submission);
    const body = values(form);
    body.employee_id = id(body.employee_id, "an employee");
    if (!body.week_start) throw new Error("Choose a week.");
    body.minutes = days.map((input) => minutes(input.value));
    const { data } = await submission.send("POST", "/factory/api/timesheets", body);
    table.put(data);
    return `${data.employee}’s week is entered as a draft.`;
  });
}
