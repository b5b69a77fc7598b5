"""The benchmarks' arithmetic, and that a failing peer spoils nobody else's figures."""

from __future__ import annotations

import pytest
from bench.figures import jain, quantile, worst_window
from bench.finder.cases import CASES
from bench.finder.compare import is_right
from bench.findings import always, at_least, at_least_times, cells
from bench.rounds import Figures, Trial, interleaved


def test_jain_is_one_for_equal_shares_and_one_nth_for_a_single_taker() -> None:
    assert jain([2.0] * 51) == pytest.approx(1.0)
    assert jain([1.0, *[0.0] * 50]) == pytest.approx(1 / 51)
    assert jain([0.0, 0.0]) == 0.0


def test_the_worst_window_counts_what_surely_fell_into_it_and_nothing_else() -> None:
    log = [(at, at) for at in (0.0, 0.5, 0.999, 1.0, 1.4)]
    assert worst_window(log, 1.0) == 4  # 0.5 to 1.4; 0.0 and 1.0 are a whole window apart
    late = [(0.0, 0.1), (0.9, 1.05)]  # the second may have been decided in the next window
    assert worst_window(late, 1.0) == 1
    assert worst_window([], 1.0) == 0


def test_a_quantile_of_nothing_is_nothing() -> None:
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([1.0], 0.95) == 1.0
    assert quantile([], 0.5) == 0.0


def test_a_peer_that_fails_is_said_so_and_the_others_are_measured() -> None:
    order: list[str] = []

    def good(name: str, value: float) -> Trial:
        def run() -> Figures:
            order.append(name)
            return {"per_s": value}

        return Trial(name, run)

    def broken() -> Figures:
        order.append("broken")
        raise ConnectionError("no server")

    trials = [good("ours", 10.0), Trial("broken", broken), good("peer", 4.0)]
    found = interleaved(trials, 3)
    assert order == ["ours", "broken", "peer", "peer", "ours", "peer", "ours"]
    lines = cells(found, [("per_s", ".0f")], {"peer": "ours", "broken": "ours"}, "per_s")
    assert lines == [
        ["ours", "10", "", ""],
        ["broken", "", "", "not run: ConnectionError: no server"],
        ["peer", "4", "2.5×", ""],
    ]
    assert at_least_times("", found, "ours", "peer", "per_s", 2).met
    assert not at_least_times("", found, "ours", "broken", "per_s", 2).met
    assert not at_least("", found, "ours", "per_s", 11).met
    assert always("", found, ("ours",), "per_s", 10).met
    assert not always("", found, ("ours", "broken"), "per_s", 10).met
    assert not always("", found, ("ours", "peer"), "per_s", 10).met


def test_a_finder_is_right_when_it_says_what_is_so_and_neither_when_cut_nor_when_unsure() -> None:
    racy, safe = CASES["psycopg, racy ×2"], CASES["psycopg, guarded ×3"]
    assert is_right(racy, {"verdict": "race"})
    assert is_right(safe, {"verdict": "proven"})
    assert is_right(safe, {"verdict": "holds"})
    for said in ("cut", "inconclusive", "not-found", "holds, though cut", "failed"):
        assert not is_right(racy, {"verdict": said})
        assert not is_right(safe, {"verdict": said})
    assert not is_right(safe, {"verdict": "race"})
    assert not is_right(racy, {"verdict": "holds"})
