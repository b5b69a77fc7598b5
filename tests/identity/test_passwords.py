"""Passwords: never in the event loop, never more at once than fit, the same work for nobody."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from crowdsafe.errors import InvalidInput, TooMany
from crowdsafe.identity.passwords import Passwords, check_new_password


def test_right_wrong_and_nobody() -> None:
    async def run() -> None:
        passwords = Passwords()
        stored = await passwords.hash_async("correct horse")
        assert stored.startswith("$argon2id$")
        assert "correct" not in stored
        assert stored != await passwords.hash_async("correct horse")
        assert await passwords.verify("correct horse", stored)
        assert not await passwords.verify("correct horsE", stored)
        assert not await passwords.verify("correct horse", None)
        assert not await passwords.verify("crowdsafe: nobody has this password", None)
        assert not await passwords.verify("correct horse", "not a hash")
        passwords.close()

    asyncio.run(run())


def test_an_unknown_user_costs_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        passwords = Passwords()
        stored = passwords.hash("correct horse")
        parameters = []

        class Watched:
            def verify(self, password: str, password_hash: str) -> bool:
                parameters.append(password_hash.split("$")[1:4])
                return False

        monkeypatch.setattr(passwords, "_hasher", Watched())
        await passwords.verify("x", stored)
        await passwords.verify("x", None)
        assert len(parameters) == 2
        assert parameters[0] == parameters[1]
        passwords.close()

    asyncio.run(run())


def test_twenty_logins_do_not_stall_the_loop() -> None:
    async def run() -> None:
        passwords = Passwords()
        stored = await passwords.hash_async("correct horse")
        longest = 0.0

        async def watch() -> None:
            nonlocal longest
            while True:
                began = time.perf_counter()
                await asyncio.sleep(0.001)
                longest = max(longest, time.perf_counter() - began)

        watcher = asyncio.create_task(watch())
        began = time.perf_counter()
        answers = await asyncio.gather(
            *(passwords.verify("correct horse", stored) for _ in range(20))
        )
        took = time.perf_counter() - began
        watcher.cancel()
        assert all(answers)
        # In the loop, the longest pause would be all of it.
        assert longest < took / 3, f"the loop stood still for {longest:.3f} of {took:.3f} s"
        passwords.close()

    asyncio.run(run())


def test_a_full_queue_turns_away_at_once_and_recovers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        passwords = Passwords(threads=2, waiting_max=3)
        gate = threading.Event()
        at_once = most = 0
        lock = threading.Lock()

        def slow(_password: str, _hash: str | None) -> bool:
            nonlocal at_once, most
            with lock:
                at_once += 1
                most = max(most, at_once)
            gate.wait(5)
            with lock:
                at_once -= 1
            return True

        monkeypatch.setattr(passwords, "check", slow)
        waiting = [asyncio.create_task(passwords.verify("x", "y")) for _ in range(5)]
        await asyncio.sleep(0.05)
        with pytest.raises(TooMany) as refused:
            await passwords.verify("x", "y")
        assert refused.value.retry_after_s
        # A caller that goes away does not free the place while its hash still runs.
        waiting[0].cancel()
        await asyncio.sleep(0.05)
        with pytest.raises(TooMany):
            await passwords.verify("x", "y")
        gate.set()
        assert await asyncio.gather(*waiting[1:]) == [True] * 4
        assert most == 2
        assert await passwords.verify("x", "y")
        passwords.close()

    asyncio.run(run())


def test_nobody_waits_longer_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        passwords = Passwords(threads=1, wait_s=0.1)
        gate = threading.Event()
        monkeypatch.setattr(passwords, "check", lambda *_: gate.wait(5))
        began = time.monotonic()
        with pytest.raises(TooMany):
            await passwords.verify("x", "y")
        assert time.monotonic() - began < 4, "the limit cut the wait, not the gate"
        gate.set()
        passwords.close()

    asyncio.run(run())


@pytest.mark.parametrize("password", ["", "1234567", "x" * 257])
def test_new_passwords_have_a_least_and_a_greatest_length(password: str) -> None:
    with pytest.raises(InvalidInput):
        check_new_password(password)
    assert check_new_password("12345678") == "12345678"
