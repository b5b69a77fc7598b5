"""The package's shape: what it exports, what it needs, and which room may import which."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import crowdsafe

PACKAGE = Path(crowdsafe.__file__).parent

# From the ground up: a room imports only from rooms above it in this list.
ROOMS = (
    *(
        "errors",
        "find",
        "store",
        "writes",
        "traffic",
        "feed",
        "identity",
        "web",
        "systems",
        "server",
        "cli",
    ),
    "__main__",
)
# What `import crowdsafe` may load from outside of the standard library.
CORE_NEEDS = {"crowdsafe", "sqlalchemy", "typing_extensions"}


def test_all_is_the_public_surface() -> None:
    public = {
        name
        for name in dir(crowdsafe)
        if not name.startswith("_")
        and not isinstance(getattr(crowdsafe, name), types.ModuleType)
        and name not in {"annotations", "Any", "TYPE_CHECKING", "import_module"}
    }
    assert public == set(crowdsafe.__all__) - {"__version__"}
    assert len(crowdsafe.__all__) == len(set(crowdsafe.__all__))


def test_what_is_loaded_late_is_there() -> None:
    script = """
import sys, crowdsafe
assert "sqlalchemy" not in sys.modules
assert {*crowdsafe.__all__} <= {*dir(crowdsafe)}
from crowdsafe import take
assert crowdsafe.take is take is crowdsafe.writes.take and "take" in vars(crowdsafe)
names = {}
exec("from crowdsafe import *", names)
assert {*crowdsafe.__all__} <= names.keys()
assert not hasattr(crowdsafe, "nothing")
"""
    subprocess.run([sys.executable, "-I", "-W", "error", "-c", script], timeout=60, check=True)


def test_every_public_thing_says_what_it_is() -> None:
    undocumented = [
        name
        for name in crowdsafe.__all__
        if callable(thing := getattr(crowdsafe, name)) and not (thing.__doc__ or "").strip()
    ]
    assert not undocumented


def test_core_imports_with_sqlalchemy_alone() -> None:
    script = f"""
import sys
class Wall:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        known = top in {CORE_NEEDS!r} or top in sys.stdlib_module_names or top[0] == "_"
        if not known:
            raise ImportError(f"{{name}} is not part of the core's dependencies")
# The editable install's own finder stays: it finds crowdsafe.
sys.meta_path.insert(0, Wall())
import crowdsafe
print(sorted(name for name in sys.modules if name.startswith("crowdsafe.")))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", script],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    above = ("identity", "web", "systems", "server", "cli")
    assert not [room for room in above if f"crowdsafe.{room}" in done.stdout]


def sources() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Every crowdsafe module that a file imports, inside functions too, with its line."""
    package = ["crowdsafe", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((name, node.lineno) for name in names if name.split(".")[0] == "crowdsafe")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_import_only_from_above(path: Path) -> None:
    room = room_of(path)
    assert room in ROOMS, f"{room} has no place in ROOMS: say where it stands"
    for name, line in imported(path):
        parts = name.split(".")
        if len(parts) < 2 or not any(
            (PACKAGE / parts[1]).with_suffix(s).exists() for s in ("", ".py")
        ):
            # `from crowdsafe import take`: the front door, which only rooms above the core may use.
            assert ROOMS.index(room) > ROOMS.index("writes"), f"{path}:{line} uses the front door"
            continue
        assert ROOMS.index(parts[1]) <= ROOMS.index(room), f"{path}:{line} imports {name}"


@pytest.mark.parametrize(
    "path",
    [p for p in sources() if room_of(p) == "systems"],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_systems_do_not_import_each_other(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[1]
    for name, line in imported(path):
        parts = name.split(".")
        if (
            parts[1:2] == ["systems"]
            and len(parts) > 2
            and (PACKAGE / "systems" / parts[2]).is_dir()
        ):
            assert parts[2] == own, f"{path}:{line} imports {name}"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_readable(path: Path) -> None:
    lines = path.read_text().count("\n")
    assert lines < 600, f"{path} has {lines} lines: split it by idea"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_proofs_that_docstrings_name_are_there(path: Path) -> None:
    for proof in re.findall(r"\btests/[\w/]+(?:\.py)?", path.read_text()):
        assert (PACKAGE.parents[1] / proof).exists(), f"{path} names {proof}, which is not there"


def test_the_finder_knows_no_other_room() -> None:
    for path in sorted((PACKAGE / "find").rglob("*.py")):
        for name, line in imported(path):
            room = name.split(".")[1]
            assert room in {"find", "errors"}, f"{path}:{line} imports {name}"


# What the finder's rooms may import of each other: only what stands before them.
FINDER_ROOMS = (
    *("model", "token", "sql", "gates", "database"),
    *("targets", "engine", "judge", "report"),
)


def test_the_finders_rooms_import_only_from_before() -> None:
    find = PACKAGE / "find"
    for path in sorted(find.rglob("*.py")):
        room = path.relative_to(find).parts[0].removesuffix(".py")
        if room not in FINDER_ROOMS:
            continue
        before = FINDER_ROOMS[: FINDER_ROOMS.index(room) + 1]
        for name, line in imported(path):
            parts = name.split(".")
            assert parts[1] != "find" or parts[2] in before, f"{path}:{line} imports {name}"


@pytest.mark.parametrize("module", ["crowdsafe.find", "crowdsafe.find.pytest_plugin"])
def test_what_every_pytest_run_loads_is_light(module: str) -> None:
    heavy = {
        *("sqlglot", "rich", "sqlite3", "psycopg", "psycopg2", "asyncpg", "aiosqlite"),
        *("django", "flask", "fastapi", "starlette", "werkzeug", "httpx", "sqlalchemy"),
    }
    script = (
        f"import sys, pytest; before = set(sys.modules); import {module};"
        f"print(sorted({heavy!r} & (set(sys.modules) - before)));"
        "print(sorted(name for name in sys.modules if name.startswith('crowdsafe.find.')))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", script],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loaded, own = done.stdout.splitlines()
    assert loaded == "[]"
    assert own == str([module] if "plugin" in module else [])
