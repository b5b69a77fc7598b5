"""Access tokens: JSON Web Tokens, HS256, checked without the database."""

from __future__ import annotations

import os
import secrets
import time
from collections import OrderedDict

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
_PASSED_MAX = 5000
_NOT_OURS = "The token is not one of ours; log in again."


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


class Tokens:
    """Issues and checks access tokens; ``lifetime_s`` is how long one is good, in seconds.

    Holds: only a token signed with this secret, by HS256, unexpired, passes; the last few thousand
    that passed are remembered until they expire, so that most requests cost a look-up. Does not
    hold: a token cannot be called back before it expires; what stops a user is ``active``.
    Proved by ``tests/web/test_auth.py``.
    """

    def __init__(self, secret: str, lifetime_s: int = 8 * 3600) -> None:
        self.lifetime_s = lifetime_s
        self._key = OctKey.import_key(secret)
        self._passed: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def issue(self, user_id: int) -> str:
        """A token for this user."""
        now = int(time.time())
        claims = {"iss": _ISSUER, "sub": str(user_id), "iat": now, "exp": now + self.lifetime_s}
        return jwt.encode({"alg": _ALGORITHM}, claims, self._key)

    def user_id(self, token: str) -> int:
        """The user that the token was issued to. Raises NotAuthenticated."""
        known = self._passed.get(token)
        user_id, expires = known or self._decode(token)
        if expires <= time.time():
            self._passed.pop(token, None)
            raise NotAuthenticated("The login has expired; log in again.")
        if known is None:
            self._passed[token] = (user_id, expires)
            if len(self._passed) > _PASSED_MAX:
                self._passed.popitem(last=False)
        return user_id

    def _decode(self, token: str) -> tuple[int, int]:
        if len(token) > TOKEN_CHARS_MAX:
            raise NotAuthenticated(_NOT_OURS)
        try:
            claims = jwt.decode(token, self._key, algorithms=[_ALGORITHM]).claims
            expires, issuer, user_id = claims["exp"], claims["iss"], int(claims["sub"])
        except (JoseError, ValueError, KeyError, TypeError):
            raise NotAuthenticated(_NOT_OURS) from None
        if issuer != _ISSUER or not isinstance(expires, int) or not 0 < user_id <= _USER_ID_MAX:
            raise NotAuthenticated(_NOT_OURS)
        return user_id, expires
