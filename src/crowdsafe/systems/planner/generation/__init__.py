"""Makes a business plan of a request: with a language model, and without one when that fails."""

from __future__ import annotations

from crowdsafe.systems.planner.generation.calls import Breaker, Patience
from crowdsafe.systems.planner.generation.generate import generate
from crowdsafe.systems.planner.generation.offline import offline_plan
from crowdsafe.systems.planner.generation.sections import (
    SECTIONS,
    TITLES,
    Column,
    Plan,
    SavedSections,
    Section,
    Table,
)
from crowdsafe.systems.planner.generation.upstream import Upstream

__all__ = [
    "SECTIONS",
    "TITLES",
    "Breaker",
    "Column",
    "Patience",
    "Plan",
    "SavedSections",
    "Section",
    "Table",
    "Upstream",
    "generate",
    "offline_plan",
]
