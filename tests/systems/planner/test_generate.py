"""Whole plans over the official client, while the language model's service fails in every way."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

import pytest

from crowdsafe.errors import BreakerOpen
from crowdsafe.systems.planner.generation import (
    SECTIONS,
    Patience,
    Plan,
    Upstream,
    generate,
    offline_plan,
)
from crowdsafe.systems.planner.generation.errors import (
    UpstreamBadAnswer,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamUnavailable,
)
from crowdsafe.systems.planner.generation.prompts import facts_prompt, headline_prompt
from crowdsafe.systems.planner.simulated import Behaviour, Serving, simulated_upstream
from crowdsafe.traffic.breaker import BreakerSettings, InProcessBreaker
from tests.systems.planner.asking import plan_request

REQUEST = plan_request()
CALLS = 15
QUICK = {"latency_s": 0.01, "latency_sigma": 0.5}
HASTY = Patience(attempts=6, timeout_s=20, wait_s=0.01, wait_max_s=0.05)


def run(work: Awaitable[Any]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(40):
            return await work

    return asyncio.run(bounded())


@asynccontextmanager
async def service(
    *, timeout_s: float = 5.0, **knobs: Any
) -> AsyncIterator[tuple[Serving, Upstream]]:
    import_module("openai")  # or the first question's time limit would have to hold it
    async with simulated_upstream(Behaviour(**{**QUICK, **knobs})) as serving:
        upstream = Upstream(serving.base_url, "key", "simulated", timeout_s)
        try:
            yield serving, upstream
        finally:
            await upstream.close()


async def until(true: Callable[[], bool]) -> None:
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to that in 10 s")


class Notes:
    """Finished sections in memory, which a test may read."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Any]] = {}

    async def get(self, section: str) -> dict[str, Any] | None:
        return json.loads(json.dumps(self.kept[section])) if section in self.kept else None

    async def put(self, section: str, data: dict[str, Any]) -> None:
        assert len(json.dumps(data)) < 64 * 1024
        assert len(section) <= 40
        self.kept[section] = data

    @property
    def finished(self) -> set[str]:
        return set(self.kept) & set(SECTIONS)


def test_a_plan_of_fifteen_calls_three_at_once() -> None:
    async def go() -> None:
        told: list[tuple[str, str]] = []

        async def report(section: str, state: str) -> None:
            told.append((section, state))

        async with service() as (serving, upstream):
            plan = await generate(REQUEST, upstream, report=report)
            assert (plan.source, plan.calls, plan.model) == ("upstream", CALLS, "simulated")
            assert (serving.stats.calls, serving.stats.running_max) == (CALLS, 3)
            assert set(serving.stats.by_step.values()) == {1}
        assert tuple(plan.sections) == SECTIONS
        assert plan.offline_sections == []
        assert all(section.paragraphs for section in plan.sections.values())
        assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
        for section in SECTIONS:
            assert [state for name, state in told if name == section] == ["running", "done"]

    run(go())


def test_figures_agree_over_the_sections_of_an_upstreams_plan() -> None:
    async def go() -> None:
        async with service() as (_, upstream):
            plan = await generate(REQUEST, upstream)
        known = plan.sections["financials"].figures | plan.sections["market"].figures
        summary = plan.sections["executive_summary"].figures
        assert summary == {name: known[name] for name in summary}
        money = plan.sections["marketing"].figures["launch_marketing"]
        assert money == known["launch_marketing"]

    run(go())


def test_without_an_upstream_the_plan_is_offline() -> None:
    async def go() -> None:
        assert await generate(REQUEST, None) == offline_plan(REQUEST)
        with pytest.raises(UpstreamUnavailable):
            await generate(REQUEST, None, offline_ok=False)

    run(go())


def test_a_limit_is_waited_out_for_as_long_as_the_service_says() -> None:
    async def go() -> None:
        async with service(rate_429=1.0, retry_after_s=1) as (serving, upstream):
            making = asyncio.create_task(generate(REQUEST, upstream, patience=HASTY))
            await until(lambda: serving.stats.by_status["429"] == 1)
            begun = time.monotonic()
            serving.behave(rate_429=0.0)
            plan = await making
            assert time.monotonic() - begun > 0.8, "Retry-After of one second was kept"
            assert (plan.source, plan.calls) == ("upstream", CALLS + 1)

    run(go())


