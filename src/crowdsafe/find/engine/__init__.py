"""Runs operations at once under control, and searches their schedules."""

from __future__ import annotations

from crowdsafe.find.engine.controller import Controller
from crowdsafe.find.engine.schedule import in_order, of_grants, switches, to_text
from crowdsafe.find.engine.search import Budget, Search
from crowdsafe.find.engine.trace import Impossible, Picker, Situation

__all__ = [
    "Budget",
    "Controller",
    "Impossible",
    "Picker",
    "Search",
    "Situation",
    "in_order",
    "of_grants",
    "switches",
    "to_text",
]
