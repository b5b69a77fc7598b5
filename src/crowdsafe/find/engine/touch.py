"""What a step touches, and which touches of two operations do not commute.

A touch says, table by table, in which of these ways:

``READ``     reads what is committed (a plain SELECT: it neither waits nor is waited for)
``LOCK``     writes rows or locks them, and reads them before that
``PUBLISH``  makes changes visible to others (COMMIT, or a statement that commits by itself)
``RELEASE``  lets go of locks (the end of a transaction, or an error in it)
``ADD``      adds rows that can neither collide with others nor are read by anybody
``SHARE``    refers to rows: keeps them from being deleted, and needs them to be there
``UNSHARE``  lets go of such a reference

Two steps of different operations commute unless, on one table, one of them

- reads and the other publishes: the reader sees the rows as before or as after;
- locks and the other locks, publishes or releases: who locks first goes on, the other waits, or
  finds the rows as the first left them;
- refers and the other locks, publishes or releases, or the reference ends and the other locks:
  likewise, but two that refer do not mind each other.

Reading and locking commute, since both databases keep changes from others until they are
committed. Releases and publications commute with each other: what they give, all of them
together, does not depend on their order. A touch of known rows only meets touches of the same
rows. This is the relation that makes two runs the same run for the search, so whatever is not
sure has to be said as more: an unknown statement touches ``EVERYTHING``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntFlag

__all__ = ["EVERYTHING", "NOTHING", "Mode", "Rows", "Touch", "all_of", "dependent"]


class Mode(IntFlag):
    READ = 1
    LOCK = 2
    PUBLISH = 4
    RELEASE = 8
    ADD = 16
    SHARE = 32
    UNSHARE = 64
    ALL = READ | LOCK | PUBLISH | RELEASE


Rows = frozenset[str] | None
"""The keys of the rows that are touched; None: perhaps all."""

Touch = Mapping[str, tuple[Mode, Rows]]

NOTHING: Touch = {}
_ANY = "*"
EVERYTHING: Touch = {_ANY: (Mode.ALL, None)}

_AGAINST = {
    Mode.READ: Mode.PUBLISH,
    Mode.LOCK: Mode.LOCK | Mode.PUBLISH | Mode.RELEASE | Mode.SHARE | Mode.UNSHARE,
    Mode.PUBLISH: Mode.READ | Mode.LOCK | Mode.SHARE,
    Mode.RELEASE: Mode.LOCK | Mode.SHARE,
    Mode.ADD: Mode(0),
    Mode.SHARE: Mode.LOCK | Mode.PUBLISH | Mode.RELEASE,
    Mode.UNSHARE: Mode.LOCK,
}


def _conflicting(bits: int) -> int:
    """All modes that do not commute with one of these."""
    found = Mode(0)
    for mode, other in _AGAINST.items():
        if mode & bits:
            found |= other
    return int(found)


_CONFLICTS = tuple(_conflicting(bits) for bits in range(128))


def dependent(one: Touch, other: Touch) -> bool:
    """Whether the order of two steps that do this could matter."""
    if _ANY in one:
        return bool(other)
    if _ANY in other:
        return bool(one)
    if len(other) < len(one):
        one, other = other, one
    for name, (modes, rows) in one.items():
        there = other.get(name)
        if there is None or not _CONFLICTS[modes] & there[0]:
            continue
        if rows is None or there[1] is None or rows & there[1]:
            return True
    return False


def all_of(touches: Iterable[Touch]) -> Touch:
    """What several steps touch, taken as one."""
    merged: dict[str, tuple[Mode, Rows]] = {}
    for touch in touches:
        for name, (modes, rows) in touch.items():
            before = merged.get(name)
            if before is None:
                merged[name] = (modes, rows)
            else:
                both = None if rows is None or before[1] is None else rows | before[1]
                merged[name] = (before[0] | modes, both)
    return merged
