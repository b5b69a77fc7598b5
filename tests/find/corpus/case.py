"""What a program of the corpora is: how it is built, and what the finder must say of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from crowdsafe.find.model import Anomaly, Verdict

__all__ = [
    "BOTH",
    "POSTGRESQL",
    "SQLITE",
    "Built",
    "Case",
    "Expected",
    "aborts",
    "lost",
    "racy",
    "safe",
]

SQLITE = ("sqlite",)
POSTGRESQL = ("postgresql",)
BOTH = SQLITE + POSTGRESQL

Build = Callable[[str], "Built"]


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Built:
    """A program on one database.

    ``setup`` makes tables and rows (once, before anything else); ``close`` gives the program's
    pooled connections back. ``target`` is an ASGI or WSGI app, or None where the operations are
    functions.
    """

    target: Any
    operations: Sequence[str | Callable[..., Any]]
    setup: Callable[[], None]
    login: str | None = None
    headers: tuple[str, ...] = ()
    close: Callable[[], None] = _nothing


@dataclass(frozen=True, slots=True)
class Expected:
    """What may be said of a program's pairs: ``verdicts``, and as names of races none but
    ``anomalies`` and ``also``. A racy program must have a race with one of the ``anomalies``."""

    verdicts: frozenset[Verdict]
    anomalies: frozenset[Anomaly] = frozenset()
    also: frozenset[Anomaly] = frozenset()

    @property
    def racy(self) -> bool:
        return bool(self.anomalies)


def _races(anomalies: Iterable[Anomaly], also: Iterable[Anomaly] = ()) -> Expected:
    verdicts = frozenset(Verdict) - {Verdict.INCONCLUSIVE}
    return Expected(verdicts, frozenset(anomalies), frozenset(also))


def _proven(*, proof: bool = True) -> Expected:
    return Expected(frozenset({Verdict.PROVEN} if proof else {Verdict.PROVEN, Verdict.NOT_FOUND}))


aborts = _races([Anomaly.ABORTS])
"""Nothing is corrupted, but the database turns one of the callers away and the app answers 500."""


lost = _races([Anomaly.LOST_UPDATE])
"""What holds on PostgreSQL is no protection at all here."""


@dataclass(frozen=True, slots=True)
class Case:
    """A program and what is expected of it.

    ``also`` are names that races of other pairs of the same program may have. ``note`` tells of a
    racy program the interleaving that breaks it, of a safe one what holds it together.
    ``sqlite`` says what is expected on SQLite where that is something else.
    """

    name: str
    build: Build
    databases: tuple[str, ...]
    anomalies: frozenset[Anomaly]
    safe: bool
    note: str
    also: frozenset[Anomaly] = frozenset()
    triples: bool = False
    proof: bool = True
    slow: bool = False
    sqlite: Expected | None = field(default=None, repr=False)

    def expected(self, database: str) -> Expected:
        if database == "sqlite" and self.sqlite is not None:
            return self.sqlite
        return _proven(proof=self.proof) if self.safe else _races(self.anomalies, self.also)


def racy(
    name: str,
    *anomalies: Anomaly,
    note: str,
    also: Iterable[Anomaly] = (),
    databases: tuple[str, ...] = BOTH,
    sqlite: Expected | None = None,
    slow: bool = False,
) -> Callable[[Build], Case]:
    """A program whose race must be found, and called by one of these names."""

    def case(build: Build) -> Case:
        return Case(
            name,
            build,
            databases,
            frozenset(anomalies),
            False,
            note,
            also=frozenset(also),
            slow=slow,
            sqlite=sqlite,
        )

    return case


def safe(
    name: str,
    *,
    note: str,
    databases: tuple[str, ...] = BOTH,
    sqlite: Expected | None = None,
    triples: bool = False,
    proof: bool = True,
    slow: bool = False,
) -> Callable[[Build], Case]:
    """A program that looks racy and is not: it must be proven, or where ``proof`` is False (out of
    reach within the budget) at least not be reported."""

    def case(build: Build) -> Case:
        return Case(
            name,
            build,
            databases,
            frozenset(),
            True,
            note,
            triples=triples,
            proof=proof,
            slow=slow,
            sqlite=sqlite,
        )

    return case
