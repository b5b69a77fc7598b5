"""The planner's pages: the idea form, a job's progress, the plans, and the operator's queue."""

from __future__ import annotations

from crowdsafe.systems.planner.pages.routes import SECTION, page_router

__all__ = ["SECTION", "page_router"]