def test_the_services_own_limit_slows_a_plan_and_never_fails_it() -> None:
    async def go() -> None:
        async with service(requests_per_s=6, retry_after_s=1) as (serving, upstream):
            plan = await generate(REQUEST, upstream, patience=HASTY)
            assert plan.source == "upstream"
            assert serving.stats.by_status["200"] == CALLS
            assert serving.stats.by_status["429"] >= 1

    run(go())


@pytest.mark.parametrize(
    "knobs", [{"rate_5xx": 0.3}, {"rate_429": 0.3, "retry_after_s": 0}, {"wrong_json_rate": 0.3}]
)
def test_passing_faults_are_repeated(knobs: dict[str, Any]) -> None:
    async def go() -> None:
        async with service(seed=4, **knobs) as (serving, upstream):
            plan = await generate(REQUEST, upstream, patience=HASTY)
            assert plan.source == "upstream"
            assert plan.calls == serving.stats.calls > CALLS
            assert set(serving.stats.by_step.values()) == {1}, "nothing is paid twice"

    run(go())


def test_hangs_and_trickles_are_cut_off_and_repeated() -> None:
    async def go() -> None:
        faults = {"hang_rate": 0.15, "trickle_rate": 0.15, "trickle_bytes_per_s": 20}
        async with service(timeout_s=1.0, seed=3, **faults) as (serving, upstream):
            plan = await generate(REQUEST, upstream, patience=HASTY)
            assert plan.source == "upstream"
            await until(lambda: serving.stats.running == 0)
            assert serving.stats.disconnected >= 1

    run(go())


def test_answers_that_stay_bad_cost_their_section_only() -> None:
    """Every second answer is made bad for one section, and each try of it meets one."""

    async def go() -> None:
        async with service() as (serving, upstream):
            honest = upstream.ask

            class Forgetful(Upstream):
                async def ask(self, prompt: Any) -> Any:
                    if prompt.section == "risks" or (prompt.section, prompt.step) == (
                        "market",
                        "text",
                    ):
                        await asyncio.sleep(0)
                        raise UpstreamBadAnswer
                    return await honest(prompt)

            forgetful = Forgetful(upstream.base_url, "", "simulated")
            plan = await generate(REQUEST, forgetful, patience=HASTY)
            assert plan.source == "mixed"
            assert plan.offline_sections == ["market", "risks"]
            assert plan.sections["risks"].source == "offline"
            assert plan.sections["market"].source == "mixed", "its facts were bought and are kept"
            assert plan.sections["market"].paragraphs
            assert serving.stats.calls == CALLS - 2 - 1
            with pytest.raises(UpstreamBadAnswer):
                await generate(REQUEST, forgetful, patience=HASTY, offline_ok=False)

    run(go())


def test_nothing_but_bad_answers_makes_an_offline_plan() -> None:
    async def go() -> None:
        async with service(wrong_json_rate=1.0) as (_, upstream):
            twice = Patience(attempts=2, wait_s=0.01)
            plan = await generate(REQUEST, upstream, patience=twice)
            offline = offline_plan(REQUEST)
            assert (plan.source, plan.model) == ("offline", None)
            assert plan.sections == offline.sections
            assert 3 * 2 <= plan.calls <= 5 * 2, "three in vain, and what ran beside the third"

    run(go())


def test_an_outage_makes_an_offline_plan_and_stops_the_calls() -> None:
    async def go() -> None:
        async with service(outage=True) as (serving, upstream):
            plan = await generate(REQUEST, upstream, patience=HASTY)
            assert plan.source == "offline"
            assert plan.sections == offline_plan(REQUEST).sections
            assert serving.stats.calls == HASTY.attempts, "the other sections did not try as well"
            with pytest.raises(UpstreamUnavailable):
                await generate(REQUEST, upstream, patience=HASTY, offline_ok=False)

    run(go())


def test_an_outage_in_the_middle_keeps_what_was_finished() -> None:
    async def go() -> None:
        notes = Notes()
        async with service() as (serving, upstream):

            async def report(section: str, state: str) -> None:
                if state == "done" and len(notes.finished) == 3:
                    serving.behave(outage=True)

            plan = await generate(REQUEST, upstream, patience=HASTY, report=report, saved=notes)
        assert plan.source == "mixed"
        assert len(notes.finished) >= 3
        assert set(plan.offline_sections) == set(SECTIONS) - notes.finished
        assert plan.sections["executive_summary"].source == "offline"

    run(go())


