"""A refusal says what the app said, and what may help."""

from __future__ import annotations

import pytest

from crowdsafe.find.model import Reply
from crowdsafe.find.targets import sent_away, told

PAGE = "<html><head><title>x</title></head><style>p {}</style><p>CSRF verification <b>failed</b>"


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply("a", 409, {"detail": "none left"}), "409 {'detail': 'none left'}"),
        (Reply("a", 204), "204"),
        (Reply("a", error="ValueError", message="no"), "ValueError: no"),
        (Reply("a", 403, PAGE), "403 CSRF verification failed (fetch the page"),
        (Reply("a", 400, "Invalid host header"), "400 Invalid host header (name a host"),
        (Reply("a", 401, {}), "401 (log in with --login"),
        (
            Reply("a", 302, headers={"location": "/login/?next=/a"}),
            "302 to /login/?next=/a (log in",
        ),
        (Reply("a", 301, headers={"location": "https://x/a"}), "301 to https://x/a (write the req"),
        (Reply("a", 301, headers={"location": "/a/"}), "301 to /a/ (write the path as /a/)"),
        (Reply("a", 302, headers={"location": "/orders/1"}), "302 to /orders/1"),
    ],
    ids=["json", "empty", "error", "csrf", "host", "401", "login", "https", "slash", "done"],
)
def test_told(reply: Reply, said: str) -> None:
    assert told(reply).startswith(said)
    assert ("(" in told(reply)) == ("(" in said)


@pytest.mark.parametrize(
    ("status", "location", "away"),
    [
        (302, "/accounts/login/?next=/order", True),
        (302, "https://x/signin?return_to=%2F", True),
        (302, "/login", False),
        (302, "/order/1?next=2", False),
        (200, "/login?next=/", False),
    ],
)
def test_sent_away(status: int, location: str, away: bool) -> None:
    assert sent_away(Reply("a", status, headers={"location": location})) is away
