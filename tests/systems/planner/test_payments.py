"""Guarantee 7: one effect for each payment event, none for a bad signature, none on a guess."""

from __future__ import annotations

import json
import random
import time
import uuid
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from crowdsafe.store import Store
from crowdsafe.systems.planner.errors import BadSignature
from crowdsafe.systems.planner.models import Profile, metadata
from crowdsafe.systems.planner.operations.payments import receive_event
from crowdsafe.systems.planner.payments import (
    BODY_BYTES_MAX,
    HEADER,
    PaymentNews,
    check_signature,
    sign,
)
from tests.systems.planner.site import SECRET, Ask, Person, Site, statuses, together

WEBHOOK = "/payments/webhook"


def event(payer: Person | str, tier: str = "pro", **changes: Any) -> dict[str, Any]:
    """A payment event that nobody has sent before."""
    return {
        "id": f"evt_{uuid.uuid4().hex}",
        "type": "tier.purchased",
        "payer": payer if isinstance(payer, str) else payer.username,
        "tier": tier,
        "at": datetime.now(UTC).isoformat(),
        **changes,
    }


def deliver(site: Site, news: Any, *, secret: str = SECRET, **more: Any) -> httpx.Response:
    """Send an event as the provider does: bytes, signed."""
    body = news if isinstance(news, bytes) else json.dumps(news).encode()
    header = more.pop("header", None) or sign(secret, body, at=int(time.time()))
    server = site.servers[more.pop("server", 0)]
    return site.client.post(
        f"{server.base_url}/planner/api{WEBHOOK}",
        content=body,
        headers={HEADER: header, "Content-Type": "application/json"},
    )


def tier(site: Site, person: Person) -> str:
    return str(site.get(person, "/profile")["tier"])


def test_ten_deliveries_to_two_processes_have_one_effect(site: Site) -> None:
    person = site.person()
    news = event(person)
    body = json.dumps(news).encode()
    signed = {HEADER: sign(SECRET, body, at=int(time.time()))}
    answers = site.at_once([Ask(None, path=WEBHOOK, body=news, headers=signed)] * 10)
    # httpx writes JSON in its own way: these are refused, whoever sends them.
    assert statuses(answers) == {401: 10}
    assert tier(site, person) == "free"
    answers = [deliver(site, body, server=n % 2) for n in range(10)]
    assert statuses(answers) == {200: 10}
    assert [a.json()["duplicate"] for a in answers] == [False] + [True] * 9
    assert {a.json()["state"] for a in answers} == {"applied"}
    assert tier(site, person) == "pro"
    count = "SELECT COUNT(*) FROM planner_payment_events WHERE id = :id"
    assert site.rows(count, id=news["id"]) == [(1,)]


def test_deliveries_at_the_same_moment_are_applied_once(db_url: str) -> None:
    with Store(db_url) as one, Store(db_url) as two:
        one.create_all(metadata)
        _, name = _user(one)
        news = PaymentNews.model_validate(event(name))
        done = together([partial(s.write, receive_event, news) for s in (one, two) * 8])
        assert sorted(each["duplicate"] for each in done) == [False] + [True] * 15


def _user(store: Store) -> tuple[int, str]:
    from crowdsafe.identity.tables import UserRow

    def add(session: Any) -> int:
        user = UserRow(username="lena", name="Lena", roles=[], password_hash="none")
        session.add(user)
        session.flush()
        return int(user.id)

    return store.write(add), "lena"


@pytest.mark.parametrize("tampering", ["other secret", "other body", "no header", "old", "future"])
def test_a_bad_signature_is_401_and_nothing_changes(site: Site, tampering: str) -> None:
    person = site.person()
    news = event(person)
    body = json.dumps(news).encode()
    now = int(time.time())
    header = {
        "other secret": sign("another secret", body, at=now),
        "other body": sign(SECRET, body + b" ", at=now),
        "no header": "v1=00",
        "old": sign(SECRET, body, at=now - 301),
        "future": sign(SECRET, body, at=now + 320),
    }[tampering]
    answer = deliver(site, body, header=header)
    assert answer.status_code == 401, answer.text
    assert answer.json()["type"] == "/problems/bad-signature"
    assert tier(site, person) == "free"
    assert site.rows("SELECT id FROM planner_payment_events WHERE id = :id", id=news["id"]) == []


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "t=,v1=",
        "t=12",
        "v1=ab",
        "t=1,t=2,v1=ab",
        "t=-1,v1=ab",
        "t=1e3,v1=ab",
        "t=٣,v1=ab",
        "t=1," + "v1=a," * 200,
        "t=999999999999,v1=é",
    ],
)
def test_no_header_gets_past_by_its_form(header: str | None) -> None:
    with pytest.raises(BadSignature):
        check_signature(SECRET, header, b"{}", now=1.0, tolerance_s=300)


def test_a_naive_comparison_of_the_parsed_event_would_take_a_forged_body() -> None:
    """What is signed is the raw body: signing what was parsed lets another body through."""
    body, forged = b'{"tier": "pro"}', b'{"tier": "pro_plus", "tier": "pro"}'
    assert json.loads(body) == json.loads(forged)
    header = sign(SECRET, body, at=1000)
    check_signature(SECRET, header, body, now=1000, tolerance_s=300)
    with pytest.raises(BadSignature):
        check_signature(SECRET, header, forged, now=1000, tolerance_s=300)


def test_two_secrets_can_be_valid_at_once() -> None:
    header = f"{sign('old', b'{}', at=5)},{sign('new', b'{}', at=5).partition(',')[2]}"
    check_signature("new", header, b"{}", now=5, tolerance_s=1)
    check_signature("old", header, b"{}", now=5, tolerance_s=1)


