"""Django views that lose something when two come at once."""

from __future__ import annotations

import json
from typing import Any

from django.db import transaction
from django.db.models.signals import post_save
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from crowdsafe.find.model import Anomaly
from tests.find.corpus.case import Built, aborts, racy
from tests.find.corpus.django_models import Account, Counter, Item, Member, Order, Tag
from tests.find.corpus.django_site import SESSIONS, close, site, tables


@racy(
    "django-order-number",
    Anomaly.DUPLICATE_NUMBER,
    note="both count the same orders, both get the next number",
)
def django_order_number(url: str) -> Built:
    def create(_request: HttpRequest) -> HttpResponse:
        order = Order.objects.create(number=Order.objects.count() + 1)
        return JsonResponse({"number": order.number}, status=201)

    app = site(url, path("orders", create))
    setup = tables(Order, rows=lambda: Order.objects.create(number=1))
    return Built(app, ["POST /orders"], setup, close=close)


@racy(
    "django-buy",
    Anomaly.LOST_UPDATE,
    note="save() writes the whole object back: both sold the last one",
)
def django_buy(url: str) -> Built:
    def buy(_request: HttpRequest, item_id: int) -> HttpResponse:
        item = Item.objects.get(pk=item_id)
        if item.stock < 1:
            return JsonResponse({"detail": "sold out"}, status=400)
        item.stock -= 1
        item.sold += 1
        item.save()
        return JsonResponse({"left": item.stock})

    app = site(url, path("items/<int:item_id>/buy", buy))
    setup = tables(Item, rows=lambda: Item.objects.create(name="lamp", stock=1, sold=3))
    return Built(app, ["POST /items/1/buy"], setup, close=close)


@racy(
    "django-atomic-requests",
    Anomaly.LOST_UPDATE,
    sqlite=aborts,
    note="a transaction around the request does not stop READ COMMITTED from losing an update",
)
def django_atomic_requests(url: str) -> Built:
    def restock(request: HttpRequest, item_id: int) -> HttpResponse:
        item = Item.objects.get(pk=item_id)
        item.stock = item.stock + int(request.POST["pieces"])
        item.save(update_fields=["stock", "updated_at"])
        return JsonResponse({"stock": item.stock})

    app = site(url, path("items/<int:item_id>/restock", restock), atomic_requests=True)
    setup = tables(Item, rows=lambda: Item.objects.create(name="lamp", stock=1))
    return Built(app, ["POST /items/1/restock pieces=5"], setup, close=close)


@racy(
    "django-json-counter",
    Anomaly.LOST_UPDATE,
    note="two counts in one JSON field: the object that is saved last puts the other back",
)
def django_json_counter(url: str) -> Built:
    def count(request: HttpRequest) -> HttpResponse:
        counter = Counter.objects.get(pk=1)
        page = json.loads(request.body)["page"]
        counter.counts[page] = counter.counts.get(page, 0) + 1
        counter.save()
        return JsonResponse({"counted": True})

    app = site(url, path("count", count))
    setup = tables(Counter, rows=lambda: Counter.objects.create(counts={"home": 3}))
    operations = ['POST /count {"page": "home"}', 'POST /count {"page": "about"}']
    return Built(app, operations, setup, close=close)


@racy(
    "django-last-admin",
    Anomaly.WRITE_SKEW,
    also=(Anomaly.LOST_UPDATE,),
    sqlite=aborts,
    note="two admins step down at once, each because the other one is there",
)
def django_last_admin(url: str) -> Built:
    def step_down(_request: HttpRequest, member_id: int) -> HttpResponse:
        with transaction.atomic():
            if not Member.objects.filter(is_admin=True).exclude(pk=member_id).exists():
                return JsonResponse({"detail": "somebody has to stay"}, status=409)
            Member.objects.filter(pk=member_id).update(is_admin=False)
        return JsonResponse({"admin": False})

    def rows() -> None:
        Member.objects.bulk_create([Member(name="Ada"), Member(name="Bob")])

    app = site(url, path("members/<int:member_id>/step-down", step_down))
    operations = ["POST /members/1/step-down", "POST /members/2/step-down"]
    return Built(app, operations, tables(Member, rows=rows), close=close)


