"""The directory: one read for many callers, fresh within seconds, bounded."""

from __future__ import annotations

import asyncio

import pytest

from crowdsafe.errors import DatabaseUnavailable
from crowdsafe.identity import Directory, User


class Source:
    """A slow table of users that counts its reads."""

    def __init__(self) -> None:
        self.reads: list[int] = []
        self.roles = frozenset({"sales"})
        self.failing = False

    async def __call__(self, user_id: int) -> User | None:
        self.reads.append(user_id)
        await asyncio.sleep(0.02)
        if self.failing:
            raise DatabaseUnavailable
        return User(user_id, f"user{user_id}", "U", self.roles) if user_id else None


def test_many_at_once_share_one_read_and_nobody_is_remembered_too() -> None:
    async def run() -> None:
        source = Source()
        directory = Directory(source)
        users = await asyncio.gather(*(directory.user(7) for _ in range(50)))
        assert {user.id for user in users if user} == {7}
        assert await asyncio.gather(*(directory.user(0) for _ in range(50))) == [None] * 50
        assert source.reads == [7, 0]

    asyncio.run(run())


def test_a_leader_that_goes_away_takes_nobody_with_it() -> None:
    async def run() -> None:
        source = Source()
        directory = Directory(source)
        leader = asyncio.create_task(directory.user(7))
        await asyncio.sleep(0)
        others = [asyncio.create_task(directory.user(7)) for _ in range(20)]
        await asyncio.sleep(0)
        leader.cancel()
        assert all(await asyncio.gather(*others))
        assert source.reads == [7]

    asyncio.run(run())


def test_fresh_for_a_while_only() -> None:
    async def run() -> None:
        source = Source()
        directory = Directory(source, fresh_s=0.1)
        await directory.user(7)
        source.roles = frozenset()
        await asyncio.sleep(0.15)
        user = await directory.user(7)
        assert user is not None
        assert not user.roles
        directory.forget(7)
        await directory.user(7)
        assert source.reads == [7, 7, 7]

    asyncio.run(run())


def test_a_failure_reaches_all_who_wait_and_is_not_kept() -> None:
    async def run() -> None:
        source = Source()
        directory = Directory(source)
        source.failing = True
        failures = await asyncio.gather(
            *(directory.user(7) for _ in range(5)), return_exceptions=True
        )
        assert all(isinstance(failure, DatabaseUnavailable) for failure in failures)
        source.failing = False
        assert await directory.user(7)
        source.failing = True
        directory.forget(7)
        with pytest.raises(DatabaseUnavailable):
            await directory.user(7)

    asyncio.run(run())


def test_no_more_users_are_kept_than_the_limit() -> None:
    async def run() -> None:
        source = Source()
        directory = Directory(source, users_max=3)
        for user_id in (1, 2, 3, 4):
            await directory.user(user_id)
        await directory.user(4)
        assert source.reads == [1, 2, 3, 4]
        await directory.user(1)
        assert source.reads[-1] == 1

    asyncio.run(run())
