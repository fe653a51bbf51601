"""Reading the environment and `.env`."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag_backend.errors import StartError
from rag_backend.settings import Settings, describe, load_settings, misspelt


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty working directory, and no setting of the developer's own."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, text: str) -> None:
    (folder / ".env").write_text(text, "utf-8")


def test_defaults_stay_on_this_machine() -> None:
    settings = load_settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 30000)
    assert settings.llm_provider == "auto"
    assert settings.openai_api_key is None
    assert settings.api_keys == ()


def test_the_environment_beats_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, "PORT=4000\nHOST=0.0.0.0\nlog_level=debug\nDATA_DIR=dữ liệu\n")
    monkeypatch.setenv("PORT", "5000")
    settings = load_settings()
    assert (settings.port, settings.host, settings.log_level) == (5000, "0.0.0.0", "debug")
    assert settings.data_dir == Path("dữ liệu")


def test_a_flag_beats_both(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, "PORT=4000\n")
    monkeypatch.setenv("PORT", "5000")
    assert load_settings(port="6000").port == 6000


def test_empty_means_not_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, "PORT=\nCHROMA_URL=\nAPI_KEYS=\nLOCAL_LLM_API_URL=\nLLM_FALLBACK=\n")
    monkeypatch.setenv("OPENAI_API_KEY", "")
    assert load_settings() == Settings()
    assert load_settings().openai_api_key is None


def test_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_LLM_API_URL", "http://a:8001/ , http://b:8001")
    monkeypatch.setenv("API_KEYS", "one, two,")
    monkeypatch.setenv("LLM_FALLBACK", "none")
    settings = load_settings()
    assert settings.local_llm_api_url == ("http://a:8001", "http://b:8001")
    assert [key.get_secret_value() for key in settings.api_keys] == ["one", "two"]
    assert settings.llm_fallback == ("none",)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("PORT", "abc", "integer"),
        ("PORT", "0", "greater than or equal to 1"),
        ("PORT", "65536", "less than or equal to 65535"),
        ("LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("CONDENSE", "sometimes", "'auto', 'always' or 'never'"),
        ("NO_ANSWER", "shrug", "'say' or 'model'"),
        ("UNKNOWN_MODEL", "x", "'default' or 'refuse'"),
        ("LLM_TOTAL_TIMEOUT", "-1", "greater than 0"),
        ("LLM_TOTAL_TIMEOUT", "nan", "86400"),
        ("LLM_MAX_ATTEMPTS", "11", "less than or equal to 10"),
        ("LOCAL_LLM_API_URL", "192.168.1.20:8001", "http://"),
        ("LOCAL_LLM_API_URL", "http://a:8001,b", "http://"),
        ("CHROMA_URL", "ftp://a", "http://"),
        ("OPENAI_BASE_URL", "http://", "http://"),
        ("LOCAL_LLM_API_URL", "http://localhost:abc", "a URL such as http://"),
        ("LOCAL_LLM_API_URL", "http://a:8001,http://b:99999", "a URL such as http://"),
        ("LOCAL_LLM_API_URL", "http://a b:8001", "a URL such as http://"),
        ("EMBEDDING_URL", "http://localhost:0", "a URL such as http://"),
        ("OPENAI_BASE_URL", "http://[::1", "a URL such as http://"),
        ("CHROMA_URL", "http://999.1.1.1", "a URL such as http://"),
        ("CHROMA_URL", "http://a..b", "a URL such as http://"),
        ("CACHE_URL", "redis://localhost:abc", "a URL such as redis://"),
        ("CACHE_URL", "redis://[::1", "a URL such as redis://"),
        ("CACHE_URL", "redis://localhost/cache", "a URL such as redis://"),
        ("CACHE_URL", "redis:///0", "a URL such as redis://"),
        ("CACHE_URL", "unix://", "a URL such as redis://"),
        ("CACHE_URL", "localhost:6379", "a URL such as redis://"),
        ("CORS_ORIGINS", "http://localhost:abc", "origins such as https://"),
        ("CORS_ORIGINS", "http://[::1", "origins such as https://"),
        ("CONTEXT_TOKENS", "many", "integer"),
        ("LOG_CONTENT", "perhaps", "boolean"),
    ],
)
def test_a_bad_value_is_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, allowed: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(StartError) as refused:
        load_settings()
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"{name}=")
    assert repr(value) in line or value in line
    assert allowed in line


@pytest.mark.parametrize(
    "url",
    ["http://[::1]:8001", "https://máy-chủ.example", "http://gpu_box:8001/v1", "http://10.0.0.7"],
)
def test_urls_of_every_kind_of_host(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("LOCAL_LLM_API_URL", url)
    assert load_settings().local_llm_api_url == (url,)


def test_every_bad_value_has_its_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, "PORT=abc\n")
    monkeypatch.setenv("CONDENSE", "x")
    with pytest.raises(StartError) as refused:
        load_settings()
    assert sorted(line.split("=")[0] for line in str(refused.value).splitlines()) == [
        "CONDENSE",
        "PORT",
    ]


SECRETS = ("API_KEYS", "OPENAI_API_KEY", "LOCAL_LLM_API_KEY")


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "sk-very-secret")
    settings = load_settings()
    shown = dict(describe(settings))
    assert shown[name] == "****"
    assert "very-secret" not in repr(settings) + str(settings) + str(shown)


def test_what_describe_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_LLM_API_URL", "http://a:1,http://b:2")
    monkeypatch.setenv("LOG_CONTENT", "true")
    shown = dict(describe(load_settings()))
    assert list(shown) == [name.upper() for name in Settings.model_fields]
    assert shown["LOCAL_LLM_API_URL"] == "http://a:1,http://b:2"
    assert shown["LOG_CONTENT"] == "1"
    assert shown["LLM_CONNECT_TIMEOUT"] == "3"
    assert shown["OPENAI_API_KEY"] == ""


def test_names_that_nobody_reads(folder: Path) -> None:
    assert misspelt() == []
    write(folder, "LOCAL_LLM_URL=http://a\nport=1\nLLM_OFFLINE_MODEL=x\nODD\nOPENAI_API_KEYS=x\n")
    assert misspelt() == [
        ("LOCAL_LLM_URL", "LOCAL_LLM_API_URL"),
        ("OPENAI_API_KEYS", "OPENAI_API_KEY"),
    ]
    assert misspelt({"OPENAI_API_KEYS"}) == [("LOCAL_LLM_URL", "LOCAL_LLM_API_URL")]


def test_a_mark_before_the_first_name(folder: Path) -> None:
    (folder / ".env").write_text("PORT=4000\n", "utf-8-sig")
    assert load_settings().port == 4000
    assert misspelt() == []


def test_a_file_that_is_not_utf8(folder: Path) -> None:
    (folder / ".env").write_bytes("DATA_DIR=dữ".encode("utf-16"))
    with pytest.raises(StartError, match=r"save it as UTF-8"):
        load_settings()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().port = 1  # type: ignore[misc]


def test_a_line_that_is_no_setting(folder: Path) -> None:
    write(folder, "HOST=127.0.0.1\nOPENAI_API_KEY sk-secret=abc\n")
    with pytest.raises(StartError, match=r"\.env line 2 is not NAME=value") as caught:
        load_settings()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("password", ["hunter/2", "hunter#2", "hunter@2", "hunter 2"])
def test_no_part_of_a_password_is_told(monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    monkeypatch.setenv("CACHE_URL", f"redis://:{password}@localhost:abc/0")
    with pytest.raises(StartError, match="in the password as %40, %2F") as refused:
        load_settings()
    assert "hunter" not in str(refused.value)


def test_keys_fit_into_a_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEYS", "khoá,ok")
    with pytest.raises(StartError, match=r"API_KEYS=.*ASCII") as caught:
        load_settings()
    assert "khoá" not in str(caught.value)


def test_the_database_is_postgresql_and_its_password_is_never_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://rag:p%40ss@db/rag")
    settings = load_settings()
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == "postgresql://rag:p%40ss@db/rag"
    assert dict(describe(settings))["DATABASE_URL"] == "****"
    assert "p%40ss" not in repr(settings)
    monkeypatch.setenv("DATABASE_URL", "mysql://rag:secret@db/rag")
    with pytest.raises(StartError, match="postgresql://USER") as raised:
        load_settings()
    assert "secret@" not in str(raised.value)


@pytest.mark.parametrize("value", ["fine,s3cret=laws:raed", "s3cret=laws", "s3cret,s3cret"])
def test_a_malformed_key_is_not_told(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("API_KEYS", value)
    with pytest.raises(StartError) as caught:
        load_settings()
    assert str(caught.value).startswith("API_KEYS=(secret) is not allowed: it should be ")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("value", [",", " , ", " "])
def test_commas_are_no_keys(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("API_KEYS", value)
    with pytest.raises(StartError, match=r"API_KEYS=.*at least one key, or empty for none"):
        load_settings()


@pytest.mark.parametrize("value", ["chat.example.org", "https://a/b", "https://u@a", "a, *"])
def test_what_is_no_origin(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("CORS_ORIGINS", value)
    with pytest.raises(StartError, match="CORS_ORIGINS"):
        load_settings()
