"""What an app's refusal says, and what the user can do about it."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from crowdsafe.find.model import Reply

__all__ = ["sent_away", "told"]

_CHARS_MAX = 200
_HIDDEN = re.compile(r"<(style|script|head)\b.*?</\1>", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"<[^>]*>")
_LOGIN = re.compile(r"log-?in|sign-?in|auth", re.IGNORECASE)


def told(reply: Reply) -> str:
    """The reply in a few words: its status and text or its error, and what may help."""
    words = [] if reply.status is None else [str(reply.status)]
    if reply.error:
        words.append(f"{reply.error}: {reply.message}"[:_CHARS_MAX])
    elif location := reply.headers.get("location"):
        words.append(f"to {location}")
    elif reply.body:
        words.append(_text(reply.body))
    hint = _hint(reply, " ".join(words).lower())
    return " ".join(words) + (f" ({hint})" if hint else "")


def sent_away(reply: Reply) -> bool:
    """Whether it is a redirect to a login, which comes back afterwards: nothing was done."""
    url = urlsplit(reply.headers.get("location", ""))
    is_redirect = reply.status is not None and 300 <= reply.status < 400
    comes_back = "next=" in url.query or "return" in url.query
    return is_redirect and comes_back and _LOGIN.search(url.path) is not None


def _text(body: object) -> str:
    text = _TAG.sub(" ", _HIDDEN.sub(" ", str(body)))
    return " ".join(text.split())[:_CHARS_MAX]


def _hint(reply: Reply, said: str) -> str:
    location = reply.headers.get("location", "")
    if reply.status in {400, 403, 419} and "csrf" in f"{said} {reply.body}".lower():
        return "fetch the page with the form first: 'GET /page && POST /page ...'"
    if reply.status == 400 and ("host" in said or reply.error == "DisallowedHost"):
        return "name a host that the app serves: --header 'Host: shop.example'"
    if sent_away(reply) or reply.status == 401:
        return "log in with --login 'POST /login ...'"
    if location.startswith("https://"):
        return "write the request with its whole address: POST https://..."
    if reply.status in {301, 308}:
        return f"write the path as {urlsplit(location).path}"
    return ""
