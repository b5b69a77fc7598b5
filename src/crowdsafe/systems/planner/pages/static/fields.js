/** What is wrong with a field, said beside it: found here first, or by the server. */

import { el } from "../dom.js";

const CONTROL = /[\p{Cs}]|(?![\n\t\r])\p{Cc}/u;

/** Characters as the server counts them: code points of the trimmed text. */
export function length(text) {
  return [...text.trim()].length;
}

/** What is wrong with a text of `[min, max]` characters, or "". */
export function textProblem(text, [min, max]) {
  const size = length(text);
  if (size === 0) return min > 0 ? "Please fill this in." : "";
  if (size < min) return `Please say more: at least ${min} characters, ${min - size} to go.`;
  if (size > max) return `Too long by ${(size - max).toLocaleString("en")}: at most ${max.toLocaleString("en")} characters.`;
  if (CONTROL.test(text)) return "There are invisible control characters in this; please type it anew.";
  if (min > 0 && !/[\p{L}\p{N}]/u.test(text)) return "Please use words.";
  return "";
}

/** "12,500" or "12 500" to 12500; NaN for anything else, and above `max`. */
export function amountOf(text, max) {
  const plain = text.trim().replace(/[\s,’']/g, "");
  return /^\d{1,13}$/.test(plain) && Number(plain) <= max ? Number(plain) : NaN;
}

function described(control, id, on) {
  const ids = new Set((control.getAttribute("aria-describedby") ?? "").split(" ").filter(Boolean));
  if (on) ids.add(id);
  else ids.delete(id);
  if (ids.size) control.setAttribute("aria-describedby", [...ids].join(" "));
  else control.removeAttribute("aria-describedby");
}

/** Says what is wrong under a field, or nothing when `words` is "". */
export function say(field, words) {
  const control = field.querySelector("input, select, textarea");
  const id = `wrong-${field.dataset.field}`;
  const known = field.querySelector(".wrong");
  if (known?.textContent === words) return;
  known?.remove();
  described(control, id, Boolean(words));
  if (words) {
    control.setAttribute("aria-invalid", "true");
    field.append(el("p", { class: "wrong", id }, words));
  } else {
    control.removeAttribute("aria-invalid");
  }
}

/**
 * Puts the server's findings beside their fields; gives those that belong to none.
 * A field of the body may come as "idea", "body.idea" or "personalization.str".
 */
export function sayProblem(form, problem, rename = (name) => name) {
  const found = problem.data.errors ?? [{ field: problem.data.field, message: problem.message }];
  const fields = [...form.querySelectorAll("[data-field]")];
  return found.filter(({ field, message }) => {
    const name = rename(String(field ?? "").replace(/^body\./, "").split(".")[0]);
    const place = fields.find((each) => each.dataset.field === name && !each.hidden);
    if (place) say(place, message);
    return !place;
  });
}
