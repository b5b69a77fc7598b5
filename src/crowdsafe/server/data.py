"""Where a server keeps its data: a database address, or a folder with an SQLite file in it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from crowdsafe.errors import ConfigError

__all__ = ["FILE_NAME", "database_url"]

FILE_NAME = "crowdsafe.db"


def database_url(database: str | None, folder: Path) -> str:
    """The given address, or that of the SQLite file in ``folder``, which is made if need be.

    A new folder is for its owner only: the database holds password hashes and the secret that
    signs tokens. Raises ConfigError for an address that cannot be read, and for a folder that
    cannot be made or written to.
    """
    if database is not None:
        try:
            make_url(database)
        except ArgumentError:
            pass  # the store says what it takes
        except ValueError:
            raise ConfigError(
                "the port in the database URL is not a number: "
                "write postgresql://user:password@host:5432/name"
            ) from None
        return database
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable-"):
            pass
    except OSError as error:
        raise ConfigError(
            f"cannot write to the data folder {os.fspath(folder)!r} ({error.strerror}): "
            "choose another one with --data"
        ) from None
    return f"sqlite:///{(folder / FILE_NAME).resolve()}"
