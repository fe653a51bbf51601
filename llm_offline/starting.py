"""From the command line to a server: settings, socket, server; loading happens behind it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

import uvicorn

from llm_offline.app import Parts, create_app
from llm_offline.errors import StartError
from llm_offline.listening import listen
from llm_offline.settings import (
    Settings,
    describe,
    flag,
    load_settings,
    unknown_names,
    variable,
)

log = logging.getLogger("llm_offline")

GRACE = 10
"""Seconds that streams have to send their last event after the signal to stop."""


def start(arguments: Sequence[str] | None = None) -> int:
    """See `main.main`."""
    flags = {name: value for name, value in vars(_parse(arguments)).items() if value is not None}
    _set_up_logging()
    try:
        settings = load_settings(**flags)
        for name, value in describe(settings):
            log.info("%s=%s", name, value)
        for name in unknown_names():
            log.warning(".env: %s is not a setting of this program: a typing error?", name)
        listener = listen(settings.host, settings.port)
        return _serve(settings, listener)
    except StartError as error:
        return _fail(error)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="python -m llm_offline.main",
        usage="%(prog)s [--FLAG VALUE] ...",
        description="Serve one Hugging Face model over OpenAI's API. A flag wins over its "
        "variable, which wins over .env in the working directory.",
    )
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f"; default {field.default}"
        described = f"{field.description} ({variable(name)}{default})".replace("%", "%%")
        # A switch may stand alone.
        more: dict[str, Any] = {}
        if field.annotation is bool:
            more = {"nargs": "?", "const": "true"}
        parser.add_argument(flag(name), dest=name, metavar="VALUE", help=described, **more)
    return parser.parse_args(arguments)


class _Parser(argparse.ArgumentParser):
    """What it cannot read is one line, with the flag that may have been meant."""

    def error(self, message: str) -> NoReturn:
        """See `argparse.ArgumentParser.error`."""
        known = [name for action in self._actions for name in action.option_strings]
        unknown = message.split() if message.startswith("unrecognized") else []
        given = [word.partition("=")[0] for word in unknown if word.startswith("--")]
        meant = [near for word in given for near in get_close_matches(word, known, 1)]
        hint = f"; did you mean {' '.join(meant)}?" if meant else ""
        self.exit(2, f"llm_offline: {message}{hint} (--help lists all flags)\n")


def _set_up_logging() -> None:
    # Names and questions are Unicode; a pipe's or Windows console's own encoding may not be.
    for out in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            out.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    log.setLevel(logging.INFO)
    # It has a handler of its own: its warnings would be shown twice.
    logging.getLogger("huggingface_hub").propagate = False


def _serve(settings: Settings, listener: socket.socket) -> int:
    app, parts = create_app(settings)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=GRACE,
        # Past these the queue's own limit answers; a keep-alive comment comes every 15 s.
        timeout_keep_alive=75,
        h11_max_incomplete_event_size=64 * 1024,
    )
    server = _Server(config, on_stop=parts.stop)
    parts.serving.on_failure = server.give_up
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    log.info("listening on http://%s:%s; loading %s", shown, port, settings.model)
    if settings.api_key is None and host not in ("127.0.0.1", "::1"):
        log.warning("anyone who reaches this address may use it: set LLM_OFFLINE_API_KEY")
    # uvicorn's choice of a loop (uvloop where there is one) holds only where it is asked for.
    with listener, asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(server.serve(sockets=[listener]))
    return _leave(parts)


class _Server(uvicorn.Server):
    """Uvicorn, but a signal ends streams with an event and the process with status 0."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    def give_up(self) -> None:
        """End without a signal."""
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, without raising the signal again afterwards: that would kill us."""
        signals = [signal.SIGINT, signal.SIGTERM]
        if sys.platform == "win32":
            signals.append(signal.SIGBREAK)
        before = {number: signal.signal(number, self.handle_exit) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the work first, so that what waits for it can be answered."""
        self._on_stop()
        await super().shutdown(sockets)


def _leave(parts: Parts) -> int:
    status = 0
    if parts.serving.failure is not None:
        status = _fail(parts.serving.failure)
    else:
        log.info("stopped")
    if parts.has_threads():
        # A thread inside torch cannot be ended, and Python's own exit would crash in it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _fail(error: StartError) -> int:
    print(f"llm_offline: {error}", file=sys.stderr)
    return 1
