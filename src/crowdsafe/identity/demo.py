"""The logins of ``--demo``: one for each role, and two more sales people."""

from __future__ import annotations

import os
from dataclasses import dataclass

from sqlalchemy.orm import Session

from crowdsafe.identity.tables import UserRow
from crowdsafe.writes.get_or_create import get_or_create

__all__ = ["DEMO_USERS", "DemoUser", "demo_password", "seed_demo_users"]


@dataclass(frozen=True, slots=True)
class DemoUser:
    """A login of the demo."""

    username: str
    name: str
    role: str


DEMO_USERS = (
    DemoUser("admin", "Alice Hammond", "admin"),
    DemoUser("sales", "Sam Whitfield", "sales"),
    DemoUser("mara", "Mara Lindqvist", "sales"),
    DemoUser("tomas", "Tomas Reyes", "sales"),
    DemoUser("production_manager", "Priya Nair", "production_manager"),
    DemoUser("production_team", "Jack Doyle", "production_team"),
    DemoUser("supervisor", "Wen Zhao", "supervisor"),
    DemoUser("manager", "Grace Oduya", "manager"),
    DemoUser("employee", "Liam Foster", "employee"),
)


def demo_password() -> str:
    """``CROWDSAFE_DEMO_PASSWORD``, or ``crowd``."""
    return os.environ.get("CROWDSAFE_DEMO_PASSWORD") or "crowd"


def seed_demo_users(session: Session, password_hash: str) -> int:
    """Add the demo's users that are not there yet; returns how many were added.

    Right when two processes start at once: each user is added by whoever comes first. Proved by
    ``tests/identity/test_users.py``.
    """
    return sum(
        get_or_create(
            session,
            UserRow,
            defaults={"name": user.name, "roles": [user.role], "password_hash": password_hash},
            username=user.username,
        )[1]
        for user in DEMO_USERS
    )
