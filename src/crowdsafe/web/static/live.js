/**
 * One EventSource a page; everything on the page subscribes here.
 *
 * Resumes by Last-Event-ID: the browser does so by itself while the source lives,
 * and we pass `last_event_id` when we have to make a new one (after an error answer,
 * or when a hidden tab gave its connection back). On `resync` the server could not
 * give all that was missed: every subscriber reloads its data.
 */

import { announce, setText } from "./dom.js";

const RETRY_MIN_MS = 500;
const RETRY_MAX_MS = 10_000;
const HIDDEN_CLOSE_MS = 30_000;
const STATES = { live: "live", reconnecting: "reconnecting", paused: "paused", out: "signed out" };
const SAID = {
  live: "Live again.",
  reconnecting: "Connection lost. Reconnecting.",
  out: "You are signed out. What you typed is kept; sign in again in another window.",
};

class Live {
  #url;
  #source = null;
  #lastId;
  #handlers = new Map();
  #resync = new Set();
  #failures = 0;
  #timer = null;
  #hiddenTimer = null;
  #state = null;

  constructor(url, lastId) {
    this.#url = url;
    this.#lastId = lastId;
    document.addEventListener("visibilitychange", () => this.#visibility());
    addEventListener("pagehide", () => this.#close());
    addEventListener("pageshow", (event) => event.persisted && this.#open());
    this.#open();
  }

  /** Calls `handler(data, type)` for each event of the type, oldest first. */
  on(type, handler) {
    if (!this.#handlers.has(type)) {
      this.#handlers.set(type, new Set());
      this.#source?.addEventListener(type, this.#deliver);
    }
    this.#handlers.get(type).add(handler);
  }

  /** Calls `reload()` when events were missed for good. */
  onResync(reload) {
    this.#resync.add(reload);
  }

  #deliver = (event) => {
    if (event.lastEventId) this.#lastId = event.lastEventId;
    const data = event.data ? JSON.parse(event.data) : {};
    for (const handler of this.#handlers.get(event.type) ?? []) handler(data, event.type);
  };

  #onResync = (event) => {
    if (event.lastEventId) this.#lastId = event.lastEventId;
    for (const reload of this.#resync) reload();
  };

  #open() {
    this.#close();
    const url = new URL(this.#url, location.href);
    if (this.#lastId) url.searchParams.set("last_event_id", this.#lastId);
    const source = new EventSource(url);
    this.#source = source;
    source.addEventListener("open", () => {
      this.#failures = 0;
      this.#show("live");
    });
    source.addEventListener("error", () => this.#failed(source));
    source.addEventListener("resync", this.#onResync);
    for (const type of this.#handlers.keys()) source.addEventListener(type, this.#deliver);
  }

  #failed(source) {
    if (source !== this.#source) return;
    this.#show("reconnecting");
    if (source.readyState !== EventSource.CLOSED) return; // the browser is trying again
    this.#failures += 1;
    this.#againUnlessSignedOut(source);
  }

  /** An EventSource hides why it was refused, so another address is asked. */
  async #againUnlessSignedOut(source) {
    const answer = await fetch("/auth/me", { cache: "no-store" }).catch(() => null);
    if (source !== this.#source) return;
    if (answer?.status === 401) {
      this.#close();
      this.#show("out");
      return;
    }
    const wait_ms = Math.min(RETRY_MIN_MS * 2 ** this.#failures, RETRY_MAX_MS) * (0.5 + Math.random() / 2);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#open(), wait_ms);
  }

  #close() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
  }

  /** Browsers allow six connections to one host: a tab nobody sees gives its own back. */
  #visibility() {
    clearTimeout(this.#hiddenTimer);
    if (document.visibilityState === "hidden") {
      this.#hiddenTimer = setTimeout(() => {
        this.#close();
        this.#show("paused");
      }, HIDDEN_CLOSE_MS);
    } else if (!this.#source) {
      this.#open();
    }
  }

  #show(state) {
    const before = this.#state;
    if (state === before) return;
    this.#state = state;
    document.documentElement.dataset.live = state;
    const pill = document.getElementById("live-status");
    if (pill) {
      pill.dataset.state = state;
      setText(pill, STATES[state]);
    }
    if (before === null || state === "paused" || before === "paused") return;
    announce(SAID[state]);
  }
}

let shared = null;

/** The page's one connection, or a silent stand-in on a page without a stream. */
export function live() {
  if (shared) return shared;
  const { events, lastEventId } = document.body.dataset;
  shared = events ? new Live(events, lastEventId ?? "") : { on() {}, onResync() {} };
  return shared;
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * For what events set off: `ask(key)` runs `work(key)`, one at a time, and once more for a
 * key that was asked for meanwhile. What fails for a passing reason (the server is away) is
 * tried again until it works, so that an event is never received in vain.
 */
export function follow(work) {
  const wanted = new Set();
  let running = null;

  async function run() {
    for (let failures = 0; wanted.size > 0; ) {
      const [key] = wanted;
      wanted.delete(key);
      try {
        await work(key);
        failures = 0;
      } catch (problem) {
        if (problem.status === 401) announce(problem.message);
        if (!problem.passing) throw problem;
        wanted.add(key);
        failures += 1;
        await pause(Math.min(RETRY_MIN_MS * 2 ** failures, RETRY_MAX_MS));
      }
    }
  }

  return function ask(key) {
    wanted.add(key);
    running ??= run().finally(() => {
      running = null;
    });
    return running;
  };
}

/** The same for work that is the whole page's: many calls are one run, or one more. */
export function coalesce(work) {
  const ask = follow(work);
  return () => ask("all");
}
