/** What the factory's forms share: reading numbers, running a submit, saying how it went. */

import { announce, el, showMessage } from "../dom.js";
import { Submission, whileBusy } from "../api.js";

/** "1,200" to 1200. Throws with words for the user. */
export function pieces(text, what = "Pieces") {
  const plain = text.trim().replaceAll(",", "");
  if (!/^\d{1,12}$/.test(plain) || Number(plain) < 1) throw new Error(`${what}: a whole number from 1.`);
  return Number(plain);
}

/** "12.50" or "$1,212.5" to cents. */
export function cents(text) {
  const plain = text.trim().replace(/^\$/, "").replaceAll(",", "");
  const found = /^(\d{1,9})(?:\.(\d{1,2}))?$/.exec(plain);
  if (!found) throw new Error("Price: dollars, such as 12.50.");
  return Number(found[1]) * 100 + Number((found[2] ?? "").padEnd(2, "0"));
}

export function dollars(value) {
  return `${Math.floor(value / 100)}.${String(value % 100).padStart(2, "0")}`;
}

/** "7:36" or "7.6" to minutes; "" is 0. */
export function minutes(text) {
  const plain = text.trim().replace(",", ".");
  if (plain === "") return 0;
  const clock = /^(\d{1,3}):([0-5]\d)$/.exec(plain);
  if (clock) return Number(clock[1]) * 60 + Number(clock[2]);
  const found = /^\d{1,3}(\.\d{1,4})?$/.test(plain) ? Number(plain) * 60 : NaN;
  if (Number.isNaN(found) || Math.abs(found - Math.round(found)) > 1e-6) {
    throw new Error("Hours: such as 7:36 or 7.6, to whole minutes.");
  }
  return Math.round(found);
}

/** The named controls of a form as an object; empty values are left out. */
export function values(form) {
  const found = {};
  for (const [name, value] of new FormData(form)) if (value !== "") found[name] = value;
  return found;
}

/** Required ids out of selects. */
export function id(value, what) {
  if (!value) throw new Error(`Choose ${what}.`);
  return Number(value);
}

/**
 * Runs `work(submission)` on submit: one at a time, with the outcome said beside the form.
 * `work` returns the words to say.
 */
export function onSubmit(form, message, work) {
  const submission = new Submission();
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    await run(form, message, () => work(submission));
  });
}

/** Runs `work` when the button is pressed; what went wrong is said beneath it. */
export function onPress(button, work) {
  const message = el("p", { class: "message", role: "status", hidden: true });
  (button.closest(".actions") ?? button).after(message);
  button.addEventListener("click", () => run(button, message, work));
}

/** Runs a change and says how it went. Returns whether it worked. */
export async function run(control, message, work) {
  showMessage(message, "ok", "");
  try {
    const words = await whileBusy(control, work);
    if (words) showMessage(message, "ok", words);
    return true;
  } catch (error) {
    const failed = error.status === 0 || error.status >= 500;
    showMessage(message, failed ? "failed" : "refused", error.message);
    if (message.getAttribute("role") !== "status") announce(error.message);
    return false;
  }
}
