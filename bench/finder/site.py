"""Stock in a Django project, and what is written to have each finder try it."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.db import connection, models, transaction
from django.db.models import F
from django.http import HttpRequest, JsonResponse
from django.test import Client
from django.urls import path
from frontrun.contrib.django import django_dpor

from crowdsafe.find import Report, find

URL = os.environ.get("FINDER_URL", "")
_parts = urlsplit(URL)
settings.configure(
    SECRET_KEY="bench only",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    USE_TZ=True,
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": _parts.path.lstrip("/"),
            "USER": _parts.username,
            "HOST": _parts.hostname,
            "PORT": _parts.port,
        }
    },
)
django.setup()


class Stock(models.Model):
    on_hand = models.IntegerField()
    taken = models.IntegerField(default=0)

    class Meta:
        app_label = "bench"
        db_table = "stock"


def fill() -> None:
    """The table with what each run begins with."""
    with connection.schema_editor() as editor:
        editor.create_model(Stock)
    Stock.objects.create(id=1, on_hand=100)
    connection.close()


def racy(_request: HttpRequest) -> JsonResponse:
    with transaction.atomic():
        stock = Stock.objects.get(id=1)
        if stock.on_hand < 60:
            return JsonResponse({"state": "sold out"}, status=409)
        stock.on_hand -= 60
        stock.taken = F("taken") + 60
        stock.save()
    return JsonResponse({"state": "taken"})


def guarded(_request: HttpRequest) -> JsonResponse:
    done = Stock.objects.filter(id=1, on_hand__gte=60).update(
        on_hand=F("on_hand") - 60, taken=F("taken") + 60
    )
    if not done:
        return JsonResponse({"state": "sold out"}, status=409)
    return JsonResponse({"state": "taken"})


urlpatterns = [path("racy", racy), path("guarded", guarded)]
app = WSGIHandler()


def ours(operation: Any, _users: int) -> Report:
    return find("bench.finder.site:app", [f"POST /{operation.__name__}"], database=URL)


def peer(operation: Any, users: int, **options: Any) -> Any:
    def reset() -> None:
        Stock.objects.update(on_hand=100, taken=0)

    def adds_up(_: None) -> bool:
        stock = Stock.objects.get(id=1)
        return stock.on_hand >= 0 and stock.on_hand + stock.taken == 100

    return django_dpor(
        setup=reset,
        threads=[lambda _: Client().post(f"/{operation.__name__}")] * users,
        invariant=adds_up,
        **options,
    )
