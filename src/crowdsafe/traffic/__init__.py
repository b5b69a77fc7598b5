"""Limits on what reaches a backend, and one answer for many callers: rate limits, slots, quotas,
the fair queue, caches, breakers, retries.

Each part states what it holds and what it does not. Importing this needs SQLAlchemy alone.
"""

__all__: list[str] = []
