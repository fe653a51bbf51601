"""A tiny model on the disk, and in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llm_offline.loaded import LoadedModel
from llm_offline.loading import load_model
from llm_offline.progress import Progress
from llm_offline.settings import Settings
from tests.tiny_model import build_tiny_llama


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Matrices this small are slower with several threads, and other tests may run beside us."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama on the disk that can go on for some seconds."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    return build_tiny_llama(folder, context=4096, endless=True)


@pytest.fixture(scope="session")
def loaded(tiny_folder: Path) -> LoadedModel:
    """The same, loaded in fp32, where greedy decoding is exact."""
    settings = Settings(_env_file=None, model=str(tiny_folder), device="cpu", dtype="fp32")
    return load_model(settings, Progress())
