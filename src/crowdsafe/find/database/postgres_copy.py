"""Makes a throw-away copy of a PostgreSQL database, on the same server, and drops it."""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from crowdsafe.errors import ConfigError

if TYPE_CHECKING:
    import psycopg

__all__ = [
    "Address",
    "connect_side",
    "default_isolation",
    "drop_copy",
    "make_copy",
    "parse_address",
]

_PREFIX = "crowdsafe_find_"
_PASSWORD = re.compile(r"([?&](?:ssl)?password=)[^&]*")
_CONNECT_S = 10
_VERSION_MIN = 130000
_LEFTOVER_S = 3600
_FILE_COPY_BYTES = 256 * 2**20
_LARGE_BYTES = 2**30
_LISTS = frozenset(
    {
        "search_path",
        "temp_tablespaces",
        "session_preload_libraries",
        "shared_preload_libraries",
        "local_preload_libraries",
    }
)
# Restoring joins few keys with large tables: by index, whatever the planner does not know yet.
_SIDE_OPTIONS = (
    "-c default_transaction_isolation=read\\ committed -c default_transaction_read_only=off"
    " -c synchronous_commit=off -c lock_timeout=200ms -c statement_timeout=0"
    " -c idle_in_transaction_session_timeout=0 -c search_path=pg_catalog"
    " -c datestyle=ISO -c timezone=UTC -c jit=off"
    " -c enable_hashjoin=off -c enable_mergejoin=off"
)


@dataclass(frozen=True, slots=True)
class Address:
    """A PostgreSQL database: what libpq needs to connect, and how the user wrote it."""

    url: str
    params: tuple[tuple[str, str], ...]

    @property
    def dbname(self) -> str:
        return dict(self.params)["dbname"]

    @property
    def shown(self) -> str:
        """The URL without its password."""
        parts = urlsplit(self.url)
        url = _PASSWORD.sub(r"\1***", self.url)
        if parts.password is None:
            return url
        user, _, host = parts.netloc.rpartition("@")
        return url.replace(parts.netloc, f"{user.partition(':')[0]}:***@{host}", 1)

    def with_dbname(self, dbname: str) -> Address:
        parts = urlsplit(self.url)
        query = [(k, v) for k, v in parse_qsl(parts.query) if k != "dbname"]
        url = f"{parts.scheme}://{parts.netloc}/{quote(dbname)}"
        url += f"?{urlencode(query)}" if query else ""
        return Address(url, tuple((dict(self.params) | {"dbname": dbname}).items()))


def parse_address(url: str) -> Address:
    """Understand ``postgresql[+driver]://user:password@host:port/name?option=value``."""
    psycopg = _psycopg()
    scheme, _, rest = url.partition("://")
    plain = f"postgresql://{rest}"
    try:
        params = psycopg.conninfo.conninfo_to_dict(plain)
    except psycopg.Error as error:
        raise ConfigError(f"--database {scheme}://… is no PostgreSQL URL: {error}") from error
    text = {name: str(value) for name, value in params.items() if value is not None}
    name = text.get("dbname") or _path_of(plain)
    if not name:
        raise ConfigError("--database names no database: postgresql://host/NAME is what it needs")
    return Address(url, tuple((text | {"dbname": name}).items()))


def _path_of(url: str) -> str:
    return unquote(urlsplit(url).path.lstrip("/"))


def _psycopg() -> Any:
    try:
        import psycopg
    except ImportError as error:
        raise ConfigError(
            "the finder looks into PostgreSQL through psycopg 3, which is not installed: "
            "pip install 'crowdsafe[find,postgres]'"
        ) from error
    return psycopg


def connect_side(address: Address) -> psycopg.Connection[tuple[Any, ...]]:
    """A connection of the finder's own: autocommit, waits at most 200 ms for a lock."""
    driver = _psycopg()
    params: dict[str, Any] = {"connect_timeout": str(_CONNECT_S)} | dict(address.params)
    params["application_name"] = "crowdsafe find"
    params["options"] = f"{params.get('options', '')} {_SIDE_OPTIONS}".strip()
    try:
        connection: psycopg.Connection[tuple[Any, ...]] = driver.connect(**params, autocommit=True)
    except driver.Error as error:
        raise ConfigError(
            f"no connection to {address.shown}: {str(error).strip()}. "
            "Is the server running, and is the URL right?"
        ) from error
    if connection.info.server_version < _VERSION_MIN:
        connection.close()
        raise ConfigError(f"{address.shown} is older than PostgreSQL 13, the oldest that is known")
    return connection


def default_isolation(address: Address) -> str | None:
    """The isolation level of transactions that ask for none; None where it depends on the role."""
    params = {"connect_timeout": str(_CONNECT_S)} | dict(address.params)
    with _psycopg().connect(**params) as connection:
        row = connection.execute(
            "SELECT current_setting('default_transaction_isolation') WHERE NOT EXISTS (SELECT "
            "FROM pg_db_role_setting WHERE setrole <> 0 AND setconfig::text LIKE '%isolation%')"
        ).fetchone()
    return row and str(row[0])


