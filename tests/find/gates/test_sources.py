"""The line that asked: the target's own, whatever lies between it and the driver."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import greenlet
import pytest

from crowdsafe.find.gates.sources import asked_by, calling_line, set_roots
from crowdsafe.find.model import Source

PASS_ON = "def call(function):\n    return function()\n"


@pytest.fixture(autouse=True)
def no_roots() -> Iterator[None]:
    yield
    set_roots([])


def library(folder: Path, name: str) -> Callable[[Callable[[], Any]], Any]:
    """A module with a function that calls what it is given."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PASS_ON)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function: Callable[[Callable[[], Any]], Any] = module.call
    return function


def found(source: Source | None) -> Source:
    assert source is not None
    return source


def test_the_line_is_shown_as_a_reader_finds_it() -> None:
    source = found(calling_line())
    assert source.file == str(Path(__file__).relative_to(Path.cwd()))
    assert source.code == "source = found(calling_line())"
    assert source.function == "test_the_line_is_shown_as_a_reader_finds_it"
    assert source.line == test_the_line_is_shown_as_a_reader_finds_it.__code__.co_firstlineno + 1


def test_libraries_are_passed_over(tmp_path: Path) -> None:
    inner = library(tmp_path / "site-packages", "sqlalchemy/engine.py")
    outer = library(tmp_path / "lib/dist-packages", "some_orm.py")
    source = found(outer(partial(inner, calling_line)))
    assert source.file == str(Path(__file__).relative_to(Path.cwd()))
    assert source.code == "source = found(outer(partial(inner, calling_line)))"


def test_an_installed_target_wins_when_it_is_named(tmp_path: Path) -> None:
    shop = library(tmp_path / "site-packages", "shop/views.py")
    driver = library(tmp_path / "site-packages", "driver/core.py")
    call = partial(shop, partial(driver, calling_line))
    assert found(call()).file.endswith("test_sources.py")
    set_roots([tmp_path / "site-packages/shop"])
    source = found(call())
    assert source.file == os.path.realpath(tmp_path / "site-packages/shop/views.py")
    assert source.code == "return function()"


def test_without_other_code_it_is_the_innermost_package_that_is_no_framework(
    tmp_path: Path,
) -> None:
    packages = tmp_path / "site-packages"
    layers = ["flask/app.py", "shop/views.py", "shop/models.py", "sqlalchemy/engine.py"]
    call: Callable[[], Source | None] = calling_line
    for name in reversed(layers):
        call = partial(library(packages, name), call)
    with ThreadPoolExecutor(1) as thread:
        source = found(thread.submit(call).result())
    assert source.file == os.path.realpath(packages / "shop/models.py")


def test_greenlets_are_followed_to_who_switched_to_them(tmp_path: Path) -> None:
    orm = library(tmp_path / "site-packages", "sqlalchemy/orm.py")
    source = found(greenlet.greenlet(orm).switch(calling_line))
    assert source.code == "source = found(greenlet.greenlet(orm).switch(calling_line))"


def test_threads_without_the_targets_frames_tell_who_asked(tmp_path: Path) -> None:
    asked = Source("shop.py", 1, "pay")
    pool = library(tmp_path / "site-packages", "greenlet/pool.py")
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asked_by.set, asked).result()
        assert thread.submit(pool, calling_line).result() == asked
