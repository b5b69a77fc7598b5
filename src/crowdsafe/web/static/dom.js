/**
 * Building and changing nodes from text. Nothing here, or in any other module,
 * parses HTML: what users typed can only ever become text.
 */

/**
 * Builds an element. Children that are not nodes become text nodes; null,
 * undefined and false are left out.
 *
 * @param {string} tag
 * @param {object} attributes `on: {click: fn}` adds listeners, `data: {key: 7}`
 *   data attributes; true gives an empty attribute, false and null none.
 */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [type, fn] of Object.entries(value)) node.addEventListener(type, fn);
    else if (name === "data") Object.assign(node.dataset, value);
    else if (name === "value") node.value = value;
    else if (name === "style" || name.startsWith("on")) throw new Error(`attribute not allowed: ${name}`);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  append(node, children);
  return node;
}

function append(node, children) {
  for (const child of children.flat()) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

/** Replaces all children; for small parts that nobody is typing in. */
export function fillWith(node, ...children) {
  node.replaceChildren();
  append(node, children);
}

/** Changes the text in place, and only when it differs. Returns whether it did. */
export function setText(node, value) {
  const text = value === null || value === undefined ? "" : String(value);
  if (node.textContent === text) return false;
  if (node.childNodes.length === 1 && node.firstChild.nodeType === Node.TEXT_NODE) {
    node.firstChild.nodeValue = text;
  } else {
    node.replaceChildren(document.createTextNode(text));
  }
  return true;
}

/** The data that the server put in `<script type="application/json" id=...>`. */
export function pageData(id) {
  const node = document.getElementById(id);
  return node ? JSON.parse(node.textContent) : null;
}

/** Tells screen readers of a change of state. Not for every tick. */
export function announce(message) {
  const region = document.getElementById("announcer");
  if (!region) return;
  region.replaceChildren();
  // A fresh node in a later frame is read out even when the words repeat.
  setTimeout(() => region.replaceChildren(el("p", {}, message)), 50);
}

/**
 * Shows a message under a form or list: "ok", "refused" (the user can act) or
 * "failed". An empty message clears it. The mark before the words differs, so that
 * the kind does not depend on colour.
 */
export function showMessage(node, kind, message) {
  node.className = message ? `message message-${kind}` : "message";
  node.hidden = !message;
  const mark = { ok: "✓", refused: "!", failed: "✕" }[kind] ?? "";
  if (message) fillWith(node, el("span", { class: "mark", "aria-hidden": "true" }, mark), message);
  else node.replaceChildren();
}
