"""What is known to differ between two runs of one and the same serial order.

Learned, not guessed: the same operations in the same order, at another time and with the
generators of ids moved on, give the same outcome but for what is volatile. Where a value differs
is named by a :data:`Path`: ``("row", table, column, ...)`` or ``("answer", request, ...)``, with
the names inside of JSON, and ``*`` for any place of a list, ``[0]`` for the first of a tuple.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from crowdsafe.find.judge.signed import carried

__all__ = ["Domain", "Habits", "Path", "opened", "paired", "route"]

Path = tuple[str, ...]
Domain = tuple[str, str]
"""Whose ids they are: (table, column)."""

_JSON_MAX = 200_000
_ALIGNED_MAX = 60
_NUMBERS = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}|(?<=[/=])\d+(?=[/?&.]|$)")


@dataclass(slots=True)
class Habits:
    """``volatile`` are the paths whose values differed, ``seen`` all that were compared.

    ``masked`` differed even when ids and times in them were taken for equal; ``noise`` are the
    words of a text (path, word before) of which the same is true. ``nodes`` are key columns that
    differed, ``moved`` those generated ids that did, ``homes`` whose ids a path was found to hold.
    """

    volatile: set[Path] = field(default_factory=set)
    seen: set[Path] = field(default_factory=set)
    masked: set[Path] = field(default_factory=set)
    noise: set[tuple[Path, str]] = field(default_factory=set)
    nodes: set[Domain] = field(default_factory=set)
    moved: set[Domain] = field(default_factory=set)
    homes: dict[Path, frozenset[Domain]] = field(default_factory=dict)

    def size(self) -> int:
        """Grows whenever something was learned."""
        return (
            len(self.volatile) + len(self.seen) + len(self.masked) + len(self.noise)
            + len(self.nodes) + len(self.moved) + sum(10 - len(h) for h in self.homes.values())
        )  # fmt: skip


def route(request: str) -> str:
    """A request without the ids in its address and without its body: what it is in each run."""
    head = " ".join(request.split(" ")[:2])
    return _NUMBERS.sub("#", head)


def opened(value: Any) -> Any:
    """A text that holds JSON as what it holds, signed or not; anything else as it is."""
    if not isinstance(value, str) or len(value) > _JSON_MAX:
        return value
    if value[:1] not in {"{", "["}:
        held = carried(value)
        return value if held is None else held
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def paired(path: Path, one: Any, two: Any) -> Iterator[tuple[Path, Any, Any]]:
    """The leaves of two values that stand at the same place. What only one of them has is left
    out: whoever compares the whole will see it."""
    one, two = opened(one), opened(two)
    if isinstance(one, dict) and isinstance(two, dict):
        both = [name for name in one if name in two]
        for name in both:
            yield from paired((*path, str(name)), one[name], two[name])
        ones = [item for name, item in one.items() if name not in two]
        twos = [item for name, item in two.items() if name not in one]
        yield from paired(path, ones, twos) if ones or twos else ()
    elif isinstance(one, tuple) and isinstance(two, tuple):
        for place, (first, second) in enumerate(zip(one, two, strict=False)):
            yield from paired((*path, f"[{place}]"), first, second)
    elif isinstance(one, list) and isinstance(two, list):
        for first, second in aligned(one, two):
            yield from paired((*path, "*"), first, second)
    else:
        yield path, one, two


def aligned(one: list[Any], two: list[Any]) -> list[tuple[Any, Any]]:
    """Each element with the one of the other list that is most like it; the shorter list's
    length, in the order of the first, ties by place. Long lists go by place alone."""
    if max(len(one), len(two)) > _ALIGNED_MAX:
        return list(zip(one, two, strict=False))
    left = list(range(len(two)))
    pairs: list[tuple[Any, Any]] = []
    for place, item in enumerate(one):
        if not left:
            break
        best = max(left, key=lambda n: (likeness(item, two[n]), -abs(n - place)))
        left.remove(best)
        pairs.append((item, two[best]))
    return pairs


def likeness(one: Any, two: Any) -> float:
    """From 0 (nothing in common) to 1 (equal), by the places that are equal."""
    if one == two:
        return 1.0
    if isinstance(one, dict) and isinstance(two, dict):
        names = one.keys() | two.keys()
        same = sum(likeness(one.get(name), two.get(name)) for name in names if name in one)
        return 0.99 * same / len(names) if names else 1.0
    if isinstance(one, list | tuple) and isinstance(two, list | tuple) and one and two:
        same = sum(likeness(a, b) for a, b in zip(one, two, strict=False))
        return 0.99 * same / max(len(one), len(two))
    return 0.0
