"""Log in, and tell who a token belongs to."""

from __future__ import annotations

from dataclasses import dataclass

from crowdsafe.errors import InvalidInput, NotAuthenticated
from crowdsafe.identity.directory import Directory
from crowdsafe.identity.passwords import PASSWORD_CHARS_MAX, Passwords
from crowdsafe.identity.tokens import Tokens, signing_secret
from crowdsafe.identity.users import User, checked_username, credentials_of, user_by_id
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

    async def login(self, username: str, password: str) -> Login:
        """Check a password. Raises NotAuthenticated, TooMany (too many logins at once).

        The answer and the work are the same for an unknown username, a wrong password and a
        user who is switched off.
        """
        try:
            stored_name = checked_username(username)
        except InvalidInput:
            stored_name = ""
        found = await self._store.read(credentials_of, stored_name) if stored_name else None
        known_hash = None if found is None else found.password_hash
        fits = await self._passwords.verify(password[: PASSWORD_CHARS_MAX + 1], known_hash)
        if not fits or found is None or not found.active:
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
