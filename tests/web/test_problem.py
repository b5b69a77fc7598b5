"""Errors as problems: members, headers, and a body that is always valid JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from crowdsafe.errors import (
    Conflict,
    CrowdsafeError,
    Insufficient,
    NotAuthenticated,
    TooMany,
)
from crowdsafe.web.problem import http_problem, problem_of, problem_types, safe_json


def strict(text: bytes) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    found: dict[str, Any] = json.loads(text.decode(), parse_constant=refuse)
    return found


def test_data_become_members() -> None:
    problem = problem_of(Insufficient("Only 20 left.", available=20))
    assert problem.status == 400
    assert strict(problem.encode()) == {
        "type": "/problems/insufficient",
        "title": "Not enough available",
        "status": 400,
        "detail": "Only 20 left.",
        "available": 20,
    }


def test_the_default_detail_names_the_fix() -> None:
    detail = problem_of(Insufficient(available=3)).body["detail"]
    assert "ask for at most" in detail
    assert "\n" not in detail


def test_data_cannot_replace_the_standard_members() -> None:
    error = Conflict("x", fields={"notes": ("a", "b", "c")}, version=8)
    error.data.update(status=200, type="about:blank", detail="no", title="no")
    body = strict(problem_of(error).encode())
    assert (body["status"], body["type"], body["detail"]) == (409, "/problems/conflict", "x")
    assert body["fields"] == {"notes": ["a", "b", "c"]}


@pytest.mark.parametrize(
    ("given", "header"), [(0.2, "1"), (1, "1"), (1.01, "2"), (30, "30"), (0, "1")]
)
def test_retry_after_is_whole_seconds_rounded_up(given: float, header: str) -> None:
    assert problem_of(TooMany(retry_after_s=given)).headers["Retry-After"] == header


def test_without_a_time_there_is_no_retry_after() -> None:
    assert "Retry-After" not in problem_of(TooMany()).headers
    assert "Retry-After" not in problem_of(TooMany(retry_after_s=float("inf"))).headers


def test_401_says_how_to_authenticate() -> None:
    assert problem_of(NotAuthenticated()).headers["WWW-Authenticate"].startswith("Bearer")


def test_whatever_the_data_the_body_is_valid_and_bounded() -> None:
    deep: list[Any] = []
    for _ in range(100):
        deep = [deep]
    error = CrowdsafeError(
        "x" * 100_000,
        nan=float("nan"),
        endless=float("-inf"),
        lone="\ud800",
        deep=deep,
        moment=datetime(2026, 1, 2, tzinfo=UTC),
        names={"b", "a"},
        thing=object(),
        big=2**80,
    )
    text = problem_of(error).encode()
    body = strict(text)
    assert len(text) < 10_000
    assert body["nan"] is None
    assert body["endless"] is None
    assert body["moment"] == "2026-01-02T00:00:00+00:00"
    assert body["names"] == ["a", "b"]


def test_safe_json_keeps_plain_data() -> None:
    plain = {"a": [1, 2.5, None, True, "x"], "b": {"c": "d"}}
    assert safe_json(plain) == plain


def test_a_status_without_a_class_is_about_blank() -> None:
    assert http_problem(418).body == {
        "type": "about:blank",
        "title": "I'm a Teapot",
        "status": 418,
        "detail": "I'm a Teapot",
    }
    assert http_problem(799).body["title"] == "Error"


def test_every_problem_type_is_a_slug_with_a_text() -> None:
    types = problem_types()
    assert {"insufficient", "conflict", "invalid-etag", "too-many"} <= types.keys()
    for slug, cls in types.items():
        assert slug.replace("-", "").isalnum(), slug
        assert 400 <= cls.status < 600
        assert (cls.__doc__ or "").strip(), f"{cls.__name__} does not say what to do"
