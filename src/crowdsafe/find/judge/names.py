"""Guesses from names alone whose ids a value holds, where nothing surer is known."""

from __future__ import annotations

import re
from collections.abc import Iterable

from crowdsafe.find.judge.volatile import Path

__all__ = ["is_id_name", "tables_meant"]

_ID_NAME = re.compile(r"^(?:id|pk|uid|rowid|key)$|_(?:id|pk|uid|fk)$|(?<=[a-z])(?:Id|ID|Pk)$")
_WORD = re.compile(r"[A-Za-z_]{3,}")


def is_id_name(path: Path) -> bool:
    """Whether what stands there goes by a name that ids have, or by none at all (what a
    function returns, the words of a page)."""
    names = _names(path)
    return not names or _ID_NAME.search(names[-1]) is not None


def tables_meant(path: Path, tables: Iterable[str]) -> frozenset[str] | None:
    """The tables whose ids stand there by the names around: ``product_id`` is a product's, the
    ``id`` in the answer to ``POST /orders`` an order's. None when the names say nothing; empty
    when they speak of something that is no table."""
    names = _names(path)
    stem = _ID_NAME.sub("", names[-1]) if names else ""
    if stem and is_id_name(path):
        return _akin(stem, tables)
    around = [*reversed(names[:-1]), *reversed(_WORD.findall(path[1]))]
    for word in around:
        found = _akin(word, tables)
        if found:
            return found
    return None


def _names(path: Path) -> list[str]:
    return [name for name in path[2:] if name != "*" and not name.startswith("[")]


def _akin(word: str, tables: Iterable[str]) -> frozenset[str]:
    stem = _singular(word)
    return frozenset(table for table in tables if _is_akin(stem, _singular(table)))


def _is_akin(stem: str, table: str) -> bool:
    return table == stem or table.endswith(("_" + stem, "." + stem))


def _singular(word: str) -> str:
    word = word.lower().strip("_")
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word.removesuffix("s")
