"""Numbers in order: without gaps, or in blocks for those who accept gaps."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from sqlalchemy import bindparam
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from crowdsafe.errors import InvalidInput
from crowdsafe.store.options import Call, combined_by, write
from crowdsafe.writes.tables import Counter

__all__ = ["next_number", "number_block"]

BLOCK_MAX = 1_000_000
_NAME_LENGTH_MAX = 80

_table: Any = Counter.__table__


def _counting_up(insert: Any) -> Any:
    statement = insert(_table).values(
        name=bindparam("name"), scope=bindparam("scope"), value=bindparam("step")
    )
    return statement.on_conflict_do_update(
        index_elements=["name", "scope"],
        set_={"value": _table.c.value + statement.excluded.value},
    ).returning(_table.c.value)


_COUNT_UP = {
    "sqlite": _counting_up(sqlite.insert),
    "postgresql": _counting_up(postgresql.insert),
}


class _NumbersTogether:
    """Many calls for one name and scope: one UPDATE by their count, one number each."""

    def lane(self, call: Call) -> Hashable | None:
        return ("number", *_name_and_scope(*call.args, **call.kwargs))

    def run(self, session: Session, calls: Sequence[Call]) -> list[Any]:
        name, scope = _name_and_scope(*calls[0].args, **calls[0].kwargs)
        last = _count_up(session, name, scope, len(calls))
        return list(range(last - len(calls) + 1, last + 1))


@combined_by(_NumbersTogether())
def next_number(session: Session, name: str, *, scope: str = "") -> int:
    """The next number for ``name`` and ``scope``, from 1.

    The number lives and dies with the transaction: undone, it is given to the next caller. So
    other callers for the same name and scope wait until this transaction ends; take the number
    late in the write, and put such writes into one lane.

    Holds: numbers that are committed are distinct and without a gap, whatever fails or is killed,
    over all processes; deleting the row that used a number does not bring it back.
    Does not hold: order of numbers is the order of commits, not of requests.
    Proved by ``tests/writes/test_numbers.py``.

    ``name`` and ``scope`` have at most 80 characters. Raises InvalidInput.
    """
    return _count_up(session, *_name_and_scope(name, scope=scope), 1)


@write(isolation="read committed")
def number_block(session: Session, name: str, size: int, *, scope: str = "") -> range:
    """Reserve ``size`` (1 to 1,000,000) numbers at once, for callers that give them out alone.

    Commit the block before using it: then nobody else gets its numbers, and nobody waits. What is
    left of a block when its holder dies is a gap.

    Holds: no number is in two committed blocks, and none is also given by ``next_number``.
    Does not hold: freedom from gaps. Proved by ``tests/writes/test_numbers.py``.

    Raises InvalidInput.
    """
    if type(size) is not int or not 1 <= size <= BLOCK_MAX:
        raise InvalidInput(f"a block has 1 to {BLOCK_MAX} numbers, not {size!r}", field="size")
    last = _count_up(session, *_name_and_scope(name, scope=scope), size)
    return range(last - size + 1, last + 1)


def _name_and_scope(name: Any, *, scope: Any = "") -> tuple[str, str]:
    if not isinstance(name, str) or not 1 <= len(name) <= _NAME_LENGTH_MAX:
        raise InvalidInput(f"a name has 1 to {_NAME_LENGTH_MAX} characters", field="name")
    if not isinstance(scope, str) or len(scope) > _NAME_LENGTH_MAX:
        raise InvalidInput(f"a scope has at most {_NAME_LENGTH_MAX} characters", field="scope")
    return name, scope


def _count_up(session: Session, name: str, scope: str, step: int) -> int:
    session.flush()
    connection = session.connection()
    values = {"name": name, "scope": scope, "step": step}
    return int(connection.execute(_COUNT_UP[connection.dialect.name], values).scalar_one())
