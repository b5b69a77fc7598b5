/** Asking again while somebody looks: for what no event tells. */

import { coalesce } from "../live.js";

/**
 * Runs `work()` every `every_ms` while the tab is seen and `wanted()` is true, and at once when
 * the tab is seen again. Runs never overlap, and what fails for a passing reason is tried again.
 * Returns a function that runs it now.
 */
export function whileSeen(work, every_ms, wanted = () => true) {
  const run = coalesce(work);
  const seen = () => document.visibilityState !== "hidden";
  setInterval(() => {
    if (seen() && wanted()) run();
  }, every_ms);
  document.addEventListener("visibilitychange", () => {
    if (seen() && wanted()) run();
  });
  return run;
}
