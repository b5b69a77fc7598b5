"""The models of the Django programs."""

from __future__ import annotations

from django.db import models

from tests.find.corpus import django_site  # first: models need configured settings

__all__ = ["Account", "Counter", "Item", "Member", "Order", "Tag", "django_site"]


class Order(models.Model):
    number = models.IntegerField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        app_label = "corpus"


class Item(models.Model):
    name = models.CharField(max_length=50)
    stock = models.IntegerField(default=0)
    sold = models.IntegerField(default=0)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        app_label = "corpus"


class Counter(models.Model):
    counts = models.JSONField(default=dict)

    class Meta:
        app_label = "corpus"


class Member(models.Model):
    name = models.CharField(max_length=50)
    is_admin = models.BooleanField(default=True)

    class Meta:
        app_label = "corpus"


class Tag(models.Model):
    word = models.CharField(max_length=50, unique=True)
    uses = models.IntegerField(default=0)

    class Meta:
        app_label = "corpus"


class Account(models.Model):
    owner = models.CharField(max_length=50)
    balance = models.IntegerField(default=0)

    class Meta:
        app_label = "corpus"
