"""Makes a Python web backend safe for a crowd."""

from crowdsafe.store import AsyncStore, Settings, Store, after_commit, write

__all__ = ["AsyncStore", "Settings", "Store", "after_commit", "write"]
