"""The programs that both finders are given, and what is true of each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Case:
    """``users`` of one operation at once: ``operation``, ``ours`` and ``peer`` are names in
    ``module``; ``database`` is sqlite or postgresql."""

    name: str
    module: str
    operation: str
    racy: bool
    users: int = 2
    ours: str = "ours"
    peer: str = "peer"
    database: str = "postgresql"


CASES = {
    case.name: case
    for case in (
        Case("psycopg, racy ×2", "stock", "racy", racy=True),
        Case("psycopg, guarded ×2", "stock", "guarded", racy=False),
        Case("psycopg, guarded ×3", "stock", "guarded", racy=False, users=3),
        Case("psycopg, FOR UPDATE ×3", "stock", "locked", racy=False, users=3),
        Case("psycopg, both told “won” ×2", "stock", "claimed", racy=True, peer="peer_told"),
        Case("psycopg, SERIALIZABLE with retry ×2", "stock", "retried", racy=False),
        Case("SQLAlchemy, racy ×2", "orm", "racy", racy=True),
        Case("SQLAlchemy, guarded ×2", "orm", "guarded", racy=False),
        Case("SQLAlchemy async, racy ×2", "orm", "async_racy", racy=True, peer="peer_async"),
        Case("FastAPI def, racy ×2", "orm", "racy", racy=True,
             ours="ours_fastapi", peer="peer_fastapi"),
        Case("Flask, racy ×2", "orm", "racy", racy=True, ours="ours_flask", peer="peer_flask"),
        Case("Django, racy ×2", "site", "racy", racy=True),
        Case("Django, F() guarded ×2", "site", "guarded", racy=False),
        Case("SQLite, racy ×2", "light", "racy", racy=True, database="sqlite"),
        Case("SQLite, guarded ×3", "light", "guarded", racy=False, users=3, database="sqlite"),
    )
}  # fmt: skip
