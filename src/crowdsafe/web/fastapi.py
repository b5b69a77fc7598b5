"""The FastAPI adapter: ``install(app)``, and what an endpoint needs.

An endpoint stays small, because operations know no framework::

    @router.post("/stock/allocate")
    async def allocate(body: AllocateStock, do: Annotated[Do, doing("sales", "admin")]) -> Response:
        return await do(operations.allocate, product_id=body.product_id, by=do.user.username)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException
from starlette.responses import Response

from crowdsafe.errors import CrowdsafeError, InvalidInput, NotFound
from crowdsafe.feed import FeedHub
from crowdsafe.identity import User
from crowdsafe.store import AsyncStore
from crowdsafe.web.auth import CurrentUser, check_roles, current_user, optional_user, require
from crowdsafe.web.etag import etag_of, if_match_version, none_matches
from crowdsafe.web.idempotency import (
    Answer,
    checked_key,
    fingerprint,
    json_text,
    once_answer,
    scope_of,
    write_options,
)
from crowdsafe.web.limits import Guard, Limits, OpenRequests
from crowdsafe.web.problem import (
    MEDIA_TYPE,
    MethodNotAllowed,
    Problem,
    UnreadableBody,
    http_problem,
    problem_of,
)
from crowdsafe.web.problem_pages import router as problem_pages
from crowdsafe.web.rate_limit import RateLimitHeaders
from crowdsafe.web.services import Services, services_of

__all__ = [
    "CurrentUser",
    "Do",
    "FeedDep",
    "IfMatch",
    "Limits",
    "OpenRequests",
    "OptionalIfMatch",
    "Services",
    "StoreDep",
    "current_user",
    "doing",
    "etag_of",
    "idempotent_write",
    "install",
    "json_answer",
    "none_matches",
    "optional_user",
    "problem_answer",
    "require",
]

_ERRORS_MAX = 20
_MESSAGE_CHARS_MAX = 300
_PROBLEM_REF = {"$ref": "#/components/schemas/Problem"}
_PROBLEM_SCHEMA = {
    "type": "object",
    "title": "Problem",
    "description": "RFC 9457; further members carry what a client needs to go on.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "examples": ["/problems/insufficient-stock"]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
    "additionalProperties": True,
}
PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": description, "content": {MEDIA_TYPE: {"schema": _PROBLEM_REF}}}
    for status, description in (
        ("4XX", "Refused; `type` says why, `detail` what to do."),
        ("5XX", "Not done, or not known to be done; `Retry-After` says when to try again."),
    )
}
"""For ``FastAPI(responses=...)``: every refusal is documented as a problem."""


def install(
    app: FastAPI,
    services: Services | None = None,
    *,
    limits: Limits | None = None,
    requests: OpenRequests | None = None,
) -> None:
    """Make ``app`` answer every error as a problem, guard it by ``limits``, and tell clients what
    is left of the rate limits that endpoints set by ``limit_request``.

    Adds the pages ``/problems`` and ``/problems/{slug}``. Call it once, last: the guard is the
    outermost middleware then. ``services`` may come later, as ``app.state.crowdsafe``;
    ``requests`` lets a shutdown end what is still running.
    """
    if services is not None:
        app.state.crowdsafe = services
    app.add_exception_handler(CrowdsafeError, _on_crowdsafe_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.include_router(problem_pages)
    app.add_middleware(RateLimitHeaders)
    app.add_middleware(Guard, limits=limits, requests=requests)
    _document(app)


def store_of(request: Request) -> AsyncStore:
    """The application's store."""
    return services_of(request).store


def feed_of(request: Request) -> FeedHub:
    """The application's feed hub."""
    return services_of(request).feed


def required_if_match(
    if_match: Annotated[
        str | None, Header(description='The version that was edited, quoted: `"7"`; or `*`.')
    ] = None,
) -> int | None:
    """The version in If-Match, None for ``*``. Raises PreconditionRequired, InvalidETag."""
    return if_match_version(if_match)


def optional_if_match(
    if_match: Annotated[
        str | None, Header(description='The version that was edited, quoted: `"7"`.')
    ] = None,
) -> int | None:
    """The version in If-Match, None without the header or for ``*``. Raises InvalidETag."""
    return if_match_version(if_match, required=False)


class Do:
    """The writes of one request: ``await do(operation, ...)`` is ``idempotent_write`` for its
    store and its user."""

    def __init__(self, store: AsyncStore, request: Request, user: User) -> None:
        self.user = user
        self._store = store
        self._request = request

    async def __call__(
        self,
        fn: Callable[..., Any],
        *,
        status_code: int = 200,
        answer_headers: Callable[[Any], Mapping[str, str]] | None = None,
        **kwargs: Any,
    ) -> Response:
        """Run the write ``fn(session, **kwargs)`` and answer with its result as JSON."""
        return await idempotent_write(
            self._store,
            self._request,
            self.user,
            fn,
            status_code=status_code,
            answer_headers=answer_headers,
            **kwargs,
        )


def doing(*roles: str) -> Any:
    """The dependency that gives ``Do`` to users with any of these roles; without one, to all."""
    wanted = frozenset(roles)

    async def do_of(request: Request, user: CurrentUser) -> Do:
        if wanted:
            check_roles(user, wanted)
        return Do(store_of(request), request, user)

    return Depends(do_of)


