"""The factory's pages: orders, stock, floor, timesheets, leave, invoices."""

from __future__ import annotations

from crowdsafe.systems.factory.pages.routes import SECTION, page_router

__all__ = ["SECTION", "page_router"]
