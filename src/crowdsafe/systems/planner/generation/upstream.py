"""The language model's service: any endpoint that speaks OpenAI's chat completions."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from crowdsafe.errors import ConfigError
from crowdsafe.systems.planner.generation.errors import (
    UpstreamBadAnswer,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamUnavailable,
)
from crowdsafe.systems.planner.generation.prompts import Prompt
from crowdsafe.traffic.retry import retry_after_header

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__all__ = ["ANSWER_BYTES_MAX", "RETRY_AFTER_S_MAX", "Upstream"]

ANSWER_BYTES_MAX = 256 * 1024
"""A larger answer is not read to its end."""
TOKENS_MAX = 2000
"""What the language model may write in one answer."""
RETRY_AFTER_S_MAX = 3600.0
"""Of a service that asks for a longer wait, this is believed."""
_DETAIL_BYTES_MAX = 2000
_CLIENTS = frozenset({"openai", "httpx", "httpx2"})
_PASSING = frozenset({408, 409, 425})

log = logging.getLogger("crowdsafe.planner")

Answer = TypeVar("Answer", bound=BaseModel)


@dataclass(slots=True)
class Upstream:
    """A language model's service, over the official client; made at the first question.

    ``timeout_s`` is for one whole answer, from connecting to its last byte. It never retries:
    whoever asks decides that. The client belongs to the event loop that it is first used in.

    Holds: no answer takes longer than ``timeout_s`` or more memory than `ANSWER_BYTES_MAX`, even
    one that trickles in; a question that is cancelled closes its connection; every failure is an
    `UpstreamError`. Does not hold: that a cancelled question costs nothing at the service.
    Proved by ``tests/systems/planner/test_upstream.py``.

    Raises ConfigError for an address, key, model or time limit that cannot be one.
    """

    base_url: str = field(repr=False)
    api_key: str = field(repr=False)
    model: str
    timeout_s: float = 60.0
    _client: AsyncOpenAI | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            address = urlsplit(self.base_url)
            usable = address.scheme in {"http", "https"} and bool(address.hostname)
            usable = usable and address.port != 0
        except ValueError:
            usable = False
        if not usable or not self.base_url.isprintable():
            raise ConfigError(
                "The address of the language model's service is no URL; give one such as "
                "http://127.0.0.1:8085/v1."
            )
        if not (self.api_key.isascii() and self.api_key.isprintable()) or " " in self.api_key:
            raise ConfigError(
                "The language model's key holds characters that no key has: white space, "
                "perhaps from copying it."
            )
        if not self.model or not 0 < self.timeout_s < math.inf:
            raise ConfigError("The language model needs a name, and a time limit above 0 s.")

    async def ask(self, prompt: Prompt[Answer]) -> Answer:
        """Ask once; the answer, checked against the shape that was asked for.

        Raises UpstreamRateLimited (with ``retry_after_s`` when the service says it),
        UpstreamUnavailable (no answer in time, connection lost, 5xx), UpstreamBadAnswer (no JSON,
        other shape, too long), UpstreamRefused (any other 3xx or 4xx: a repeat cannot help).
        """
        try:
            async with asyncio.timeout(self.timeout_s):
                body = await self._answer(prompt)
        except TimeoutError:
            raise UpstreamUnavailable(
                f"The language model did not answer within {self.timeout_s:g} s; try again later."
            ) from None
        return _checked(body, prompt.answer)

    async def close(self) -> None:
        """Close its connections; a later question opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _answer(self, prompt: Prompt[Any]) -> bytes:
        if self._client is None:
            # Imported at the first question, off the event loop: it takes a second and 40 MB,
            # which a process that asks nothing need not pay.
            await asyncio.to_thread(import_module, "openai")
        client = self._opened()
        body = bytearray()
        try:
            async with client.chat.completions.with_streaming_response.create(
                model=self.model,
                messages=[
                    {"role": "system", "content": prompt.system},
                    {"role": "user", "content": prompt.user},
                ],
                response_format={"type": "json_object"},
                max_tokens=TOKENS_MAX,
            ) as response:
                async for piece in response.iter_bytes():
                    body += piece
                    if len(body) > ANSWER_BYTES_MAX:
                        raise UpstreamBadAnswer(
                            f"The language model's answer is longer than {ANSWER_BYTES_MAX} bytes."
                        )
        except UpstreamError:
            raise
        except Exception as error:
            # While the body is read the client lets the errors of its transport through.
            if type(error).__module__.partition(".")[0] not in _CLIENTS:
                raise
            raise _own(error) from error
        return bytes(body)

    def _opened(self) -> AsyncOpenAI:
        if self._client is None:
            from openai import AsyncOpenAI, DefaultAsyncHttpxClient

            self._client = AsyncOpenAI(
                base_url=self.base_url,
                api_key=self.api_key or "none",
                max_retries=0,
                timeout=self.timeout_s,
                # A packed answer could be small on the wire and huge in memory.
                default_headers={"Accept-Encoding": "identity"},
                http_client=DefaultAsyncHttpxClient(
                    timeout=self.timeout_s,
                    follow_redirects=False,
                    event_hooks={"response": [self._stop_at_failure]},
                ),
            )
        return self._client

    async def _stop_at_failure(self, response: Any) -> None:
        """Turn any status but 2xx into an error here, before a long body of it is read."""
        status: int = response.status_code
        if 200 <= status < 300:
            return
        body = bytearray()
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) >= _DETAIL_BYTES_MAX:
                break
        error = _failure(status, _retry_after_s(response.headers.get("retry-after")))
        if isinstance(error, UpstreamRefused):
            said = _message(bytes(body[:_DETAIL_BYTES_MAX]))
            # Not in the error, which users see: some services say there whose key it is.
            host = urlsplit(self.base_url).hostname
            log.error("%s refuses with %d: %s", host, status, self._hidden(said))
        raise error

    def _hidden(self, text: str) -> str:
        return text.replace(self.api_key, "[key]") if self.api_key else text


