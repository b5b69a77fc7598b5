/**
 * What was typed, kept through a reload, a failed answer or a new login: in this tab only, and
 * for this user only, since an idea is nobody else's business.
 */

export class Draft {
  #key;

  constructor(user) {
    this.#key = `planner-draft-${user}`;
  }

  /** The values that were kept, or null. */
  read() {
    try {
      return JSON.parse(sessionStorage.getItem(this.#key) ?? "null");
    } catch {
      return null; // blocked by the browser, or not ours: start empty
    }
  }

  write(values) {
    try {
      sessionStorage.setItem(this.#key, JSON.stringify(values));
    } catch {
      // full or blocked: the form still holds what was typed
    }
  }

  clear() {
    try {
      sessionStorage.removeItem(this.#key);
    } catch {
      // blocked: then nothing was kept either
    }
  }
}
