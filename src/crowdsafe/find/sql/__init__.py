"""What a statement of SQL does: its tables, columns, locks and bounds of transactions."""

from __future__ import annotations

from crowdsafe.find.sql.analysis import analyse
from crowdsafe.find.sql.values import values_of

__all__ = ["analyse", "values_of"]
