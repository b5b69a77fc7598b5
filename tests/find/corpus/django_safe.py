"""Django views that hold."""

from __future__ import annotations

from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from tests.find.corpus.case import POSTGRESQL, Built, aborts, safe
from tests.find.corpus.django_models import Account, Item, Order, Tag
from tests.find.corpus.django_site import SESSIONS, close, site, tables

LAMP = {"name": "lamp", "stock": 1}


@safe(
    "django-f-guarded",
    note="filter(stock__gte=1).update(stock=F('stock') - 1) and its count",
)
def django_f_guarded(url: str) -> Built:
    def buy(_request: HttpRequest, item_id: int) -> HttpResponse:
        bought = Item.objects.filter(pk=item_id, stock__gte=1).update(
            stock=F("stock") - 1, sold=F("sold") + 1
        )
        return JsonResponse({"bought": bool(bought)}, status=200 if bought else 400)

    app = site(url, path("items/<int:item_id>/buy", buy))
    setup = tables(Item, rows=lambda: Item.objects.create(**LAMP))
    return Built(app, ["POST /items/1/buy"], setup, close=close)


@safe(
    "django-get-or-create",
    note="get_or_create over a unique column: one row whoever wins",
)
def django_get_or_create(url: str) -> Built:
    def add(request: HttpRequest) -> HttpResponse:
        tag, _ = Tag.objects.get_or_create(word=request.POST["word"])
        Tag.objects.filter(pk=tag.pk).update(uses=F("uses") + 1)
        return JsonResponse({"word": tag.word})

    app = site(url, path("tags", add), immediate=True)
    return Built(app, ["POST /tags word=blue"], tables(Tag), close=close)


@safe(
    "django-select-for-update",
    note="select_for_update() in atomic(); on SQLite transactions begin with BEGIN IMMEDIATE",
)
def django_select_for_update(url: str) -> Built:
    def buy(_request: HttpRequest, item_id: int) -> HttpResponse:
        with transaction.atomic():
            item = Item.objects.select_for_update().get(pk=item_id)
            if item.stock < 1:
                return JsonResponse({"detail": "sold out"}, status=400)
            item.stock -= 1
            item.save()
        return JsonResponse({"left": item.stock})

    app = site(url, path("items/<int:item_id>/buy", buy), immediate=True)
    setup = tables(Item, rows=lambda: Item.objects.create(**LAMP))
    return Built(app, ["POST /items/1/buy"], setup, close=close)


@safe(
    "django-select-for-update-deferred",
    sqlite=aborts,
    note="the same with Django's own BEGIN: SQLite turns one of two upgraders away, a 500",
)
def django_select_for_update_deferred(url: str) -> Built:
    def pay(_request: HttpRequest) -> HttpResponse:
        with transaction.atomic():
            account = Account.objects.select_for_update().get(owner="ada")
            account.balance -= 10
            account.save()
        return JsonResponse({"balance": account.balance})

    app = site(url, path("pay", pay))
    setup = tables(Account, rows=lambda: Account.objects.create(owner="ada", balance=100))
    return Built(app, ["POST /pay"], setup, close=close)


@safe(
    "django-unique-409",
    note="create() in a savepoint of an atomic request; IntegrityError is a 409",
)
def django_unique_409(url: str) -> Built:
    def add(request: HttpRequest) -> HttpResponse:
        try:
            with transaction.atomic():
                Tag.objects.create(word=request.POST["word"])
        except IntegrityError:
            return JsonResponse({"detail": "there is such a word"}, status=409)
        return JsonResponse({"added": True}, status=201)

    app = site(url, path("tags", add), atomic_requests=True, immediate=True)
    return Built(app, ["POST /tags word=blue"], tables(Tag), close=close)


@safe(
    "django-append",
    note="rows with auto_now_add and generated keys, one request a transaction",
)
def django_append(url: str) -> Built:
    def create(request: HttpRequest) -> HttpResponse:
        order = Order.objects.create(number=int(request.POST["number"]))
        item = Item.objects.create(name=f"of order {order.pk}")
        return JsonResponse({"id": order.pk, "item": item.pk}, status=201)

    app = site(url, path("orders", create), atomic_requests=True)
    operations = ["POST /orders number=1", "POST /orders number=2"]
    return Built(app, operations, tables(Order, Item), close=close)


@safe(
    "django-session-touched",
    note="sessions, login and CSRF in the middleware; the session is saved on every request",
)
def django_session_touched(url: str) -> Built:
    from django.contrib.auth import authenticate, login
    from django.contrib.auth.models import User
    from django.middleware.csrf import get_token

    def sign_in(request: Any) -> HttpResponse:
        if request.method == "GET":
            return JsonResponse({"csrf": get_token(request)})
        user = authenticate(request, username="ada", password=request.POST["password"])
        login(request, user)
        return JsonResponse({"welcome": "ada"})

    def restock(request: Any) -> HttpResponse:
        if not request.user.is_authenticated:
            return JsonResponse({}, status=401)
        request.session["last_visit"] = "today"
        Item.objects.filter(pk=1).update(stock=F("stock") + 1)
        return JsonResponse({"restocked": True})

    def rows() -> None:
        User.objects.create_user("ada", password="lovelace")
        Item.objects.create(**LAMP)

    app = site(url, path("login", sign_in), path("restock", restock), middleware=SESSIONS)
    setup = tables(Item, rows=rows, accounts=True)
    return Built(app, ["POST /restock"], setup, login="POST /login password=lovelace", close=close)


@safe(
    "django-atomic-update",
    databases=POSTGRESQL,
    note="nested atomic() blocks around relative updates",
)
def django_atomic_update(url: str) -> Built:
    def pay(request: HttpRequest) -> HttpResponse:
        amount = int(request.POST["amount"])
        with transaction.atomic():
            Account.objects.filter(owner="ada").update(balance=F("balance") - amount)
            with transaction.atomic():
                Account.objects.filter(owner="bob").update(balance=F("balance") + amount)
        return JsonResponse({"sent": amount})

    def rows() -> None:
        Account.objects.bulk_create([Account(owner="ada", balance=9), Account(owner="bob")])

    app = site(url, path("pay", pay))
    operations = ["POST /pay amount=3", "POST /pay amount=5"]
    return Built(app, operations, tables(Account, rows=rows), close=close)
