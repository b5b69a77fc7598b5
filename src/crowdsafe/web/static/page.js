/** What every page does: local times, the one live connection, the sign-out button. */

import { live } from "./live.js";
import { localTimes } from "./rows.js";

localTimes();
live();