def test_a_breaker_opens_ends_the_calls_and_lets_them_come_back() -> None:
    async def go() -> None:
        settings = BreakerSettings(failures=3, window_s=30, cooldown_s=0.3, cooldown_max_s=0.6)
        breaker = InProcessBreaker("upstream", settings)
        async with service(outage=True) as (serving, upstream):

            async def make() -> Plan:
                return await generate(REQUEST, upstream, breaker=breaker, patience=HASTY)

            plan = await make()
            assert plan.source == "offline"
            assert (await breaker.state()).state == "open"
            asked = serving.stats.calls
            assert asked == plan.calls == 3
            plans = await asyncio.gather(*(make() for _ in range(10)))
            assert {plan.source for plan in plans} == {"offline"}
            assert serving.stats.calls - asked <= 1, "while it is open nobody asks but a probe"
            with pytest.raises(BreakerOpen):
                await generate(REQUEST, upstream, breaker=breaker, patience=HASTY, offline_ok=False)
            serving.behave(outage=False)
            for _ in range(200):
                plan = await make()
                if plan.source == "upstream":
                    break
                await asyncio.sleep(0.05)
            assert plan.source == "upstream", "it comes back by itself"
            assert (await breaker.state()).state == "closed"

    run(go())


def test_stray_failures_of_a_busy_service_do_not_open_the_breaker() -> None:
    """A breaker that counts every failure opens on them, which is shown beside it."""

    async def go() -> None:
        all_of_them = InProcessBreaker("counts all", BreakerSettings(failures=5, window_s=30))
        share = BreakerSettings(failures=5, window_s=30, failing_share=0.5)
        ours = InProcessBreaker("ours", share)

        async def plans(breaker: Any) -> set[str]:
            made = await asyncio.gather(
                *(generate(REQUEST, upstream, breaker=breaker, patience=HASTY) for _ in range(5))
            )
            return {plan.source for plan in made}

        async with service(rate_5xx=0.1, seed=9) as (serving, upstream):
            assert await plans(ours) == {"upstream"}
            assert serving.stats.by_status["503"] >= 5
            assert (await ours.state()).state == "closed"
            serving.behave(rate_5xx=0.1, seed=9)
            assert await plans(all_of_them) != {"upstream"}
            assert (await all_of_them.state()).state == "open"

    run(go())


def test_a_busy_or_misunderstood_service_does_not_open_the_breaker() -> None:
    async def go() -> None:
        breaker = InProcessBreaker("upstream", BreakerSettings(failures=2))
        knobs = {"rate_429": 0.3, "retry_after_s": 0, "wrong_json_rate": 0.2, "seed": 8}
        async with service(**knobs) as (_, upstream):
            plan = await generate(REQUEST, upstream, breaker=breaker, patience=HASTY)
            assert plan.source == "upstream"
            assert plan.calls > CALLS + 4
            assert (await breaker.state()).state == "closed"

    run(go())


def test_a_service_that_asks_for_a_long_pause_is_left_alone_by_all_plans() -> None:
    async def go() -> None:
        breaker = InProcessBreaker("upstream", BreakerSettings(failures=3))
        async with service(rate_429=1.0, retry_after_s=3600) as (serving, upstream):
            for _ in range(10):
                plan = await generate(REQUEST, upstream, breaker=breaker, patience=HASTY)
                assert plan.source == "offline"
            assert serving.stats.calls == 3
            assert (await breaker.state()).state == "open"

    run(go())


def test_a_limit_longer_than_our_patience_is_not_waited_for() -> None:
    async def go() -> None:
        async with service(rate_429=1.0, retry_after_s=3600) as (serving, upstream):
            plan = await generate(REQUEST, upstream, patience=HASTY)
            assert plan.source == "offline"
            assert serving.stats.calls == 1
            with pytest.raises(UpstreamRateLimited) as told:
                await generate(REQUEST, upstream, patience=HASTY, offline_ok=False)
            assert told.value.retry_after_s == 3600

    run(go())


def test_patience_ends_in_time_however_slow_the_service_is() -> None:
    async def go() -> None:
        brief = Patience(attempts=6, timeout_s=1.5, wait_s=0.01, wait_max_s=0.05)
        async with service(timeout_s=20) as (serving, upstream):
            await upstream.ask(headline_prompt(REQUEST, {}))
            serving.behave(hang_rate=1.0)
            serving.stats.reset()
            plan = await generate(REQUEST, upstream, patience=brief)
            assert (plan.source, serving.stats.calls) == ("offline", 1)
            await until(lambda: serving.stats.running == 0)
            with pytest.raises(UpstreamUnavailable):
                await generate(REQUEST, upstream, patience=brief, offline_ok=False)

    run(go())


