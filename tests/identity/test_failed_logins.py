"""Wrong passwords are counted by user and address, and right ones never."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from crowdsafe import AsyncStore
from crowdsafe.errors import NotAuthenticated, RateLimited
from crowdsafe.identity import Identity, Passwords, add_user, failed_logins
from crowdsafe.traffic.rates import Rate

HERE, THERE = "192.0.2.1", "192.0.2.2"
_passwords = Passwords(threads=1)
_HASH = _passwords.hash("right")
_passwords.close()


@pytest.fixture(autouse=True)
def long_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, ten failures come within the window."""
    monkeypatch.setattr(failed_logins, "RATE", Rate(failed_logins.RATE.limit, 3600))


@asynccontextmanager
async def identity_on(url: str, *users: str) -> AsyncIterator[Identity]:
    async with AsyncStore(url) as store:
        await store.create_all()
        for name in users:
            await store.write(
                add_user, username=name, name=name, roles=["sales"], password_hash=_HASH
            )
        identity = await Identity.open(store)
        yield identity
        identity.close()


async def fail(identity: Identity, times: int, address: str = HERE, name: str = "ann") -> None:
    for _ in range(times):
        with pytest.raises(NotAuthenticated):
            await identity.login(name, "wrong", address=address)


def test_after_ten_failures_no_password_is_looked_at_in_any_process(db_url: str) -> None:
    async def main() -> None:
        async with identity_on(db_url, "ann", "bob") as one, identity_on(db_url) as other:
            await fail(one, 5)
            await fail(other, 5, name=" Ann")
            for identity in (one, other):
                for password in ("wrong", "right"):
                    with pytest.raises(RateLimited) as refused:
                        await identity.login("ann", password, address=HERE)
                    assert 0 < refused.value.data["retry_after_s"] <= 3600
            assert (await one.login("ann", "right", address=THERE)).user.username == "ann"
            assert (await one.login("bob", "right", address=HERE)).user.username == "bob"

    asyncio.run(main())


def test_an_unknown_user_is_refused_alike(sqlite_url: str) -> None:
    async def main() -> None:
        async with identity_on(sqlite_url) as identity:
            await fail(identity, 10, name="nobody")
            with pytest.raises(RateLimited):
                await identity.login("nobody", "wrong", address=HERE)

    asyncio.run(main())


def test_it_passes(db_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failed_logins, "RATE", Rate(limit=1, window_s=2))

    async def main() -> None:
        async with identity_on(db_url, "ann") as identity, asyncio.timeout(60):
            await fail(identity, 1)
            while True:
                try:
                    await identity.login("ann", "right", address=HERE)
                except RateLimited:
                    await asyncio.sleep(0.1)
                else:
                    return

    asyncio.run(main())


def test_right_passwords_do_not_count(db_url: str) -> None:
    async def main() -> None:
        async with identity_on(db_url, "ann") as identity:
            await fail(identity, 9)
            logins = (identity.login("ann", "right", address=HERE) for _ in range(40))
            assert len(await asyncio.gather(*logins)) == 40
            await fail(identity, 1)

    asyncio.run(main())
