"""The simulated language model: what the official client sees of it, and that its knobs work."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from crowdsafe.systems.planner.generation.facts import FACTS
from crowdsafe.systems.planner.generation.offline import offline_plan
from crowdsafe.systems.planner.generation.prompts import facts_prompt
from crowdsafe.systems.planner.simulated import Behaviour, Serving, simulated_upstream
from crowdsafe.systems.planner.simulated.behaviour import Dice
from tests.support.ports import free_port
from tests.systems.planner.asking import plan_request

QUICK = Behaviour(latency_s=0.0)
HELLO: list[Any] = [{"role": "user", "content": "hello"}]
START_S_MAX = 20.0


def run(work: Awaitable[Any]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(30):
            return await work

    return asyncio.run(bounded())


async def chat(http: httpx.AsyncClient, serving: Serving, **more: Any) -> httpx.Response:
    body = {"model": "m", "messages": HELLO, **more}
    return await http.post(f"{serving.base_url}/chat/completions", json=body)


def test_the_official_client_gets_whole_and_streamed_answers() -> None:
    from openai import AsyncOpenAI

    async def go() -> None:
        prompt = facts_prompt(plan_request(), "marketing", {"launch_marketing": 1000})
        messages: list[Any] = [
            {"role": "system", "content": prompt.system},
            {"role": "user", "content": prompt.user},
        ]
        async with (
            simulated_upstream(QUICK) as serving,
            AsyncOpenAI(base_url=serving.base_url, api_key="k", max_retries=0) as client,
        ):
            whole = await client.chat.completions.create(model="m", messages=messages)
            text = whole.choices[0].message.content
            assert text is not None
            FACTS["marketing"].model_validate_json(text)
            assert whole.usage is not None
            streamed = await client.chat.completions.create(
                model="m", messages=messages, stream=True
            )
            pieces = [chunk.choices[0].delta.content or "" async for chunk in streamed]
            assert len(pieces) > 2
            assert "".join(pieces) == text
            other = await client.chat.completions.create(model="m", messages=HELLO)
            assert other.choices[0].message.content
            assert serving.stats.by_step == {"marketing/facts": 2, "other": 1}

    run(go())


def test_the_official_client_knows_its_failures() -> None:
    import openai

    async def go() -> None:
        async with (
            simulated_upstream(Behaviour(latency_s=0, api_key="right")) as serving,
            openai.AsyncOpenAI(base_url=serving.base_url, api_key="k", max_retries=0) as client,
        ):

            async def ask(**more: Any) -> Any:
                return await client.chat.completions.create(**{"model": "m", **more})

            with pytest.raises(openai.AuthenticationError):
                await ask(messages=HELLO)
            serving.behave(api_key=None, rate_429=1.0, retry_after_s=3)
            with pytest.raises(openai.RateLimitError) as limited:
                await ask(messages=HELLO)
            assert limited.value.response.headers["retry-after"] == "3"
            serving.behave(rate_429=0, outage=True)
            with pytest.raises(openai.InternalServerError):
                await ask(messages=HELLO)
            serving.behave(outage=False)
            with pytest.raises(openai.BadRequestError):
                await ask(messages=[])
            assert serving.stats.by_status == {"401": 1, "429": 1, "503": 1, "400": 1}

    run(go())


def test_knobs_and_counts_over_http() -> None:
    async def go() -> None:
        async with simulated_upstream(QUICK) as serving, httpx.AsyncClient() as http:
            changed = await http.post(f"{serving.root_url}/behaviour", json={"outage": True})
            assert changed.json()["outage"] is True
            assert (await chat(http, serving)).status_code == 503
            for wrong in ({"outage": "perhaps"}, {"speed": 9}, [], 7, {"rate_5xx": 2}):
                refused = await http.post(f"{serving.root_url}/behaviour", json=wrong)
                assert refused.status_code == 422, wrong
            assert serving.app.behaviour.outage, "a refused change changes nothing"
            await http.post(f"{serving.root_url}/behaviour", json={"outage": False})
            assert (await chat(http, serving)).status_code == 200
            stats = (await http.get(f"{serving.root_url}/stats")).json()
            assert stats["by_status"] == {"503": 1, "200": 1}
            assert (stats["calls"], stats["running"]) == (2, 0)
            assert (await http.get(f"{serving.root_url}/elsewhere")).status_code == 404
            with pytest.raises(ValidationError):
                serving.behave(no_such_knob=1)

    run(go())


def test_the_limit_is_exact_in_its_window() -> None:
    async def go() -> None:
        behaviour = Behaviour(latency_s=0, requests_per_s=5, retry_after_s=1)
        async with simulated_upstream(behaviour) as serving, httpx.AsyncClient() as http:
            begun = time.monotonic()
            answers = await asyncio.gather(*(chat(http, serving) for _ in range(20)))
            if time.monotonic() - begun < 1.0:
                assert sum(answer.status_code == 200 for answer in answers) == 5
            assert {answer.status_code for answer in answers} == {200, 429}
            await asyncio.sleep(1.05)
            assert (await chat(http, serving)).status_code == 200

    run(go())


def test_chance_is_seeded_and_latency_has_its_median() -> None:
    faulty = Behaviour(
        seed=7, rate_429=0.2, rate_5xx=0.2, hang_rate=0.1, trickle_rate=0.1, wrong_json_rate=0.1
    )
    first, again = ([Dice(faulty).fate() for _ in range(1)] for _ in range(2))
    assert first == again
    one, two = Dice(faulty), Dice(faulty)
    fates = [one.fate() for _ in range(2000)]
    assert fates == [two.fate() for _ in range(2000)]
    for fate, low, high in (
        ("busy", 300, 500), ("failing", 220, 420), ("hang", 80, 180),
        ("trickle", 70, 170), ("wrong", 60, 160), ("answer", 600, 1300),
    ):  # fmt: skip
        assert low < fates.count(fate) < high, fate  # type: ignore[arg-type]
    slow = Dice(Behaviour(latency_s=2.0, latency_sigma=0.6, latency_s_max=9.0))
    waits = sorted(slow.latency_s() for _ in range(2001))
    assert 1.8 < waits[1000] < 2.2
    assert 0 < waits[0] < 1
    assert 4 < waits[-1] <= 9


def test_it_ends_at_once_with_calls_in_flight_and_frees_its_port() -> None:
    async def go() -> None:
        async with httpx.AsyncClient(timeout=20) as http:
            async with simulated_upstream(Behaviour(hang_rate=1, latency_s=0)) as serving:
                asking = [asyncio.create_task(chat(http, serving)) for _ in range(5)]
                for _ in range(500):
                    if serving.stats.running == 5:
                        break
                    await asyncio.sleep(0.01)
                assert serving.stats.running == 5
            answers = await asyncio.gather(*asking)
            assert {answer.status_code for answer in answers} == {503}
            assert serving.stats.running == 0
        with socket.create_server(("127.0.0.1", serving.port)):
            pass
        assert len(asyncio.all_tasks()) == 1, "this test's own"

    run(go())


def test_a_port_that_is_taken_is_said() -> None:
    async def go() -> None:
        async with simulated_upstream(QUICK) as serving:
            with pytest.raises(OSError, match="in use"):
                async with simulated_upstream(QUICK, port=serving.port):
                    pass

    run(go())


def test_two_services_in_one_loop_are_apart() -> None:
    async def go() -> None:
        broken = Behaviour(latency_s=0, outage=True)
        async with (
            simulated_upstream(QUICK) as first,
            simulated_upstream(broken) as second,
            httpx.AsyncClient() as http,
        ):
            assert (await chat(http, first)).status_code == 200
            assert (await chat(http, second)).status_code == 503

    run(go())


def test_as_a_program_of_its_own() -> None:
    port = free_port()
    command = [sys.executable, "-m", "crowdsafe.systems.planner.simulated", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--latency-s", "0", "--requests-per-s", "50", "--outage"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        behaviour = wait_for(f"http://127.0.0.1:{port}/behaviour", process)
        assert (behaviour["latency_s"], behaviour["requests_per_s"]) == (0.0, 50)
        assert behaviour["outage"] is True
    finally:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=10)
    assert b"Traceback" not in output or b"KeyboardInterrupt" in output


def wait_for(url: str, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    deadline = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline and process.poll() is None:
        try:
            found: dict[str, Any] = httpx.get(url, timeout=2).json()
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return found
    raise AssertionError("the program did not start")


def test_it_answers_every_question_of_the_planner_with_what_would_stand_in_a_plan() -> None:
    from crowdsafe.systems.planner.simulated.answers import answer_to

    request = plan_request(budget=10**12, timeline="3-years", currency="JPY")
    known = offline_plan(request)
    figures = {k: v for section in known.sections.values() for k, v in section.figures.items()}
    for name, shape in FACTS.items():
        prompt = facts_prompt(request, name, figures)
        text, step = answer_to([{"role": "user", "content": prompt.user}])
        shape.model_validate_json(text)
        assert step == f"{name}/facts"
    assert json.loads(answer_to(HELLO)[0])
