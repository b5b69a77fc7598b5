"""A Django project in one file, which is put up anew for each program and each database.

Django has one set of settings a process. What differs between the programs is set before each:
the database (and whether requests are transactions), the middleware and the URLs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import django
from asgiref.local import Local
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.db import connections
from django.urls import URLPattern

from tests.find.corpus.kit import is_sqlite, sqlite_path

__all__ = ["SESSIONS", "close", "site", "tables"]

SESSIONS = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]

if not settings.configured:
    settings.configure(
        SECRET_KEY="tests only",
        ALLOWED_HOSTS=["*"],
        USE_TZ=True,
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        INSTALLED_APPS=[
            "django.contrib.contenttypes",
            "django.contrib.auth",
            "django.contrib.sessions",
        ],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    )
    django.setup()


def site(
    url: str,
    *patterns: URLPattern,
    middleware: Sequence[str] = (),
    atomic_requests: bool = False,
    immediate: bool = False,
    asynchronous: bool = False,
) -> Any:
    """Point Django at that database and those URLs; the WSGI (or ASGI) app.

    ``immediate`` begins SQLite's transactions with BEGIN IMMEDIATE.
    """
    close()
    database = _database(url) | {"ATOMIC_REQUESTS": atomic_requests}
    if immediate and is_sqlite(url):
        database["OPTIONS"] = {"transaction_mode": "IMMEDIATE"}
    connections.settings = connections.configure_settings({"default": database})
    settings.ROOT_URLCONF = patterns
    settings.MIDDLEWARE = list(middleware)
    return ASGIHandler() if asynchronous else WSGIHandler()


def _database(url: str) -> dict[str, Any]:
    if is_sqlite(url):
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": sqlite_path(url)}
    parts = urlsplit(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.lstrip("/"),
        "USER": parts.username or "",
        "HOST": parts.hostname or "",
        "PORT": parts.port or "",
    }


def close() -> None:
    """Close this thread's connection, and have every other thread begin with a new one."""
    connections.close_all()
    connections._connections = Local(connections.thread_critical)


def tables(
    *models: type[Any], rows: Callable[[], object] = lambda: None, accounts: bool = False
) -> Callable[[], None]:
    """A set-up that makes the models' tables, and those of sessions and users if ``accounts``."""

    def setup() -> None:
        from django.contrib.auth.models import Group, Permission, User
        from django.contrib.contenttypes.models import ContentType
        from django.contrib.sessions.models import Session

        needed = (ContentType, Permission, Group, User, Session) if accounts else ()
        with connections["default"].schema_editor() as editor:
            for model in (*needed, *models):
                editor.create_model(model)
        rows()
        connections["default"].close()

    return setup
