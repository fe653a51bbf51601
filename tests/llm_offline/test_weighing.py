"""What a model will take, told from its files alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_offline.errors import StartError
from llm_offline.loaded import LoadedModel
from llm_offline.loading import load_model
from llm_offline.progress import Progress
from llm_offline.settings import Settings
from llm_offline.weighing import weigh


def _settings(folder: Path, **more: object) -> Settings:
    given = {"model": str(folder), "device": "cpu", "dtype": "fp32", **more}
    return Settings(_env_file=None, **given)  # type: ignore[arg-type]


def test_what_it_takes_is_what_was_told(tiny_folder: Path, loaded: LoadedModel) -> None:
    need = weigh(_settings(tiny_folder), Progress())
    assert need.weights == pytest.approx(loaded.weights_bytes, rel=0.05)
    assert need.kv_token == loaded.kv_bytes / loaded.kv_tokens
    assert (need.context, need.kv_wanted) == (4096, loaded.kv_bytes)
    assert need.fits_whole(need.free)


@pytest.mark.parametrize(
    ("more", "share"), [({"dtype": "bf16"}, 0.5), ({"quantization": "int8"}, 0.55)]
)
def test_fewer_bits(tiny_folder: Path, more: dict[str, str], share: float) -> None:
    whole = weigh(_settings(tiny_folder), Progress()).weights
    assert weigh(_settings(tiny_folder, **more), Progress()).weights < whole * (share + 0.1)


def test_what_settings_limit(tiny_folder: Path) -> None:
    need = weigh(_settings(tiny_folder, max_context=100, max_batch=2), Progress())
    assert (need.context, need.kv_wanted) == (100, 200 * need.kv_token)
    with pytest.raises(StartError, match="more than the 4096 tokens"):
        weigh(_settings(tiny_folder, max_context=5000), Progress())
    need = weigh(_settings(tiny_folder, kv_memory=0.001), Progress())
    assert need.kv_wanted == int(0.001 * 2**30)


def test_files_are_looked_at_before_anything_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="it has no config"):
        weigh(_settings(tmp_path), Progress())


def test_the_report_has_the_numbers(tiny_folder: Path) -> None:
    found = load_model(_settings(tiny_folder, max_batch=2), Progress())
    assert found.facts()["full_length_requests"] == 2
    assert found.facts()["chat_template"] == "the model's own"
    assert 0 <= found.network.difference < 1e-3
