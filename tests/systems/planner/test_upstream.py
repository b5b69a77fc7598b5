"""One question to a language model's service, over the official client and a real socket."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

import pytest

from crowdsafe.errors import ConfigError
from crowdsafe.systems.planner.generation import Upstream
from crowdsafe.systems.planner.generation.errors import (
    UpstreamBadAnswer,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamUnavailable,
)
from crowdsafe.systems.planner.generation.facts import FinancialFacts, Headline
from crowdsafe.systems.planner.generation.prompts import Prompt, facts_prompt, headline_prompt
from crowdsafe.systems.planner.generation.upstream import ANSWER_BYTES_MAX
from crowdsafe.systems.planner.simulated import Behaviour, Serving, simulated_upstream
from tests.support.ports import free_port
from tests.systems.planner.asking import plan_request

QUICK = Behaviour(latency_s=0.0)


def run(work: Awaitable[Any]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(30):
            return await work

    return asyncio.run(bounded())


@asynccontextmanager
async def asked(
    behaviour: Behaviour = QUICK, *, key: str = "key", timeout_s: float = 5.0
) -> AsyncIterator[tuple[Serving, Upstream]]:
    import_module("openai")  # or the first question's time limit would have to hold it
    async with simulated_upstream(behaviour) as serving:
        upstream = Upstream(serving.base_url, key, "simulated", timeout_s)
        try:
            yield serving, upstream
        finally:
            await upstream.close()


def question() -> Prompt[Headline]:
    return headline_prompt(plan_request(), {})


async def refusal(upstream: Upstream, prompt: Prompt[Any] | None = None) -> UpstreamError:
    with pytest.raises(UpstreamError) as failed:
        await upstream.ask(prompt or question())
    return failed.value


async def until(true: Callable[[], bool]) -> None:
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to that in 10 s")


async def settled(serving: Serving) -> None:
    """Wait until the service runs no call any more."""
    await until(lambda: serving.stats.running == 0)


def test_an_answer_comes_in_the_shape_that_was_asked_for() -> None:
    async def go() -> None:
        async with asked(Behaviour(latency_s=0.0, api_key="key")) as (serving, upstream):
            head = await upstream.ask(question())
            assert head == Headline(
                title="Bakery in Leipzig",
                pitch="A bakery for sourdough bread that delivers by bicycle before seven.",
            )
            facts = await upstream.ask(facts_prompt(plan_request(), "financials", {}))
            assert isinstance(facts, FinancialFacts)
            assert serving.stats.by_status == {"200": 2}

    run(go())


def test_the_client_library_is_loaded_when_it_is_needed_and_not_before() -> None:
    script = (
        "import sys; import crowdsafe.systems.planner.generation as g; "
        "g.Upstream('http://x', 'k', 'm'); "
        "assert not {'openai', 'stamina', 'uvicorn'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], timeout=60, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"base_url": ""}, {"base_url": "localhost"}, {"base_url": "ftp://x/v1"},
        {"base_url": "http://"}, {"base_url": "http://x:port/v1"}, {"base_url": "http://[x/v1"},
        {"base_url": "http://x/v1\n"}, {"api_key": "key\n"}, {"api_key": "two words"},
        {"api_key": "schlüssel"}, {"model": ""}, {"timeout_s": 0}, {"timeout_s": float("nan")},
        {"timeout_s": float("inf")},
    ],
    ids=str,
)  # fmt: skip
def test_a_configuration_that_cannot_work_is_said_at_the_start(wrong: dict[str, Any]) -> None:
    sound = {"base_url": "http://x/v1", "api_key": "", "model": "m", "timeout_s": 5.0}
    Upstream(**sound)  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as told:
        Upstream(**{**sound, **wrong})
    assert "schlüssel" not in told.value.message


def test_a_limit_is_told_with_its_wait() -> None:
    async def go() -> None:
        async with asked(Behaviour(latency_s=0, rate_429=1, retry_after_s=7)) as (_, upstream):
            error = await refusal(upstream)
            assert isinstance(error, UpstreamRateLimited)
            assert error.retry_after_s == 7

    run(go())


@pytest.mark.parametrize(("knobs", "status"), [({"rate_5xx": 1}, 503), ({"outage": True}, 503)])
def test_a_failing_service_is_unavailable(knobs: dict[str, Any], status: int) -> None:
    async def go() -> None:
        async with asked(Behaviour(latency_s=0, **knobs)) as (serving, upstream):
            error = await refusal(upstream)
            assert isinstance(error, UpstreamUnavailable)
            assert str(status) in error.message
            assert serving.stats.calls == 1, "whoever asks decides about repeats"

    run(go())


def test_nobody_there_is_unavailable() -> None:
    async def go() -> None:
        upstream = Upstream(f"http://127.0.0.1:{free_port()}/v1", "key", "m", 5)
        assert isinstance(await refusal(upstream), UpstreamUnavailable)
        await upstream.close()

    run(go())


def test_a_wrong_key_is_refused_for_good_and_only_the_log_says_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = b'{"error": {"message": "Incorrect key hemlock of the firm X."}}'

    async def go() -> None:
        async with asked(Behaviour(latency_s=0, api_key="right")) as (_, upstream):
            error = await refusal(upstream)
            assert isinstance(error, UpstreamRefused)
            assert "401" in error.message
        async with odd_service(told, 401, key="hemlock") as upstream:
            error = await refusal(upstream)
            assert "firm X" not in error.message
            assert "Incorrect key [key] of the firm X." in caplog.text
            for text in (error.message, caplog.text, repr(upstream)):
                assert "hemlock" not in text

    run(go())


def test_a_hang_is_cut_off_and_leaves_no_call() -> None:
    async def go() -> None:
        async with asked(timeout_s=1.5) as (serving, upstream):
            await upstream.ask(question())
            serving.behave(hang_rate=1)
            assert isinstance(await refusal(upstream), UpstreamUnavailable)
            await settled(serving)
            assert serving.stats.disconnected == 1

    run(go())


def test_a_trickle_is_cut_off_in_whole() -> None:
    """A limit for each read, which is what the client has itself, never ends a trickle."""

    async def go() -> None:
        behaviour = Behaviour(latency_s=0, trickle_rate=1, trickle_bytes_per_s=150)
        async with asked(behaviour, timeout_s=1.0) as (serving, upstream):
            assert isinstance(await refusal(upstream), UpstreamUnavailable)
            await settled(serving)

            from openai import AsyncOpenAI

            async with AsyncOpenAI(
                base_url=serving.base_url, api_key="key", max_retries=0, timeout=1.0
            ) as naive:
                begun = time.monotonic()
                await naive.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": "hello"}]
                )
                assert time.monotonic() - begun > 2 * 1.0, "the naive client waits on"

    run(go())


def test_a_cancelled_question_closes_its_connection() -> None:
    async def go() -> None:
        behaviour = Behaviour(latency_s=0, hang_rate=1)
        async with asked(behaviour, timeout_s=20) as (serving, upstream):
            asking = [asyncio.create_task(upstream.ask(question())) for _ in range(5)]
            await until(lambda: serving.stats.running == 5)
            for task in asking:
                task.cancel()
            done = await asyncio.gather(*asking, return_exceptions=True)
            assert all(isinstance(each, asyncio.CancelledError) for each in done)
            await settled(serving)
            assert serving.stats.disconnected == 5
            serving.behave(hang_rate=0)
            assert await upstream.ask(question()), "and the client is as good as before"

    run(go())


def test_a_closed_client_opens_again_and_close_may_be_repeated() -> None:
    async def go() -> None:
        async with asked() as (_, upstream):
            for _ in range(2):
                await upstream.ask(question())
                await upstream.close()
                await upstream.close()

    run(go())


def test_a_wrong_answer_is_bad() -> None:
    async def go() -> None:
        async with asked(Behaviour(latency_s=0, wrong_json_rate=1)) as (_, upstream):
            assert isinstance(await refusal(upstream), UpstreamBadAnswer)

    run(go())


def completion(content: Any, finish: str = "stop") -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}}
    return json.dumps({"choices": [{**choice, "finish_reason": finish}]}).encode()


def good(title: str = "T", pitch: str = "P") -> str:
    return json.dumps({"title": title, "pitch": pitch})


@asynccontextmanager
async def odd_service(
    answer: bytes, status: int = 200, headers: str = "", key: str = "key"
) -> AsyncIterator[Upstream]:
    """A service that gives one answer, byte for byte, to whatever it is asked."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{headers}"
        writer.write(f"{head}Connection: close\r\n\r\n".encode() + answer)
        try:
            await writer.drain()
            writer.write_eof()
            await reader.read()
        except OSError:  # the client has hung up: what an answer that is too long is there for
            return
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    upstream = Upstream(f"http://127.0.0.1:{port}/v1", key, "m", 5.0)
    try:
        yield upstream
    finally:
        await upstream.close()
        server.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>",
        b"null",
        b"[]",
        b'{"choices": []}',
        b'{"choices": [7]}',
        b"[" * 100_000,
        completion(None),
        completion(""),
        completion("plain words"),
        completion("NaN"),
        completion("[" * 50_000),
        completion('{"title": "T"}'),
        completion('{"title": "T", "pitch": ["P"]}'),
        completion('{"title": "\\u0000", "pitch": "P"}'),
        completion('{"title": "T", "pitch": "P\\ud800"}'),
        completion(good(title="x" * 121)),
        completion(good(), finish="length"),
        completion(good(pitch="x" * ANSWER_BYTES_MAX)),
    ],
    ids=lambda answer: answer[:60].decode(),
)
def test_odd_answers_are_bad_and_nothing_else(answer: bytes) -> None:
    async def go() -> None:
        async with odd_service(answer) as upstream:
            assert isinstance(await refusal(upstream), UpstreamBadAnswer)

    run(go())


