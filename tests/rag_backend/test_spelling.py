"""Which names in `.env` are told, and which belong to somebody else."""

from __future__ import annotations

import pytest

from rag_backend.settings import Settings
from rag_backend.spelling import Unread, unread

KNOWN = {name.upper() for name in Settings.model_fields}

MISSPELT = [
    ("CACH_URL", "CACHE_URL"),
    ("CAHCE_URL", "CACHE_URL"),
    ("cach_url", "CACHE_URL"),
    ("LOCAL_LLM_URL", "LOCAL_LLM_API_URL"),
    ("LOCAL_LLM_API_URLS", "LOCAL_LLM_API_URL"),
    ("LOCAL_LLM_KEY", "LOCAL_LLM_API_KEY"),
    ("LLM_PROVDER", "LLM_PROVIDER"),
    ("LLM_MODEL", "LOCAL_LLM_MODEL"),
    ("OPENAI_KEY", "OPENAI_API_KEY"),
    ("OPEN_AI_API_KEY", "OPENAI_API_KEY"),
    ("APIKEYS", "API_KEYS"),
    ("API_KEY", "API_KEYS"),
    ("DATADIR", "DATA_DIR"),
    ("EMBEDING_MODEL", "EMBEDDING_MODEL"),
    ("CORS_ORIGIN", "CORS_ORIGINS"),
    ("DATABSE_URL", "DATABASE_URL"),
    ("PORTS", "PORT"),
    # Meant for us, and like nothing that there is.
    ("LLM_OFFLNE_PORT", None),
    ("EMBEDDING_POOLING", None),
]
OTHERS = """
    ANTHROPIC_API_KEY AZURE_OPENAI_API_KEY GEMINI_API_KEY OPENROUTER_API_KEY OPENAI_ORGANIZATION
    OPENAI_API_BASE OPENAI_API_TYPE HF_TOKEN HF_HOME HF_ENDPOINT HTTP_PROXY HTTPS_PROXY NO_PROXY TZ
    POSTGRES_USER POSTGRES_PASSWORD POSTGRES_DB PGHOST PGPORT REDIS_URL REDIS_PORT DB_HOST DB_PORT
    COMPOSE_PROJECT_NAME DOCKER_HOST CUDA_VISIBLE_DEVICES OMP_NUM_THREADS OLLAMA_HOST OLLAMA_MODELS
    VLLM_API_KEY WEBUI_SECRET_KEY RAG_EMBEDDING_MODEL CORS_ALLOW_ORIGIN CHROMA_PORT CHROMA_HOST
    SECRET_KEY DEBUG ENVIRONMENT DATABASE_NAME DATABASE_PASSWORD BASE_URL API_BASE_URL API_URL
    HOSTNAME APP_PORT CACHE_DIR LOG_FILE XDG_DATA_DIRS MODEL
    LLM_OFFLINE_MODEL LLM_OFFLINE_API_KEY INGEST_STORE RAG_BACKEND_API_KEY
""".split()


@pytest.mark.parametrize(("name", "meant"), MISSPELT)
def test_a_misspelt_setting_is_told(name: str, meant: str | None) -> None:
    assert list(unread([name], KNOWN)) == [Unread(name, meant)]


def test_settings_and_other_programs_names_are_not() -> None:
    assert list(unread([*KNOWN, *OTHERS], KNOWN)) == []


def test_one_sentence() -> None:
    assert str(Unread("CACH_URL", "CACHE_URL")) == (
        ".env sets CACH_URL, which no setting reads: did you mean CACHE_URL?"
    )
    assert str(Unread("LLM_ODD", None)) == (
        ".env sets LLM_ODD, which no setting reads: .env.example has the names."
    )
