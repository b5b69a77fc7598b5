"""Versions as entity tags: ``ETag: "7"`` out, ``If-Match: "7"`` in.

The header only carries the version. The check itself belongs into the conditional UPDATE of the
write (``edit(..., version=7)``): a comparison made here would let two requests pass at once.
"""

from __future__ import annotations

import re

from crowdsafe.errors import PreconditionRequired
from crowdsafe.web.problem import InvalidETag

__all__ = ["etag_of", "if_match_version", "none_matches"]

_STRONG = re.compile(r'"(0|[1-9][0-9]{0,17})"')
_HEADER_CHARS_MAX = 1000


def etag_of(version: int) -> str:
    """The strong entity tag of a version: ``etag_of(7) == '"7"'``."""
    return f'"{version}"'


def if_match_version(header: str | None, *, required: bool = True) -> int | None:
    """The version in an If-Match header; None for ``*`` (any version that exists).

    Raises PreconditionRequired when there is no header and one is required, InvalidETag for
    anything but one strong tag of ours.
    """
    if header is None:
        if required:
            raise PreconditionRequired
        return None
    text = header.strip()
    if text == "*":
        return None
    found = _STRONG.fullmatch(text)
    if found is None:
        raise InvalidETag(_fix(text))
    return int(found[1])


def none_matches(header: str | None, version: int) -> bool:
    """Whether a GET with this If-None-Match must be answered in full (False: answer 304).

    Compares weakly, as RFC 9110 says; a header that makes no sense is as good as none.
    """
    if header is None or len(header) > _HEADER_CHARS_MAX:
        return True
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return "*" not in tags and etag_of(version) not in tags


def _fix(text: str) -> str:
    if text.startswith("W/"):
        return 'If-Match needs a strong tag: send "7", not W/"7".'
    if "," in text:
        return 'If-Match takes one tag here: send the version that you edited, as "7".'
    if not (len(text) > 1 and text.startswith('"') and text.endswith('"')):
        return 'If-Match needs its double quotes: send the ETag as you got it, as "7".'
    return 'If-Match must hold a version number: send the ETag as you got it, as "7".'
