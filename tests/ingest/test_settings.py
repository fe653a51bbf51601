"""The command line's variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingest.errors import CommandError
from ingest.settings import ClientSettings, documented, load_settings


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_nothing_set() -> None:
    assert load_settings(environment={}) == ClientSettings(None, None)


def test_flag_then_environment_then_file() -> None:
    Path(".env").write_text(
        "RAG_BACKEND_URL=http://file:1\nRAG_BACKEND_API_KEY='từ.env'\n", "utf-8"
    )
    real = {"RAG_BACKEND_URL": "http://real:2", "RAG_BACKEND_API_KEY": "k2"}
    assert load_settings("http://flag:3", "k3", real) == ClientSettings("http://flag:3", "k3")
    assert load_settings(environment=real) == ClientSettings("http://real:2", "k2")
    with pytest.raises(CommandError, match="RAG_BACKEND_API_KEY"):
        load_settings(environment={})


def test_an_empty_value_is_not_set() -> None:
    Path(".env").write_text("RAG_BACKEND_URL=http://file:1\nOTHER=x\n", "utf-8")
    settings = load_settings(environment={"RAG_BACKEND_URL": "", "RAG_BACKEND_API_KEY": " "})
    assert settings == ClientSettings("http://file:1", None)


def test_without_a_url_the_port_is_the_backends() -> None:
    assert load_settings(environment={}).default_url == "http://127.0.0.1:30000"
    Path(".env").write_text("PORT=31500\n", "utf-8")
    assert load_settings(environment={}).default_url == "http://127.0.0.1:31500"
    assert load_settings(environment={"PORT": ""}).default_url == "http://127.0.0.1:31500"
    assert load_settings(environment={"PORT": "31501"}).default_url == "http://127.0.0.1:31501"


@pytest.mark.parametrize("port", ["eighty", "0", "65536", "-1", "1.5", "9" * 5000])
def test_a_port_that_is_none_is_one_line(port: str) -> None:
    with pytest.raises(CommandError, match=r"^PORT='.*' is not allowed: .* 1 to 65535$"):
        load_settings(environment={"PORT": port})
    assert load_settings("http://h:1", environment={"PORT": port}).url == "http://h:1"


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_the_path_that_people_copy_is_dropped(url: str) -> None:
    assert load_settings(url, environment={}).url == "http://h:1"


@pytest.mark.parametrize(
    "url", ["", "h:1", "ftp://h", "http://", "http://h:x", "http://[::1", "http://h?a=1"]
)
def test_what_is_no_url_is_named(url: str) -> None:
    with pytest.raises(CommandError, match="--url"):
        load_settings(url, environment={})


def test_the_key_is_never_shown() -> None:
    with pytest.raises(CommandError) as error:
        load_settings(api_key="mật", environment={})
    assert "mật" not in str(error.value)
    assert "secret" not in repr(ClientSettings(None, "secret"))


def test_a_file_that_is_not_text_is_one_sentence() -> None:
    Path(".env").write_bytes(b"RAG_BACKEND_URL=\xff\xfe")
    with pytest.raises(CommandError, match=r"\.env is not UTF-8 text"):
        load_settings(environment={})


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
    with pytest.raises(CommandError) as refused:
        load_settings(environment={})
    assert str(refused.value) == f".env {named}"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_what_notepad_calls_unicode_is_one_sentence(encoding: str) -> None:
    Path(".env").write_bytes("\ufeffPORT=31500\r\n".encode(encoding))
    with pytest.raises(CommandError, match=r"^\.env is not UTF-8 text: save it as UTF-8$"):
        load_settings(environment={})


def test_a_byte_order_mark_is_no_part_of_a_name() -> None:
    Path(".env").write_text("\ufeffPORT=31500\r\n", "utf-8")
    assert load_settings(environment={}).default_url.endswith(":31500")


def test_every_variable_is_documented() -> None:
    assert [name for name, _ in documented()] == ["RAG_BACKEND_URL", "RAG_BACKEND_API_KEY"]
    assert all(text for _, text in documented())
