"""Removes the working copy that a process which died could not remove itself."""

from __future__ import annotations

import shutil
from pathlib import Path

from crowdsafe.errors import ConfigError

__all__ = ["discard"]

_FOLDER = "crowdsafe-find-"
_DATABASE = "crowdsafe_find_"


def discard(working_url: str) -> None:
    """Remove that copy, if it is one by its name. What cannot be removed now is left to the next
    run, which looks for leftovers."""
    if working_url.startswith("sqlite:///"):
        folder = Path(working_url.removeprefix("sqlite:///").partition("?")[0]).parent
        if folder.name.startswith(_FOLDER):
            shutil.rmtree(folder, ignore_errors=True)
        return
    from crowdsafe.find.database.postgres_copy import drop_copy, parse_address

    try:
        copy = parse_address(working_url)
        if copy.dbname.startswith(_DATABASE):
            drop_copy(copy)
    except ConfigError:
        return  # the server has gone too
