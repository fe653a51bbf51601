"""How the server starts, fails to start, and ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from llm_offline.starting import start
from tests.llm_offline.fake_hub import fake_hub
from tests.llm_offline.processes import PATIENCE, free_port, server

HELLO = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


def _last_line(output: str) -> str:
    assert "Traceback" not in output
    return output.strip().splitlines()[-1]


def test_help_does_not_import_torch() -> None:
    script = (
        "import sys; from llm_offline.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "--max-context" in run.stdout
    assert run.stdout.strip().endswith("[]")


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--max-contxt", "5"], "--max-contxt 5; did you mean --max-context? (--help lists all"),
        (["--max-contxt=5"], "--max-contxt=5; did you mean --max-context? (--help lists all"),
        (["extra"], "unrecognized arguments: extra (--help lists all flags)"),
        (["--model"], "argument --model: expected one argument (--help lists all flags)"),
    ],
)
def test_a_flag_that_is_none_is_one_line(
    flags: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        start(flags)
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert line in told
    assert told.startswith("llm_offline: ")
    assert told.count("\n") == 1


def test_a_bad_value_stops_the_start(tmp_path: Path) -> None:
    with server(tmp_path, LLM_OFFLINE_DTYPE="int3") as process:
        assert process.wait() == 1
        assert _last_line(process.output()).startswith("llm_offline: LLM_OFFLINE_DTYPE='int3' is")


def test_a_port_in_use_names_who_uses_it(tmp_path: Path) -> None:
    port = free_port()
    holder = subprocess.Popen(
        [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PYTHONUNBUFFERED": "1"},
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()  # it says so once it listens
        with server(tmp_path, port=port) as process:
            assert process.wait() == 1
            line = _last_line(process.output())
        assert f"port {port} is in use by" in line
        assert f"-m http.server (process {holder.pid})" in line
    finally:
        holder.kill()
        holder.communicate()


def test_a_folder_that_is_not_a_model(tmp_path: Path) -> None:
    with server(tmp_path, "--model", str(tmp_path)) as process:
        assert process.wait() == 1
        assert "is not a model: it has no config.json" in _last_line(process.output())


@pytest.mark.slow
def test_a_download_is_told_and_needed_only_once(tmp_path: Path, tiny_folder: Path) -> None:
    with fake_hub() as hub:
        hub.repositories["acme/tiny"] = tiny_folder
        patient = {"HF_ENDPOINT": hub.url, "HF_HUB_DOWNLOAD_TIMEOUT": "90"}
        with server(tmp_path, "--model", "acme/tiny", **patient) as process:
            assert hub.half_sent.wait(60)
            health = process.until(lambda _, answer: answer["progress"].get("total"))
            assert health["status"] == "loading"
            assert health["progress"]["stage"] == "downloading"
            assert health["progress"]["total"] > 500_000
            assert (health["model"], health["device"]) == ("acme/tiny", "auto")
            for path in ("/v1/chat/completions", "/v1/generate"):
                body = HELLO if "chat" in path else {"prompt": "hi"}
                url, headers = process.url + path, {"prefer": "wait=0"}
                answer = httpx.post(url, json=body, headers=headers, timeout=90)
                assert answer.status_code == 503
                assert answer.headers["retry-after"]
                assert "acme/tiny is still loading" in answer.json()["error"]["message"]
            hub.release.set()
            process.until_ready()
    # The hub is gone; a signal in the middle of a stream ends it with an error and exits with 0.
    with server(tmp_path, "--model", "acme/tiny", HF_ENDPOINT=hub.url) as process:
        process.until_ready()
        endless = HELLO | {"stream": True, "temperature": 0, "max_tokens": 100_000}
        url = f"{process.url}/v1/chat/completions"
        with httpx.stream("POST", url, json=endless, timeout=90) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("data: ")
            process.process.terminate()
            rest = [line for line in lines if line]
        assert '"code":"shutting_down"' in rest[-2]
        assert rest[-1] == "data: [DONE]"
        assert process.wait() == 0
        assert _last_line(process.output()).endswith("stopped")


@pytest.mark.slow
def test_a_signal_while_loading(tmp_path: Path, tiny_folder: Path) -> None:
    with fake_hub() as hub:
        hub.repositories["acme/tiny"] = tiny_folder
        with server(tmp_path, "--model", "acme/tiny", HF_ENDPOINT=hub.url) as process:
            assert hub.half_sent.wait(60)
            assert process.stop() == 0


_ONE_PROCESS = pytest.mark.skipif(
    sys.platform == "win32", reason="Windows sends no SIGINT to one process"
)


@_ONE_PROCESS
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_server_is_imported(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "uvicorn.py").write_text(  # found before the real one
        "import time\nprint('importing', flush=True)\ntime.sleep(90)\n", encoding="utf-8"
    )
    with server(tmp_path) as process:
        deadline = time.monotonic() + PATIENCE
        while "importing" not in process.output():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.process.send_signal(number)
        assert process.wait() == 0
        assert process.output() == "importing\n"


@_ONE_PROCESS
def test_ctrl_c_while_importing(tmp_path: Path, tiny_folder: Path) -> None:
    with server(tmp_path, "--model", str(tiny_folder)) as process:
        process.until(lambda status, _: status == 503)
        process.process.send_signal(signal.SIGINT)
        assert process.wait() == 0
        assert "Traceback" not in process.output()
