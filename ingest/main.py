"""`python -m ingest`: documents into a backend, over HTTP.

Exit status: 0 all is well, 1 a file failed or the backend went away, 2 the command cannot be
carried out, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import unicodedata
from collections.abc import Sequence
from functools import partial
from io import TextIOWrapper
from types import FrameType
from typing import NoReturn

from ingest import interrupted
from ingest.missing import Installed

with Installed("ingest"):
    from ingest import commands
    from ingest.backend import connect
    from ingest.client import Client, ConnectionLost
    from ingest.display import Report
    from ingest.errors import CommandError
    from ingest.folder import Digests, printable, roots_of
    from ingest.settings import DEFAULT_PORT, load_settings
    from ingest.watching import changes

DEFAULT_STORE = "default"
COMMANDS = ("add", "list", "remove", "rebuild")
_WITH_VALUE = ("--store", "--url", "--api-key")
_EPILOG = f"""\
Exit status: 0 all is well, also where a folder has no file of a known format (which is
said); 1 a file failed or the backend went away; 2 the command cannot be carried out;
130 interrupted.

A file or folder that is itself called `list` is given as ./list.

RAG_BACKEND_URL and RAG_BACKEND_API_KEY, from the environment or .env, stand in for
--url and --api-key. Without any URL, this machine's port PORT is used (from the
environment or .env, else {DEFAULT_PORT}), and where no backend answers there, one is
started for the duration."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status and never raises for what a user can meet."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a console that cannot show ế must not end the run
            stream.reconfigure(errors="backslashreplace")
    try:
        interrupted.listen()
        options = _parse(sys.argv[1:] if arguments is None else arguments)
        for name in ("SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), _terminated)
        return _run(options)
    except CommandError as error:
        return _complain(str(error), error.exit_status)
    except KeyboardInterrupt:
        return _complain(
            "interrupted; running the same command again continues", interrupted.STATUS
        )
    except BrokenPipeError:  # `| head`: nobody reads any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(options: argparse.Namespace) -> int:
    settings = load_settings(options.url, options.api_key)
    store = unicodedata.normalize("NFC", options.store).strip()
    if not store:
        raise CommandError("--store must not be empty")
    if options.command == "add":
        roots_of(options.paths)  # a wrong path must not first start a backend
    report = Report()
    with connect(settings, report) as client:
        match options.command:
            case "list":
                return commands.list_files(client, store, report)
            case "remove":
                return commands.remove(client, store, options.targets, report)
            case "rebuild":
                return commands.rebuild(client, store, report, every=options.all)
            case _:
                return _add(client, store, options)


def _add(client: Client, store: str, options: argparse.Namespace) -> int:
    digests = Digests()
    # The roots are looked at again each time: one that is gone must not count as emptied.
    run = partial(
        commands.add,
        client,
        store,
        delete_missing=options.delete_missing,
        delete_all=options.delete_all,
        digests=digests,
        told=set(),
    )
    status = run(roots_of(options.paths), Report())
    if not options.watch:
        return status
    Report().say("Watching for changes; Ctrl-C ends.")
    retry, complaint = threading.Event(), ""
    try:
        for _ in changes(roots_of(options.paths), retry=retry):
            report = Report(quiet=True)
            try:
                status = run(roots_of(options.paths), report)
                complaint = ""
            except CommandError as error:
                if str(error) != complaint:
                    complaint = str(error)
                    status = _complain(complaint, error.exit_status)
                if isinstance(error, ConnectionLost):
                    retry.set()
    except KeyboardInterrupt:
        return status
    return status


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Options; `add` is understood where no command is named."""
    given = list(arguments)
    at = _first_positional(given)
    command = given.pop(at) if at is not None and given[at] in COMMANDS else "add"
    asks_help = at is None and any(option in ("-h", "--help") for option in given)
    return _parser().parse_args(["--help"] if asks_help else [command, *given])


def _first_positional(arguments: Sequence[str]) -> int | None:
    skip = False
    for at, argument in enumerate(arguments):
        if skip:
            skip = False
        elif argument in _WITH_VALUE:
            skip = True
        elif argument == "--":
            return None
        elif not argument.startswith("-") or argument == "-":
            return at
    return None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message} (see python -m ingest --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m ingest",
        usage="python -m ingest [add] PATH... [options]\n"
        "       python -m ingest {list,remove,rebuild} ...",
        description="Put documents into a vector store of the backend, and keep it up to date.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, summary: str, usage: str | None = None) -> argparse.ArgumentParser:
        made = subparsers.add_parser(
            name, prog=f"python -m ingest {name}", help=summary, description=summary, usage=usage
        )
        made.add_argument("--store", default=DEFAULT_STORE, metavar="NAME", help="vector store")
        made.add_argument("--url", help="the backend's address (default: this machine, see below)")
        made.add_argument("--api-key", metavar="KEY", help="one of the backend's API_KEYS")
        return made

    add = command(
        "add",
        "send new and changed files (the default)",
        "python -m ingest [add] PATH... [options]",
    )
    add.add_argument("paths", nargs="+", metavar="PATH", help="file or folder")
    add.add_argument(
        "--delete-missing",
        action="store_true",
        help="also remove files from the store that are gone from these folders",
    )
    add.add_argument(
        "--delete-all",
        action="store_true",
        help="the same, even if that is everything the store has from a folder",
    )
    add.add_argument("--watch", action="store_true", help="go on, with every change on disk")
    command("list", "show the files of a store")
    command("remove", "delete files from a store").add_argument(
        "targets", nargs="+", metavar="FILE", help="name, path, folder or id, as `list` shows it"
    )
    command("rebuild", "have the backend make a store's indexes anew").add_argument(
        "--all", action="store_true", help="of every store"
    )
    return parser


def _terminated(_number: int, _frame: FrameType | None) -> NoReturn:
    """SIGTERM ends a run as Ctrl-C does: a backend started for it must be stopped."""
    raise KeyboardInterrupt


def _complain(message: str, status: int) -> int:
    print(f"ingest: {printable(message)}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
