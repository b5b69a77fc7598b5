"""A crowd that asks for plans: `python -m bench.planner.crowd`, a process of its own.

Reads who asks on standard input, says "ready", starts at the line "go", prints what each met as
JSON. Every user has a connection, asks at once, and when told to come back does so no sooner than
`Retry-After` says, until the plan is there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

API = "/planner/api"
CONNECT_S_MAX = 30.0
IDLE_S_MAX = 2.0
"""A connection that would be idle for longer is closed, before the server does it."""
BODY_BYTES_MAX = 4_000_000


@dataclass(slots=True)
class Met:
    """What one request for a plan met; times in seconds from when it was sent."""

    user: int
    first_s: float = 0.0
    plan_s: float = 0.0
    done_at: float = 0.0
    source: str = ""
    problem: str = ""
    asked: int = 0


@dataclass(slots=True)
class Client:
    """One kept-alive connection: requests and whole answers, and nothing more."""

    port: int
    token: str
    _streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = field(default=None)

    async def send(
        self, method: str, path: str, body: object = None
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers in lower case, and the JSON of the answer."""
        if self._streams is None:
            async with asyncio.timeout(CONNECT_S_MAX):
                self._streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self._streams
        content = b"" if body is None else json.dumps(body).encode()
        writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode()
            + content
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, found, value in (line.partition(":") for line in head[1:])
            if found
        }
        length = int(headers["content-length"])
        if length > BODY_BYTES_MAX:
            raise ValueError(f"an answer of {length} bytes")
        answer = await reader.readexactly(length)
        if headers.get("connection", "").lower() == "close":
            await self.close()
        return int(head[0].split()[1]), headers, json.loads(answer or b"null")

    async def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _ask(client: Client, met: Met, body: object, end: float) -> None:
    """From the request to the plan."""
    began = time.monotonic()
    status, headers, answer = await client.send("POST", f"{API}/plans", body)
    met.first_s = time.monotonic() - began
    while status == 202 or (status == 200 and answer.get("state") in ("queued", "running")):
        wait_s = float(headers.get("retry-after") or _patience_s(answer))
        if time.monotonic() + wait_s > end:
            raise TimeoutError("no plan in time")
        if wait_s > IDLE_S_MAX:
            await client.close()
        await asyncio.sleep(wait_s)
        met.asked += 1
        status, headers, answer = await client.send("GET", answer["status_url"])
    if status == 200 and answer.get("state") == "done":
        path = f"{API}/plans/{answer['plan_id']}"
        status, headers, answer = await client.send("GET", path)
    met.done_at = time.monotonic()
    met.plan_s = met.done_at - began
    if status == 200 and answer.get("sections"):
        met.source = answer["source"]
    else:
        met.problem = f"{status} {answer.get('type', answer.get('state'))}"


def _patience_s(job: dict[str, Any]) -> float:
    """Without a Retry-After: what it says of the wait, within limits."""
    return max(0.5, min(30.0, float(job.get("estimated_wait_s") or 0.5)))


async def _user(port: int, token: str, met: Met, body: object, end: float) -> None:
    client = Client(port, token)
    try:
        async with asyncio.timeout(max(1.0, end - time.monotonic())):
            await _ask(client, met, body, end)
    except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError) as error:
        met.problem = f"{type(error).__name__}: {error}"[:200]
    finally:
        await client.close()


async def _crowd(port: int, asks: list[dict[str, Any]], within_s: float) -> dict[str, object]:
    end = time.monotonic() + within_s
    began = time.monotonic()
    met = [Met(ask["user"]) for ask in asks]
    users = zip(asks, met, strict=True)
    await asyncio.gather(*(_user(port, ask["token"], one, ask["body"], end) for ask, one in users))
    return {"began": began, "met": [asdict(one) for one in met]}


def main() -> None:
    """Read, wait for the start, ask, report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--within-s", type=float, required=True)
    options = parser.parse_args()
    asks = json.loads(sys.stdin.readline())
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(asyncio.run(_crowd(options.port, asks, options.within_s))), flush=True)


if __name__ == "__main__":
    main()
