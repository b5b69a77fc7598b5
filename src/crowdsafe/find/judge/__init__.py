"""Tells whether an outcome is one that some serial order gives, and names it when not."""

from __future__ import annotations

from crowdsafe.find.judge.oracle import Invariant, Judgement, Oracle

__all__ = ["Invariant", "Judgement", "Oracle"]
