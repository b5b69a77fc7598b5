"""From a text of SQL to what it does, at the price of a parse per shape."""

from __future__ import annotations

from functools import lru_cache

from crowdsafe.errors import ConfigError
from crowdsafe.find.model import Statement, Verb
from crowdsafe.find.sql.lexing import Lexed, lex, restore
from crowdsafe.find.sql.shapes import shape_of

__all__ = ["analyse"]

_TEXT_MAX = 200_000
_BOUNDS = frozenset({Verb.BEGIN, Verb.COMMIT, Verb.ROLLBACK})
_WRITES = frozenset({Verb.INSERT, Verb.UPDATE, Verb.DELETE, Verb.DDL})


@lru_cache(maxsize=8192)
def analyse(text: str, dialect: str) -> Statement:
    """Tell what a statement does, whatever its parameters are.

    ``dialect`` is "sqlite" or "postgresql"; the placeholders of all their drivers are known, and
    so is a text whose values were filled in. Never fails on a text: what is not understood, or
    is longer than 200 000 characters, is opaque. A view counts as a table of its own, and what
    triggers, foreign keys and cascades touch is not seen here: that takes the schema. A text of
    several statements is given as one; where it holds bounds of transactions too it is opaque.
    INSERT and DELETE have ``columns_written`` None, since whole rows come and go. Raises
    ConfigError for another dialect.
    """
    if dialect not in {"sqlite", "postgresql"}:
        raise ConfigError(f"no analysis for {dialect!r}: it must be 'sqlite' or 'postgresql'")
    if len(text) > _TEXT_MAX:
        return Statement(text, Verb.OTHER, opaque=True)
    parts = [_statement(text, lexed, dialect) for lexed in lex(text, dialect)]
    if len(parts) == 1:
        return parts[0]
    return _together(text, parts) if parts else Statement(text, Verb.OTHER)


def _statement(text: str, lexed: Lexed, dialect: str) -> Statement:
    facts = shape_of(lexed.shape, dialect)
    texts = tuple(slot.text for slot in lexed.slots)
    isolation = facts.isolation
    if facts.verb is Verb.SET and isolation is None:
        isolation = _default_isolation(lexed)
    return Statement(
        text=text,
        verb=facts.verb,
        reads=facts.reads,
        writes=facts.writes,
        locks_rows=facts.locks_rows,
        advisory=facts.advisory,
        draws=facts.draws,
        counts=facts.counts,
        opaque=facts.opaque,
        columns_read=facts.columns_read,
        columns_written=facts.columns_written,
        assignments=_restored(facts.assignments, texts),
        equalities=_restored(facts.equalities, texts),
        isolation=isolation,
        on_conflict=facts.on_conflict,
    )


def _restored(
    pairs: tuple[tuple[str, str], ...], texts: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    return tuple((column, restore(value, texts)) for column, value in pairs)


def _default_isolation(lexed: Lexed) -> str | None:
    """Of ``SET default_transaction_isolation TO 'serializable'``."""
    if "transaction_isolation" not in lexed.shape.lower() or not lexed.slots:
        return None
    return lexed.slots[-1].text.strip("'").lower()


def _together(text: str, parts: list[Statement]) -> Statement:
    verbs = [part.verb for part in parts]
    bounded = any(verb in _BOUNDS for verb in verbs)
    if bounded:
        verb = verbs[-1] if verbs[-1] in _BOUNDS else verbs[0]
    else:
        verb = next((verb for verb in verbs if verb in _WRITES), verbs[0])
    return Statement(
        text=text,
        verb=verb,
        reads=frozenset().union(*(part.reads for part in parts)),
        writes=frozenset().union(*(part.writes for part in parts)),
        locks_rows=any(part.locks_rows for part in parts),
        advisory=any(part.advisory for part in parts),
        draws=any(part.draws for part in parts),
        counts=any(part.counts for part in parts),
        opaque=bounded or any(part.opaque for part in parts),
        isolation=next((part.isolation for part in parts if part.isolation), None),
        on_conflict=any(part.on_conflict for part in parts),
    )
