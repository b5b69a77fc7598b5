"""Takes a text of SQL apart: statements, and in each the slots where its values stand.

Two texts that differ in literals and comments only have the same shape, so that a shape is
parsed once however often it is run with other values. Lists after IN and rows after VALUES are
cut down to their first element, since their length is a value too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["Lexed", "Slot", "lex", "restore"]

_COMMON = r"""
  (?P<comment>--[^\n]*|/\*.*?\*/)
| (?P<dollar>\$\$.*?\$\$|\$(?P<tag>[A-Za-z_]\w*)\$.*?\$(?P=tag)\$)
| (?P<blob>[xXbB]'[^']*')
| (?P<escaped>[eE]'(?:[^'\\]|\\.|'')*')
| (?P<string>'(?:[^']|'')*')
| (?P<ident>"(?:[^"]|"")*"|`[^`]*`{brackets})
| (?P<cast>::)
| (?P<place>{places})
| (?P<number>(?<![\w$])(?:0[xX][0-9a-fA-F]+|\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+))
| (?P<word>[A-Za-z_\u0080-\uffff][\w$]*)
| (?P<semi>;)
| (?P<space>\s+)
| (?P<other>.)
"""


def _pattern(places: str, brackets: str = "") -> re.Pattern[str]:
    text = _COMMON.replace("{places}", places).replace("{brackets}", brackets)
    return re.compile(text, re.VERBOSE | re.DOTALL)


_PATTERNS = {
    "sqlite": _pattern(r"\?\d*|[:@$][A-Za-z_]\w*|%s(?!\w)", r"|\[[A-Za-z_][^\]\n]*\]"),
    "postgresql": _pattern(r"%\([^)]+\)[sbt]|%[sbt](?!\w)|\$\d+"),
}
_LITERALS = frozenset({"dollar", "blob", "escaped", "string", "number", "place"})
_MARK = re.compile(r":p(\d+)|'(\d+)'|\b(\d+)\b")


@dataclass(frozen=True, slots=True)
class Slot:
    """A literal or a placeholder; ``nth`` counts the placeholders of the whole text from 0."""

    kind: str
    text: str
    nth: int = -1


@dataclass(frozen=True, slots=True)
class Lexed:
    """One statement: its shape, where slot ``i`` stands as ``i``, ``'i'`` or ``:pi``."""

    shape: str
    slots: tuple[Slot, ...]


_Token = tuple[str, str, int]


@lru_cache(maxsize=1024)
def lex(text: str, dialect: str) -> tuple[Lexed, ...]:
    """Split a text at its semicolons; statements of comments alone are left out."""
    statements: list[list[_Token]] = [[]]
    placeholders = 0
    for match in _PATTERNS[dialect].finditer(text):
        kind = match.lastgroup or "other"
        if kind == "tag":
            kind = "dollar"
        if kind == "semi":
            statements.append([])
        elif kind in {"space", "comment"}:
            statements[-1].append(("space", " ", -1))
        elif kind == "place":
            statements[-1].append((kind, match.group(), placeholders))
            placeholders += 1
        else:
            statements[-1].append((kind, match.group(), -1))
    return tuple(
        _lexed(_shortened(tokens))
        for tokens in statements
        if any(token[0] != "space" for token in tokens)
    )


def _lexed(tokens: list[_Token]) -> Lexed:
    parts: list[str] = []
    slots: list[Slot] = []
    for kind, text, nth in tokens:
        if kind not in _LITERALS:
            if kind != "space" or (parts and parts[-1] != " "):
                parts.append(text)
            continue
        number = len(slots)
        slots.append(Slot(kind, text, nth))
        if kind == "place":
            parts.append(f":p{number}")
        else:
            parts.append(str(number) if kind == "number" else f"'{number}'")
    return Lexed("".join(parts).strip(), tuple(slots))


def _shortened(tokens: list[_Token]) -> list[_Token]:
    """Without the further elements of IN lists and the further rows of VALUES."""
    kept: list[_Token] = []
    at, last = 0, ""
    while at < len(tokens):
        kind, text, _ = tokens[at]
        if text == "(" and last in {"in", "values"}:
            end = _closing(tokens, at)
            group = tokens[at : end + 1]
            if last == "in" and _is_list(group):
                group = [group[0], next(t for t in group[1:] if t[0] != "space"), group[-1]]
            kept += group
            at = end + 1 if last == "in" else _after_rows(tokens, end + 1)
            last = ")"
            continue
        if kind != "space":
            last = text.lower() if kind == "word" else text
        kept.append(tokens[at])
        at += 1
    return kept


def _closing(tokens: list[_Token], opening: int) -> int:
    depth = 0
    for at in range(opening, len(tokens)):
        text = tokens[at][1]
        depth += (text == "(") - (text == ")")
        if depth == 0:
            return at
    return len(tokens) - 1


def _is_list(group: list[_Token]) -> bool:
    inner = [token for token in group[1:-1] if token[0] != "space"]
    return len(inner) > 1 and all(token[0] in _LITERALS or token[1] == "," for token in inner)


def _after_rows(tokens: list[_Token], at: int) -> int:
    """Where the list of rows ends whose first row ended before ``at``."""
    while True:
        ahead = [n for n in range(at, min(at + 4, len(tokens))) if tokens[n][0] != "space"][:2]
        if len(ahead) < 2 or tokens[ahead[0]][1] != "," or tokens[ahead[1]][1] != "(":
            return at
        at = _closing(tokens, ahead[1]) + 1


def restore(expression: str, texts: tuple[str, ...]) -> str:
    """Put the texts of the slots back into a part of a shape."""

    def back(match: re.Match[str]) -> str:
        number = int(next(group for group in match.groups() if group is not None))
        return texts[number] if number < len(texts) else match.group()

    return _MARK.sub(back, expression)
