"""Where a server keeps its data: a database address, or a folder with an SQLite file in it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from crowdsafe.errors import ConfigError

__all__ = ["FILE_NAME", "database_url"]

FILE_NAME = "crowdsafe.db"


def database_url(database: str | None, folder: Path) -> str:
    """The given address, or that of the SQLite file in ``folder``, which is made if need be.

    Raises ConfigError for a folder that cannot be made or written to.
    """
    if database is not None:
        return database
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable-"):
            pass
    except OSError as error:
        raise ConfigError(
            f"cannot write to the data folder {os.fspath(folder)!r} ({error.strerror}): "
            "choose another one with --data"
        ) from None
    return f"sqlite:///{(folder / FILE_NAME).resolve()}"