def test_an_older_event_never_overrides_a_newer_one(site: Site, rng: random.Random) -> None:
    for _ in range(4):
        person = site.person()
        start = datetime.now(UTC) - timedelta(hours=1)
        story = [
            event(person, "pro", at=start.isoformat()),
            event(person, "pro_plus", at=(start + timedelta(minutes=1)).isoformat()),
            event(person, at=(start + timedelta(minutes=2)).isoformat(), type="tier.cancelled"),
            event(person, "pro", at=(start + timedelta(minutes=3)).isoformat()),
        ]
        last = story[-1]["tier"]
        rng.shuffle(story)
        assert {deliver(site, news, server=n % 2).status_code for n, news in enumerate(story)} == {
            200
        }
        assert tier(site, person) == last


def test_events_of_one_moment_end_alike_in_either_order(db_url: str) -> None:
    at = datetime.now(UTC).isoformat()
    with Store(db_url) as store:
        store.create_all(metadata)
        user_id, name = _user(store)
        ends = set()
        for order in (("a", "b"), ("b", "a")):
            for letter in order:
                kind = {"a": "pro", "b": "pro_plus"}[letter]
                news = event(name, kind, id=letter, at=at)
                store.write(receive_event, PaymentNews.model_validate(news))
            ends.add(store.read(lambda s: s.get_one(Profile, user_id).tier))
            store.write(_forget)
        assert ends == {"pro_plus"}


def _forget(session: Any) -> None:
    from sqlalchemy import text

    session.execute(text("DELETE FROM planner_payment_events"))
    session.execute(text("DELETE FROM planner_profiles"))


def test_an_unknown_payer_is_parked_until_an_admin_says_whose_it_is(site: Site) -> None:
    person, admin = site.person(), site.person(roles=["admin"])
    news = event("somebody@example.org", "pro_plus")
    answer = deliver(site, news)
    assert (answer.status_code, answer.json()["state"]) == (200, "parked")
    path = f"/payments/{news['id']}/assign"
    assert site.send(person, "POST", path, {"username": person.username}).status_code == 403
    assert site.send(admin, "POST", path, {"username": "nobody.at.all"}).status_code == 404
    assert tier(site, person) == "free"
    listed = site.get(admin, "/payments?state=parked")
    assert news["id"] in [each["id"] for each in listed]
    asks = [Ask(admin, path=path, body={"username": person.username})] * 6
    assert statuses(site.at_once(asks)) == {200: 1, 409: 5}
    assert tier(site, person) == "pro_plus"
    assert deliver(site, news).json()["duplicate"] is True


def test_an_event_whose_id_holds_slashes_is_assigned(site: Site) -> None:
    person, admin = site.person(), site.person(roles=["admin"])
    news = event("nobody@example.org", "pro", id=f"evt/{person.username}/assign")
    assert deliver(site, news).json()["state"] == "parked"
    path = f"/payments/{quote(news['id'], safe='')}/assign"
    answer = site.send(admin, "POST", path, {"username": person.username})
    assert (answer.status_code, answer.json()["id"]) == (200, news["id"])
    assert tier(site, person) == "pro"


def test_a_parked_event_that_is_assigned_late_does_not_undo_a_newer_one(site: Site) -> None:
    person, admin = site.person(), site.person(roles=["admin"])
    old = event("unknown-payer", "pro", at=(datetime.now(UTC) - timedelta(days=1)).isoformat())
    deliver(site, old)
    deliver(site, event(person, "pro_plus"))
    path = f"/payments/{old['id']}/assign"
    answer = site.send(admin, "POST", path, {"username": person.username})
    assert answer.json()["state"] == "superseded"
    assert tier(site, person) == "pro_plus"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"\xff\xfe",
        json.dumps({"id": "x"}).encode(),
        json.dumps(event("x", "free")).encode(),
        json.dumps(event("x", "gold")).encode(),
        json.dumps(event("x", type="tier.stolen")).encode(),
        json.dumps(event("x", at="2026-01-01T00:00:00")).encode(),
        json.dumps(event("x", at="2126-01-01T00:00:00Z")).encode(),
        json.dumps(event("x", at="0001-01-01T00:00:00+23:00")).encode(),
        json.dumps(event("x", at=1)).encode(),
        json.dumps(event("x", id="")).encode(),
        json.dumps(event("x", id="a" * 201)).encode(),
        json.dumps({**event("x"), "payer": 7}).encode(),
    ],
)
def test_a_malformed_event_is_refused_and_not_stored(site: Site, body: bytes) -> None:
    before = site.rows("SELECT COUNT(*) FROM planner_payment_events")
    answer = deliver(site, body)
    assert answer.status_code in (400, 422), answer.text
    assert site.rows("SELECT COUNT(*) FROM planner_payment_events") == before


def test_a_body_over_64_kib_is_refused_before_it_is_looked_at(site: Site) -> None:
    answer = deliver(site, b" " * (BODY_BYTES_MAX + 1))
    assert answer.status_code == 413
    assert answer.json()["limit_bytes"] == BODY_BYTES_MAX


def test_one_id_with_other_contents_is_refused(site: Site) -> None:
    person = site.person()
    news = event(person)
    assert deliver(site, news).status_code == 200
    answer = deliver(site, {**news, "tier": "pro_plus"})
    assert answer.status_code == 422
    assert answer.json()["type"] == "/problems/payment-event-reused"
    assert tier(site, person) == "pro"
