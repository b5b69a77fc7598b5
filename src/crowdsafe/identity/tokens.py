"""Access tokens: JSON Web Tokens, HS256, checked without the database."""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey
from sqlalchemy.orm import Session

from crowdsafe.errors import ConfigError, NotAuthenticated
from crowdsafe.identity.tables import SecretRow
from crowdsafe.writes.get_or_create import get_or_create

__all__ = ["SECRET_CHARS_MIN", "TOKEN_CHARS_MAX", "Tokens", "signing_secret"]

SECRET_CHARS_MIN = 32
TOKEN_CHARS_MAX = 2048
_USER_ID_MAX = 2**53
_ISSUER = "crowdsafe"
_ALGORITHM = "HS256"


def signing_secret(session: Session) -> str:
    """The key that signs this database's tokens, made by whoever asks first.

    ``CROWDSAFE_SECRET`` takes its place when it is set (at least 32 characters, or ConfigError).
    """
    given = os.environ.get("CROWDSAFE_SECRET")
    if given is not None:
        if len(given) < SECRET_CHARS_MIN:
            raise ConfigError(
                f"CROWDSAFE_SECRET has {len(given)} characters and needs at least "
                f"{SECRET_CHARS_MIN}: make one with "
                "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
            )
        return given
    row, _ = get_or_create(
        session,
        SecretRow,
        defaults={"value": secrets.token_urlsafe(32)},
        name="token-signing",
    )
    return row.value


@dataclass(frozen=True, slots=True)
class Tokens:
    """Issues and checks access tokens; ``lifetime_s`` is how long one is good, in seconds.

    Holds: only a token signed with this secret, by HS256, unexpired, passes. Does not hold: a
    token cannot be called back before it expires; what stops a user at once is ``active``.
    """

    secret: str
    lifetime_s: int = 8 * 3600

    def issue(self, user_id: int) -> str:
        """A token for this user."""
        now = int(time.time())
        claims = {"iss": _ISSUER, "sub": str(user_id), "iat": now, "exp": now + self.lifetime_s}
        return jwt.encode({"alg": _ALGORITHM}, claims, self._key())

    def user_id(self, token: str) -> int:
        """The user that the token was issued to. Raises NotAuthenticated."""
        if len(token) > TOKEN_CHARS_MAX:
            raise NotAuthenticated("The token is not one of ours; log in again.")
        try:
            decoded = jwt.decode(token, self._key(), algorithms=[_ALGORITHM])
            claims = decoded.claims
            expires, issuer, subject = claims["exp"], claims["iss"], claims["sub"]
            user_id = int(subject)
            if issuer != _ISSUER or not isinstance(expires, int) or user_id > _USER_ID_MAX:
                raise NotAuthenticated("The token is not one of ours; log in again.")
            if expires <= time.time():
                raise NotAuthenticated("The login has expired; log in again.")
            return user_id
        except (JoseError, ValueError, KeyError, TypeError):
            raise NotAuthenticated("The token is not one of ours; log in again.") from None

    def _key(self) -> OctKey:
        return OctKey.import_key(self.secret)
