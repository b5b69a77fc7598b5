"""Users as operations on a session: add, look up, change roles, switch off."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from crowdsafe.errors import CrowdsafeError, InvalidInput, NotFound
from crowdsafe.identity.tables import UserRow
from crowdsafe.writes.get_or_create import get_or_create

__all__ = [
    "ROLES",
    "Credentials",
    "DuplicateUser",
    "User",
    "add_user",
    "checked_roles",
    "checked_username",
    "credentials_of",
    "set_active",
    "set_roles",
    "user_by_id",
]

ROLES = (
    "admin",
    "sales",
    "production_manager",
    "production_team",
    "supervisor",
    "manager",
    "employee",
)
"""The roles that the systems of this package ask for."""

_USERNAME = re.compile(r"[a-z0-9](?:[a-z0-9._@-]{0,62}[a-z0-9])?")
_NAME_CHARS_MAX = 200


class DuplicateUser(CrowdsafeError):
    """There is already a user of this name; choose another name."""

    status = 409
    problem_type = "duplicate-user"
    title = "User exists"


@dataclass(frozen=True, slots=True)
class User:
    """Someone who is logged in."""

    id: int
    username: str
    name: str
    roles: frozenset[str]

    def public(self) -> dict[str, Any]:
        """What a client may see of a user, as JSON-able data."""
        return {
            "id": self.id,
            "username": self.username,
            "name": self.name,
            "roles": sorted(self.roles),
        }


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user together with the hash that a password is checked against."""

    user: User
    password_hash: str
    active: bool


def checked_username(username: str) -> str:
    """The username in its stored form: lower case, 1 to 64 of ``a-z 0-9 . _ @ -``.

    Raises InvalidInput.
    """
    name = username.strip().lower()
    if not _USERNAME.fullmatch(name):
        raise InvalidInput(
            "A username has 1 to 64 of the characters a-z, 0-9, '.', '_', '@' and '-', "
            "and begins and ends with a letter or a digit.",
            field="username",
        )
    return name


def checked_roles(roles: Iterable[str]) -> list[str]:
    """The roles, sorted and without repeats. Raises InvalidInput for none or an unknown one."""
    wanted = sorted(set(roles))
    unknown = [role for role in wanted if role not in ROLES]
    if unknown or not wanted:
        problem = f"There is no role {unknown[0]!r}" if unknown else "A user needs a role"
        raise InvalidInput(f"{problem}; the roles are {', '.join(ROLES)}.", field="roles")
    return wanted


def add_user(
    session: Session,
    *,
    username: str,
    name: str,
    roles: Iterable[str],
    password_hash: str,
) -> User:
    """Add a user. Hash the password before the write: hashing takes long, by design.

    Raises DuplicateUser, InvalidInput. Two callers at once with one username: one user is
    added, the other caller gets DuplicateUser (the unique constraint decides).
    """
    stored = checked_username(username)
    row, created = get_or_create(
        session,
        UserRow,
        defaults={
            "name": _checked_name(name or stored),
            "roles": checked_roles(roles),
            "password_hash": password_hash,
        },
        username=stored,
    )
    if not created:
        raise DuplicateUser(f"There is already a user {stored!r}; choose another name.")
    return _user(row)


def set_active(session: Session, *, username: str, active: bool) -> User:
    """Let a user in, or keep the user out. Raises NotFound."""
    row = _row(session, username)
    row.active = active
    return _user(row)


def set_roles(session: Session, *, username: str, roles: Iterable[str]) -> User:
    """Replace a user's roles. Raises NotFound, InvalidInput."""
    row = _row(session, username)
    row.roles = list(checked_roles(roles))
    return _user(row)


def user_by_id(session: Session, user_id: int) -> User | None:
    """The active user of this id, or None."""
    row = session.get(UserRow, user_id)
    return _user(row) if row is not None and row.active else None


def credentials_of(session: Session, username: str) -> Credentials | None:
    """What a login is checked against, or None for an unknown username."""
    row = session.scalar(select(UserRow).where(UserRow.username == username))
    return None if row is None else Credentials(_user(row), row.password_hash, row.active)


def _row(session: Session, username: str) -> UserRow:
    row = session.scalar(select(UserRow).where(UserRow.username == checked_username(username)))
    if row is None:
        raise NotFound(f"There is no user {username!r}.")
    return row


def _user(row: UserRow) -> User:
    return User(
        id=row.id,
        username=row.username,
        name=row.name,
        roles=frozenset(str(role) for role in row.roles),
    )


def _checked_name(name: str) -> str:
    shown = " ".join(name.split())
    if not shown or len(shown) > _NAME_CHARS_MAX or not shown.isprintable():
        raise InvalidInput(f"A name has 1 to {_NAME_CHARS_MAX} printable characters.", field="name")
    return shown
