"""Passwords: argon2id in a few threads of its own, with a bounded queue before them.

A hash takes tens of milliseconds and 19 MiB, by design. In the event loop that would stall every
other request; without a bound a burst of logins would take all memory.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from pwdlib import PasswordHash
from pwdlib.exceptions import UnknownHashError
from pwdlib.hashers.argon2 import Argon2Hasher

from crowdsafe.errors import InvalidInput, TooMany

__all__ = ["PASSWORD_CHARS_MAX", "PASSWORD_CHARS_MIN", "Passwords", "check_new_password"]

PASSWORD_CHARS_MIN = 8
PASSWORD_CHARS_MAX = 256

_T = TypeVar("_T")


def check_new_password(password: str) -> str:
    """The password, when it may be used for a new user. Raises InvalidInput."""
    if not PASSWORD_CHARS_MIN <= len(password) <= PASSWORD_CHARS_MAX:
        raise InvalidInput(
            f"A password has {PASSWORD_CHARS_MIN} to {PASSWORD_CHARS_MAX} characters.",
            field="password",
        )
    return password


class Passwords:
    """Hashes and checks passwords without ever blocking the event loop.

    ``threads`` hashes run at once (19 MiB each), ``waiting_max`` more may wait; a caller beyond
    that, or one that waited ``wait_s`` seconds, gets TooMany with ``retry_after_s``. An unknown
    username costs the same work as a wrong password. argon2id with OWASP's parameters:
    m = 19 MiB, t = 2, p = 1.

    Holds: at most ``threads`` hashes at once in this process. Does not hold: a limit per user or
    per address (``Identity.login`` has one). Proved by ``tests/identity/test_passwords.py``.
    """

    def __init__(self, *, threads: int = 2, waiting_max: int = 64, wait_s: float = 10.0) -> None:
        self._hasher = PasswordHash(
            (Argon2Hasher(time_cost=2, memory_cost=19 * 1024, parallelism=1),)
        )
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="crowdsafe-password")
        self._places = threads + waiting_max
        self._taken = 0
        self._mutex = threading.Lock()
        self._wait_s = wait_s
        self._decoy = self._hasher.hash("crowdsafe: nobody has this password")

    def hash(self, password: str) -> str:
        """Hash in the calling thread: for scripts and for seeding."""
        return self._hasher.hash(password)

    async def hash_async(self, password: str) -> str:
        """Hash in the pool. Raises TooMany."""
        return await self._run(self._hasher.hash, password)

    async def verify(self, password: str, password_hash: str | None) -> bool:
        """Whether the password fits; ``None`` for an unknown user, after the same work.

        Raises TooMany.
        """
        return await self._run(self.check, password, password_hash)

    def close(self) -> None:
        """Drop what waits and let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def check(self, password: str, password_hash: str | None) -> bool:
        """Verify in the calling thread: for scripts."""
        if password_hash is None:
            self._hasher.verify(password, self._decoy)
            return False
        try:
            return self._hasher.verify(password, password_hash)
        except UnknownHashError:
            return False

    async def _run(self, job: Callable[..., _T], *args: object) -> _T:
        with self._mutex:
            if self._taken >= self._places:
                raise TooMany(
                    "Too many logins at once; wait a moment and try again.", retry_after_s=2.0
                )
            self._taken += 1
        try:
            future = self._pool.submit(job, *args)
        except RuntimeError:
            self._leave(None)
            raise
        future.add_done_callback(self._leave)
        try:
            async with asyncio.timeout(self._wait_s):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise TooMany(
                "Too many logins are waiting; wait a moment and try again.", retry_after_s=5.0
            ) from None

    def _leave(self, _future: Future[_T] | None) -> None:
        with self._mutex:
            self._taken -= 1
