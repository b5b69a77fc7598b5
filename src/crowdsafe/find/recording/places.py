"""Which database the code under test uses, told by the connections that it opens."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from crowdsafe.find.gates.redirect import Redirect, sqlite_file

__all__ = ["Everywhere", "Places"]


class Places:
    """``latest`` is the URL of the database that was connected to last, None before any was;
    ``in_memory`` whether that was one that only its own connection sees."""

    def __init__(self) -> None:
        self.latest: str | None = None
        self.in_memory = False

    def forget(self) -> None:
        self.latest, self.in_memory = None, False


class Everywhere(Redirect):
    """Takes each database for the one that was named, sends nobody elsewhere, and notes it."""

    def __init__(self, dialect: str, places: Places) -> None:
        super().__init__(dialect, "", "")
        self._places = places
        self._connected: dict[str, str] = {}

    @property
    def in_place(self) -> bool:
        return True

    def sqlite_names_original(
        self, path: str | bytes | os.PathLike[Any], uri: bool = False
    ) -> bool:
        return self.sqlite_names(path, uri)

    def sqlite_names(self, path: str | bytes | os.PathLike[Any], uri: bool = False) -> bool:
        file = sqlite_file(path, uri)
        if file is None:
            self._places.in_memory = True
            return False
        self.original = self.working = os.path.realpath(file)
        self._places.latest, self._places.in_memory = f"sqlite:///{self.working}", False
        return True

    def sqlite_path(
        self, path: str | bytes | os.PathLike[Any], uri: bool = False
    ) -> str | bytes | os.PathLike[Any]:
        return path

    def postgres_names_original(self, params: Mapping[str, Any]) -> bool:
        """What an open connection tells of itself lacks the name and the password: those are of
        the connect to the same place."""
        url = _postgres_url(params)
        place = url.rpartition("@")[2]
        if params.get("user"):
            self._connected[place] = url
        self._places.latest, self._places.in_memory = self._connected.get(place, url), False
        return True

    def postgres(self, params: Mapping[str, Any]) -> dict[str, Any]:
        self.postgres_names_original(params)
        return dict(params)


def _postgres_url(params: Mapping[str, Any]) -> str:
    """libpq's parameters as a URL; what is missing is left to libpq's environment variables."""
    user = quote(str(params.get("user") or os.environ.get("PGUSER") or ""), safe="")
    password = params.get("password") or os.environ.get("PGPASSWORD")
    if password:
        user += ":" + quote(str(password), safe="")
    host = str(params.get("host") or os.environ.get("PGHOST") or "")
    port = str(params.get("port") or os.environ.get("PGPORT") or 5432)
    name = str(params.get("dbname") or params.get("database") or os.environ.get("PGDATABASE") or "")
    if host.startswith("/"):
        return f"postgresql://{user}@/{quote(name)}?{urlencode({'host': host, 'port': port})}"
    return f"postgresql://{user}@{host}:{port}/{quote(name)}"
