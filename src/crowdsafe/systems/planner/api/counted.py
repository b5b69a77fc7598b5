"""The first thing that a request for a plan meets: its address's rate, before the login."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from crowdsafe.systems.planner.api.common import planner_of
from crowdsafe.traffic.rates import Decision
from crowdsafe.traffic.rates.rate import refused

__all__ = ["CountedByAddress"]

NAME = "planner-address"


class CountedByAddress(APIRoute):
    """A route whose requests are counted by client address before anything else is done.

    Holds: what comes after (login, body, database) is never reached by more requests of one
    address than the rate allows in any window, over all processes, and one client's requests do
    not count for another's; X-Forwarded-For only counts where it was added by a trusted proxy.
    Does not hold: one client with many addresses. Proved by
    ``tests/systems/planner/test_guarantees.py``.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler with the count before it."""
        handler: Callable[[Request], Awaitable[Response]] = super().get_route_handler()

        async def counted(request: Request) -> Response:
            planner = planner_of(request)
            decision = await planner.limiter.check(request.client.host if request.client else "?")
            if not decision.allowed:
                raise refused(decision)
            answer = await handler(request)
            answer.headers.update(_headers(decision))
            return answer

        return counted


def _headers(decision: Decision) -> dict[str, str]:
    return {
        "RateLimit-Policy": f'"{NAME}";q={decision.rate.limit};w={decision.rate.window_s:g}',
        "RateLimit": f'"{NAME}";r={decision.remaining};t={math.ceil(decision.reset_s)}',
    }
