"""Finds what is to be looked at: an app, the functions, or the scenario of a file."""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from crowdsafe.errors import ConfigError
from crowdsafe.find.targets.scenario import Scenario
from crowdsafe.find.targets.target import Target

__all__ = ["load", "load_function", "source_file"]

_APP_NAMES = ("app", "application", "api", "create_app", "make_app", "get_app")
_DEPTH_MAX = 3


def load(target: Any) -> Target:
    """The target that the user named.

    ``target`` is an ASGI or WSGI app, a Scenario, None (functions only), or a text:
    ``module:app``, ``path/to/file.py:app``, ``module:create_app()``, ``module:create_app("test")``,
    or a module or file alone, of which the only Scenario is taken, or else what is called ``app``,
    ``application``, ``create_app``. Imports run here: patch drivers before. Raises ConfigError.
    """
    if target is None:
        return Target("functions", None, "functions")
    if not isinstance(target, str):
        return _of(target, _name(target))
    return _of(_named(target), target)


def load_function(reference: str | Callable[..., Any]) -> Callable[..., Any]:
    """The function that ``module:function`` or ``file.py:function`` names. Raises ConfigError."""
    found = _named(reference) if isinstance(reference, str) else reference
    if not callable(found):
        raise ConfigError(f"{reference} is not a function")
    return found


def source_file(target: Any) -> Path | None:
    """The file that a target's text names, if it names one (nothing is imported)."""
    if not isinstance(target, str):
        return None
    path = Path(_split(target)[0])
    if path.suffix != ".py":
        path = Path(*str(path).split(".")).with_suffix(".py")
    return path if path.is_file() else None


def _name(target: Any) -> str:
    if isinstance(target, Scenario):
        return target.name or "scenario"
    kind = target if inspect.isroutine(target) else type(target)
    return f"{kind.__module__}:{kind.__qualname__}"


def _of(found: Any, name: str, depth: int = 0) -> Target:
    if isinstance(found, Scenario):
        if depth >= _DEPTH_MAX:
            raise ConfigError(f"{name} is a scenario whose target is a scenario: name the app")
        inner = Target("functions", None, name)
        if found.target is not None:
            inner = load(found.target)
        return Target(inner.kind, inner.app, found.name or name, scenario=found)
    if isinstance(found, ModuleType):
        return _of(_in_module(found), name, depth)
    kind = _kind(found)
    if kind == "factory" and depth < _DEPTH_MAX:
        return _of(_run(found, name), name, depth + 1)
    if kind in {"asgi", "wsgi"}:
        return Target(kind, found, name)
    raise ConfigError(
        f"{name} is neither an ASGI nor a WSGI app but {type(found).__qualname__}: name the app as "
        "module:app, a factory as module:create_app(), or a file with a Scenario"
    )


def _run(factory: Callable[[], Any], name: str) -> Any:
    try:
        return factory()
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{name}() failed: {_told(error)}") from error


def _kind(app: Any) -> Literal["asgi", "wsgi", "factory", "unknown"]:
    if not callable(app) or inspect.isclass(app):
        return "unknown"
    call: Any = app if inspect.isroutine(app) else type(app).__call__
    try:
        parameters = list(inspect.signature(app).parameters.values())
    except (ValueError, TypeError):
        return "unknown"
    free = [
        one for one in parameters if one.kind in {one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD}
    ]
    needed = sum(one.default is one.empty for one in free)
    if inspect.iscoroutinefunction(inspect.unwrap(call)):
        return "asgi" if needed <= 3 <= len(free) or _takes_any(parameters) else "unknown"
    if _takes_any(parameters) and not needed:
        return _by_name(app)
    if needed == 3:
        return "asgi"
    if needed == 2:
        return "wsgi"
    return "factory" if needed == 0 and inspect.isroutine(app) else "unknown"


def _takes_any(parameters: list[inspect.Parameter]) -> bool:
    return any(one.kind is one.VAR_POSITIONAL for one in parameters)


def _by_name(app: Any) -> Literal["asgi", "wsgi", "factory", "unknown"]:
    """For a callable that takes anything: what it and its parents are called tells."""
    names = " ".join(kind.__qualname__ for kind in type(app).__mro__).lower()
    if hasattr(app, "wsgi_app") or "wsgi" in names:
        return "wsgi"
    if "asgi" in names:
        return "asgi"
    return "factory" if inspect.isroutine(app) else "unknown"


