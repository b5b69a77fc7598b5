/** Timesheets: enter a week, submit, approve, reopen. */

import { pageData } from "../dom.js";
import { money } from "../format.js";
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
if (form) {
  onSubmit(form, form.querySelector(".message"), async (submission) => {
    const body = values(form);
    body.employee_id = id(body.employee_id, "an employee");
    if (!body.week_start) throw new Error("Choose a week.");
    body.minutes = [...form.querySelectorAll("[data-day]")].map((input) => minutes(input.value));
    const { data } = await submission.send("POST", "/factory/api/timesheets", body);
    table.put(data);
    return `${data.employee}’s week is entered as a draft.`;
  });
}