@pytest.mark.parametrize(
    "content",
    [
        good(),
        f"```json\n{good()}\n```",
        f"```\n{good()}\n```\n",
        '{"title": " T\\u0000 ", "pitch": "P\\u0007", "more": 1}',
    ],
)
def test_answers_that_only_look_odd_are_read(content: str) -> None:
    async def go() -> None:
        async with odd_service(completion(content)) as upstream:
            head = await upstream.ask(question())
            assert (head.title.strip(), head.pitch) == ("T", "P")

    run(go())


@pytest.mark.parametrize(
    ("status", "headers", "kind", "wait_s"),
    [
        (429, "Retry-After: 2.5\r\n", UpstreamRateLimited, 2.5),
        (429, "Retry-After: -4\r\n", UpstreamRateLimited, 0.0),
        (429, "Retry-After: nan\r\n", UpstreamRateLimited, None),
        (429, "Retry-After: soon\r\n", UpstreamRateLimited, None),
        (429, "Retry-After: 1e9\r\n", UpstreamRateLimited, 3600.0),
        (429, "Retry-After: Thu, 01 Jan 1970 00:00:00 GMT\r\n", UpstreamRateLimited, 0.0),
        (429, "", UpstreamRateLimited, None),
        (500, "", UpstreamUnavailable, None),
        (503, "Retry-After: 3\r\n", UpstreamUnavailable, 3.0),
        (408, "", UpstreamUnavailable, None),
        (400, "", UpstreamRefused, None),
        (403, "", UpstreamRefused, None),
        (404, "", UpstreamRefused, None),
        (307, "Location: http://127.0.0.1:9/\r\n", UpstreamRefused, None),
    ],
)
def test_statuses_mean_what_they_say(
    status: int, headers: str, kind: type[UpstreamError], wait_s: float | None
) -> None:
    async def go() -> None:
        async with odd_service(b"x" * 5_000_000, status, headers) as upstream:
            error = await refusal(upstream)
            assert type(error) is kind
            assert error.retry_after_s == wait_s

    run(go())


def test_an_answer_that_breaks_off_is_unavailable() -> None:
    async def go() -> None:
        async with odd_service(b'{"cho', headers="Content-Length: 500\r\n") as upstream:
            assert isinstance(await refusal(upstream), UpstreamUnavailable)

    run(go())


def test_an_error_without_end_is_not_read_to_its_end() -> None:
    """Endless bodies, of an error and of an answer, cost a little memory and no time."""

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        status = b"500" if b"/bad/" in head else b"200"
        writer.write(b"HTTP/1.1 " + status + b" X\r\nConnection: close\r\n\r\n")
        try:
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
        except (OSError, asyncio.CancelledError):  # the client has hung up, as it should
            return
        finally:
            writer.close()

    async def go() -> None:
        server = await asyncio.start_server(endless, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        kinds: tuple[tuple[str, type[UpstreamError]], ...] = (
            ("bad", UpstreamUnavailable),
            ("good", UpstreamBadAnswer),
        )
        for name, kind in kinds:
            upstream = Upstream(f"http://127.0.0.1:{port}/{name}/v1", "key", "m", 20.0)
            error = await refusal(upstream)
            assert type(error) is kind
            assert "within" not in error.message, "it was not the time that ended it"
            await upstream.close()
        server.close()

    run(go())
