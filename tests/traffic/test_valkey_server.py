"""The Valkey that the tests bring along: real, apart from others, and gone with its process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tests.support.pg_server import ROOT
from tests.support.valkey_server import ValkeyServer
from valkey.asyncio import Valkey
from valkey.exceptions import TimeoutError as ValkeyTimeout


@pytest.mark.parametrize("_", range(2))
def test_each_test_finds_it_empty(valkey: Valkey, _: int) -> None:
    async def run() -> None:
        async with valkey:
            assert await valkey.dbsize() == 0
            await valkey.set("left", "behind")

    asyncio.run(run())


def test_it_ends_and_starts_and_freezes(own_valkey_server: ValkeyServer) -> None:
    async def run() -> None:
        url = own_valkey_server.url()
        async with Valkey.from_url(url, socket_timeout=0.2) as client:
            await client.set("a", 1)
            own_valkey_server.pause()
            with pytest.raises(ValkeyTimeout):
                await client.get("a")
            own_valkey_server.resume()
            assert await client.get("a") == b"1"
            own_valkey_server.restart()
            assert own_valkey_server.url() == url
            await client.connection_pool.disconnect()
            assert await client.get("a") is None

    asyncio.run(run())


def test_it_keeps_what_it_was_told_to_keep() -> None:
    with ValkeyServer.create(persist=True) as server:
        server.execute("SET", "a", "1")
        server.restart()
        assert server.execute("GET", "a") == b"1"


def test_it_goes_when_its_process_is_killed() -> None:
    script = (
        "from tests.support.valkey_server import ValkeyServer; import time;"
        "s = ValkeyServer.create(); print(s.base, s.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        base, pid = owner.stdout.readline().split()
        owner.kill()
    deadline = time.monotonic() + 15
    while (Path(base).exists() or psutil.pid_exists(int(pid))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(base).exists()
    assert not psutil.pid_exists(int(pid))
