/** What every page does: local times, the one live connection, signing out. */

import { call } from "./api.js";
import { live } from "./live.js";
import { localTimes } from "./rows.js";

localTimes();
live();

document.getElementById("sign-out")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  await call("POST", "/auth/logout");
  location.assign("/login");
});
