/**
 * <conflict-dialog>: shows what you and somebody else changed since the same version,
 * field by field, and lets you decide the fields that both of you changed.
 *
 *   const values = await dialog.decide({by: "Mara", baseVersion: 1, version: 2,
 *                                       fields, base, yours, theirs});
 *
 * resolves to the merged record, or to null for "Keep editing" (also Escape).
 * `fields` is a list of {name, label, kind?, options?, format?, parse?}; kind is
 * "text" (default), "number", "date", "textarea" or "select"; format turns a value
 * into text, parse an input's text into a value (it may throw to refuse).
 */

import { el, fillWith, setText } from "./dom.js";
import { merge, same } from "./merge.js";

let serial = 0;

class ConflictDialog extends HTMLElement {
  #dialog = null;
  #resolve = null;
  #undecided = new Set();
  #values = {};
  #status = null;
  #save = null;

  /** Opens the dialog; one at a time. */
  decide({ by, baseVersion, version, fields, base, yours, theirs }) {
    this.#finish(null);
    const { merged, conflicts } = merge(base, yours, theirs);
    this.#values = { ...merged };
    this.#undecided = new Set(Object.keys(conflicts));
    this.#build({ by, baseVersion, version });
    const body = this.#dialog.querySelector("tbody");
    for (const field of fields) {
      const before = base[field.name] ?? null;
      const mine = Object.hasOwn(yours, field.name) ? yours[field.name] : before;
      const other = Object.hasOwn(theirs, field.name) ? theirs[field.name] : before;
      if (same(before, mine) && same(before, other)) continue;
      body.append(this.#row(field, { before, mine, other, by }));
    }
    this.#count();
    this.#dialog.showModal();
    (this.#dialog.querySelector("input[type=radio]") ?? this.#save).focus();
    return new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  #build({ by, baseVersion, version }) {
    const id = `conflict-${++serial}`;
    this.#status = el("strong", { class: "conflict-status", role: "status" });
    this.#save = el("button", { class: "primary", type: "submit" }, "Save merged");
    const head = ["Field", "Before", "Yours", "Theirs", "Merged"];
    const form = el(
      "form",
      { method: "dialog", on: { submit: (event) => this.#submit(event) } },
      el(
        "table",
        { class: "conflict-table" },
        el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col" }, text)))),
        el("tbody", {}),
      ),
      el(
        "div",
        { class: "actions" },
        this.#save,
        el("button", { type: "button", on: { click: () => this.#finish(null) } }, "Keep editing"),
        this.#status,
      ),
    );
    this.#dialog = el(
      "dialog",
      {
        class: "conflict",
        "aria-labelledby": `${id}-title`,
        "aria-describedby": `${id}-about`,
        on: {
          cancel: (event) => {
            event.preventDefault();
            this.#finish(null);
          },
        },
      },
      el("h2", { id: `${id}-title` }, `${by} saved before you`),
      el(
        "p",
        { id: `${id}-about`, class: "muted" },
        `You edited version ${baseVersion}; it is now version ${version}. ` +
          "Nothing is lost: fields that only one of you changed are merged already.",
      ),
      form,
    );
    fillWith(this, this.#dialog);
  }

  #row(field, { before, mine, other, by }) {
    const show = (value) => (value === null ? "empty" : (field.format ?? String)(value) || "empty");
    const undecided = this.#undecided.has(field.name);
    const id = `conflict-${serial}-${field.name.replaceAll(/[^\w-]/g, "_")}`;
    const control = this.#control(field, `${id}-merged`, undecided);
    const note = el("span", { class: "note", id: `${id}-note` });
    control.setAttribute("aria-describedby", note.id);
    const setMerged = (value) => {
      control.value = value === null ? "" : (field.edit ?? field.format ?? String)(value);
    };
    if (!undecided) setMerged(this.#values[field.name]);
    const why = undecided
      ? "you both changed it"
      : same(mine, other)
        ? "same on both sides"
        : same(mine, before)
          ? `only ${by} changed it`
          : "only you changed it";
    setText(note, why);
    const side = (label, value) => {
      if (undecided) {
        const choose = () => {
          setMerged(value);
          this.#decided(field.name, value);
        };
        const radio = el("input", { type: "radio", name: id, on: { change: choose } });
        return el("td", { data: { label } }, el("label", { class: "choice" }, radio, el("span", {}, show(value))));
      }
      const unchanged = same(value, before) && el("span", { class: "note" }, "unchanged");
      return el("td", { data: { label } }, show(value), unchanged);
    };
    if (undecided) this.#onTyping(field, control, id);
    return el(
      "tr",
      { class: undecided ? "undecided" : null, data: { field: field.name } },
      el("th", { scope: "row" }, field.label),
      el("td", { data: { label: "Before" } }, show(before)),
      side("Yours", mine),
      side("Theirs", other),
      el("td", { class: "merged", data: { label: "Merged" } }, control, note),
    );
  }

  #control(field, id, undecided) {
    const shared = { id, "aria-label": `Merged ${field.label}` };
    if (field.kind === "select") {
      const blank = undecided && el("option", { value: "" }, "");
      const select = el("select", { ...shared, disabled: !undecided }, blank);
      for (const option of field.options) select.append(el("option", { value: option }, option));
      return select;
    }
    const readonly = !undecided || !field.parse;
    if (field.kind === "textarea") return el("textarea", { ...shared, rows: 2, readonly });
    return el("input", { ...shared, type: field.kind === "date" ? "date" : "text", readonly });
  }

  /** A third value may be typed: it decides the field as well as a radio does. */
  #onTyping(field, control, radioName) {
    control.addEventListener("input", () => {
      for (const radio of this.#dialog.querySelectorAll(`input[name="${radioName}"]`)) radio.checked = false;
      try {
        const value = (field.parse ?? ((text) => text))(control.value);
        control.removeAttribute("aria-invalid");
        this.#decided(field.name, value);
      } catch {
        control.setAttribute("aria-invalid", "true");
        this.#undecided.add(field.name);
        this.#count();
      }
    });
  }

  #decided(name, value) {
    this.#values[name] = value;
    this.#undecided.delete(name);
    this.#count();
  }

  #count() {
    const left = this.#undecided.size;
    const words = left === 0 ? "Nothing left to decide" : `${left} ${left === 1 ? "field" : "fields"} to decide`;
    setText(this.#status, words);
    this.#status.dataset.left = left;
    this.#save.disabled = left > 0;
    for (const row of this.#dialog.querySelectorAll("tr.undecided")) {
      row.dataset.decided = this.#undecided.has(row.dataset.field) ? "no" : "yes";
    }
  }

  #submit(event) {
    event.preventDefault();
    if (this.#undecided.size === 0) this.#finish({ ...this.#values });
  }

  #finish(result) {
    const resolve = this.#resolve;
    this.#resolve = null;
    this.#dialog?.close();
    resolve?.(result);
  }
}

customElements.define("conflict-dialog", ConflictDialog);
