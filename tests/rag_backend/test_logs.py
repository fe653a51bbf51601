"""What a log line is, and what is never in one."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from rag_backend import logs
from rag_backend.notes import begin, notes
from rag_backend.settings import Settings

log = logging.getLogger("tests.logs")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """The process's logging as it was."""
    root, hooks = logging.getLogger(), (sys.excepthook, threading.excepthook)
    before, level = list(root.handlers), root.level
    with warnings.catch_warnings():
        yield
    logging.captureWarnings(False)
    root.handlers[:] = before
    root.setLevel(level)
    sys.excepthook, threading.excepthook = hooks


def settings(**given: Any) -> Settings:
    return Settings(_env_file=None, **given)


def logged(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object() -> None:
    stream = io.StringIO()
    logs.set_up(settings(), stream)
    begin("req_7")
    log.warning("đường %s\nnext", "dài", extra={"fields": {"status": 200}})
    (line,) = logged(stream)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": "tests.logs",
        "message": "đường dài\nnext",
        "id": "req_7",
        "status": 200,
    }


def test_errors_warnings_and_uncaught_ones_are_lines_too() -> None:
    stream = io.StringIO()
    logs.set_up(settings(), stream)
    try:
        raise ValueError("sk-abcdef0123456789")
    except ValueError as error:
        log.exception("it broke")
        sys.excepthook(type(error), error, error.__traceback__)
    thread = threading.Thread(target=lambda: [][1], name="helper")
    thread.start()
    thread.join()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("odd", UserWarning, stacklevel=1)
    broke, ends, helper, odd = logged(stream)
    assert "ValueError" in broke["traceback"]
    assert "abcdef0123" not in stream.getvalue()
    assert ends["level"] == "critical"
    assert "helper" in helper["message"]
    assert odd["logger"] == "py.warnings"


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_secret_of_any_setting(form: str) -> None:
    stream = io.StringIO()
    given = settings(
        log_format=form,
        api_keys="plain-word,other",
        openai_api_key="hunter2hunter2",
        local_llm_api_key="lanlan",
        embedding_api_key="embemb",
        database_url="postgresql://me:p%40ss-db@host/db",
        cache_url="redis://:redispass@host:6379/0",
    )
    secrets = logs.set_up(given, stream)
    secrets.add(["row-secret"])
    hidden = "plain-word other hunter2hunter2 lanlan embemb p%40ss-db p@ss-db redispass row-secret"
    for word in hidden.split():
        log.warning("said %s, and Bearer xyz", word, extra={"fields": {"path": f"/v1/{word}"}})
    log.warning("http://me:elsewhere@host/ sk-proj-zzzz")
    text = stream.getvalue()
    for word in [*hidden.split(), "xyz", "elsewhere", "zzzz"]:
        assert word not in text


def test_a_line_that_cannot_be_formatted_or_written_fails_nobody() -> None:
    stream = io.StringIO()
    logs.set_up(settings(), stream)
    log.warning("%d apples", "no")
    (line,) = logged(stream)
    assert "could not be logged" in line["message"]
    log.warning("odd", extra={"fields": {"text": "\ud800", "thing": object()}})
    stream.close()
    log.warning("nobody reads this")


def test_text_for_people() -> None:
    stream = io.StringIO()
    logs.set_up(settings(log_format="text"), stream)
    begin("req_8")
    log.warning("GET / 200", extra={"fields": {"total_ms": 1.5}})
    assert stream.getvalue().endswith("WARNING tests.logs: GET / 200 total_ms=1.5 id=req_8\n")


def test_auto_is_text_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert not logs.in_json(settings(), Terminal())
    assert logs.in_json(settings(), io.StringIO())
    assert logs.in_json(settings(log_format="json"), Terminal())


def test_notes_hold_what_is_known() -> None:
    told = begin("req_9")
    notes().provider, notes().first_token, notes().route = "local", 0.01234, "local; why"
    assert told.fields() == {
        "provider": "local",
        "first_token_ms": 12.3,
        "route_decision": "local; why",
    }
