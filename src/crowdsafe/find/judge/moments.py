"""Values that tell the time or were drawn at random: they differ whenever a run is repeated."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime

__all__ = [
    "MOMENT",
    "TODAY",
    "Window",
    "is_drawn",
    "is_opaque",
    "may_be_moment",
    "plain_uuid",
    "without_clock",
]

MOMENT = "<time>"
TODAY = "<today>"

_EPOCHS = (1.0, 1e3, 1e6, 1e9)
_UUID = re.compile(
    r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", re.IGNORECASE
)
_OPAQUE = re.compile(r"[A-Za-z0-9_\-+/=.:~$!,|@]{16,}")
_NUMBER_DIGITS = 19
_YEAR_S = 366 * 86_400.0
_SECONDS = re.compile(r"\d\d:\d\d:(\d\d(?:\.\d+)?)")
_CLOCK = re.compile(
    r"(?<![\d:])\d{1,2}:\d\d(?::\d\d)?(?![\d:])(?: ?[ap]\.?m\b\.?)?"
    r"|\b(?:just now|now|(?:an?|\d+)\s(?:second|minute)s?(?: ago)?)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[a-z]{3,}|[A-Z][a-z]{2,}|\d+")
_TEXTS_OF_TIME = re.compile(
    r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?"
    r"(?: ?(?:Z|UTC|[+-]\d\d(?::?\d\d(?::?\d\d)?)?))?)?"
    r"|(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d{1,2}[ -][A-Z][a-z]{2}[ -]\d{4} \d\d:\d\d:\d\d GMT"
    r"|(?<![\w.-])1\d{9}(?:\d{3}|\d{6}|\d{9}|\.\d+)?(?![\w-])"
)


@dataclass(frozen=True, slots=True)
class Window:
    """Wall-clock time, in seconds since 1970, in which what was written is no business date."""

    start: float
    end: float

    def holds(self, seconds: float) -> bool:
        return self.start <= seconds <= self.end

    def has_number(self, value: float) -> bool:
        """Whether it is a time of this window in seconds, ms, µs or ns since 1970."""
        if not 1e9 < value < 1e19 or not math.isfinite(value):
            return False
        return any(self.holds(value / unit) for unit in _EPOCHS)

    def has_datetime(self, value: datetime) -> bool:
        """A time without a zone may be in UTC or in this machine's own."""
        if value.tzinfo is not None:
            return self.holds(value.timestamp())
        return self.holds(value.replace(tzinfo=UTC).timestamp()) or self.holds(value.timestamp())

    def has_date(self, value: date) -> bool:
        days = {
            moment.date()
            for seconds in (self.start, self.end)
            for moment in (datetime.fromtimestamp(seconds, UTC), datetime.fromtimestamp(seconds))  # noqa: DTZ006
        }
        return value in days

    def is_about(self, value: float) -> bool:
        """Whether it is a time within a year of this window, such as that of an expiry."""
        return Window(self.start - _YEAR_S, self.end + _YEAR_S).has_number(value)

    def cut(self, text: str, *, else_too: str = "none") -> list[str] | None:
        """The text with its times replaced, as pieces that alternate: text, time, text, ...

        Those of this window are, and with ``else_too`` others: "all", or "odd" for such as are
        told to a second that is not full, which no one sets by hand. None when it holds none.
        """
        pieces: list[str] = []
        done = 0
        for match in _TEXTS_OF_TIME.finditer(text):
            token = self._token(match.group())
            if token is None and (
                else_too == "all" or (else_too == "odd" and _is_odd(match.group()))
            ):
                token = MOMENT
            if token is not None:
                pieces += [text[done : match.start()], token]
                done = match.end()
        return [*pieces, text[done:]] if pieces else None

    def _token(self, text: str) -> str | None:
        if text[0].isalpha():
            return MOMENT if self.has_datetime(parsedate_to_datetime(text)) else None
        if "-" not in text[:5]:
            return MOMENT if self.has_number(float(text)) else None
        try:
            if len(text) == len("2026-11-23"):
                return TODAY if self.has_date(date.fromisoformat(text)) else None
            moment = datetime.fromisoformat(_iso(text))
        except ValueError:
            return None
        if moment.second == 0 and moment.microsecond == 0:  # told to the minute
            moment += timedelta(seconds=59)
            return MOMENT if self.has_datetime(moment) or self._near(moment) else None
        return MOMENT if self.has_datetime(moment) else None

    def _near(self, moment: datetime) -> bool:
        return Window(self.start, self.end + 60).has_datetime(moment)


def _is_odd(text: str) -> bool:
    match = _SECONDS.search(text)
    return match is not None and match.group(1).strip("0") != ""


def _iso(text: str) -> str:
    """Python reads neither a blank before the zone nor a zone of hours alone."""
    text = text.replace(",", ".").replace("UTC", "Z")
    head, blank, zone = text.rpartition(" ")
    if blank and len(zone) <= 9 and zone[0] in "Z+-":
        text = head + zone
    return re.sub(r"([+-]\d\d)$", r"\1:00", text) if "T" in text or " " in text else text


def may_be_moment(value: float) -> bool:
    """Whether it may be seconds, ms, µs or ns since 1970, of these decades."""
    return any(1e9 <= value / unit < 4e9 for unit in _EPOCHS)


def without_clock(text: str) -> str:
    """A page without the times of day that it shows people, which say no zone and often no
    seconds: "8:07 p.m.", "2 minutes ago"."""
    return _CLOCK.sub("", text)


def is_opaque(text: str) -> bool:
    """Whether it looks like a token, a hash or a signature: nobody's words, nobody's number.

    At least 16 characters without a blank, of which most are in no word and no plain number.
    """
    if plain_uuid(text) is not None:
        return True
    if _OPAQUE.fullmatch(text) is None or text.isdecimal():
        return False
    if re.fullmatch(r"[0-9a-fA-F]{16,}", text):
        return len(set(text.lower())) >= 6
    return len(set(text)) >= 10 and sum(map(len, _WORD.findall(text))) < 0.7 * len(text)


def is_drawn(text: str) -> bool:
    """The same of a text that is known to differ from run to run: its look decides less. A drawn
    token can by chance hold long words, or begin with a number."""
    if text.isdecimal() and len(text) < _NUMBER_DIGITS:
        return False
    return is_opaque(text) or (_OPAQUE.fullmatch(text) is not None and len(set(text)) >= 8)


def plain_uuid(text: str) -> str | None:
    """A UUID as 32 hexadecimal digits, however it was written; None if it is none."""
    if len(text) not in {32, 36} or _UUID.fullmatch(text) is None:
        return None
    return text.replace("-", "").lower()
