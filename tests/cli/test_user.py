"""`crowdsafe user add`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from crowdsafe.identity import Passwords
from crowdsafe.identity.users import credentials_of
from crowdsafe.store import Store

PASSWORD = "correct horse"


def add(
    folder: Path, *arguments: str, password: str = PASSWORD
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "crowdsafe", "user", "add", *arguments, "--data", str(folder)],
        input=password + "\n",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def test_a_user_is_added_and_can_log_in(tmp_path: Path) -> None:
    done = add(
        tmp_path / "data",
        *("Mara", "--role", "sales", "--role", "admin"),
        *("--name", "Mara Lindqvist", "--password-stdin"),
    )
    assert done.returncode == 0, done.stderr
    assert "added mara (Mara Lindqvist): admin, sales" in done.stdout
    assert PASSWORD not in done.stdout + done.stderr
    with Store(f"sqlite:///{tmp_path / 'data' / 'crowdsafe.db'}") as store:
        found = store.read(credentials_of, "mara")
    assert found is not None
    assert found.user.roles == {"sales", "admin"}
    passwords = Passwords(threads=1)
    assert passwords.check(PASSWORD, found.password_hash)
    passwords.close()


def test_the_same_name_twice(tmp_path: Path) -> None:
    assert add(tmp_path, "mara", "--role", "sales").returncode == 0
    refused(add(tmp_path, "MARA", "--role", "admin"), "already", "mara")


@pytest.mark.parametrize(
    ("arguments", "password", "words"),
    [
        (("mara", "--role", "king"), PASSWORD, ("king", "sales")),
        (("two words", "--role", "sales"), PASSWORD, ("username",)),
        (("mara", "--role", "sales"), "short", ("8 to 256",)),
        (("mara", "--role", "sales"), "", ("8 to 256",)),
        (("mara", "--role", "sales", "--name", "a\x07b"), PASSWORD, ("printable",)),
    ],
)
def test_what_cannot_be_added(
    tmp_path: Path, arguments: tuple[str, ...], password: str, words: tuple[str, ...]
) -> None:
    refused(add(tmp_path, *arguments, password=password), *words)


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_a_password_that_is_no_text(tmp_path: Path, locale: str) -> None:
    refused(_add_in_shell(tmp_path, "printf '\\377\\376 longenough\\n' | \"$@\"", locale), "text")


def test_no_standard_input(tmp_path: Path) -> None:
    refused(_add_in_shell(tmp_path, '"$@" <&-', "C.UTF-8"), "standard input is closed")


def _add_in_shell(folder: Path, script: str, locale: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "crowdsafe", "user", "add", "mara", "--role", "sales"]
    return subprocess.run(
        ["sh", "-c", script, "sh", *command, "--data", str(folder)],
        env={**os.environ, "LC_ALL": locale},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_role_is_needed(tmp_path: Path) -> None:
    done = add(tmp_path, "mara")
    assert done.returncode == 2
    assert "--role" in done.stderr


def test_it_needs_no_web_framework(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom crowdsafe.cli import main\n"
        f"code = main(['user', 'add', 'mara', '--role', 'sales', '--data', {str(tmp_path)!r}])\n"
        "assert 'fastapi' not in sys.modules\nsys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=PASSWORD + "\n",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
