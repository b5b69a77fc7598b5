"""What an app can be asked, as far as it tells."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["routes_of"]

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


def routes_of(app: Any) -> list[str]:
    """``POST /orders`` and the like of a FastAPI, Starlette or Flask app: what changes something
    first. Empty for any other app."""
    found = list(dict.fromkeys([*_of_starlette(app), *_of_flask(app)]))
    return sorted(found, key=lambda route: route.split(" ")[0] in _SAFE)


def _of_starlette(app: Any) -> Iterator[str]:
    for route in getattr(app, "routes", None) or ():
        path, methods = getattr(route, "path", None), getattr(route, "methods", None)
        if isinstance(path, str) and getattr(route, "include_in_schema", True):
            yield from (f"{method} {path}" for method in sorted(methods or ()) if method != "HEAD")


def _of_flask(app: Any) -> Iterator[str]:
    rules = getattr(getattr(app, "url_map", None), "iter_rules", tuple)
    for rule in rules():
        if rule.endpoint != "static":
            methods = sorted(set(rule.methods or ()) - {"HEAD", "OPTIONS"})
            yield from (f"{method} {rule.rule}" for method in methods)
