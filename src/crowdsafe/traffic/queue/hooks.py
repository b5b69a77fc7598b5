"""What to do when a kind's own ``dropped`` or ``changed`` raises while many jobs are dealt with."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy.orm import Session

from crowdsafe.errors import DatabaseUnavailable, DeadlineExceeded, OutcomeUnknown, Overloaded
from crowdsafe.store.retry import Failure, classify, timed_out

__all__ = ["PUT_OFF_S", "Trial", "tried"]

log = logging.getLogger("crowdsafe.queue")

PUT_OFF_S = 60.0
_NOT_ITS_OWN = (DatabaseUnavailable, DeadlineExceeded, OutcomeUnknown, Overloaded)


@dataclass(slots=True)
class Trial:
    """Whether a block failed."""

    failed: bool = False


@contextmanager
def tried(session: Session, what: str) -> Iterator[Trial]:
    """Run a block in a savepoint: an error of its own undoes it alone, and is logged.

    What the whole transaction has to be run again for (a conflict, a lost connection, a statement
    that was cancelled for its length) is raised.
    """
    trial = Trial()
    try:
        with session.begin_nested():
            yield trial
    except Exception as error:
        if isinstance(error, _NOT_ITS_OWN) or timed_out(error) is not None:
            raise
        if classify(error) is not Failure.FINAL:
            raise
        trial.failed = True
        log.exception("%s: what its kind does with it raised; again in %g s", what, PUT_OFF_S)
