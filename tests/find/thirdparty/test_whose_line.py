"""An installed app's line is named, not that of a middleware package around it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from crowdsafe.find.gates import sources


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Makes a function ``call(inner)`` that stands in an installed file of that name."""
    monkeypatch.setattr(sources, "_kinds", {})
    # The line that asks must not be this test's, which would be the target's own code.
    monkeypatch.setattr(sources, "_OURS", str(Path(__file__).resolve().parent))

    def make(name: str) -> Any:
        file = tmp_path / "site-packages" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("def call(inner):\n    return inner()\n")
        names: dict[str, Any] = {}
        exec(compile(file.read_text(), str(file), "exec"), names)
        return names["call"]

    return make


def asked(*calls: Any) -> str | None:
    """The file that is named when these call each other, the first being the outermost."""

    def ask() -> str | None:
        source = sources.calling_line()
        return None if source is None else source.file.rpartition("site-packages/")[2]

    inner = ask
    for call in reversed(calls):
        inner = _bound(call, inner)
    with ThreadPoolExecutor(1) as pool:  # its stack has nothing of pytest
        return pool.submit(inner).result()


def _bound(call: Any, inner: Any) -> Any:
    return lambda: call(inner)


MIDDLEWARE = "allowall/middleware.py"
DISPATCH = "django/core/handlers/base.py"


@pytest.mark.parametrize(
    ("stack", "named"),
    [
        pytest.param([MIDDLEWARE, DISPATCH, "shop/views.py"], "shop/views.py", id="app"),
        pytest.param(
            [MIDDLEWARE, DISPATCH, "rest_framework/mixins.py"],
            "rest_framework/mixins.py",
            id="ready-made",
        ),
        pytest.param(
            [MIDDLEWARE, DISPATCH, "rest_framework/mixins.py", "shop/models.py"],
            "shop/models.py",
            id="model",
        ),
        pytest.param([MIDDLEWARE, DISPATCH], None, id="commit"),
        pytest.param([MIDDLEWARE], MIDDLEWARE, id="middleware's-own"),
    ],
)
def test_the_line_of_a_view_is_named_before_that_of_a_middleware(
    installed: Callable[[str], Any], stack: list[str], named: str | None
) -> None:
    assert asked(*(installed(name) for name in stack)) == named