def test_a_plan_ends_in_time_on_a_service_that_is_slow_all_along() -> None:
    async def go() -> None:
        brief = Patience(timeout_s=20, plan_s=2.5, wait_s=0.01)
        async with service(latency_s=0.6, latency_sigma=0.0, timeout_s=20) as (serving, upstream):
            plan = await generate(REQUEST, upstream, patience=brief)
            assert plan.source == "mixed"
            assert 0 < serving.stats.calls < CALLS
            assert plan.sections["executive_summary"].source == "offline"

    run(go())


def test_a_wrong_key_is_an_error_at_once_even_where_offline_is_fine() -> None:
    async def go() -> None:
        async with service(api_key="another") as (serving, upstream):
            with pytest.raises(UpstreamRefused) as refused:
                await generate(REQUEST, upstream, patience=HASTY)
            assert "401" in refused.value.message
            assert serving.stats.calls == 1

    run(go())


def test_a_key_that_ends_in_the_middle_leaves_no_call_behind() -> None:
    async def go() -> None:
        async with service(latency_s=0.05) as (serving, upstream):

            async def report(section: str, state: str) -> None:
                if state == "done":
                    serving.behave(api_key="another")

            with pytest.raises(UpstreamRefused):
                await generate(REQUEST, upstream, patience=HASTY, report=report)
            await until(lambda: serving.stats.running == 0)
            assert len(asyncio.all_tasks()) <= 8, "only the service's own tasks are left"

    run(go())


def test_a_cancelled_plan_leaves_no_call_behind() -> None:
    async def go() -> None:
        async with service(hang_rate=1.0) as (serving, upstream):
            serving.behave(hang_rate=0.0)
            stuck = asyncio.Event()

            async def report(section: str, state: str) -> None:
                if section == "risks":
                    serving.behave(hang_rate=1.0)
                    stuck.set()

            making = asyncio.create_task(generate(REQUEST, upstream, report=report))
            await stuck.wait()
            await until(lambda: serving.stats.running == 3)
            making.cancel()
            with pytest.raises(asyncio.CancelledError):
                await making
            await until(lambda: serving.stats.running == 0)
            assert serving.stats.disconnected == 3

    run(go())


def test_what_was_saved_is_not_paid_again() -> None:
    async def go() -> None:
        notes = Notes()
        async with service() as (serving, upstream):

            class Crash(Exception):
                pass

            async def report(section: str, state: str) -> None:
                if len(notes.finished) >= 4:
                    raise Crash

            with pytest.raises(Crash):
                await generate(REQUEST, upstream, report=report, saved=notes)
            await until(lambda: serving.stats.running == 0)
            kept = notes.finished
            assert 4 <= len(kept) < len(SECTIONS)
            serving.stats.reset()
            plan = await generate(REQUEST, upstream, saved=notes)
            assert plan.source == "upstream"
            asked = {step.partition("/")[0] for step in serving.stats.by_step}
            assert asked == set(SECTIONS) - kept
            assert notes.finished == set(SECTIONS)
            serving.stats.reset()
            again = await generate(REQUEST, upstream, saved=notes)
            assert serving.stats.calls == again.calls == 0
            assert again.sections == plan.sections
            assert (again.title, again.pitch) == (plan.title, plan.pitch)
            notes.kept["market"] = {"section": {"of": "an older version"}}
            await generate(REQUEST, upstream, saved=notes)
            assert dict(serving.stats.by_step) == {"market/facts": 1, "market/text": 1}

    run(go())


