"""Tells whether an outcome is one that some serial order gives, and names it when not."""

from __future__ import annotations

from crowdsafe.find.judge.anomalies import Named, explanation, marks_of, name, pattern_of
from crowdsafe.find.judge.cures import cures

__all__ = ["Named", "cures", "explanation", "marks_of", "name", "pattern_of"]
