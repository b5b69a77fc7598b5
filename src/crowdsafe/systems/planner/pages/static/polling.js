/** Asking again while somebody looks: for what no event tells. */

import { announce } from "../dom.js";
import { coalesce } from "../live.js";

const IN_VAIN = new Set([401, 403, 404]);

/**
 * Runs `work()` every `every_ms` while the tab is seen and `wanted()` is true, and at once when
 * the tab is seen again. Runs never overlap, and what fails for a passing reason is tried again.
 * Who is signed out is told once, and nothing more is asked until the tab is seen anew.
 * Returns a function that runs it now.
 */
export function whileSeen(work, every_ms, wanted = () => true) {
  let stopped = false;
  const run = coalesce(async () => {
    try {
      await work();
      stopped = false;
    } catch (problem) {
      if (!IN_VAIN.has(problem.status)) throw problem;
      if (!stopped) announce(problem.message);
      stopped = true;
    }
  });
  const seen = () => document.visibilityState !== "hidden" && wanted();
  setInterval(() => {
    if (seen() && !stopped) run();
  }, every_ms);
  document.addEventListener("visibilitychange", () => {
    if (seen()) run();
  });
  return run;
}
