"""Manage users from a script or the command line, without a server."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from crowdsafe.identity.passwords import Passwords, check_new_password
from crowdsafe.identity.users import (
    DuplicateUser,
    User,
    add_user,
    checked_roles,
    checked_username,
    credentials_of,
)
from crowdsafe.store import Store

__all__ = ["create_user"]


def create_user(
    database: str,
    *,
    username: str,
    name: str,
    roles: Iterable[str],
    read_password: Callable[[], str],
) -> User:
    """Add a user to the database at this address; asks for the password last.

    Raises DuplicateUser, InvalidInput, and what opening the database raises.
    """
    stored, wanted = checked_username(username), checked_roles(roles)
    store = Store(database)
    try:
        store.create_all()
        if store.read(credentials_of, stored) is not None:
            raise DuplicateUser(f"There is already a user {stored!r}; choose another name.")
        password = check_new_password(read_password())
        passwords = Passwords(threads=1)
        try:
            password_hash = passwords.hash(password)
        finally:
            passwords.close()
        return store.write(
            add_user, username=stored, name=name, roles=wanted, password_hash=password_hash
        )
    finally:
        store.close()
