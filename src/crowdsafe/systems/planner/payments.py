"""Payment events as they arrive: is the signature good, and what do they say.

The scheme is the usual one of payment providers' webhooks: HMAC-SHA256 (RFC 2104) over
``<unix seconds>.<raw body>``, compared in constant time, with the timestamp inside of what is
signed, so that an event that was overheard is worth nothing after a few minutes.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from crowdsafe.errors import InvalidInput
from crowdsafe.store.types import utcnow
from crowdsafe.systems.planner.errors import BadSignature

__all__ = ["BODY_BYTES_MAX", "HEADER", "PaymentNews", "check_signature", "parse_event", "sign"]

BODY_BYTES_MAX = 64 * 1024
HEADER = "X-Payment-Signature"
_HEADER_CHARS_MAX = 400
_SIGNATURES_MAX = 4
_EARLY_MAX = timedelta(days=1)
_TIMESTAMP = re.compile(r"[0-9]{1,12}")

Word = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")]


def _not_a_number(at: Any) -> Any:
    if isinstance(at, int | float):
        raise ValueError("a moment is written as ISO 8601 with an offset")  # noqa: TRY004
    return at


def _in_utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise ValueError("a moment lies between the years 1 and 9999, in UTC too") from None


class PaymentNews(BaseModel):
    """What a payment event says. ``at`` orders the events of one payer; ISO 8601 with offset."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: Word
    type: Literal["tier.purchased", "tier.cancelled"]
    payer: Word
    tier: Literal["free", "pro", "pro_plus"] = "free"
    at: Annotated[AwareDatetime, BeforeValidator(_not_a_number), AfterValidator(_in_utc)]

    @model_validator(mode="after")
    def _makes_sense(self) -> PaymentNews:
        if self.type == "tier.purchased" and self.tier == "free":
            raise ValueError("tier.purchased needs the tier pro or pro_plus")
        if self.at > utcnow() + _EARLY_MAX:
            raise ValueError("at lies in the future")
        return self

    @property
    def new_tier(self) -> str:
        """The tier that the payer has after this event."""
        return self.tier if self.type == "tier.purchased" else "free"


def sign(secret: str, body: bytes, *, at: int) -> str:
    """The header that a provider sends with ``body`` at ``at`` (unix seconds)."""
    return f"t={at},v1={_digest(secret, str(at), body)}"


def check_signature(
    secret: str, header: str | None, body: bytes, *, now: float, tolerance_s: float
) -> None:
    """Raise BadSignature unless ``header`` signs ``body``, at most ``tolerance_s`` from ``now``.

    Up to four ``v1`` signatures are tried, so that a secret can be exchanged.

    Holds: nothing but the holder of the secret gets past, and how far a guess fits cannot be
    measured. Does not hold: against an event that is sent again within the tolerance; its id is
    what makes it have one effect. Proved by ``tests/systems/planner/test_payments.py``.
    """
    timestamp, signatures = _parts(header)
    expected = _digest(secret, timestamp, body)
    fits = [hmac.compare_digest(expected, given) for given in signatures]
    if not any(fits) or abs(now - int(timestamp)) > tolerance_s:
        raise BadSignature


def parse_event(body: bytes) -> PaymentNews:
    """The event in a body whose signature is good. Raises InvalidInput naming what is wrong."""
    if len(body) > BODY_BYTES_MAX:
        raise InvalidInput("a payment event has at most 64 KiB", field="body")
    try:
        return PaymentNews.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise InvalidInput(f"{where}: {first['msg']}", field=where) from None


def _parts(header: str | None) -> tuple[str, list[str]]:
    if header is None or len(header) > _HEADER_CHARS_MAX or not header.isascii():
        raise BadSignature
    pairs = [part.strip().partition("=") for part in header.split(",")]
    times = [value for name, _, value in pairs if name == "t"]
    signatures = [value for name, _, value in pairs if name == "v1"]
    if len(times) != 1 or not _TIMESTAMP.fullmatch(times[0]):
        raise BadSignature
    return times[0], signatures[:_SIGNATURES_MAX]


def _digest(secret: str, timestamp: str, body: bytes) -> str:
    signed = timestamp.encode() + b"." + body
    return hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
