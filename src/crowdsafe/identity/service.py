"""Log in, and tell who a token belongs to."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session

from crowdsafe.errors import InvalidInput, NotAuthenticated
from crowdsafe.identity.directory import Directory
from crowdsafe.identity.failed_logins import count_failure, refuse_guesser
from crowdsafe.identity.passwords import PASSWORD_CHARS_MAX, Passwords
from crowdsafe.identity.tokens import Tokens, signing_secret
from crowdsafe.identity.users import (
    Credentials,
    User,
    checked_username,
    credentials_of,
    user_by_id,
)
from crowdsafe.store import AsyncStore

__all__ = ["Identity", "Login"]


@dataclass(frozen=True, slots=True)
class Login:
    """A successful login; the token is good for ``expires_in_s`` seconds."""

    user: User
    access_token: str
    expires_in_s: int


class Identity:
    """Passwords, tokens and users of one database; made by ``await Identity.open(astore)``."""

    def __init__(self, store: AsyncStore, tokens: Tokens, passwords: Passwords) -> None:
        self._store = store
        self._passwords = passwords
        self.tokens = tokens
        self.directory = Directory(lambda user_id: store.read(user_by_id, user_id))

    @classmethod
    async def open(cls, store: AsyncStore, *, token_lifetime_s: int = 8 * 3600) -> Identity:
        """Get or make the signing secret, and be ready. Raises ConfigError."""
        secret = await store.write(signing_secret)
        return cls(store, Tokens(secret, token_lifetime_s), Passwords())

    async def login(self, username: str, password: str, *, address: str = "") -> Login:
        """Check a password that came from ``address``.

        The answer and the work are the same for an unknown username, a wrong password and a
        user who is switched off.

        Holds: after ten failures within a minute for one username from one address, in whichever
        processes, no password is looked at until one of them is a minute old; what was under way
        by then (66 logins a process) is. Right passwords do not count. Does not hold: against a
        guesser with many addresses, or one who tries few passwords on many names.
        Proved by ``tests/identity/test_failed_logins.py``.

        Raises NotAuthenticated, RateLimited, TooMany (too many logins at once).
        """
        try:
            stored_name = checked_username(username)
        except InvalidInput:
            stored_name = ""
        found = await self._store.read(_known, stored_name, address) if stored_name else None
        known_hash = None if found is None else found.password_hash
        fits = await self._passwords.verify(password[: PASSWORD_CHARS_MAX + 1], known_hash)
        if not fits or found is None or not found.active:
            if stored_name:
                await self._store.write(count_failure, stored_name, address)
            raise NotAuthenticated("The username or the password is wrong.")
        token = self.tokens.issue(found.user.id)
        return Login(found.user, token, self.tokens.lifetime_s)

    async def user_of(self, token: str) -> User:
        """The user a token belongs to, with the roles of the last few seconds.

        Raises NotAuthenticated.
        """
        user = await self.directory.user(self.tokens.user_id(token))
        if user is None:
            raise NotAuthenticated("This account is switched off; ask an administrator.")
        return user

    def close(self) -> None:
        """Let the password threads end."""
        self._passwords.close()


def _known(session: Session, username: str, address: str) -> Credentials | None:
    refuse_guesser(session, username, address)
    return credentials_of(session, username)
