"""One backend with a few documents in it, in front of scripted model servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rag_backend.settings import Settings
from tests.openai_server import OpenAIServer, Reply
from tests.rag_backend.api.serving import FAQ, HANDBOOK, OFFICES, Running, fill, serving


@pytest.fixture(scope="session")
def _servers() -> Iterator[tuple[OpenAIServer, OpenAIServer]]:
    with OpenAIServer() as cloud, OpenAIServer() as local:
        yield cloud, local


@pytest.fixture(scope="session")
def backend(
    _servers: tuple[OpenAIServer, OpenAIServer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """Three providers, no fallback between them, one attempt each."""
    cloud, local = _servers
    folder = tmp_path_factory.mktemp("backend")
    settings = Settings(
        _env_file=None,
        data_dir=folder / "data",
        llm_provider="extractive",
        llm_fallback=("none",),
        llm_max_attempts=1,
        llm_breaker_threshold=0,  # one test's failures are not the next one's
        openai_api_key="sk-test",
        openai_base_url=cloud.url,
        local_llm_api_url=(local.url,),
        max_file_mb=1,
    )
    with serving(settings) as running:
        fill(running, {"handbook.md": HANDBOOK, "offices.csv": OFFICES, "faq.csv": FAQ})
        yield running


@pytest.fixture
def cloud(_servers: tuple[OpenAIServer, OpenAIServer]) -> Iterator[OpenAIServer]:
    """The server behind the provider `openai`."""
    yield _servers[0]
    _servers[0].default = Reply()


@pytest.fixture
def local(_servers: tuple[OpenAIServer, OpenAIServer]) -> Iterator[OpenAIServer]:
    """The server behind the provider `local`."""
    yield _servers[1]
    _servers[1].default = Reply()
