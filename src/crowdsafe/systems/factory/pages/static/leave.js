/** Leave: request, approve, reject, cancel; balances follow. */

import { get } from "../api.js";
import { pageData } from "../dom.js";
import { hours } from "../format.js";
import { coalesce, live } from "../live.js";
import { Rows } from "../rows.js";
import { decisions } from "./decisions.js";
import { id, minutes, onSubmit, values } from "./forms.js";

const { may, own } = pageData("page-data");
const byId = (name) => document.getElementById(name);

function actions(leave) {
  const found = [];
  const mine = may.see_staff || leave.employee_id === own;
  if (leave.status === "requested" && may.decide_leave) {
    found.push({ name: "approve", label: "Approve", primary: true, said: (l) => `Approved; ${l.employee} has ${hours(l.balance_minutes)} of ${l.kind} leave left.` });
    found.push({ name: "reject", label: "Reject", said: (l) => `${l.employee}’s request is rejected.` });
  }
  if (["requested", "approved"].includes(leave.status) && mine) {
    found.push({ name: "cancel", label: "Cancel", said: (l) => `Cancelled; ${l.employee} has ${hours(l.balance_minutes)} of ${l.kind} leave left.` });
  }
  return found;
}

const table = decisions({
  body: byId("leave"),
  template: byId("leave-row"),
  message: byId("leave-message"),
  empty: byId("no-leave"),
  path: "/factory/api/leave",
  event: "leave.changed",
  view: () => ({}),
  actions,
  records: pageData("leave-data"),
});

const balances = new Rows(byId("balances"), byId("balance-row"));
const refreshBalances = coalesce(async () => {
  const found = await get("/factory/api/employees");
  for (const employee of found.items ?? found) if (balances.find(employee.id)) balances.put(employee);
});
live().on("leave.changed", refreshBalances);
live().onResync(refreshBalances);

const form = byId("new-leave");
if (form) {
  onSubmit(form, form.querySelector(".message"), async (submission) => {
    const body = values(form);
    body.employee_id = id(body.employee_id, "an employee");
    if (!body.start_date || !body.end_date) throw new Error("Choose the first and the last day.");
    body.hours = minutes(body.hours ?? "") / 60;
    if (body.hours <= 0) throw new Error("Hours: such as 7:36 or 7.6.");
    const { data } = await submission.send("POST", "/factory/api/leave", body);
    table.put(data);
    return `${data.employee}’s request is entered.`;
  });
}
