"""The command line: ``serve``, ``worker`` and ``user add``. Parses; holds no logic."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from crowdsafe.errors import CrowdsafeError, InvalidInput
from crowdsafe.find.command import add_find, add_replay

__all__ = ["main", "worker"]

_EXIT_USAGE = 2
_FIND_NEEDS = {"sqlglot", "rich"}
_EXIT_INTERRUPTED = 130
_PASSWORD_CHARS_READ_MAX = 10_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code: 0 done, 1 refused, 2 wrong use or configuration."""
    options = _parser().parse_args(argv)
    _log_to_stderr()
    try:
        code: int = options.run(options)
    except CrowdsafeError as error:
        return _complain(" ".join(error.message.split()))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("crowdsafe"):
            raise
        extra = "find" if error.name in _FIND_NEEDS else "demo"
        return _complain(f"{error.name} is not installed: pip install 'crowdsafe[{extra}]'")
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        return _complain(f"the database refused: {reason}")
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED
    return code


def worker() -> int:
    """What the worker processes of ``serve --workers`` run."""
    _log_to_stderr()
    from crowdsafe.server.serving import run_worker

    try:
        return _quickly(run_worker())
    except CrowdsafeError as error:
        return _complain(" ".join(error.message.split()))


def _serve(options: argparse.Namespace) -> int:
    from crowdsafe.server import serving
    from crowdsafe.server.app import ServerSettings, prepare

    settings = ServerSettings(
        database=_database(options.database, options.data),
        demo=options.demo,
        valkey=options.valkey,
        trusted_proxies=options.trusted_proxy,
        jobs=not options.no_jobs,
    )
    with serving.bind(options.host, options.port) as listener:
        prepare(settings)
        _announce(options, listener.getsockname()[1])
        if options.workers == 1:
            return _quickly(serving.run_here(settings, listener))
        return serving.run_workers(settings, listener, options.workers)


def _work(options: argparse.Namespace) -> int:
    from crowdsafe.server.app import ServerSettings, prepare
    from crowdsafe.server.working import work

    settings = ServerSettings(
        database=_database(options.database, options.data),
        demo=options.demo,
        valkey=options.valkey,
    )
    prepare(settings)
    print("crowdsafe does jobs  (Ctrl-C ends it)", flush=True)
    return _quickly(work(settings))


def _announce(options: argparse.Namespace, port: int) -> None:
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(options.host, options.host)  # noqa: S104
    shown = f"[{shown}]" if ":" in shown else shown
    print(f"crowdsafe is at http://{shown}:{port}  (Ctrl-C ends it)")
    if options.demo:
        from crowdsafe.identity.demo import DEMO_USERS, demo_password

        print(f"Demo logins, all with the password {demo_password()!r}:")
        for user in DEMO_USERS:
            print(f"  {user.username:<20} {user.name} ({user.role})")
    sys.stdout.flush()


def _user_add(options: argparse.Namespace) -> int:
    from crowdsafe.identity.admin import create_user

    user = create_user(
        _database(options.database, options.data),
        username=options.username,
        name=options.name or options.username,
        roles=options.role,
        read_password=lambda: _read_password(from_stdin=options.password_stdin),
    )
    print(f"added {user.username} ({user.name}): {', '.join(sorted(user.roles))}")
    return 0


def _read_password(*, from_stdin: bool) -> str:
    if sys.stdin is None:  # closed by whoever started this
        raise InvalidInput("standard input is closed: write the password to it")
    if from_stdin or not sys.stdin.isatty():
        try:
            line = sys.stdin.readline(_PASSWORD_CHARS_READ_MAX)
            line.encode()
        except UnicodeError:
            raise InvalidInput("the password on standard input is not valid text") from None
        return line.rstrip("\r\n")
    import getpass

    first = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != first:
        raise InvalidInput("the two passwords differ: run the command again")
    return first


def _database(database: str | None, data: Path) -> str:
    from crowdsafe.server.data import database_url

    return database_url(database, data)


def _quickly(code: int) -> int:
    """Spare the interpreter its last look for garbage: a large process stops a second sooner."""
    gc.freeze()
    return code


def _complain(message: str) -> int:
    print(f"crowdsafe: {message}", file=sys.stderr)
    return _EXIT_USAGE


def _log_to_stderr() -> None:
    wanted = os.environ.get("CROWDSAFE_LOG_LEVEL", "").upper()
    logging.basicConfig(
        level=logging.getLevelNamesMapping().get(wanted, logging.WARNING),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="crowdsafe", description="Makes a Python web backend safe for a crowd."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument(
        "--database",
        metavar="URL",
        help="sqlite:///file.db or postgresql://user:password@host/name "
        "(default: an SQLite file in the data folder)",
    )
    where.add_argument(
        "--data",
        type=Path,
        default=Path("crowdsafe-data"),
        metavar="DIR",
        help="folder for what the server stores (default: ./crowdsafe-data)",
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--valkey",
        metavar="URL",
        help="valkey://host:6379/0 for rate limits and breakers that several machines share "
        "(default: the database)",
    )
    shared.add_argument("--demo", action="store_true", help="add demo logins and demo data")
    _add_serve(commands, [where, shared])
    _add_worker(commands, [where, shared])
    _add_user(commands, where)
    add_find(commands)
    add_replay(commands)
    return parser


def _add_serve(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    parents: list[argparse.ArgumentParser],
) -> None:
    serve = commands.add_parser("serve", parents=parents, help="run the systems on one address")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    serve.add_argument("--port", type=_port, default=8000, help="port; 0 takes any (%(default)s)")
    serve.add_argument("--workers", type=_workers, default=1, metavar="N", help="processes (1)")
    serve.add_argument(
        "--trusted-proxy",
        action="append",
        default=[],
        metavar="NETWORK",
        help="whose X-Forwarded-For is believed, such as 10.0.0.0/8; may be given several times "
        "(default: nobody's)",
    )
    serve.add_argument(
        "--no-jobs", action="store_true", help="leave the jobs to `crowdsafe worker`"
    )
    serve.set_defaults(run=_serve)


def _add_worker(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    parents: list[argparse.ArgumentParser],
) -> None:
    work = commands.add_parser(
        "worker", parents=parents, help="do jobs beside the servers, on this or another machine"
    )
    work.set_defaults(run=_work)


def _add_user(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    where: argparse.ArgumentParser,
) -> None:
    user = commands.add_parser("user", help="manage logins")
    actions = user.add_subparsers(title="actions", required=True, metavar="ACTION")
    add = actions.add_parser("add", parents=[where], help="add a login")
    add.add_argument("username")
    add.add_argument("--role", action="append", required=True, help="may be given several times")
    add.add_argument("--name", help="full name, as others see it")
    add.add_argument(
        "--password-stdin", action="store_true", help="read the password from standard input"
    )
    add.set_defaults(run=_user_add)


def _port(text: str) -> int:
    return _number(text, 0, 65535)


def _workers(text: str) -> int:
    return _number(text, 1, 64)


def _number(text: str, least: int, most: int) -> int:
    if not text.isascii() or not text.isdigit() or not least <= int(text[:9]) <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
