"""A process that writes notes until it is killed, and prints each one that was acknowledged.

Run as ``python -m tests.store.writer URL NAME COUNT``.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from tests.store.models import note

from crowdsafe import Settings, Store

THREADS = 4


def main(url: str, name: str, count: int) -> None:
    with (
        Store(url, Settings(deadline_s=60)) as store,
        ThreadPoolExecutor(THREADS) as threads,
    ):

        def write(number: int) -> None:
            text = f"{name}-{number}"
            store.write(note, text)
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()

        list(threads.map(write, range(count)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
