/**
 * A table of things that wait for a decision (timesheets, leave): rows follow the live
 * events, buttons follow the status and what this user may do.
 */

import { get, Submission } from "../api.js";
import { el, fillWith } from "../dom.js";
import { coalesce, follow, live } from "../live.js";
import { Rows } from "../rows.js";
import { run } from "./forms.js";

/**
 * @param {object} options `body`, `template`, `message`, `empty` elements; `path` of the API's
 *   list; `event` type; `view(record)` what the row shows; `actions(record)` a list of
 *   {name, label, primary?, said} or, for one that is not a POST, {label, run(record)};
 *   `records` the first ones by id
 */
export function decisions({ body, template, message, empty, path, event, view, actions, records }) {
  const known = new Map(records.map((record) => [record.id, record]));
  const submissions = new Map();
  const rows = new Rows(body, template, { after: showActions });

  function showActions(row) {
    const record = known.get(Number(row.dataset.key));
    const place = row.querySelector("[data-actions]");
    if (row.dataset.shown === record.status) return;
    row.dataset.shown = record.status;
    const hadFocus = place.contains(document.activeElement);
    const buttons = actions(record).map((action) =>
      el(
        "button",
        { type: "button", class: action.primary ? "small primary" : "small", on: { click: (e) => press(e.currentTarget, record.id, action) } },
        action.label,
        el("span", { class: "unseen" }, ` (${record.employee})`),
      ),
    );
    fillWith(place, buttons);
    if (hadFocus) (place.querySelector("button") ?? message).focus();
  }

  function put(record) {
    if (known.has(record.id) && record.version < known.get(record.id).version) return;
    known.set(record.id, record);
    rows.put({ ...record, ...view(record) });
    empty.hidden = rows.count > 0;
  }

  const refresh = follow(async (key) => {
    try {
      put(await get(`${path}/${key}`));
    } catch (problem) {
      if (![403, 404].includes(problem.status)) throw problem; // somebody else's
    }
  });

  function press(button, key, action) {
    if (action.run) action.run(known.get(key));
    else decide(button, key, action);
  }

  function decide(button, key, action) {
    if (!submissions.has(key)) submissions.set(key, new Submission());
    run(button, message, async () => {
      try {
        await submissions.get(key).send("POST", `${path}/${key}/${action.name}`, {});
      } catch (problem) {
        refresh(key);
        throw problem;
      }
      await refresh(key);
      return action.said(known.get(key));
    });
  }

  live().on(event, (data) => refresh(data.id));
  live().onResync(
    coalesce(async () => {
      for (const record of (await get(`${path}?limit=200`)).items.reverse()) put(record);
    }),
  );

  message.tabIndex = -1;
  for (const row of body.querySelectorAll(":scope > [data-key]")) showActions(row);
  return { put };
}
