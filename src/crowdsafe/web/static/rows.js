/**
 * Rows that follow the data. Markup comes from the page's own <template> elements;
 * here only text nodes and attributes change, in place, so that focus, selection and
 * scroll position stay where the user has them.
 *
 *   <td data-text="total_cents" data-format="money"></td>   text from a field
 *   <span data-state-of="stage"></span>                     data-state="winding"
 *   <a data-href="/orders/{id}"></a>                        an address with a field in it
 *   <p data-show="low"></p>                                 hidden unless the field is true
 */

import { setText } from "./dom.js";
import { formats } from "./format.js";

const FLASH_MS = 1500;

function withSelf(root, selector) {
  const inner = [...root.querySelectorAll(selector)];
  return root.matches?.(selector) ? [root, ...inner] : inner;
}

/** Writes a record's fields into the marked nodes under `root`. Returns whether any text changed. */
export function fill(root, record) {
  let changed = false;
  for (const node of withSelf(root, "[data-text]")) {
    const value = record[node.dataset.text];
    if (value === undefined) continue;
    const format = formats[node.dataset.format];
    changed = setText(node, format && value !== null ? format(value) : value) || changed;
    if (node.localName === "time") node.dateTime = value ?? "";
  }
  for (const node of withSelf(root, "[data-state-of]")) {
    node.dataset.state = String(record[node.dataset.stateOf] ?? "");
  }
  for (const node of withSelf(root, "[data-href]")) {
    node.setAttribute("href", node.dataset.href.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(record[name])));
  }
  for (const node of withSelf(root, "[data-show]")) node.hidden = !record[node.dataset.show];
  return changed;
}

/** Marks a node as just changed; the style sheet keeps still for those who asked. */
export function flash(node) {
  node.classList.add("changed");
  setTimeout(() => node.classList.remove("changed"), FLASH_MS);
}

/** Times that the server wrote in UTC, in the reader's own time zone. */
export function localTimes(root = document) {
  for (const node of root.querySelectorAll("time[data-format=when]")) {
    if (node.dateTime) setText(node, formats.when(node.dateTime));
  }
}

/** Keyed rows in a container (a tbody, a list). */
export class Rows {
  /**
   * @param {HTMLElement} container
   * @param {HTMLTemplateElement} template one row
   * @param {{after?: (row: HTMLElement, record: object) => void, max?: number}} options
   *   `after` runs when a row was filled; more than `max` rows drop the last
   */
  constructor(container, template, { after = () => {}, max = 500 } = {}) {
    this.container = container;
    this.template = template;
    this.after = after;
    this.max = max;
  }

  find(key) {
    return this.container.querySelector(`:scope > [data-key="${CSS.escape(String(key))}"]`);
  }

  get count() {
    return this.container.querySelectorAll(":scope > [data-key]").length;
  }

  /** Adds the record's row, or changes it in place unless what is shown is newer. */
  put(record, { atEnd = false, quiet = false } = {}) {
    const known = this.find(record.id);
    if (known && record.version < Number(known.dataset.version)) return known;
    const row = known ?? this.template.content.firstElementChild.cloneNode(true);
    row.dataset.key = record.id;
    if (record.version !== undefined) row.dataset.version = record.version;
    const changed = fill(row, record);
    this.after(row, record);
    if (!known) {
      if (atEnd) this.container.append(row);
      else this.container.prepend(row);
      this.#trim();
    }
    if (changed && !quiet) flash(row);
    return row;
  }

  /** Takes a row away; one that has the focus stays until the focus leaves it. */
  remove(key) {
    const row = this.find(key);
    if (!row) return;
    if (row.contains(document.activeElement)) {
      row.classList.add("leaving");
      row.addEventListener("focusout", () => row.remove(), { once: true });
    } else {
      row.remove();
    }
  }

  /** Makes the rows those of `records`, in their order, without touching equal ones. */
  replaceAll(records) {
    const keep = new Set(records.map((record) => String(record.id)));
    for (const row of this.container.querySelectorAll(":scope > [data-key]")) {
      if (!keep.has(row.dataset.key)) this.remove(row.dataset.key);
    }
    let previous = null;
    for (const record of records) {
      const row = this.put(record, { atEnd: true, quiet: true });
      const right = previous ? previous.nextElementSibling === row : row === this.container.firstElementChild;
      if (!right && !row.contains(document.activeElement)) {
        if (previous) previous.after(row);
        else this.container.prepend(row);
      }
      previous = row;
    }
  }

  #trim() {
    const rows = this.container.querySelectorAll(":scope > [data-key]");
    for (let at = rows.length - 1; at >= this.max; at--) {
      if (!rows[at].contains(document.activeElement)) rows[at].remove();
    }
  }
}
