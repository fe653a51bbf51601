"""`python -m rag_backend.main`: settings, port, data directory, then the server."""

from __future__ import annotations

from ingest import interrupted

if __name__ == "__main__":
    interrupted.end_quietly()  # before all else: the imports below take a while

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ingest.missing import Installed
from rag_backend.errors import RAGError, StartError

_INSTALLED = Installed("rag_backend.main", "backend")
with _INSTALLED:
    from rag_backend.logs import Secrets, in_json, set_up
    from rag_backend.masking import without_credentials
    from rag_backend.settings import Settings, load_settings

_FOUND = "http://localhost:30000"
"""Where `python -m ingest` looks by itself."""

log = logging.getLogger("rag_backend")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the backend until it is told to stop; the exit status."""
    try:
        settings = load_settings(**_flags(arguments))
    except RAGError as error:
        print(without_credentials(f"rag_backend: {error}"), file=sys.stderr)
        return 1
    secrets = set_up(settings)
    _quiet()
    try:
        with _INSTALLED:
            return _run(settings, secrets)
    except RAGError as error:
        if in_json(settings):
            log.error("%s", error)
        else:
            print(f"rag_backend: {secrets.masked(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0  # told to stop while it was starting: nothing was left open


def _flags(arguments: Sequence[str] | None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        prog="python -m rag_backend.main",
        description="The RAG backend. Everything is set by environment variables or .env; "
        "see .env.example.",
    )
    parser.add_argument("--host", help="address to listen on (HOST)")
    parser.add_argument("--port", help="port to listen on (PORT)")
    given = vars(parser.parse_args(arguments))
    return {name: value for name, value in given.items() if value is not None}


def _quiet() -> None:
    # Nothing of ours draws progress bars into a server's log.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")


def _run(settings: Settings, secrets: Secrets) -> int:
    # A signal during the start unwinds what was opened; from `_serve` on, the server hears it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Imported here: `--help` and a bad setting need none of it.
    from rag_backend.exposure import check_exposure
    from rag_backend.listening import bind
    from rag_backend.ownership import owned
    from rag_backend.startup import announce_settings

    announce_settings(settings, _say)
    check_exposure(settings)
    interrupted.listen()  # from here on there is something to close
    os.umask(0o077)  # what is stored here is confidential: this user's alone
    listener = bind(settings.host, settings.port)
    try:
        with (
            owned(settings.data_dir, settings.port),
            # uvicorn's choice of a loop (uvloop where there is one) holds only where it starts it.
            asyncio.Runner(loop_factory=_loop_factory()) as runner,
        ):
            return runner.run(_serve(settings, secrets, listener))
    finally:
        listener.close()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, which halves what the event loop costs; None (Python's own) where it is absent."""
    try:
        import uvloop
    except ModuleNotFoundError:  # there is none for Windows
        return None
    return uvloop.new_event_loop


async def _serve(settings: Settings, secrets: Secrets, listener: socket.socket) -> int:
    import uvicorn

    from rag_backend.api.parts import Parts
    from rag_backend.app import create_app
    from rag_backend.startup import announce_dependencies

    failures: list[StartError] = []
    reports: set[asyncio.Task[None]] = set()

    async def report(parts: Parts) -> None:
        try:
            await announce_dependencies(parts, _say)
            await parts.encoder.wait()
            # What was loaded stays: the collector would walk through all of it every few requests.
            gc.collect()
            gc.freeze()
            url = url_of(settings)
            _say(f"Ready: {url} (page), {url}/docs (API)")
            _say(how_to_add(settings))
        except StartError as error:
            failures.append(error)
            server.should_exit = True

    def started(parts: Parts) -> None:
        registry = parts.registry
        secrets.add(registry.row(name).secret for name in registry.names())
        reports.add(asyncio.create_task(report(parts)))

    app = create_app(settings, started)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
        server_header=False,
        # Entered below: uvicorn would print the traceback of a start that fails.
        lifespan="off",
    )
    server = uvicorn.Server(config)

    def stop(*_: object) -> None:
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        # While it serves, uvicorn handles these itself; then it raises them again for whoever
        # handled them before.
        signal.signal(number, stop)
    async with app.router.lifespan_context(app):
        await server.serve(sockets=[listener])
        for task in reports:
            task.cancel()
        await asyncio.gather(*reports, return_exceptions=True)
    if failures:
        raise failures[0]
    return 0


def url_of(settings: Settings) -> str:
    """Where a person on this machine finds the backend."""
    host = settings.host
    if host in ("0.0.0.0", "::", "127.0.0.1"):  # noqa: S104
        host = "localhost"
    elif ":" in host:  # IPv6; a zone's % is written as RFC 6874 has it
        host = f"[{host.replace('%', '%25')}]"
    return f"http://{host}:{settings.port}"


def how_to_add(settings: Settings) -> str:
    """The command that adds documents, with all that it needs here."""
    url = url_of(settings)
    command = "python -m ingest PATH"
    if url != _FOUND:
        command += f" --url {url}"
    if settings.api_keys:
        command += " --api-key KEY   (KEY: one of API_KEYS that may write)"
    return f"Add documents: {command}"


def _say(line: str) -> None:
    print(without_credentials(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
