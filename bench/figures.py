"""Arithmetic on what was measured; imports nothing, so that it can be tested without the peers."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["jain", "quantile", "worst_window"]


def jain(shares: Sequence[float]) -> float:
    """Jain's fairness index of normalised shares: 1 when all are equal, 1/n when one has all.

    R. Jain, D. Chiu, W. Hawe: A quantitative measure of fairness and discrimination for resource
    allocation in shared computer systems (1984).
    """
    squares = sum(share**2 for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 0.0


def worst_window(spans: Sequence[tuple[float, float]], window_s: float) -> int:
    """The most accepted calls that certainly fell into one window, wherever it begins.

    A span is when a call was asked and when it was answered; it was decided in between. Only calls
    that lie in the window with both ends are counted, so the answer is never too high.
    """
    ordered = sorted(spans)
    worst = 0
    for first, (start, _) in enumerate(ordered):
        inside = 0
        for asked, answered in ordered[first:]:
            if asked >= start + window_s:
                break
            inside += answered < start + window_s
        worst = max(worst, inside)
    return worst


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of all lie; 0 when there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