def test_a_second_run_builds_on_the_same_figures_as_the_first() -> None:
    """The financial facts are kept as soon as they are known, since the others are made of them."""

    async def go() -> None:
        notes = Notes()
        async with service() as (serving, upstream):
            honest = upstream.ask

            class Stuck(Upstream):
                async def ask(self, prompt: Any) -> Any:
                    if (prompt.section, prompt.step) == ("financials", "text"):
                        await until(lambda: "marketing" in notes.kept)
                        raise UpstreamRefused
                    return await honest(prompt)

            with pytest.raises(UpstreamRefused):
                await generate(REQUEST, Stuck(upstream.base_url, "", "m"), saved=notes)
            assert "financials" not in notes.kept
            assert "section" in notes.kept["marketing"]
            serving.stats.reset()
            # Even by a service that would assume something else by now.
            notes.kept["financials/facts"]["marketing_percent"] = 9
            plan = await generate(REQUEST, upstream, saved=notes)
            assert "financials/facts" not in serving.stats.by_step
            assert serving.stats.by_step["marketing/facts"] == 1, "made of other figures: anew"
            money = plan.sections["financials"].figures["launch_marketing"]
            assert money == plan.sections["marketing"].figures["launch_marketing"]
            del notes.kept["financials"]
            notes.kept["financials/facts"] = {"of": "an older version"}
            serving.stats.reset()
            assert (await generate(REQUEST, upstream, saved=notes)).source == "upstream"
            assert serving.stats.by_step["financials/facts"] == 1

    run(go())


def test_what_saving_raises_is_raised() -> None:
    class Full(Notes):
        async def put(self, section: str, data: dict[str, Any]) -> None:
            raise OSError("no space left")

    async def go() -> None:
        async with service() as (serving, upstream):
            with pytest.raises(OSError, match="no space left"):
                await generate(REQUEST, upstream, saved=Full())
            await until(lambda: serving.stats.running == 0)

    run(go())


def test_offline_sections_are_not_saved() -> None:
    async def go() -> None:
        notes = Notes()
        async with service(outage=True) as (serving, upstream):
            await generate(REQUEST, upstream, patience=HASTY, saved=notes)
            assert notes.kept == {}
            serving.behave(outage=False)
            plan = await generate(REQUEST, upstream, patience=HASTY, saved=notes)
            assert plan.source == "upstream"

    run(go())


def test_many_plans_through_a_storm_are_all_whole(rng: random.Random) -> None:
    """All faults at once, outages that come and go, plans that are cancelled half-way."""
    hard = Patience(attempts=8, timeout_s=6, wait_s=0.01, wait_max_s=0.05)
    settings = BreakerSettings(failures=6, window_s=5, cooldown_s=0.1, cooldown_max_s=0.2)
    faults = {
        "rate_429": 0.1, "retry_after_s": 0, "rate_5xx": 0.1, "hang_rate": 0.02,
        "trickle_rate": 0.02, "wrong_json_rate": 0.1, "seed": rng.randrange(1000),
    }  # fmt: skip

    async def go() -> None:
        breaker = InProcessBreaker("upstream", settings)
        async with service(timeout_s=0.5, **faults) as (serving, upstream):

            async def one(number: int) -> Plan | None:
                await asyncio.sleep(rng.random())
                request = plan_request(location=f"Place {number}")
                making = asyncio.create_task(
                    generate(request, upstream, breaker=breaker, patience=hard)
                )
                if number % 5 == 0:
                    await asyncio.sleep(rng.random())
                    making.cancel()
                    return None
                return await making

            async def weather() -> None:
                while True:
                    await asyncio.sleep(0.2 + rng.random() / 2)
                    serving.behave(outage=rng.random() < 0.3)

            raining = asyncio.create_task(weather())
            plans = await asyncio.gather(*(one(number) for number in range(20)))
            raining.cancel()
            for number, plan in enumerate(plans):
                if number % 5 == 0:
                    continue
                assert plan is not None
                check_whole(plan, f"Place {number}")
            await until(lambda: serving.stats.running == 0)

    run(go())


def check_whole(plan: Plan, place: str) -> None:
    assert tuple(plan.sections) == SECTIONS
    assert all(section.paragraphs and section.tables for section in plan.sections.values())
    assert place in plan.title
    sources = {section.source for section in plan.sections.values()}
    assert plan.source == (sources.pop() if len(sources) == 1 else "mixed")
    money = plan.sections["financials"].figures["launch_marketing"]
    assert plan.sections["marketing"].figures["launch_marketing"] == money


async def naive(upstream: Upstream) -> list[Any]:
    """What the usual code does: all sections at once, each failure is an empty section."""

    async def one(name: Any) -> Any:
        return await upstream.ask(facts_prompt(REQUEST, name, {}))

    return await asyncio.gather(*(one(name) for name in SECTIONS), return_exceptions=True)


def test_the_naive_way_breaks_at_the_first_limit() -> None:
    async def go() -> None:
        async with service(requests_per_s=3) as (serving, upstream):
            answers = await naive(upstream)
            assert any(isinstance(answer, UpstreamRateLimited) for answer in answers)
            assert serving.stats.running_max > 3

    run(go())