@racy(
    "django-session-cart",
    Anomaly.LOST_UPDATE,
    Anomaly.STALE_ANSWER,
    note="two tabs of one visitor add to the cart in the session: it is saved whole, one is lost",
)
def django_session_cart(url: str) -> Built:
    def cart(request: Any) -> HttpResponse:
        lines = request.session.get("cart", [])
        if request.method == "POST":
            request.session["cart"] = [*lines, request.POST["item"]]
        return JsonResponse({"cart": request.session.get("cart", [])})

    def start(request: Any) -> HttpResponse:
        request.session["visitor"] = "v1"
        return JsonResponse({"welcome": True})

    from django.views.decorators.csrf import csrf_exempt

    app = site(
        url, path("cart", csrf_exempt(cart)), path("start", csrf_exempt(start)), middleware=SESSIONS
    )
    operations = ["POST /cart item=lamp && GET /cart", "POST /cart item=chair && GET /cart"]
    return Built(app, operations, tables(accounts=True), login="POST /start", close=close)


@racy(
    "django-signal",
    Anomaly.LOST_UPDATE,
    note="a handler of post_save adds up a total in Python: two orders, one of them counted",
)
def django_signal(url: str) -> Built:
    def count_up(sender: type[Order], instance: Order, **_how: Any) -> None:
        total = Account.objects.get(owner="orders")
        total.balance += instance.number
        total.save()

    def create(request: HttpRequest) -> HttpResponse:
        Order.objects.create(number=int(request.POST["amount"]))
        return JsonResponse({"created": True}, status=201)

    def down() -> None:
        post_save.disconnect(sender=Order, dispatch_uid="total")
        close()

    post_save.connect(count_up, sender=Order, dispatch_uid="total", weak=False)
    app = site(url, path("orders", create))
    setup = tables(Order, Account, rows=lambda: Account.objects.create(owner="orders"))
    return Built(app, ["POST /orders amount=30", "POST /orders amount=12"], setup, close=down)


@racy(
    "django-savepoints",
    Anomaly.LOST_UPDATE,
    sqlite=aborts,
    note="the savepoint undoes a failed step, and does nothing against the other request",
)
def django_savepoints(url: str) -> Built:
    def pay(_request: HttpRequest, account_id: int) -> HttpResponse:
        with transaction.atomic():
            account = Account.objects.get(pk=account_id)
            with transaction.atomic():
                Order.objects.create(number=account.balance)
            account.balance -= 10
            account.save()
        return JsonResponse({"paid": 10})

    app = site(url, path("accounts/<int:account_id>/pay", pay))
    setup = tables(Account, Order, rows=lambda: Account.objects.create(owner="ada", balance=100))
    return Built(app, ["POST /accounts/1/pay"], setup, close=close)


@racy(
    "django-tag-created",
    Anomaly.ERROR,
    Anomaly.DUPLICATE_CREATE,
    note="exists() before create(): the unique index turns the second one into a 500",
)
def django_tag_created(url: str) -> Built:
    def add(request: HttpRequest) -> HttpResponse:
        word = request.POST["word"]
        if not Tag.objects.filter(word=word).exists():
            Tag.objects.create(word=word)
        return JsonResponse({"word": word})

    app = site(url, path("tags", add))
    return Built(app, ["POST /tags word=blue"], tables(Tag), close=close)


@racy(
    "django-async-view",
    Anomaly.LOST_UPDATE,
    note="an async view of Django over ASGI: aget() and asave() with an await between them",
)
def django_async_view(url: str) -> Built:
    async def buy(_request: HttpRequest, item_id: int) -> HttpResponse:
        item = await Item.objects.aget(pk=item_id)
        item.stock -= 1
        await item.asave()
        return JsonResponse({"left": item.stock})

    app = site(url, path("items/<int:item_id>/buy", buy), asynchronous=True)
    setup = tables(Item, rows=lambda: Item.objects.create(name="lamp", stock=9))
    return Built(app, ["POST /items/1/buy"], setup, close=close)
