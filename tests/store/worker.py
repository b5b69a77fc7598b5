"""A process that writes until it is killed, and says of each write when it was acknowledged.

`python -m tests.store.worker URL NAME`. Each write is two rows that belong together: a note with
the writer's name and its number, and one more on the account.
"""

from __future__ import annotations

import sys
import threading

from sqlalchemy.orm import Session
from tests.store.models import deposit, note

from crowdsafe import Store

THREADS = 3


def both(session: Session, text: str) -> None:
    note(session, text)
    deposit(session, 1)


def main(url: str, name: str) -> None:
    store = Store(url)
    speaking = threading.Lock()

    def loop(thread: int) -> None:
        n = 0
        while True:
            store.write(both, f"{name}-{thread}-{n}", lane="notes")
            with speaking:
                sys.stdout.write(f"{name}-{thread}-{n}\n")
                sys.stdout.flush()
            n += 1

    for thread in range(1, THREADS):
        threading.Thread(target=loop, args=(thread,), daemon=True).start()
    loop(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
