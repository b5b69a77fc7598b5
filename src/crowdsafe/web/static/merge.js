/**
 * Three-way merge of flat records: the twin of `crowdsafe.writes.merge`.
 *
 * Both are held equal by tests/writes/merge_cases.json. A field missing from
 * `yours` or `theirs` is unchanged by that side; one missing from `base` counts
 * as null. Lists and objects are values: compared whole, never merged inside.
 *
 * Limit: whole numbers beyond 2^53 are not exact in JavaScript.
 */

/** JSON equality: 1 equals 1.0, true is not 1, key order does not count. */
export function same(a, b) {
  if (a === b) return true; // also 0 and -0
  if (a === null || b === null || typeof a !== "object" || typeof b !== "object") return false;
  if (Array.isArray(a) !== Array.isArray(b)) return false;
  const names = Object.keys(a);
  return (
    names.length === Object.keys(b).length &&
    names.every((name) => Object.hasOwn(b, name) && same(a[name], b[name]))
  );
}

function valueOf(record, name, fallback) {
  return Object.hasOwn(record, name) && record[name] !== undefined ? record[name] : fallback;
}

/**
 * @param {object} base what you started from
 * @param {object} yours what you have now
 * @param {object} theirs what is stored now
 * @returns {{merged: object, conflicts: Object<string, [base, yours, theirs]>}}
 *   `merged` holds every field that needs no decision, `conflicts` the others.
 */
export function merge(base, yours, theirs) {
  const names = new Set([...Object.keys(base), ...Object.keys(yours), ...Object.keys(theirs)]);
  const merged = [];
  const conflicts = [];
  for (const name of names) {
    const before = valueOf(base, name, null);
    const mine = valueOf(yours, name, before);
    const other = valueOf(theirs, name, before);
    if (same(mine, before)) merged.push([name, other]);
    else if (same(other, before) || same(mine, other)) merged.push([name, mine]);
    else conflicts.push([name, [before, mine, other]]);
  }
  // fromEntries defines own properties, so a field named "__proto__" is only a field.
  return { merged: Object.fromEntries(merged), conflicts: Object.fromEntries(conflicts) };
}
