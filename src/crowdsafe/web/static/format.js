/** Values as people read them; `crowdsafe.web.pages` formats the first paint alike. */

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const two = (number) => String(number).padStart(2, "0");

export function number(value) {
  return String(value).replace(/\B(?=(\d{3})+$)/g, ",");
}

/** Integer cents to "$1,234.50"; "−$3.00" below zero. */
export function money(cents) {
  const size = Math.abs(cents);
  return `${cents < 0 ? "−" : ""}$${number(Math.floor(size / 100))}.${two(size % 100)}`;
}

/** Integer minutes to "7 h 36 min". */
export function hours(minutes) {
  const size = Math.abs(minutes);
  const rest = size % 60;
  return `${minutes < 0 ? "−" : ""}${Math.floor(size / 60)} h${rest ? ` ${two(rest)} min` : ""}`;
}

/** Integer minutes, not negative, to "7:36". */
export function clock(minutes) {
  return `${Math.floor(minutes / 60)}:${two(minutes % 60)}`;
}

/** "2026-11-02" to "2 Nov 2026". */
export function day(iso) {
  if (!iso) return "";
  const [year, month, dayOfMonth] = iso.slice(0, 10).split("-").map(Number);
  return `${dayOfMonth} ${MONTHS[month - 1]} ${year}`;
}

/** An instant, in this browser's time zone: "2 Nov 2026 14:05". */
export function when(iso) {
  if (!iso) return "";
  const at = new Date(iso);
  return `${at.getDate()} ${MONTHS[at.getMonth()]} ${at.getFullYear()} ${two(at.getHours())}:${two(at.getMinutes())}`;
}

/** "paper_slitting" to "Paper slitting". */
export function label(name) {
  const words = String(name ?? "").replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** A signed count: "+80" or "−80". */
export function signed(value) {
  return `${value < 0 ? "−" : "+"}${number(Math.abs(value))}`;
}

export const formats = { number, money, hours, clock, day, when, label, signed };