def make_copy(original: Address, notes: list[str]) -> Address:
    """Copy the database by template; ``notes`` gets what the user should know.

    Settings that the database has for itself (ALTER DATABASE ... SET) are copied too. Raises
    ConfigError when others are connected to it, or when the role may not create databases.
    """
    psycopg = _psycopg()
    copy = original.with_dbname(f"{_PREFIX}{int(time.time())}_{secrets.token_hex(4)}")
    with connect_side(_maintenance(original)) as admin:
        _drop_leftovers(admin)
        size = _size(admin, original)
        if size > _LARGE_BYTES:
            notes.append(
                f"the database is large ({size / 2**30:.1f} GiB): copying it takes a while"
            )
        strategy = " STRATEGY FILE_COPY" if _copies_files(admin, size) else ""
        try:
            admin.execute(
                psycopg.sql.SQL("CREATE DATABASE {} TEMPLATE {}" + strategy).format(
                    psycopg.sql.Identifier(copy.dbname), psycopg.sql.Identifier(original.dbname)
                )
            )
        except psycopg.errors.ObjectInUse as error:
            raise ConfigError(_in_use(admin, original)) from error
        except psycopg.errors.InsufficientPrivilege as error:
            raise ConfigError(
                f"the role of {original.shown} may not copy the database "
                f"({error.diag.message_primary}): ALTER ROLE ... CREATEDB, or give a URL of a "
                "role that may, or use --in-place to work on the database itself"
            ) from error
        except psycopg.Error as error:
            raise ConfigError(
                f"{original.shown} cannot be copied: {str(error).strip()}; --in-place works on "
                "the database itself"
            ) from error
        _copy_settings(admin, original.dbname, copy.dbname)
        _tune(admin, copy.dbname, notes)
    return copy


def drop_copy(copy: Address) -> None:
    """Drop it, whoever is still connected."""
    psycopg = _psycopg()
    with connect_side(_maintenance(copy)) as admin:
        admin.execute(
            psycopg.sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(
                psycopg.sql.Identifier(copy.dbname)
            )
        )


def _maintenance(address: Address) -> Address:
    """Any other database of the server, to create and drop this one from."""
    return address.with_dbname("template1" if address.dbname == "postgres" else "postgres")


def _size(admin: Any, original: Address) -> int:
    row = admin.execute(
        "SELECT pg_database_size(oid) FROM pg_database WHERE datname = %s"
        " AND has_database_privilege(oid, 'CONNECT')",
        [original.dbname],
    ).fetchone()
    if row is None:
        raise ConfigError(
            f"there is no database {original.dbname!r} at {original.shown} that you may "
            "connect to: create it, and its tables, first"
        )
    return int(row[0])


def _copies_files(admin: Any, size: int) -> bool:
    return size > _FILE_COPY_BYTES and admin.info.server_version >= 150000


def _in_use(admin: Any, original: Address) -> str:
    rows = admin.execute(
        "SELECT pid, coalesce(nullif(application_name, ''), usename, backend_type) FROM"
        " pg_stat_activity WHERE datname = %s ORDER BY pid LIMIT 5",
        [original.dbname],
    ).fetchall()
    who = ", ".join(f"{name} (pid {pid})" for pid, name in rows) or "another session"
    return (
        f"{original.shown} cannot be copied while others are connected to it: {who}. Stop the "
        "application (and close psql), or use --in-place to work on the database itself"
    )


def _drop_leftovers(admin: Any) -> None:
    """Drop copies that a finder which was killed left behind more than an hour ago."""
    psycopg = _psycopg()
    rows = admin.execute(
        "SELECT d.datname FROM pg_database d WHERE d.datname ~ %s"
        " AND NOT EXISTS (SELECT 1 FROM pg_stat_activity a WHERE a.datid = d.oid) LIMIT 20",
        [f"^{_PREFIX}[0-9]+_"],
    ).fetchall()
    for (name,) in rows:
        made = int(name.removeprefix(_PREFIX).partition("_")[0])
        if time.time() - made > _LEFTOVER_S:
            with contextlib.suppress(psycopg.Error):
                admin.execute(
                    psycopg.sql.SQL("DROP DATABASE IF EXISTS {}").format(
                        psycopg.sql.Identifier(name)
                    )
                )


def _copy_settings(admin: Any, original: str, copy: str) -> None:
    """What ALTER DATABASE (and ALTER ROLE IN DATABASE) SET: a template does not carry it."""
    rows = admin.execute(
        "SELECT r.rolname, unnest(s.setconfig) FROM pg_db_role_setting s"
        " JOIN pg_database d ON d.oid = s.setdatabase"
        " LEFT JOIN pg_roles r ON r.oid = s.setrole WHERE d.datname = %s",
        [original],
    ).fetchall()
    for role, setting in rows:
        name, _, value = setting.partition("=")
        _set(admin, copy, name, value, role)


def _set(admin: Any, database: str, name: str, value: str, role: str | None = None) -> bool:
    """One setting of a database; False where the role may not."""
    psycopg = _psycopg()
    sql = psycopg.sql
    where = sql.SQL("DATABASE {}").format(sql.Identifier(database))
    if role is not None:
        where = sql.SQL("ROLE {} IN ").format(sql.Identifier(role)) + where
    written = sql.SQL(value) if name in _LISTS and value else sql.Literal(value)
    try:
        admin.execute(
            sql.SQL("ALTER {} SET {} TO {}").format(
                where, sql.Identifier(*name.split(".")), written
            )
        )
    except psycopg.errors.InsufficientPrivilege:
        return False
    return True


def _tune(admin: Any, copy: str, notes: list[str]) -> None:
    """Deadlocks are found after 10 ms instead of 1 s, commits do not wait for the disk."""
    _set(admin, copy, "synchronous_commit", "off")
    if not _set(admin, copy, "deadlock_timeout", "10ms"):
        notes.append(
            "only a superuser may shorten deadlock_timeout: each deadlock takes a second to show"
        )
