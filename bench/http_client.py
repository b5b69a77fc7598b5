"""A crowd on one server: `python -m bench.http_client`. Raw HTTP/1.1 on kept-alive connections.

Small on purpose: on two cores a slow client would be what is measured. Repeats one POST; prints
what came back as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter

END_S_MAX = 30.0


class User(asyncio.Protocol):
    """One connection that sends the request again as soon as it is answered."""

    def __init__(self, request: bytes, until: float, warm_until: float) -> None:
        self.request = request
        self.until = until
        self.warm_until = warm_until
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.latencies_s: list[float] = []
        self.errors: Counter[str] = Counter()
        self.in_warm_up = 0
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._send()

    def _send(self) -> None:
        self.began = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found or len(rest) < _content_length(head):
            return
        self._buffer = b""
        self._count(head[9:12].decode(), rest)
        if time.perf_counter() < self.until:
            self._send()
        else:
            self.transport.close()

    def _count(self, status: str, body: bytes) -> None:
        now = time.perf_counter()
        if status != "200":
            self.errors[f"{status} {_problem(body)}"] += 1
        elif self.began < self.warm_until:
            self.in_warm_up += 1
        else:
            self.latencies_s.append(now - self.began)

    def connection_lost(self, exc: Exception | None) -> None:
        if time.perf_counter() < self.until:
            self.errors["connection lost"] += 1
        if not self.done.done():
            self.done.set_result(None)


def _content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line[15:])
    raise ValueError(f"an answer without Content-Length: {head!r}")


def _problem(body: bytes) -> str:
    try:
        problem = json.loads(body)["type"]
    except (ValueError, KeyError, TypeError):
        return "without a problem type"
    return str(problem).rpartition("/")[2]


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("body")
    parser.add_argument("--token", default="")
    parser.add_argument("--users", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--warm", type=float, required=True)
    print(json.dumps(asyncio.run(_crowd(parser.parse_args()))))


async def _crowd(options: argparse.Namespace) -> dict[str, object]:
    body = options.body.encode()
    authorization = f"Authorization: Bearer {options.token}\r\n" if options.token else ""
    request = (
        f"POST {options.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{authorization}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    loop = asyncio.get_running_loop()
    warm_until = time.perf_counter() + options.warm
    until = warm_until + options.seconds
    users = []
    for _ in range(options.users):
        _, user = await loop.create_connection(
            lambda: User(request, until, warm_until), "127.0.0.1", options.port
        )
        users.append(user)
    async with asyncio.timeout(options.warm + options.seconds + END_S_MAX):
        await asyncio.gather(*(user.done for user in users))
    return {
        "took_s": time.perf_counter() - warm_until,
        "in_warm_up": sum(user.in_warm_up for user in users),
        "latencies_s": [latency for user in users for latency in user.latencies_s],
        "errors": sum((user.errors for user in users), Counter()),
    }


if __name__ == "__main__":
    main()
