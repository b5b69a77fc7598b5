"""What the request handlers of one application share; kept in ``app.state.crowdsafe``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from crowdsafe.errors import ConfigError
from crowdsafe.web.client_address import TrustedProxies
from crowdsafe.web.problem import NotReady

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection, Request
    from starlette.responses import Response

    from crowdsafe.feed import FeedHub
    from crowdsafe.identity import Identity
    from crowdsafe.store import AsyncStore

__all__ = ["Render", "Services", "services_of"]

log = logging.getLogger("crowdsafe.web")

T = TypeVar("T")
Render = Callable[["Request", str, Mapping[str, Any], int], "Response"]
"""Renders a page: request, template name, context, status."""


class Services:
    """The store of an application, and the parts that it was given besides."""

    def __init__(
        self,
        store: AsyncStore,
        identity: Identity | None = None,
        feed: FeedHub | None = None,
        render: Render | None = None,
        *,
        trusted: TrustedProxies | None = None,
    ) -> None:
        self.store = store
        self._identity = identity
        self._feed = feed
        self._render = render
        self.trusted = trusted or TrustedProxies()
        """The proxies that say which client's request they pass on."""
        self._parts: list[object] = []

    @property
    def identity(self) -> Identity:
        """Logins. Raises ConfigError for an application without them."""
        if self._identity is None:
            raise ConfigError("this application has no logins: give Services an identity")
        return self._identity

    @property
    def feed(self) -> FeedHub:
        """The hub that live streams read. Raises ConfigError for an application without one."""
        if self._feed is None:
            raise ConfigError("this application has no feed: give Services a feed hub")
        return self._feed

    @property
    def render(self) -> Render:
        """Renders pages. Raises ConfigError for an application without pages."""
        if self._render is None:
            raise ConfigError("this application has no pages: give Services a renderer")
        return self._render

    def add(self, part: object) -> None:
        """Give the application a part of its own, which ``part`` finds by its class."""
        self._parts.append(part)

    def part(self, kind: type[T]) -> T:
        """The part of that class. Raises ConfigError for an application without one."""
        for part in self._parts:
            if isinstance(part, kind):
                return part
        raise ConfigError(f"this application has no {kind.__name__}: give Services one")


def services_of(connection: HTTPConnection) -> Services:
    """The services of the application that serves this request. Raises NotReady before startup."""
    services = getattr(connection.app.state, "crowdsafe", None)
    if not isinstance(services, Services):
        log.warning("app.state.crowdsafe is not set: give install() the Services, or set it")
        raise NotReady("The service is starting; try again shortly.", retry_after_s=1)
    return services
