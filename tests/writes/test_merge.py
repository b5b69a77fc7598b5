"""``merge``: the shared cases, and what must hold for any input."""

from __future__ import annotations

import doctest
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowdsafe import merge
from crowdsafe.writes import merge as _merge_function  # noqa: F401
from crowdsafe.writes.merge import same

CASES = json.loads(Path(__file__).with_name("merge_cases.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_cases_that_javascript_runs_too(case: dict[str, Any]) -> None:
    result = merge(case["base"], case["yours"], case["theirs"])
    assert json.dumps(result.merged, sort_keys=True) == json.dumps(case["merged"], sort_keys=True)
    conflicts = {name: list(three) for name, three in result.conflicts.items()}
    assert json.dumps(conflicts, sort_keys=True) == json.dumps(case["conflicts"], sort_keys=True)


def test_the_example_in_the_docstring() -> None:
    import sys

    module = sys.modules["crowdsafe.writes.merge"]
    assert doctest.testmod(module).failed == 0
    assert doctest.testmod(module).attempted >= 1


scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "a", "b"])
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=2), max_leaves=3)
records = st.dictionaries(st.sampled_from("abcd"), values)


@given(base=records, yours=records, theirs=records)
def test_every_field_is_merged_or_in_conflict_and_no_change_is_lost(
    base: dict[str, Any], yours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    result = merge(base, yours, theirs)
    assert result.merged.keys() | result.conflicts.keys() == {*base, *yours, *theirs}
    assert not result.merged.keys() & result.conflicts.keys()
    for name in {*base, *yours, *theirs}:
        before = base.get(name)
        mine, other = yours.get(name, before), theirs.get(name, before)
        changed = [value for value in (mine, other) if not same(value, before)]
        if name in result.conflicts:
            assert result.conflicts[name] == (before, mine, other)
            assert len(changed) == 2
            assert not same(mine, other)
        elif changed:
            assert all(same(result.merged[name], value) for value in changed)
        else:
            assert same(result.merged[name], before)


@given(base=records, yours=records, theirs=records)
def test_the_sides_are_alike(
    base: dict[str, Any], yours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    one, other = merge(base, yours, theirs), merge(base, theirs, yours)
    assert one.conflicts.keys() == other.conflicts.keys()
    assert all(same(one.merged[name], other.merged[name]) for name in one.merged)


@given(base=records, yours=records)
def test_alone_one_gets_what_one_wrote(base: dict[str, Any], yours: dict[str, Any]) -> None:
    result = merge(base, yours, base)
    assert not result.conflicts
    assert all(same(result.merged[name], value) for name, value in yours.items())


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (1, 1.0, True),
        (True, 1, False),
        (False, 0, False),
        (None, False, False),
        ([1, 2], [2, 1], False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({"a": None}, {}, False),
        ((1, [True]), [1, [1]], False),
        ("é", "e\u0301", False),
        (0.0, -0.0, True),
    ],
)
def test_equality_is_that_of_json(a: Any, b: Any, equal: bool) -> None:
    assert same(a, b) is equal
    assert same(b, a) is equal
