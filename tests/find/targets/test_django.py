"""Django, in a process of its own (its settings are made once): middleware, forms and errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SETTINGS = """
SECRET_KEY = "x" * 50
DEBUG = {debug}
ALLOWED_HOSTS = ["localhost"]
ROOT_URLCONF = "site_urls"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": "site.db"}}}}
TEMPLATES = [{{"BACKEND": "django.template.backends.django.DjangoTemplates", "OPTIONS": {{}}}}]
CSRF_USE_SESSIONS = {sessions}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""

URLS = """
from django.contrib.auth import views
from django.contrib.auth.models import User
from django.db import connection
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.template import engines
from django.urls import path

PAGE = '<form>{% csrf_token %}<input name="username"><input type="password" name="password"></form>'

class Login(views.LoginView):
    def render_to_response(self, context, **kwargs):
        return HttpResponse(engines["django"].from_string(PAGE).render(context, self.request))

def order(request):
    return JsonResponse({"who": request.user.username, "n": request.POST.get("n")})

def twice(request):
    User.objects.create(username="ann")

def stream(request):
    return StreamingHttpResponse(iter([b"one ", b"two"]))

urlpatterns = [
    path("login", Login.as_view(success_url="/order", next_page="/order")),
    path("order", order), path("twice", twice), path("stream", stream),
]
"""

WSGI = """
import os
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site_settings")
from django.core.wsgi import get_wsgi_application
application = get_wsgi_application()
"""

SCRIPT = """
import asyncio, json, sys
from crowdsafe.find.targets import load, parse

def tables():
    from django.apps import apps
    from django.contrib.auth.models import User
    from django.db import connection
    with connection.schema_editor() as editor:
        for model in apps.get_models():
            editor.create_model(model)
    User.objects.create_user("ann", password="right")

target = load(sys.argv[1])
tables()
texts = json.loads(sys.argv[2])
login = "POST /login username=ann&password=right"
with asyncio.Runner() as runner:
    runner.run(target.startup())
    operations = target.prepare([parse(text) for text in texts], login=login, on_loop=runner.run)
    answers = []
    for operation in operations:
        answers.append(runner.run(operation.run_async()) if operation.is_async else operation.run())
    runner.run(target.shutdown())
from dataclasses import asdict
print(json.dumps([asdict(answer) for answer in answers]))
"""


def site(folder: Path, *, debug: bool = False, sessions: bool = False) -> None:
    (folder / "site_settings.py").write_text(SETTINGS.format(debug=debug, sessions=sessions))
    (folder / "site_urls.py").write_text(URLS)
    (folder / "site_wsgi.py").write_text(WSGI)
    (folder / "site_asgi.py").write_text(WSGI.replace("wsgi", "asgi"))


def answers(folder: Path, target: str, *texts: str) -> list[list[dict[str, Any]]]:
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, target, json.dumps(texts)]
    env = {"DJANGO_ALLOW_ASYNC_UNSAFE": "1", "PATH": ""}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, check=False, env=env
    )
    assert done.returncode == 0, done.stderr
    return [answer["replies"] for answer in json.loads(done.stdout)]


@pytest.mark.parametrize(
    ("target", "sessions"),
    [("site_wsgi:application", False), ("site_asgi.py", True)],
    ids=["wsgi-cookie", "asgi-session"],
)
def test_login_forms_and_errors(tmp_path: Path, target: str, sessions: bool) -> None:
    site(tmp_path, sessions=sessions)
    order, twice, stream, host = answers(
        tmp_path, target, "POST /order n=1", "POST /twice {}", "GET /stream", "GET /order Host:x.y"
    )
    assert (order[0]["status"], order[0]["body"]) == (200, {"who": "ann", "n": "1"})
    assert (twice[0]["status"], twice[0]["error"]) == (500, "IntegrityError")
    assert twice[0]["sqlstate"] == "SQLITE_CONSTRAINT_UNIQUE"
    assert stream[0]["body"] == "one two"
    assert host[0]["status"] == 400


def test_requests_go_to_where_the_settings_let_them(tmp_path: Path) -> None:
    site(tmp_path)
    with (tmp_path / "site_settings.py").open("a") as file:
        file.write('ALLOWED_HOSTS = [".shop.example"]\nSECURE_SSL_REDIRECT = True\n')
        file.write("MIDDLEWARE.insert(0, 'django.middleware.security.SecurityMiddleware')\n")
    ((reply,),) = answers(tmp_path, "site_wsgi", "POST /order n=1")
    assert (reply["status"], reply["body"]["who"]) == (200, "ann")


def test_a_json_request_of_a_stranger_is_let_in(tmp_path: Path) -> None:
    """The cookie and the header agree, without a page that was fetched."""
    site(tmp_path)
    script = SCRIPT.replace("login=login", "login=None")
    command = [
        sys.executable,
        "-c",
        script,
        "site_wsgi",
        '["POST /order {}", "PUT https://localhost/order {}"]',
    ]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [one["replies"][0]["status"] for one in json.loads(done.stdout)] == [200, 200]
