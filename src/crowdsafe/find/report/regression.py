"""``--write-test``: a test for the user's own suite that fails until the race is gone."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from crowdsafe.errors import ConfigError
from crowdsafe.find.model import Finding
from crowdsafe.find.report import Report
from crowdsafe.find.report.words import one_line
from crowdsafe.find.targets import request
from crowdsafe.find.token import Token, decode

__all__ = ["render", "write_test"]

_MARK = "Written by `crowdsafe find --write-test`"
_BUDGET_S = 30
_CALL = "call "

_HEAD = f'''"""{_MARK}: each test fails until its race is gone.

They try the operations at once on a copy of the database, which must be there and hold what the
operations need; it is not changed. Keep, rename and change the tests as you like.
"""
'''


def render(report: Report) -> str:
    """The tests, one for each race, as a Python file. Raises ConfigError when there is none that
    can be told by its names alone."""
    cases = [_Case(finding, decode(finding.token)) for finding in report.races if finding.token]
    if not cases:
        raise ConfigError("there is no race to write a test for, or it has no token")
    names: set[str] = set()
    bodies = [case.source(_unused(case.name, names)) for case in cases]
    imports = _imports([name for case in cases for name in case.functions])
    used = sorted({"find", *(word for case in cases for word in case.used)})
    from_crowdsafe = f"from crowdsafe.find import {', '.join(used)}"
    parts = [_HEAD, "from __future__ import annotations\n"]
    if any(case.postgres for case in cases):
        parts.append("import os\n")
    parts += ["\n".join([from_crowdsafe, *imports]), "\n"]
    return "\n".join(parts) + "\n" + "\n\n".join(bodies)


def write_test(report: Report, path: Path) -> None:
    """Write the tests of the races to a file.

    Only a file that was written by this function is written over. Raises ConfigError for another
    one, for a folder that cannot be written to, and when there is no race.
    """
    text = render(report)
    try:
        if path.exists() and _MARK not in path.read_text(encoding="utf-8", errors="replace")[:200]:
            raise ConfigError(f"{path} was not written by --write-test: name another file")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class _Case:
    """One race, and what its token says of how it was found."""

    finding: Finding
    token: Token

    @property
    def name(self) -> str:
        words = "_and_".join(dict.fromkeys(_slug(name) for name in self.finding.operations))
        return f"test_no_race_of_{words[:60].strip('_')}"

    @property
    def postgres(self) -> bool:
        return self.token.database.startswith("postgres")

    @property
    def functions(self) -> list[str]:
        return [each.removeprefix(_CALL) for each in self.token.operations if _is_import(each)]

    @property
    def used(self) -> set[str]:
        if self.token.scenario:
            return set()
        named = [each for each in self.token.operations if not _is_in_file(each)]
        return {"call" if _is_import(each) else "request" for each in named}

    def source(self, name: str) -> str:
        told = textwrap.wrap(one_line(self.finding.summary, 300), 92) or ["No race."]
        lines = [f"def {name}() -> None:", f'    """{_quoted(told[0])}']
        lines += [f"    {_quoted(line)}" for line in told[1:]]
        lines[-1] += '"""' if len(told) == 1 else ""
        if len(told) > 1:
            lines.append('    """')
        tried, listed = self._operations(lines)
        lines += [
            "    report = find(",
            *(f"        {argument}," for argument in self._arguments(listed)),
            "    )",
            f"    assert report.no_race_between({', '.join(tried)}), str(report)",
            "",
        ]
        return "\n".join(lines)

    def _operations(self, lines: list[str]) -> tuple[list[str], list[str]]:
        """Name the operations in variables; gives those tried at once, and all, each once."""
        if self.token.scenario:
            return [_text(name) for name in self.finding.operations], []
        variables: dict[tuple[str, str], str] = {}
        tried = []
        for text, name in zip(self.token.operations, self.finding.operations, strict=True):
            if (text, name) not in variables:
                variables[text, name] = variable = _VARIABLES[len(variables)]
                lines.append(f"    {variable} = {_operation(text, name)}")
            tried.append(_text(name) if _is_in_file(text) else variables[text, name])
        return tried, list(variables.values())

    def _arguments(self, operations: list[str]) -> list[str]:
        token = self.token
        database = _text(token.database)
        if self.postgres:
            database = f'os.environ.get("DATABASE_URL", {database})'
        arguments = [_text(token.target) if token.target else "None"]
        arguments += [f"[{', '.join(operations)}]"] if operations else []
        arguments += [f"database={database}"]
        arguments += [f"setup={_text(token.setup)}"] if token.setup else []
        arguments += [f"login={_text(token.login)}"] if token.login else []
        arguments += [f"headers={list(token.headers)!r}"] if token.headers else []
        arguments += ["triples=True"] if len(self.finding.operations) > 2 else []
        return [*arguments, f"budget_s={_BUDGET_S}"]


def _imports(functions: list[str]) -> list[str]:
    """The lines that import the functions that are operations."""
    modules: dict[str, set[str]] = {}
    for name in functions:
        module, _, function = name.rpartition(":")
        modules.setdefault(module, set()).add(function)
    return [
        f"from {module} import {', '.join(sorted(names))}"
        for module, names in sorted(modules.items())
    ]


def _text(value: str) -> str:
    """A literal, in double quotes where that needs no escapes."""
    plain = value.isprintable() and '"' not in value and "\\" not in value
    return f'"{value}"' if plain else repr(value)


_VARIABLES = ("first", "second", "third")


def _operation(text: str, name: str) -> str:
    if _is_in_file(text):
        return _text(text)
    if _is_import(text):
        return f"call({text.rpartition(':')[2]}, name={_text(name)})"
    return (
        f"request({_text(text)})"
        if request(text).name == name
        else f"request({_text(text)}, name={_text(name)})"
    )


def _is_in_file(text: str) -> bool:
    """Whether it is a function of a file, which cannot be imported by a name."""
    return text.startswith(_CALL) and text.rpartition(":")[0].endswith(".py")


def _is_import(text: str) -> bool:
    return text.startswith(_CALL) and not _is_in_file(text)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "operation"


def _quoted(line: str) -> str:
    return line.replace("\\", "/").replace('"""', "'''")


def _unused(name: str, names: set[str]) -> str:
    number, unused = 1, name
    while unused in names:
        number += 1
        unused = f"{name}_{number}"
    names.add(unused)
    return unused