StoreDep = Annotated[AsyncStore, Depends(store_of)]
"""The application's store, as an endpoint's parameter: ``store: StoreDep``."""
FeedDep = Annotated[FeedHub, Depends(feed_of)]
"""The application's feed hub."""
IfMatch = Annotated[int | None, Depends(required_if_match)]
"""The version in If-Match, None for ``*``; a request without the header is answered 428."""
OptionalIfMatch = Annotated[int | None, Depends(optional_if_match)]
"""The version in If-Match, None for ``*`` and without the header."""


async def idempotent_write(
    astore: AsyncStore,
    request: Request,
    user: User | str,
    fn: Callable[..., Any],
    *args: Any,
    status_code: int = 200,
    answer_headers: Callable[[Any], Mapping[str, str]] | None = None,
    **kwargs: Any,
) -> Response:
    """Run the write ``fn(session, *args, **kwargs)`` and answer with its result as JSON.

    With an ``Idempotency-Key`` header the answer is stored in the transaction of the effects,
    for this user, method and path: a repeat gets it byte for byte, with
    ``Idempotency-Replayed: true``, and the write does not run again. The same key with another
    body is refused (KeyReused, 422). The answer leaves after the commit. An application with
    logins of its own says whose key it is in text: ``f"user:{id}"``.

    ``fn`` returns plain data, a dataclass or a pydantic model. ``answer_headers`` gets that
    result and gives further headers, such as an ETag. Raises what ``fn`` raises (nothing is
    stored then), and InvalidIdempotencyKey.
    """
    key = checked_key(request.headers.get("idempotency-key"))

    def answer(result: Any) -> Answer:
        headers = dict(answer_headers(result)) if answer_headers is not None else {}
        return Answer(status_code, json_text(result), headers)

    if key is None:
        return _response(answer(await astore.write(fn, *args, **kwargs)))
    asked = fingerprint(request.method, request.url.path, request.url.query, await request.body())
    whose = user if isinstance(user, str) else f"user:{user.id}"
    scope = scope_of(whose, request.method, request.url.path)

    def keyed(session: Session) -> Answer:
        return once_answer(
            session,
            lambda: fn(session, *args, **kwargs),
            key=key,
            scope=scope,
            request=asked,
            answer=answer,
        )

    return _response(await astore.write(keyed, **write_options(fn, args, kwargs)))


def json_answer(
    value: Any, status_code: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Plain data, dataclasses or pydantic models as a JSON answer."""
    return _response(Answer(status_code, json_text(value), dict(headers or {})))


def problem_answer(problem: Problem) -> Response:
    """A problem as an answer."""
    return Response(problem.encode(), problem.status, problem.headers, MEDIA_TYPE)


def _response(answer: Answer) -> Response:
    headers = dict(answer.headers)
    if answer.replayed:
        headers["Idempotency-Replayed"] = "true"
    return Response(answer.body.encode(), answer.status, headers, "application/json")


async def _on_crowdsafe_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, CrowdsafeError)
    if error.status == 500:
        raise error
    return problem_answer(problem_of(error))


async def _on_invalid_request(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [_field_error(each) for each in error.errors()[:_ERRORS_MAX]]
    first = found[0] if found else {"field": "body", "message": "is not valid"}
    return problem_answer(
        problem_of(
            InvalidInput(
                f"{first['field']}: {first['message']}", field=first["field"], errors=found
            )
        )
    )


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    problem = _http_problem(error)
    headers = {**problem.headers, **(error.headers or {})}
    if request.method == "HEAD":
        return Response(b"", problem.status, headers, MEDIA_TYPE)
    return problem_answer(Problem(problem.status, problem.body, headers))


def _http_problem(error: HTTPException) -> Problem:
    said = str(error.detail)
    if error.status_code == 404:
        plain = said in ("", "Not Found")
        return problem_of(NotFound("There is nothing at this address." if plain else said))
    if error.status_code == 405:
        return problem_of(MethodNotAllowed())
    if error.status_code == 400 and "parsing the body" in said:
        return problem_of(UnreadableBody())
    return http_problem(error.status_code, said)


def _field_error(each: Mapping[str, Any]) -> dict[str, Any]:
    """One field that is wrong, without a word of what was sent."""
    path = [_short(str(part), 80) for part in each.get("loc", ())][:10]
    kind = str(each.get("type", "invalid"))
    if kind == "json_invalid":  # the place is a position in the text, and no field
        message = f"is not well-formed JSON, at character {'.'.join(path[1:])}; correct it"
        path = path[:1]
    elif kind == "model_attributes_type":
        as_json = not isinstance(each.get("input"), bytes)
        message = (
            "send a JSON object" if as_json else "send JSON with Content-Type application/json"
        )
    else:
        message = _short(str(each.get("msg", "is not valid")), _MESSAGE_CHARS_MAX)
    named = path[1:] if len(path) > 1 else path
    return {
        "field": ".".join(named) or "body",
        "in": path[0] if path else "body",
        "message": message,
        "kind": kind,
    }


def _short(text: str, chars_max: int) -> str:
    clean = text.encode("utf-8", "replace").decode()
    return clean if len(clean) <= chars_max else clean[: chars_max - 1] + "…"


def _document(app: FastAPI) -> None:
    made: Callable[[], dict[str, Any]] = app.openapi

    def openapi() -> dict[str, Any]:
        schema = made()
        schema.setdefault("components", {}).setdefault("schemas", {})["Problem"] = _PROBLEM_SCHEMA
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
