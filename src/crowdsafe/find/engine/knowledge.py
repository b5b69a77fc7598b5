"""What a search knows of the database, and learns from the runs, about what depends on what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crowdsafe.find.engine.trace import Grant
from crowdsafe.find.engine.transactions import Transactions

if TYPE_CHECKING:
    from crowdsafe.find.database import Database

__all__ = ["Knowledge"]


class Knowledge:
    """Makes the :class:`Transactions` of each run."""

    def __init__(self, dialect: str) -> None:
        self._dialect = dialect

    @classmethod
    def of(cls, database: Database) -> Knowledge:
        return cls(database.dialect)

    def transactions(self) -> Transactions:
        return Transactions(self._dialect)

    def learn(self, grants: list[Grant]) -> bool:
        """Take in a run; True when the dependencies have to be looked at anew."""
        return False
