"""Where the encoder computes."""

from __future__ import annotations

from typing import Any

import pytest

from llm_offline.encoder_device import encoder_device, shares_device
from llm_offline.settings import Settings


@pytest.mark.parametrize(
    ("given", "device", "wanted", "shares"),
    [
        ({}, "cpu", "cpu", False),
        ({}, "cuda", "cpu", False),
        ({"embedding_device": "cuda"}, "cuda", "cuda", True),
        ({"embedding_device": "cuda:0"}, "cuda", "cuda:0", True),
        ({"embedding_device": "cuda:1"}, "cuda", "cuda:1", False),
        ({"embedding_device": "cuda"}, "cpu", "cuda", False),
        ({"embedding_model": "BAAI/bge-m3"}, "cuda:1", "cuda:1", True),
        ({"embedding_model": "BAAI/bge-m3"}, "cpu", "cpu", False),
        ({"embedding_model": "BAAI/bge-m3", "embedding_device": "cpu"}, "cuda", "cpu", False),
    ],
)
def test_the_rule(given: dict[str, Any], device: str, wanted: str, shares: bool) -> None:
    settings = Settings(_env_file=None, **given)  # type: ignore[call-arg]
    assert encoder_device(settings, device) == wanted
    assert shares_device(settings, device) is shares
