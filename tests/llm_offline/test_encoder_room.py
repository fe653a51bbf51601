"""Room that a GPU keeps for an encoder."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_offline import weighing
from llm_offline.encoder_room import encoder_bytes
from llm_offline.progress import Progress
from llm_offline.settings import Settings
from llm_offline.weighing import weigh

MIB = 2**20


def _settings(**more: object) -> Settings:
    return Settings(_env_file=None, **more)  # type: ignore[arg-type]


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    (tmp_path / "encoder").mkdir()
    with (tmp_path / "encoder" / "model.safetensors").open("wb") as file:
        file.truncate(100 * MIB)
    return tmp_path / "encoder"


def test_an_encoder_on_the_models_gpu(encoder: Path) -> None:
    settings = _settings(embedding_model=str(encoder))
    assert encoder_bytes(settings, "cuda") == 100 * MIB + 512 * MIB
    assert encoder_bytes(settings, "cpu") == 0
    unknown = _settings(embedding_model="acme/not-here-yet")
    assert encoder_bytes(unknown, "cuda:0") == 512 * MIB
    assert encoder_bytes(_settings(), "cuda") == 0
    assert encoder_bytes(_settings(embedding_device="cuda"), "cuda:0") == 512 * MIB
    elsewhere = _settings(embedding_model=str(encoder), embedding_device="cuda:1")
    assert encoder_bytes(elsewhere, "cuda") == 0


def test_it_counts_when_a_model_is_weighed(
    encoder: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weighing, "choose_device", lambda wanted: "cuda")
    monkeypatch.setattr(weighing, "choose_dtype", lambda wanted, device: "bf16")
    monkeypatch.setattr(weighing, "memory", lambda device: {"free_bytes": 2048 * MIB})
    settings = _settings(model=str(tiny_folder), embedding_model=str(encoder))
    need = weigh(settings, Progress())
    assert (need.free, need.beside) == (1436 * MIB, 612 * MIB)
    # Once it is loaded, what is free tells of it.
    assert weigh(settings, Progress(), encoder=False).free == 2048 * MIB
