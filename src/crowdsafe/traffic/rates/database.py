"""The limiter that processes share through their database."""

from __future__ import annotations

import random
import time
from array import array
from bisect import bisect_right
from collections.abc import Hashable, Sequence
from typing import Any

from sqlalchemy.orm import Session

from crowdsafe.errors import ConfigError
from crowdsafe.store.options import Call, combined_by
from crowdsafe.store.stores import AsyncStore, Store
from crowdsafe.traffic.arguments import check_store
from crowdsafe.traffic.keys import check_key, check_name
from crowdsafe.traffic.rates.rate import Decision, Rate, check_is_rate, refused
from crowdsafe.traffic.rates.refusals import Refusals
from crowdsafe.traffic.rows import (
    Locked,
    RateRow,
    drop_idle,
    lock_rows,
    look_at_row,
    save_rows,
    write_async,
)

__all__ = ["DatabaseLimiter", "check_rate", "peek_rate"]

DATABASE_LIMIT_MAX = 10_000
_TIDY_EVERY = 500

_table: Any = RateRow.__table__


class _Log:
    """A key's row: the times of its last accepted requests in microseconds, oldest first.

    Where the clock has gone back, they all move back with it, so that a window lasts no longer
    than it should.
    """

    def __init__(self, row: Locked, rate: Rate) -> None:
        self._rate = rate
        self._window_us = round(rate.window_s * 1_000_000)
        self._now_us = row.now_us
        times = array("q", row.state)
        if times and times[-1] > self._now_us:
            ahead = times[-1] - self._now_us
            times = array("q", (moment - ahead for moment in times))
        self._times = times[bisect_right(times, self._now_us - self._window_us) :]
        self.changed = False

    def check(self) -> Decision:
        times, limit = self._times, self._rate.limit
        allowed = len(times) < limit
        if allowed:
            times.append(self._now_us)
            self.changed = True
        wait_us = 0 if allowed else times[-limit] + self._window_us - self._now_us
        return Decision(
            allowed,
            self._rate,
            max(0, limit - len(times)),
            (times[-1] + self._window_us - self._now_us) / 1e6,
            wait_us / 1e6,
        )

    def packed(self) -> tuple[bytes, int]:
        return self._times.tobytes(), self._now_us + self._window_us


class _ChecksTogether:
    """Many checks of one limiter: its rows are locked, decided and stored together."""

    def lane(self, call: Call) -> Hashable | None:
        _, name, _ = _arguments(*call.args, **call.kwargs)
        return ("rate", name)

    def run(self, session: Session, calls: Sequence[Call]) -> list[Any]:
        asked = [_arguments(*call.args, **call.kwargs) for call in calls]
        name = asked[0][1]
        rows = lock_rows(session, _table, name, {key for _, _, key in asked})
        logs: dict[str, _Log] = {}
        decisions = []
        for rate, _, key in asked:
            if key not in logs:
                logs[key] = _Log(rows[key], rate)
            decisions.append(logs[key].check())
        changed = {key: log.packed() for key, log in logs.items() if log.changed}
        save_rows(session, _table, name, changed)
        if random.randrange(_TIDY_EVERY) < len(changed):
            drop_idle(session, _table, name, rows[asked[0][2]].now_us)
        return decisions


_together = _ChecksTogether()


@combined_by(_together)
def check_rate(session: Session, rate: Rate, *, name: str, key: str) -> Decision:
    """Count a request for ``key``, if ``rate`` allows it, in the caller's transaction.

    For threads and scripts: ``store.write(check_rate, rate, name="login", key=user)``. What
    ``DatabaseLimiter`` holds is held here, once the transaction has committed: a request whose
    transaction is undone does not count. Proved by ``tests/traffic/test_rates_database.py``.

    Raises InvalidInput for a bad key, ConfigError for a bad name and for what is no Rate.
    """
    session.flush()
    decision: Decision = _together.run(session, [Call((rate,), {"name": name, "key": key})])[0]
    return decision


def peek_rate(session: Session, rate: Rate, *, name: str, key: str) -> Decision:
    """What ``check_rate`` would say just now; counts nothing, and works on a snapshot.

    Proved by ``tests/traffic/test_rates_database.py``. Raises what ``check_rate`` raises.
    """
    rate, name, key = _arguments(rate, name=name, key=key)
    return _Log(look_at_row(session, _table, name, key), rate).check()


class DatabaseLimiter:
    """A rate limit for each key, shared by every process that uses one database.

    A sliding log like ``InProcessLimiter``'s, in one row a key, with the database's clock on
    PostgreSQL and the machine's on SQLite. Checks that come at the same time share a transaction;
    a client whom this process has just refused costs none.

    Holds: never more than ``rate.limit`` accepted in any window of ``rate.window_s`` seconds for a
    key, over all processes, after crashes and after the clock went back; no refusal while fewer
    were accepted; nothing is allowed while the database does not answer.
    Does not hold: a clock that jumps ahead ends windows early; SQLite on several machines.
    Proved by ``tests/traffic/test_rates_shared.py``, ``tests/traffic/test_rates_database.py``.

    ``rate.limit`` is at most 10,000 here (a row holds 8 bytes for each). ``name`` (1 to 80
    characters) tells limiters apart: those of one name need one rate. Raises ConfigError.
    """

    def __init__(self, store: AsyncStore | Store, rate: Rate, *, name: str) -> None:
        check_is_rate(rate)
        if rate.limit > DATABASE_LIMIT_MAX:
            raise ConfigError(
                f"a limit in the database is at most {DATABASE_LIMIT_MAX}, not {rate.limit}; "
                "use ValkeyLimiter, or a shorter window"
            )
        self.rate = rate
        self.name = check_name(name)
        self._store = check_store("DatabaseLimiter", store)
        self._refusals = Refusals(rate)

    async def check(self, key: str) -> Decision:
        """Count a request for ``key`` (1 to 200 characters), if it is allowed.

        Raises InvalidInput, and what ``store.write`` raises when the database is away.
        """
        check_key(key)
        asked_at = time.monotonic()
        if (standing := self._refusals.standing(key, asked_at)) is not None:
            return standing
        decision: Decision = await write_async(
            self._store, check_rate, self.rate, name=self.name, key=key
        )
        self._refusals.note(key, asked_at, decision)
        return decision

    async def require(self, key: str) -> Decision:
        """As ``check``, but raises RateLimited when the request is not allowed."""
        decision = await self.check(key)
        if not decision.allowed:
            raise refused(decision)
        return decision


def _arguments(rate: Rate, *, name: str, key: str) -> tuple[Rate, str, str]:
    return check_is_rate(rate), check_name(name), check_key(key)
