"""Who is asking: users with roles, passwords, access tokens."""

from __future__ import annotations

from crowdsafe.identity.demo import DEMO_USERS, DemoUser, seed_demo_users
from crowdsafe.identity.directory import Directory
from crowdsafe.identity.passwords import Passwords
from crowdsafe.identity.service import Identity, Login
from crowdsafe.identity.tokens import Tokens, signing_secret
from crowdsafe.identity.users import (
    ROLES,
    DuplicateUser,
    User,
    add_user,
    set_active,
    set_roles,
    user_by_id,
)

__all__ = [
    "DEMO_USERS",
    "ROLES",
    "DemoUser",
    "Directory",
    "DuplicateUser",
    "Identity",
    "Login",
    "Passwords",
    "Tokens",
    "User",
    "add_user",
    "seed_demo_users",
    "set_active",
    "set_roles",
    "signing_secret",
    "user_by_id",
]