def _failure(status: int, wait_s: float | None) -> UpstreamError:
    data = {} if wait_s is None else {"retry_after_s": wait_s}
    if status == 429:
        return UpstreamRateLimited(**data)
    if status >= 500 or status in _PASSING:
        return UpstreamUnavailable(
            f"The language model's service failed with status {status}; try again later.", **data
        )
    return UpstreamRefused(
        f"The language model's service refuses requests for good, with status {status}; the "
        "operator finds the reason in the log."
    )


def _message(body: bytes) -> str:
    """What an error body says, in the form that OpenAI's endpoints give it, else nothing."""
    try:
        message = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return " ".join(str(message).split())[:300]


def _retry_after_s(header: str | None) -> float | None:
    """The seconds of a Retry-After header (a number or a date), from 0 to an hour, or None."""
    seconds = retry_after_header(header)
    if seconds is None or not math.isfinite(seconds):
        return None
    return min(max(seconds, 0.0), RETRY_AFTER_S_MAX)


def _own(error: BaseException) -> UpstreamError:
    """The error of ours that the client has wrapped in its own, or what its own means."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UpstreamError):
            return cause
        cause = cause.__cause__
    return UpstreamUnavailable(
        f"The language model cannot be reached ({type(error).__name__}); try again later."
    )


def _checked(body: bytes, shape: type[Answer]) -> Answer:
    """The answer inside a chat completion; UpstreamBadAnswer when it is not what was asked for."""
    choice = _member(_json(body), "choices", 0)
    content = _member(choice, "message", "content")
    if not isinstance(content, str):
        raise UpstreamBadAnswer("The language model's answer holds no text.")
    if _member(choice, "finish_reason") == "length":
        raise UpstreamBadAnswer("The language model's answer was cut off at its length limit.")
    try:
        return shape.model_validate(_json(_unfenced(content).encode("utf-8", "replace")))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UpstreamBadAnswer(
            f"The language model's answer has another shape: {where}: {first['msg']}"
        ) from None


def _member(value: Any, *path: str | int) -> Any:
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _unfenced(text: str) -> str:
    """The text without the fence that many models put around JSON."""
    plain = text.strip()
    if plain.startswith("```"):
        plain = plain.partition("\n")[2].rpartition("```")[0]
    return plain


def _json(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise UpstreamBadAnswer("The language model's answer is not JSON.") from None


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
