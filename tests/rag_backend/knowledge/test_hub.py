"""What is on this machine needs no hub; what is not is asked for once, not for minutes."""

from __future__ import annotations

import httpx2
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from rag_backend.errors import StartError
from rag_backend.knowledge import hub

MODEL = "someone/encoder"


class Hub:
    """Answers what it was given."""

    answer: Exception | None = None
    asked: list[str]

    def __init__(self) -> None:
        self.asked = []

    def model_info(self, model: str, timeout: float) -> None:
        self.asked.append(model)
        if self.answer is not None:
            raise self.answer


class Loading:
    """Loads what is here, or comes from the hub."""

    def __init__(self, here: bool) -> None:
        self.here = here
        self.tried: list[bool] = []

    def __call__(self, here: bool) -> str:
        self.tried.append(here)
        if here and not self.here:
            raise OSError("not cached")
        return "model"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub()
    monkeypatch.setattr(hub, "HfApi", lambda: made)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda _name, _file: None)
    return made


def cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda _name, _file: "/cache/modules.json")


def test_a_folder_is_never_asked_for(fake: Hub) -> None:
    load = Loading(here=False)
    with pytest.raises(OSError, match="not cached"):
        hub.here_or_from_hub(load, "/folder", True, "EMBEDDING_MODEL")
    assert fake.asked == []


def test_what_was_downloaded_needs_no_hub(fake: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(monkeypatch)
    fake.answer = httpx2.ConnectError("no route")
    assert hub.here_or_from_hub(Loading(here=True), MODEL, False, "EMBEDDING_MODEL") == "model"
    assert fake.asked == []


def test_a_download_that_was_cut_short_goes_on(fake: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(monkeypatch)
    load = Loading(here=False)
    assert hub.here_or_from_hub(load, MODEL, False, "EMBEDDING_MODEL") == "model"
    assert load.tried == [True, False]


def test_what_another_library_left_in_the_cache_is_not_trusted(fake: Hub) -> None:
    load = Loading(here=True)
    assert hub.here_or_from_hub(load, MODEL, False, "EMBEDDING_MODEL") == "model"
    assert load.tried == [False]
    assert fake.asked == [MODEL]


def response(status: int) -> httpx2.Response:
    return httpx2.Response(status, request=httpx2.Request("GET", "https://hub.invalid"))


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (httpx2.ConnectError("Name or service not known"), "hf download someone/encoder"),
        (httpx2.ConnectTimeout("timed out"), "cannot be reached"),
        (OSError("offline mode is enabled"), "offline mode is enabled"),
        (RepositoryNotFoundError("401", response=response(401)), "check the spelling"),
        (GatedRepoError("403", response=response(403)), "HF_TOKEN"),
    ],
)
def test_what_cannot_be_had_is_said_at_once(fake: Hub, answer: Exception, sentence: str) -> None:
    fake.answer = answer
    load = Loading(here=False)
    with pytest.raises(StartError, match=sentence) as raised:
        hub.here_or_from_hub(load, MODEL, False, "EMBEDDING_MODEL", ", or set `embedded`")
    assert str(raised.value).startswith(f"EMBEDDING_MODEL={MODEL}: ")
    assert load.tried == []


def test_a_short_name_is_left_to_the_library(fake: Hub) -> None:
    fake.answer = RepositoryNotFoundError("401", response=response(401))
    load = Loading(here=False)
    assert hub.here_or_from_hub(load, "all-mpnet-base-v2", False, "EMBEDDING_MODEL") == "model"


def test_what_is_no_name_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StartError, match="no Hugging Face id"):
        hub.here_or_from_hub(Loading(here=False), "a/b/c", False, "EMBEDDING_MODEL")
