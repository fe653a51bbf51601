"""Flag > environment > .env; a bad value is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_offline.errors import StartError
from llm_offline.settings import Settings, describe, load_settings, unknown_names


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_defaults() -> None:
    settings = load_settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8001)
    assert settings.model == "phamhai/Llama-3.2-3B-Instruct-Frog"


def test_flag_wins_over_environment_which_wins_over_env_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path(".env").write_text("LLM_OFFLINE_PORT=1001\nLLM_OFFLINE_MAX_QUEUE=5\n", encoding="utf-8")
    assert load_settings().port == 1001
    monkeypatch.setenv("LLM_OFFLINE_PORT", "1002")
    assert load_settings().port == 1002
    assert load_settings(port="1003").port == 1003
    assert load_settings(port="1003").max_queue == 5


def test_an_empty_value_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_OFFLINE_MAX_CONTEXT", "")
    assert load_settings().max_context is None


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("PORT", "eighty", "LLM_OFFLINE_PORT='eighty' is not allowed: it should be a valid int"),
        ("PORT", "0", "LLM_OFFLINE_PORT='0' is not allowed: it should be greater than"),
        ("DEVICE", "gpu", "LLM_OFFLINE_DEVICE='gpu' is not allowed: it should be `auto` (CUDA"),
        ("DTYPE", "int3", "LLM_OFFLINE_DTYPE='int3' is not allowed: it should be `auto` (bf16"),
        ("MAX_QUEUE", "-1", "LLM_OFFLINE_MAX_QUEUE='-1' is not allowed"),
    ],
)
def test_a_bad_value_is_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(f"LLM_OFFLINE_{name}", value)
    with pytest.raises(StartError) as refused:
        load_settings()
    assert str(refused.value).startswith(sentence)
    assert "\n" not in str(refused.value)


def test_a_bad_flag_is_named_as_a_flag() -> None:
    with pytest.raises(StartError, match=r"^--max-context='7' is not allowed"):
        load_settings(max_context="7")


@pytest.mark.parametrize("key", ["BÍ_MẬT", "two words", "a\nb"])
def test_a_key_that_no_client_could_send(key: str) -> None:
    with pytest.raises(
        StartError, match=r"--api-key=.secret. is not allowed: it should have ASCII"
    ):
        load_settings(api_key=key)


def test_secrets_are_masked() -> None:
    shown = dict(describe(load_settings(api_key="hunter2")))
    assert shown["LLM_OFFLINE_API_KEY"] == "****"
    assert "hunter2" not in repr(load_settings(api_key="hunter2"))
    assert list(shown) == [f"LLM_OFFLINE_{name.upper()}" for name in Settings.model_fields]


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_a_misspelt_name_in_the_env_file_is_found() -> None:
    Path(".env").write_text("LLM_OFFLINE_MODELL=x\nPORT=3\nllm_offline_port=8002\n", "utf-8")
    assert unknown_names() == ["LLM_OFFLINE_MODELL"]


def test_an_env_file_that_is_not_text_is_one_line() -> None:
    Path(".env").write_bytes(b"LLM_OFFLINE_PORT=\xff\xfe\n")
    with pytest.raises(StartError, match=r"\.env is not UTF-8 text"):
        load_settings()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("# one\n\nPORT 32008\n", "line 3 is not NAME=value: 'PORT 32008'"),
        ("A=1\r\nPORT 32008\r\nB=2\r\n", "line 2 is not NAME=value: 'PORT 32008'"),
        ("API_KEY s3cret\n", "line 1 is not NAME=value: 'API_KEY …'"),
        ("API KEY=s3cret\n", "line 1 is not NAME=value: 'API …'"),
        ('API_KEY="s3cret\n', "line 1 is not NAME=value: 'API_KEY'"),
        ("=s3cret\n", "line 1 is not NAME=value: ''"),
    ],
)
def test_a_malformed_line_is_named_without_its_value(
    text: str, named: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Path(".env").write_bytes(text.encode())
    with pytest.raises(StartError) as refused:
        load_settings()
    assert str(refused.value) == f".env {named}"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_what_notepad_calls_unicode_is_one_sentence(encoding: str) -> None:
    Path(".env").write_bytes("\ufeffPORT=31500\r\n".encode(encoding))
    with pytest.raises(StartError, match=r"^\.env is not UTF-8 text: save it as UTF-8$"):
        load_settings()


def test_a_byte_order_mark_is_no_part_of_a_name() -> None:
    Path(".env").write_text("\ufeffLLM_OFFLINE_PORT=31500\r\n", "utf-8")
    assert load_settings().port == 31500
