"""The store: engines tuned per database, transactions with retry, lanes, snapshot reads."""

from crowdsafe.store.database import Health
from crowdsafe.store.options import Call, Combiner, combined_by, write
from crowdsafe.store.retry import LostRace
from crowdsafe.store.session import after_commit
from crowdsafe.store.settings import Isolation, Settings
from crowdsafe.store.stores import AsyncStore, Store
from crowdsafe.store.tables import CrowdsafeBase
from crowdsafe.store.types import BigId, Json, UtcDateTime, utcnow

__all__ = [
    "AsyncStore",
    "BigId",
    "Call",
    "Combiner",
    "CrowdsafeBase",
    "Health",
    "Isolation",
    "Json",
    "LostRace",
    "Settings",
    "Store",
    "UtcDateTime",
    "after_commit",
    "combined_by",
    "utcnow",
    "write",
]
