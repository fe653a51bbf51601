"""How long texts may be."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import LlamaConfig

from llm_offline.errors import StartError
from llm_offline.limits import Limits, even_positions, limits, longest_context
from llm_offline.settings import Settings


@pytest.mark.parametrize(
    ("rope", "tokens"),
    [
        ({"rope_type": "llama3", "original_max_position_embeddings": 64}, None),
        ({"rope_type": "longrope", "original_max_position_embeddings": 64}, 64),
        ({"rope_type": "dynamic", "factor": 2.0}, 4096),
        ({"a": {"rope_type": "default"}, "b": {"rope_type": "dynamic"}}, 4096),
        (None, None),
    ],
)
def test_positions_that_depend_on_the_longest_text(
    rope: dict[str, object] | None, tokens: int | None
) -> None:
    config = {"max_position_embeddings": 4096, "rope_parameters": rope}
    assert even_positions(config) == tokens


def _limits(room: int, **more: Any) -> Limits:
    config = LlamaConfig(max_position_embeddings=4096)
    return limits(Settings(_env_file=None, max_batch=2, **more), config, room)


def test_what_limits_a_text_is_told() -> None:
    assert _limits(99_999) == Limits(4096, 8192, "what the model was made for")
    assert _limits(5000) == Limits(4096, 5000, "what the model was made for")
    assert _limits(1000) == Limits(1000, 1000, "of 4096: what memory allows")
    assert _limits(1000, max_context=100) == Limits(100, 200, "--max-context")


@pytest.mark.parametrize(("room", "more"), [(63, {}), (99, {"max_context": 100})])
def test_too_little_memory(room: int, more: dict[str, int]) -> None:
    with pytest.raises(StartError, match=f"there is memory for {room} tokens of context, and"):
        _limits(room, **more)


@pytest.mark.parametrize("told", [0, -5])
def test_a_model_that_does_not_say(told: int) -> None:
    config = LlamaConfig(max_position_embeddings=told)
    assert longest_context(Settings(_env_file=None), config) == 4096
