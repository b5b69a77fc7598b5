"""The first thing that a request for a plan meets: its address's rate, before the login."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from crowdsafe.systems.planner.api.common import planner_of
from crowdsafe.web.client_address import address_key, client_address
from crowdsafe.web.rate_limit import limit_request

__all__ = ["CountedByAddress"]

NAME = "planner-address"


class CountedByAddress(APIRoute):
    """A route whose requests are counted by client address before anything else is done.

    Its answers and refusals, of whatever kind, say in RateLimit headers what is left.

    Holds: what comes after (login, body, database) is never reached by more requests of one
    address than the rate allows in any window, over all processes, and one client's requests do
    not count for another's; X-Forwarded-For only counts where it was added by a trusted proxy.
    Does not hold: one client with many addresses (an IPv6 client's /64 is one address). Proved by
    ``tests/systems/planner/test_guarantees.py``.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler with the count before it."""
        handler: Callable[[Request], Awaitable[Response]] = super().get_route_handler()

        async def counted(request: Request) -> Response:
            planner = planner_of(request)
            key = address_key(client_address(request, planner.trusted))
            await limit_request(request, planner.limiter, key, name=NAME)
            return await handler(request)

        return counted
