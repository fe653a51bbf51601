"""Rows from settings and files."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag_backend.errors import StartError
from rag_backend.llm.rows import read_rows, rows_from
from rag_backend.settings import load_settings

KEY = "sk-very-secret-key"


def test_only_what_is_configured_has_a_row() -> None:
    assert [row.name for row in rows_from(load_settings())] == ["extractive"]
    settings = load_settings(
        openai_api_key=KEY, local_llm_api_url="http://a:8001, http://b:8001/v1"
    )
    rows = {row.name: row for row in rows_from(settings)}
    assert list(rows) == ["openai", "local", "extractive"]
    assert rows["openai"].base_urls == ("https://api.openai.com/v1",)
    assert rows["openai"].cloud
    assert rows["local"].base_urls == ("http://a:8001/v1", "http://b:8001/v1")
    assert not rows["local"].cloud
    assert KEY not in repr(rows)


TOML = """
[providers.ollama]
base_url = "http://gpu:11434"
model = "qwen3:8b"
context_tokens = 8192

[providers.azure]
base_url = ["https://x.example/openai/v1"]
api_key_env = "AZURE_KEY"
cloud = true
"""


def test_a_toml_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_KEY", KEY)
    file = tmp_path / "providers.toml"
    file.write_text(TOML)
    ollama, azure = read_rows(file)
    assert ollama.base_urls == ("http://gpu:11434/v1",)
    assert (ollama.model, ollama.context_tokens, ollama.secret) == ("qwen3:8b", 8192, "")
    assert (azure.secret, azure.cloud, azure.key_setting) == (KEY, True, "AZURE_KEY")


def test_a_key_may_stand_in_the_env_file(tmp_path: Path) -> None:
    Path(".env").write_text(f"AZURE_KEY={KEY}\n")  # the tests' working directory is tmp_path
    file = tmp_path / "providers.toml"
    file.write_text(TOML)
    assert read_rows(file)[1].secret == KEY


BAD = [
    ("a.toml", "providers = [", "is not valid TOML"),
    ("a.json", "{", "is not valid JSON"),
    ("a.json", "[]", "has no providers"),
    ("a.toml", "[other]\nx = 1", "has no providers"),
    ("a.toml", "[providers]\nx = 1", "provider 'x': the table should be"),
    ("a.toml", "[providers.x]\nmodel = 'm'", "provider 'x': base_url should be"),
    ("a.toml", "[providers.x]\nbase_url = 'ftp://a'", "base_url should be a URL such as"),
    ("a.toml", "[providers.x]\nbase_url = 'http://a'\nmodle = 'm'", "modle should be"),
    ("a.toml", "[providers.x]\nbase_url = 'http://a'\ncontext_tokens = 1", "context_tokens"),
    ("a.toml", "[providers.openai]\nbase_url = 'http://a'", "the name 'openai' cannot be used"),
    ("a.toml", "[providers.'a@b']\nbase_url = 'http://a'", "the name 'a@b' cannot be used"),
    (
        "a.toml",
        "[providers.x]\nbase_url = 'http://a'\napi_key_env = 'NO_SUCH'",
        "NO_SUCH is not set",
    ),
    ("a.toml", f"[providers.x]\nbase_url = 'http://a'\napi_key = ['{KEY}']", "api_key should be"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_a_bad_file_stops_the_start_with_one_line(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(StartError) as raised:
        read_rows(file)
    text = str(raised.value)
    assert text.startswith(f"LLM_PROVIDERS={file}")
    assert message in text
    assert "\n" not in text
    assert KEY not in text


def test_a_missing_file_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot be read: No such file"):
        read_rows(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StartError, match="is not valid TOML"):
        read_rows(tmp_path / "binary.toml")


OPENAI_URLS = ["https://api.openai.com/v1", "https://eu.api.openai.com"]


@pytest.mark.parametrize("url", OPENAI_URLS)
def test_openai_wants_a_key_wherever_it_is_written(tmp_path: Path, url: str) -> None:
    file = tmp_path / "providers.toml"
    file.write_text(f"[providers.big]\nbase_url = '{url}'\nmodel = 'gpt-4o'\n")
    with pytest.raises(StartError) as raised:
        rows_from(load_settings(llm_providers=file))
    assert str(raised.value) == (
        f"base_url of 'big' in LLM_PROVIDERS={file} is OpenAI's, which answers nobody without a "
        f"key: set api_key of 'big' in LLM_PROVIDERS={file}"
    )
    with pytest.raises(StartError):
        rows_from(load_settings(local_llm_api_url=url))

    file.write_text(f"{file.read_text()}api_key = '{KEY}'\n")
    big = rows_from(load_settings(llm_providers=file))[0]
    assert big.cloud  # whatever the file says: it is not on the LAN


def test_the_example_file_is_valid() -> None:
    example = Path(__file__).parents[3] / "providers.example.toml"
    rows = {row.name: row for row in read_rows(example)}
    assert list(rows) == ["ollama", "lmstudio", "vllm", "any"]
    assert not any(row.cloud or row.secret for row in rows.values())  # no key is needed on a LAN
    assert rows["ollama"].base_urls == ("http://localhost:11434/v1",)
    assert len(rows["vllm"].base_urls) == 2


def test_the_cloud_part_of_the_example_file_is_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = Path(__file__).parents[3] / "providers.example.toml"
    monkeypatch.setenv("GROQ_API_KEY", KEY)
    file = tmp_path / "providers.toml"
    lines = example.read_text("utf-8").splitlines()
    file.write_text("\n".join(line.removeprefix("#") for line in lines if line[:2] != "# "))
    (cloud,) = [row for row in read_rows(file) if row.cloud]
    assert (cloud.secret, cloud.key_setting) == (KEY, "GROQ_API_KEY")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"openai_api_key": "“sk-abc”"}, "OPENAI_API_KEY is not a key"),
        ({"openai_api_key": "sk-abc def"}, "OPENAI_API_KEY is not a key"),
        ({"local_llm_api_url": "http://me:secret@a:8001"}, "LOCAL_LLM_API_URL contains a user"),
    ],
)
def test_what_could_never_work_stops_the_start(values: dict[str, str], message: str) -> None:
    with pytest.raises(StartError) as raised:
        rows_from(load_settings(**values))
    assert str(raised.value).startswith(message)
    assert "abc" not in str(raised.value)
    assert "secret" not in str(raised.value)