def _in_module(module: ModuleType) -> Any:
    scenarios = [value for value in vars(module).values() if isinstance(value, Scenario)]
    if len(scenarios) == 1:
        return scenarios[0]
    if scenarios:
        names = [name for name, value in vars(module).items() if isinstance(value, Scenario)]
        raise ConfigError(
            f"{module.__name__} has several scenarios: say which, as in "
            f"{module.__name__}:{names[0]} (there are {', '.join(names)})"
        )
    for name in _APP_NAMES:
        found = getattr(module, name, None)
        if found is not None and _kind(found) != "unknown":
            return found
    raise ConfigError(
        f"{module.__name__} has no Scenario and nothing called {', '.join(_APP_NAMES[:4])}: name "
        f"the app, as in {module.__name__}:app"
    )


def _split(reference: str) -> tuple[str, str]:
    """``module:attribute``, mindful of a colon in ``C:\\file.py:attribute``."""
    place, found, attribute = reference.partition(":")
    if found and len(place) == 1 and attribute[:1] in {"\\", "/"}:
        rest, found, attribute = attribute.partition(":")
        place = f"{place}:{rest}"
    return place.strip(), attribute.strip()


def _named(reference: str) -> Any:
    place, attribute = _split(reference)
    if not place:
        raise ConfigError(f"{reference!r} names no module: write module:app or file.py:app")
    module = _module(place)
    return _attribute(module, attribute, reference) if attribute else module


def _module(place: str) -> ModuleType:
    _look_in(Path.cwd())
    name = place
    if place.endswith(".py") or "/" in place:
        name = _module_name(Path(place))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise ConfigError(
                f"there is no module {error.name!r} (looked in {Path.cwd()} and the environment)"
                f"{_near(error.name)}: start from the project's folder, or give the file's path"
            ) from None
        raise ConfigError(f"importing {place} failed: {_told(error)}") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"importing {place} failed: {_told(error)}") from error


def _near(module: str) -> str:
    """The modules of this folder that are called almost so."""
    here = [path.stem for path in Path.cwd().iterdir() if path.is_dir() or path.suffix == ".py"]
    near = difflib.get_close_matches(module.partition(".")[0], here)
    return f", but {', '.join(near)}" if near else ""


def _module_name(path: Path) -> str:
    """The module's name from its packages' root, which goes on the path."""
    if not path.is_file():
        raise ConfigError(f"there is no file {path} (looked in {Path.cwd()})")
    path = path.resolve()
    parts, folder = [path.stem], path.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    _look_in(folder)
    return ".".join(parts)


def _look_in(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _attribute(module: ModuleType, text: str, reference: str) -> Any:
    """``a.b``, ``a.b()`` or ``a.b("x", debug=True)`` of the module."""
    wrong = ConfigError(
        f"{reference!r}: after the colon, write a name, or a factory's call with plain values, "
        'such as create_app("test")'
    )
    try:
        node = ast.parse(text, mode="eval").body
    except SyntaxError:
        raise wrong from None
    if not isinstance(node, ast.Call):
        return _path(module, node, wrong)
    function = _path(module, node.func, wrong)
    try:
        args = [ast.literal_eval(one) for one in node.args]
        kwargs = {one.arg or "": ast.literal_eval(one.value) for one in node.keywords}
    except ValueError:
        raise wrong from None
    return _run(lambda: function(*args, **kwargs), reference.partition("(")[0])


def _path(module: ModuleType, node: ast.expr, wrong: ConfigError) -> Any:
    if isinstance(node, ast.Name):
        owner: Any = module
        name = node.id
    elif isinstance(node, ast.Attribute):
        owner, name = _path(module, node.value, wrong), node.attr
    else:
        raise wrong
    if not hasattr(owner, name):
        there = [known for known in dir(owner) if not known.startswith("_")]
        near = difflib.get_close_matches(name, there)
        near += [known for known in _APP_NAMES if known in there and known not in near]
        hint = f"; it has {', '.join(near)}" if near else ""
        raise ConfigError(f"{getattr(owner, '__name__', owner)} has nothing called {name!r}{hint}")
    return getattr(owner, name)


def _told(error: BaseException) -> str:
    """The error in one line, then the target's own lines that led to it."""
    frames = [
        f"  {frame.filename}:{frame.lineno} in {frame.name}: {frame.line}"
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<") and not _ours(frame.filename)
    ]
    return "\n".join([f"{type(error).__name__}: {error}", *frames[-5:]])


def _ours(filename: str) -> bool:
    return filename in {__file__, importlib.__file__}
