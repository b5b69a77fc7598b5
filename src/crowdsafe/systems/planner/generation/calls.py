"""The calls that one plan costs: tried again where that can help, and given up together."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel

from crowdsafe.errors import BreakerOpen, CrowdsafeError
from crowdsafe.systems.planner.generation.errors import (
    UpstreamBadAnswer,
    UpstreamRateLimited,
    UpstreamUnavailable,
)
from crowdsafe.systems.planner.generation.prompts import Prompt
from crowdsafe.systems.planner.generation.upstream import RETRY_AFTER_S_MAX, Upstream
from crowdsafe.traffic.retry import retrying

__all__ = ["Breaker", "Calls", "Patience"]

_LONG_PAUSE_S = 30.0
_BAD_MAX = 3

Answer = TypeVar("Answer", bound=BaseModel)
Result = TypeVar("Result")


class Breaker(Protocol):
    """What is needed of a circuit breaker; it raises BreakerOpen while it is open."""

    async def call(self, fn: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        """The result of ``fn``; with ``counts=``, errors for which it is false are no failures."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one call is tried: so many times, and for ``timeout_s`` in all. After ``plan_s``
    a plan makes no more calls, and what is left of it is written offline.

    Between tries it waits from ``wait_s``, doubling up to ``wait_max_s``, with jitter, and at
    least as long as the service asks for; where that would be too late it gives up at once.
    """

    attempts: int = 6
    timeout_s: float = 90.0
    plan_s: float = 240.0
    wait_s: float = 0.25
    wait_max_s: float = 10.0


class Calls:
    """Asks an upstream for one plan; after a call has failed for good, none is made any more."""

    def __init__(
        self, upstream: Upstream, breaker: Breaker | None, patience: Patience, *, offline_ok: bool
    ) -> None:
        self._upstream = upstream
        self._breaker = breaker
        self._patience = patience
        self._offline_ok = offline_ok
        self._failure: CrowdsafeError | None = None
        self._bad = 0
        self._until = time.monotonic() + patience.plan_s
        self.made = 0
        """How many questions were sent, those without a good answer too."""

    @property
    def model(self) -> str:
        """The language model's name."""
        return self._upstream.model

    async def ask(self, prompt: Prompt[Answer], check: Callable[[Answer], Result]) -> Result | None:
        """What ``check`` makes of the answer; None when it has to be done without one.

        ``check`` may raise UpstreamBadAnswer. An answer that stays bad costs one section,
        the third one the rest of the plan; a service that is busy, ill or left alone (BreakerOpen)
        ends the plan's calls. With ``offline_ok=False`` the error is raised instead. Raises
        UpstreamRefused at once.
        """
        if self._failure is not None:
            return None
        try:
            return await self._tried(prompt, check)
        except UpstreamBadAnswer as error:
            if not self._offline_ok:
                raise
            self._bad += 1
            if self._bad >= _BAD_MAX:
                self._failure = error
        except (UpstreamRateLimited, UpstreamUnavailable, BreakerOpen) as error:
            if not self._offline_ok:
                raise
            self._failure = error
        return None

    async def _tried(self, prompt: Prompt[Answer], check: Callable[[Answer], Result]) -> Result:
        async def one_try() -> Result:
            return check(await self._once(prompt))

        patience = self._patience
        timeout_s = min(patience.timeout_s, self._until - time.monotonic())
        if timeout_s <= 0:
            raise self._too_slow(patience.plan_s)
        again = retrying(
            on=self._can_help,
            attempts=patience.attempts,
            timeout_s=timeout_s,
            wait_s=patience.wait_s,
            wait_max_s=patience.wait_max_s,
            # Coming back earlier than asked for would only be refused again.
            retry_after_max_s=RETRY_AFTER_S_MAX,
        )
        try:
            return await again(one_try)()
        except TimeoutError:
            raise self._too_slow(timeout_s) from None

    @staticmethod
    def _too_slow(seconds: float) -> UpstreamUnavailable:
        return UpstreamUnavailable(
            f"The language model was asked for {seconds:.3g} s in vain; try again later."
        )

    def _can_help(self, error: Exception) -> bool:
        """Whether another try may go better."""
        passing = (UpstreamRateLimited, UpstreamUnavailable, UpstreamBadAnswer)
        return self._failure is None and isinstance(error, passing)

    async def _once(self, prompt: Prompt[Answer]) -> Answer:
        if self._failure is not None:
            raise self._failure
        if self._breaker is None:
            return await self._sent(prompt)
        answer: Answer = await self._breaker.call(self._sent, prompt, counts=_says_ill)
        return answer

    async def _sent(self, prompt: Prompt[Answer]) -> Answer:
        self.made += 1
        return await self._upstream.ask(prompt)


def _says_ill(error: Exception) -> bool:
    """Whether an error says that the service should be left alone: it does not answer, or asks
    for a longer pause than a plan can make. Busy for a moment and misunderstood are not that."""
    if isinstance(error, UpstreamRateLimited):
        return (error.retry_after_s or 0) >= _LONG_PAUSE_S
    return isinstance(error, UpstreamUnavailable)
