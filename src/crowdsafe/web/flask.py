"""The Flask adapter: ``install(app)``, and what a view needs.

A view stays small, because operations know no framework::

    @app.post("/stock/allocate")
    def allocate():
        body = json_body()
        return idempotent_write(
            store, operations.allocate, whose=f"user:{g.user.id}",
            product_id=body.get("product_id"), quantity=body.get("quantity"),
        )

Answers are those of the FastAPI adapter, byte for byte: both are made by ``web/problem.py`` and
``web/idempotency.py``.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from flask import Flask, Response, request
from sqlalchemy.orm import Session
from werkzeug.exceptions import HTTPException, InternalServerError, RequestEntityTooLarge

from crowdsafe.errors import BodyTooLarge, CrowdsafeError, InvalidInput, NotFound
from crowdsafe.store import Store
from crowdsafe.web.body import check_json
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
from crowdsafe.web.limits import SECURITY_HEADERS
from crowdsafe.web.problem import (
    MEDIA_TYPE,
    InternalError,
    MethodNotAllowed,
    Problem,
    UnreadableBody,
    http_problem,
    problem_of,
)

__all__ = [
    "etag_of",
    "idempotent_write",
    "if_match",
    "install",
    "json_answer",
    "json_body",
    "none_matches",
    "problem_answer",
]

BODY_BYTES_MAX = 1_000_000
log = logging.getLogger("crowdsafe.web")


def install(app: Flask, *, body_bytes_max: int = BODY_BYTES_MAX) -> None:
    """Make ``app`` answer every error as a problem, refuse larger bodies, and set the security
    headers. Call it once."""
    app.config["MAX_CONTENT_LENGTH"] = body_bytes_max
    app.before_request(_check_body)
    app.after_request(_secure)
    app.register_error_handler(CrowdsafeError, _on_crowdsafe_error)
    app.register_error_handler(HTTPException, _on_http_exception)


def idempotent_write(
    store: Store,
    fn: Callable[..., Any],
    *args: Any,
    whose: str,
    status_code: int = 200,
    answer_headers: Callable[[Any], Mapping[str, str]] | None = None,
    **kwargs: Any,
) -> Response:
    """Run the write ``fn(session, *args, **kwargs)`` and answer with its result as JSON.

    With an ``Idempotency-Key`` header the answer is stored in the transaction of the effects, for
    ``whose`` ("user:7"), method and path: a repeat gets it byte for byte, with
    ``Idempotency-Replayed: true``, and the write does not run again. The same key with another
    body is refused (KeyReused, 422). The answer leaves after the commit.

    ``fn`` returns plain data, a dataclass or a pydantic model. ``answer_headers`` gets that
    result and gives further headers, such as an ETag. Raises what ``fn`` raises (nothing is
    stored then), and InvalidIdempotencyKey.
    """
    key = checked_key(request.headers.get("Idempotency-Key"))

    def answer(result: Any) -> Answer:
        headers = dict(answer_headers(result)) if answer_headers is not None else {}
        return Answer(status_code, json_text(result), headers)

    if key is None:
        return _response(answer(store.write(fn, *args, **kwargs)))
    query = request.query_string.decode("latin-1")
    asked = fingerprint(request.method, request.path, query, request.get_data())
    scope = scope_of(whose, request.method, request.path)

    def keyed(session: Session) -> Answer:
        return once_answer(
            session,
            lambda: fn(session, *args, **kwargs),
            key=key,
            scope=scope,
            request=asked,
            answer=answer,
        )

    return _response(store.write(keyed, **write_options(fn, args, kwargs)))


def if_match(*, required: bool = True) -> int | None:
    """The version in the request's If-Match, None for ``*`` (or for no header, unless required).

    Give it to the write, whose conditional UPDATE is the check. Raises PreconditionRequired,
    InvalidETag.
    """
    return if_match_version(request.headers.get("If-Match"), required=required)


def json_body() -> dict[str, Any]:
    """The request's body, which must be a JSON object. Raises UnreadableBody, InvalidInput."""
    try:
        body = json.loads(request.get_data())
    except (ValueError, RecursionError):
        raise UnreadableBody from None
    if not isinstance(body, dict):
        raise InvalidInput("The body must be a JSON object.", field="body")
    return body


def json_answer(
    value: Any, status_code: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Plain data, dataclasses or pydantic models as a JSON answer."""
    return _response(Answer(status_code, json_text(value), dict(headers or {})))


def problem_answer(problem: Problem) -> Response:
    """A problem as an answer."""
    return Response(problem.encode(), problem.status, problem.headers, mimetype=MEDIA_TYPE)


def _response(answer: Answer) -> Response:
    headers = dict(answer.headers)
    if answer.replayed:
        headers["Idempotency-Replayed"] = "true"
    return Response(answer.body.encode(), answer.status, headers, mimetype="application/json")


def _check_body() -> None:
    """Refuse a body that is too large, even where no view reads it, and JSON that is not JSON."""
    length, limit = request.content_length, request.max_content_length
    if length is not None and limit is not None and length > limit:
        raise RequestEntityTooLarge
    if request.is_json:
        check_json(request.get_data())


def _secure(response: Response) -> Response:
    for name, value in SECURITY_HEADERS:
        response.headers.setdefault(name.decode().title(), value.decode())
    return response


def _on_crowdsafe_error(error: CrowdsafeError) -> Response:
    if error.status == 500:
        raise error
    return problem_answer(problem_of(error))


def _on_http_exception(error: HTTPException) -> Response:
    """Flask turns what nobody handled into an InternalServerError, and comes here with it."""
    if error.response is not None:
        given = error.get_response()
        return Response(given.get_data(), given.status_code, given.headers)
    problem = _problem_of_http(error)
    headers = {
        name: value
        for name, value in error.get_headers()
        if name.lower() not in ("content-type", "content-length")
    }
    if error.code == 413:
        headers["Connection"] = "close"
    return problem_answer(Problem(problem.status, problem.body, {**headers, **problem.headers}))


def _problem_of_http(error: HTTPException) -> Problem:
    if error.code == 404:
        return problem_of(NotFound("There is nothing at this address."))
    if error.code == 405:
        return problem_of(MethodNotAllowed())
    if error.code == 413:
        limit = request.max_content_length or BODY_BYTES_MAX
        return problem_of(
            BodyTooLarge(
                f"The body is larger than is accepted here; send at most {limit} bytes.",
                limit_bytes=limit,
            )
        )
    if isinstance(error, InternalServerError):
        error_id = secrets.token_hex(6)
        log.error(
            "error %s: %s %s failed",
            error_id,
            request.method,
            request.path,
            exc_info=error.original_exception or error,
        )
        return problem_of(InternalError(error_id=error_id))
    return http_problem(error.code or 500, error.description or "")
