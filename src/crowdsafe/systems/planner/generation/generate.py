"""Makes a plan section by section out of about fifteen calls, at most three at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from crowdsafe.systems.planner.generation.build import Built, build
from crowdsafe.systems.planner.generation.calls import Breaker, Calls, Patience
from crowdsafe.systems.planner.generation.errors import UpstreamBadAnswer, UpstreamUnavailable
from crowdsafe.systems.planner.generation.facts import FACTS, Headline
from crowdsafe.systems.planner.generation.offline import headline, offline_plan, offline_section
from crowdsafe.systems.planner.generation.prompts import (
    facts_prompt,
    headline_prompt,
    text_prompt,
)
from crowdsafe.systems.planner.generation.sections import (
    SECTIONS,
    TITLES,
    Plan,
    SavedSections,
    Section,
    SectionName,
    Source,
)
from crowdsafe.systems.planner.generation.upstream import Upstream
from crowdsafe.systems.planner.request import PlanRequest

__all__ = ["CALLS_AT_ONCE_MAX", "Report", "SectionState", "generate"]

CALLS_AT_ONCE_MAX = 3

SectionState = Literal["running", "done"]
Report = Callable[[SectionName, SectionState], Awaitable[None]]

log = logging.getLogger("crowdsafe.planner")


async def generate(
    request: PlanRequest,
    upstream: Upstream | None,
    *,
    breaker: Breaker | None = None,
    report: Report | None = None,
    saved: SavedSections | None = None,
    offline_ok: bool = True,
    patience: Patience | None = None,
) -> Plan:
    """Make the plan that a request asks for.

    ``report`` is awaited as each section begins ("running") and ends ("done"). ``saved`` keeps
    the sections that the language model has finished. Without an upstream, or when it cannot be
    asked any more (breaker open, tries spent), the offline generator writes what is left, and
    the plan's ``source`` and its sections' say so; with ``offline_ok=False`` the error is raised.

    Holds: at most three calls at once; a section that was saved is not asked for again; numbers
    add up whoever stated the facts; what is cancelled leaves no call behind. Does not hold: that
    a call is paid once, since a call whose answer was lost is made again.
    Proved by ``tests/systems/planner/test_generate.py``.

    Raises UpstreamRefused when the service refuses for good (a wrong key), whatever
    ``offline_ok`` says: an operator has to see that. Raises what ``report`` and ``saved`` raise.
    """
    if upstream is None:
        if not offline_ok:
            raise UpstreamUnavailable("No language model is configured; set the upstream's URL.")
        plan = offline_plan(request)
        if report is not None:
            for name in FACTS:
                await report(name, "done")
        return plan
    calls = Calls(upstream, breaker, patience or Patience(), offline_ok=offline_ok)
    return await _Run(request, calls, report, saved).plan()


class _Run:
    """One plan in the making."""

    def __init__(
        self,
        request: PlanRequest,
        calls: Calls,
        report: Report | None,
        saved: SavedSections | None,
    ) -> None:
        self._request = request
        self._calls = calls
        self._report = report
        self._saved = saved
        self._room = asyncio.Semaphore(CALLS_AT_ONCE_MAX)
        self._figures: dict[str, int | None] = {}
        self._sections: dict[SectionName, Section] = {}
        self._headline = headline(request)

    async def plan(self) -> Plan:
        # The financial facts come first: what the market must hold and what marketing may cost
        # follow from them. The summary comes last, since it quotes all others.
        financials, *others, summary = FACTS
        text = await self._begun(financials)
        begun = dict(self._figures)
        await _together(*([text] if text else []), *(self._section(name, begun) for name in others))
        for name in others:
            self._figures |= self._sections[name].figures
        await self._section(summary, dict(self._figures))
        return self._finished()

    async def _begun(self, name: SectionName) -> Coroutine[Any, Any, None] | None:
        """Settle the figures of the financial section; what is left to do for its text."""
        if await self._taken(name, {}):
            self._figures |= self._sections[name].figures
            return None
        await self._tell(name, "running")
        built = await self._facts_kept(name) or await self._facts(name, {})
        if built is None:
            self._figures |= offline_section(self._request, name, {}).figures
        else:
            # The other sections build on these figures: a second run has to find the same.
            await self._keep(f"{name}/facts", built.facts.model_dump(mode="json"))
            self._figures |= built.figures
        return self._text(name, built, {})

    async def _facts_kept(self, name: SectionName) -> Built | None:
        kept = await self._kept(f"{name}/facts")
        if kept is None:
            return None
        try:
            return build(self._request, name, FACTS[name].model_validate(kept), {})
        except ValueError:
            log.warning("saved facts of the section %s are of another version", name)
            return None

    async def _section(self, name: SectionName, figures: dict[str, int | None]) -> None:
        if await self._taken(name, figures):
            return
        async with self._room:
            await self._tell(name, "running")
            await self._write(name, await self._facts(name, figures), figures)

    async def _text(
        self, name: SectionName, built: Built | None, figures: dict[str, int | None]
    ) -> None:
        async with self._room:
            await self._write(name, built, figures)

    async def _facts(self, name: SectionName, figures: dict[str, int | None]) -> Built | None:
        """The section's facts and what follows from them; None: write it offline."""

        def checked(facts: BaseModel) -> Built:
            try:
                return build(self._request, name, facts, figures)
            except ValueError as error:
                raise UpstreamBadAnswer(f"The facts do not fit: {error}") from None

        prompt = facts_prompt(self._request, name, figures)
        return await self._calls.ask(prompt, checked)

    async def _write(
        self, name: SectionName, built: Built | None, figures: dict[str, int | None]
    ) -> None:
        """Finish a section: its text by the language model, or offline where that fails."""
        paragraphs: list[str] | None = None
        head: Headline | None = None
        if built is not None:
            text = text_prompt(self._request, name, built, figures)
            if name == "executive_summary":
                title = headline_prompt(self._request, {**figures, **built.figures})
                head = await self._calls.ask(title, _as_it_is)
            written = await self._calls.ask(text, _as_it_is)
            paragraphs = written.paragraphs if written else None
        if built is None or paragraphs is None:
            facts = None if built is None else built.facts
            section = offline_section(self._request, name, figures, facts)
        else:
            section = Section(
                name=name,
                title=TITLES[name],
                paragraphs=paragraphs,
                tables=built.tables,
                figures=built.figures,
                source="upstream",
            )
        self._sections[name] = section
        self._headline = head or self._headline
        if section.source == "upstream":
            data = {"section": section.model_dump(mode="json"), "given": figures}
            await self._keep(name, data | ({"headline": head.model_dump()} if head else {}))
        await self._tell(name, "done")

    async def _keep(self, name: str, data: dict[str, Any]) -> None:
        if self._saved is not None:
            await self._saved.put(name, data)

    async def _kept(self, name: str) -> dict[str, Any] | None:
        return None if self._saved is None else await self._saved.get(name)

    async def _taken(self, name: SectionName, figures: dict[str, int | None]) -> bool:
        """Take a section that was saved, if it was made of the same figures as the others now."""
        kept = await self._kept(name)
        if kept is None or "section" not in kept or kept.get("given") != figures:
            return False
        try:
            section = Section.model_validate(kept["section"])
            head = Headline.model_validate(kept["headline"]) if "headline" in kept else None
        except ValidationError:
            log.warning("a saved section %s of another version is made anew", name)
            return False
        self._sections[name] = section
        self._headline = head or self._headline
        await self._tell(name, "done")
        return True

    async def _tell(self, name: SectionName, state: SectionState) -> None:
        if self._report is not None:
            await self._report(name, state)

    def _finished(self) -> Plan:
        sections = {name: self._sections[name] for name in SECTIONS}
        sources = {section.source for section in sections.values()}
        source: Source = sources.pop() if len(sources) == 1 else "mixed"
        return Plan(
            title=self._headline.title,
            pitch=self._headline.pitch,
            currency=self._request.currency,
            sections=sections,
            source=source,
            model=None if source == "offline" else self._calls.model,
            calls=self._calls.made,
        )


def _as_it_is(answer: Any) -> Any:
    return answer


async def _together(*work: Coroutine[Any, Any, None]) -> None:
    """Run all at once; the first error cancels the others, is waited out and raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(each)
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed.exceptions[0].__cause__
