"""One backend with the examples in it, for every test that only asks."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e.backend import EXAMPLES, BackendProcess, backend, ingest
from tests.e2e.gateway import LIMITS, UPSTREAM_KEY
from tests.llm_offline.processes import ServerProcess, server
from tests.openai_server import OpenAIServer
from tests.ports import never_accepting, refusing
from tests.tiny_model import build_tiny_llama


@pytest.fixture(scope="session")
def upstream() -> Iterator[OpenAIServer]:
    """A scriptable server of OpenAI's shape."""
    with OpenAIServer() as running:
        yield running


@pytest.fixture(scope="session")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, upstream: OpenAIServer
) -> Iterator[BackendProcess]:
    """A backend with nothing ingested and, in place of OpenAI, the scriptable upstream.

    No stand-in, short limits, no breaker (one test's failures are not the next one's), and two
    providers with which no connection can be made: `refused` and `dropped`.
    """
    folder = tmp_path_factory.mktemp("gateway")
    settings = {
        "LLM_PROVIDER": "openai",
        "LLM_FALLBACK": "none",
        "LLM_BREAKER_THRESHOLD": "0",
        "LLM_PROVIDERS": "providers.json",
        "OPENAI_API_KEY": UPSTREAM_KEY,
        "OPENAI_BASE_URL": upstream.url,
    }
    with refusing() as refused, never_accepting() as dropped:
        table = {"refused": {"base_url": refused}, "dropped": {"base_url": dropped, "model": "m"}}
        (folder / "providers.json").write_text(json.dumps({"providers": table}))
        with backend(folder, **settings, **LIMITS) as running:
            yield running


@pytest.fixture(scope="session")
def model_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """llm_offline with a tiny Llama, built here, saved and loaded through the normal path."""
    folder = tmp_path_factory.mktemp("model-server")
    model = build_tiny_llama(folder / "tiny-llama", context=8192)
    with server(folder, "--model", str(model), "--device", "cpu") as running:
        yield running.until_ready()


@pytest.fixture(scope="session")
def library(
    tmp_path_factory: pytest.TempPathFactory, upstream: OpenAIServer, model_server: ServerProcess
) -> Iterator[BackendProcess]:
    """A backend that knows all three kinds of provider and has read the examples."""
    folder = tmp_path_factory.mktemp("backend")
    settings = {
        "LLM_PROVIDER": "extractive",
        "OPENAI_API_KEY": "sk-e2e-secret-0123456789",
        "OPENAI_BASE_URL": upstream.url,
        "LOCAL_LLM_API_URL": model_server.url,
    }
    with backend(folder, **settings) as running:
        done = ingest(str(EXAMPLES), "--url", running.url, folder=folder)
        assert done.returncode == 0, done.stdout + done.stderr
        yield running
