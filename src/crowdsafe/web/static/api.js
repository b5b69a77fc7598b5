/**
 * Calls to this server's JSON API. Errors arrive as problem+json (RFC 9457) and
 * leave as `Problem`. A write carries an Idempotency-Key, so that sending it again
 * after a lost answer is safe.
 */

const TIMEOUT_MS = 15_000;
const ATTEMPTS_MAX = 4;
const SIGNED_OUT =
  "You are signed out. Sign in again in another window, then try again here: what you typed is kept.";
const RETRY_STATUSES = new Set([502, 503, 504]);

/** A refusal or failure, with the server's `detail` as its message. */
export class Problem extends Error {
  /** @param {number} status HTTP status; 0 when no answer came */
  constructor(status, data) {
    super(data.detail || data.title || `The server answered ${status}.`);
    this.name = "Problem";
    this.status = status;
    this.data = data;
    this.type = String(data.type ?? "").split(/[/:]/).pop();
  }

  /** True when the server may not have seen the request, or may see it better later. */
  get passing() {
    return this.status === 0 || RETRY_STATUSES.has(this.status);
  }
}

/** 128 random bits in hex; crypto.randomUUID is missing on plain http:// addresses. */
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function readProblem(response) {
  let data = {};
  try {
    data = await response.json();
  } catch {
    data = { title: response.statusText };
  }
  return new Problem(response.status, data && typeof data === "object" ? data : {});
}

async function once(method, path, headers, body) {
  let response;
  try {
    response = await fetch(path, {
      method,
      headers,
      body,
      credentials: "same-origin",
      cache: "no-store",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
  } catch {
    throw new Problem(0, { detail: "No answer from the server. Check the connection; trying again is safe." });
  }
  if (!response.ok) {
    const problem = await readProblem(response);
    problem.retryAfter_s = Number(response.headers.get("Retry-After")) || 0;
    throw problem;
  }
  const text = await response.text();
  return { data: text ? JSON.parse(text) : null, etag: response.headers.get("ETag") };
}

/**
 * One call. GETs and calls with a `key` are retried on lost answers and 502 to 504,
 * with jittered backoff, at most four times in all.
 *
 * @param {{body?: any, key?: string, version?: number, prefer?: string}} options `version` is
 *   sent as If-Match, `prefer` as Prefer
 * @returns {Promise<{data: any, etag: string|null}>}
 * @throws {Problem}
 */
export async function call(method, path, { body, key, version, prefer } = {}) {
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key) headers["Idempotency-Key"] = key;
  if (prefer) headers["Prefer"] = prefer;
  if (version !== undefined && version !== null) headers["If-Match"] = `"${version}"`;
  const text = body === undefined ? undefined : JSON.stringify(body);
  const repeatable = method === "GET" || Boolean(key);
  for (let attempt = 1; ; attempt++) {
    try {
      return await once(method, path, headers, text);
    } catch (problem) {
      if (problem.status === 401) problem.message = SIGNED_OUT;
      if (!repeatable || !problem.passing || attempt >= ATTEMPTS_MAX) throw problem;
      const wait_ms = Math.min(200 * 2 ** attempt, 3000) * (0.5 + Math.random());
      await pause(Math.max(wait_ms, Math.min(problem.retryAfter_s ?? 0, 5) * 1000));
    }
  }
}

export async function get(path) {
  return (await call("GET", path)).data;
}

/**
 * The writes of one form or button. The same request after a lost answer goes out
 * under the same key, a changed one under a new key; a second press while one is
 * under way joins it instead of sending twice.
 */
export class Submission {
  #running = null;
  #print = null;
  #key = null;

  async send(method, path, body, options = {}) {
    const print = JSON.stringify([method, path, body ?? null, options.version ?? null]);
    while (this.#running) {
      if (print === this.#print) return this.#running;
      await this.#running.catch(() => null);
    }
    if (print !== this.#print) {
      this.#print = print;
      this.#key = newKey();
    }
    this.#running = call(method, path, { ...options, body: body ?? {}, key: this.#key });
    try {
      const answer = await this.#running;
      this.#print = null;
      return answer;
    } catch (problem) {
      if (!problem.passing) this.#print = null;
      throw problem;
    } finally {
      this.#running = null;
    }
  }
}

/** Runs a submit handler with its buttons off meanwhile, so that a double click is one. */
export async function whileBusy(form, work) {
  const buttons = form.matches("form") ? [...form.querySelectorAll("button")] : [form];
  const wereOn = buttons.filter((button) => !button.disabled);
  wereOn.forEach((button) => button.setAttribute("aria-disabled", "true"));
  try {
    return await work();
  } finally {
    wereOn.forEach((button) => button.removeAttribute("aria-disabled"));
  }
}
