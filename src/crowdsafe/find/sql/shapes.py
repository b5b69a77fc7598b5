"""What the shape of one statement does; the plain commands are told without a parser."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from crowdsafe.find.model import Verb
from crowdsafe.find.sql.tree import Facts, name_of, read_tree

__all__ = ["shape_of"]

_LEVEL = re.compile(
    r"isolation\s+level\s+(serializable|repeatable\s+read|read\s+committed|read\s+uncommitted)",
    re.IGNORECASE,
)
_SQLITE_BEGIN = re.compile(r"begin\s+(immediate|exclusive)", re.IGNORECASE)
_ROLLBACK_TO = re.compile(r"rollback(\s+(work|transaction))?\s+to\b", re.IGNORECASE)
_NAME = r'((?:"[^"]+"|[\w$]+)(?:\s*\.\s*(?:"[^"]+"|[\w$]+))?)'
_LOCK = re.compile(
    rf"lock\s+(?:table\s+)?(?:only\s+)?{_NAME}((?:\s*,\s*(?:only\s+)?{_NAME})*)", re.IGNORECASE
)
_EXPLAIN = re.compile(
    r"explain\s+(?:query\s+plan\s+|\([^)]*\)\s*|analyze\s+|verbose\s+)*", re.IGNORECASE
)
_CURSOR = re.compile(r"declare\s+.*?\bcursor\b.*?\bfor\s+(.*)$", re.IGNORECASE | re.DOTALL)
_DDL_TABLE = re.compile(
    r"(?:create|drop|alter)\s+(?:(?:global|local|temp|temporary|unlogged|virtual|foreign)\s+)*"
    rf"table\s+(?:if\s+(?:not\s+)?exists\s+)?(?:only\s+)?{_NAME}",
    re.IGNORECASE,
)
_DDL_INDEX = re.compile(
    rf"create\s+(?:unique\s+)?index\b.*?\bon\s+(?:only\s+)?{_NAME}", re.IGNORECASE
)
_NAME_ONLY = re.compile(_NAME)

_PRAGMA_DATA = re.compile(r"pragma\s+(\w+\s*\.\s*)?(user_version|application_id)\b", re.IGNORECASE)
"""Numbers of one's own that SQLite keeps in the file."""

_PLAIN: dict[str, Verb] = {
    "begin": Verb.BEGIN,
    "start": Verb.BEGIN,
    "commit": Verb.COMMIT,
    "end": Verb.COMMIT,
    "abort": Verb.ROLLBACK,
    "savepoint": Verb.SAVEPOINT,
    "release": Verb.RELEASE,
    "set": Verb.SET,
    "reset": Verb.SET,
    "show": Verb.SET,
    "pragma": Verb.SET,
    "discard": Verb.SET,
}
_HARMLESS = frozenset(
    {"attach", "detach", "deallocate", "listen", "unlisten", "notify", "analyze", "vacuum"}
    | {"checkpoint", "fetch", "move", "close", "load", "comment", "security"}
)
_DDL = frozenset({"create", "alter", "drop", "reindex", "grant", "revoke", "cluster", "refresh"})


@lru_cache(maxsize=4096)
def shape_of(shape: str, dialect: str) -> Facts:
    """Read one statement's shape; never raises, what is not understood is opaque."""
    word = _first_word(shape)
    special = _SPECIAL.get(word)
    if special is not None:
        return special(shape, dialect)
    if word in _PLAIN:
        return _plain(word, shape)
    if word in _HARMLESS:
        return Facts(Verb.OTHER)
    if word in _DDL:
        return _ddl(shape, dialect)
    return _read(shape, dialect)


def _read(shape: str, dialect: str) -> Facts:
    facts = read_tree(shape, dialect)
    if facts.on_conflict:
        return replace(facts, reads=facts.reads | facts.targets)
    return facts


def _first_word(shape: str) -> str:
    match = re.match(r"[A-Za-z_]+", shape)
    return match.group().lower() if match else ""


def _plain(word: str, shape: str) -> Facts:
    if word == "pragma" and _PRAGMA_DATA.match(shape):
        return Facts(Verb.OTHER, opaque=True)
    level = _LEVEL.search(shape)
    isolation = re.sub(r"\s+", " ", level.group(1)).lower() if level else None
    mode = _SQLITE_BEGIN.match(shape)
    return Facts(_PLAIN[word], isolation=mode.group(1).lower() if mode else isolation)


def _rolled_back(shape: str, _: str) -> Facts:
    return Facts(Verb.ROLLBACK_TO if _ROLLBACK_TO.match(shape) else Verb.ROLLBACK)


def _prepared(shape: str, _: str) -> Facts:
    """PREPARE TRANSACTION ends a transaction without saying how; a prepared query only waits."""
    return Facts(
        Verb.OTHER, opaque=re.match(r"prepare\s+transaction\b", shape, re.IGNORECASE) is not None
    )


def _replaced(shape: str, dialect: str) -> Facts:
    """SQLite's short form of INSERT OR REPLACE."""
    return _read("INSERT OR REPLACE" + shape[len("replace") :], dialect)


def _table(shape: str, dialect: str) -> Facts:
    return _read("SELECT * FROM" + shape[len("table") :], dialect)


def _declared(shape: str, dialect: str) -> Facts:
    cursor = _CURSOR.match(shape)
    return shape_of(cursor.group(1), dialect) if cursor else Facts(Verb.OTHER, opaque=True)


def _explained(shape: str, dialect: str) -> Facts:
    head = _EXPLAIN.match(shape)
    runs = head is not None and "analyze" in head.group().lower()
    if head is None or not runs:
        return Facts(Verb.OTHER)
    return shape_of(shape[head.end() :], dialect)


def _locked(shape: str, _: str) -> Facts:
    """LOCK TABLE counts as a write: it is in the way of every other statement on the table."""
    match = _LOCK.match(shape)
    if match is None:
        return Facts(Verb.LOCK, opaque=True)
    further = re.sub(r"\bonly\s", "", match.group(2) or "", flags=re.IGNORECASE)
    names = [match.group(1), *_NAME_ONLY.findall(further)]
    tables = frozenset(name_of(name) for name in names)
    return Facts(Verb.LOCK, reads=tables, writes=tables)


def _ddl(shape: str, dialect: str) -> Facts:
    table = _DDL_TABLE.match(shape) or _DDL_INDEX.match(shape)
    if table is None:
        return Facts(Verb.DDL, opaque=True)
    writes = frozenset({name_of(table.group(1))})
    select = re.search(r"\bas\s+\(?\s*((?:select|with)\b.*)$", shape, re.IGNORECASE | re.DOTALL)
    reads = read_tree(select.group(1), dialect).reads if select else frozenset[str]()
    return Facts(Verb.DDL, reads=reads | writes, writes=writes)


_SPECIAL: dict[str, Callable[[str, str], Facts]] = {
    "rollback": _rolled_back,
    "prepare": _prepared,
    "replace": _replaced,
    "table": _table,
    "declare": _declared,
    "explain": _explained,
    "lock": _locked,
}
