"""Two corpora of small programs: racy ones, which must be found, and safe ones, which must not.

Each is written as a careful developer would write it who tried it alone. ``CASES`` has them all,
by their names.
"""

from __future__ import annotations

from types import ModuleType

from tests.find.corpus import (
    chat,
    django_racy,
    django_safe,
    factory,
    guarded,
    keys,
    limits,
    locks,
    order_numbers,
    people,
    records,
    stock,
    versions,
)
from tests.find.corpus.case import Built, Case, Expected

__all__ = ["CASES", "Built", "Case", "Expected"]


def _cases(*modules: ModuleType) -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for module in modules:
        for value in vars(module).values():
            if isinstance(value, Case):
                assert cases.setdefault(value.name, value) is value, f"two cases {value.name}"
    return cases


CASES = _cases(
    stock,
    order_numbers,
    factory,
    records,
    limits,
    people,
    chat,
    django_racy,
    guarded,
    keys,
    locks,
    versions,
    django_safe,
)
