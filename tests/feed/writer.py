"""A process that writes rows with an event each, and numbers them, until it is killed.

`python -m tests.feed.writer URL NAME`. Row and event are one write: so after a kill the table
`written` says which events must be in the feed.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from typing import Any

from sqlalchemy import Integer, MetaData, String, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from crowdsafe.feed import number_events, publish
from crowdsafe.store import Store, write


class Base(DeclarativeBase):
    metadata = MetaData()


class Written(Base):
    __tablename__ = "written"

    writer: Mapped[str] = mapped_column(String(20), primary_key=True)
    n: Mapped[int] = mapped_column(Integer, primary_key=True)


@write(isolation="read committed")
def write_next(session: Session, writer: str, pause_s: float) -> int:
    """Row and event, with a pause in between or after, so that the order of inserts is mixed."""
    last = session.scalar(select(func.max(Written.n)).where(Written.writer == writer)) or 0
    session.add(Written(writer=writer, n=last + 1))
    publish(session, "news", "written", {"writer": writer, "n": last + 1}, key=writer)
    time.sleep(pause_s)
    return last + 1


def _loop(work: Any, *args: Any) -> None:
    while True:
        work(*args)


def main(url: str, name: str) -> None:
    store = Store(url)
    chance = random.Random()
    threading.Thread(target=_loop, args=(store.write, number_events, 5), daemon=True).start()
    lanes = [f"{name}.{n}" for n in range(3)]

    def work(lane: str) -> None:
        store.write(write_next, lane, chance.random() * 0.003)

    for lane in lanes[1:]:
        threading.Thread(target=_loop, args=(work, lane), daemon=True).start()
    print("ready", flush=True)
    _loop(work, lanes[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
