"""Threads that compute beside the engine."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import pytest
import torch
from torch import nn

from llm_offline.embedding import SentenceEncoder
from llm_offline.errors import BadRequest
from llm_offline.settings import Settings
from llm_offline.workers import Workers


@pytest.fixture
def two_threads() -> Any:
    """Torch with helpers, as on users' machines."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_each_computes_alone_and_behind_the_others(two_threads: None) -> None:
    mine = os.getpriority(os.PRIO_PROCESS, 0) if sys.platform == "linux" else 0
    model = nn.Linear(4, 4)
    workers = Workers(model, "cpu")
    together = threading.Barrier(2)

    def look(own: nn.Linear, item: int) -> tuple[int, int, bool, bool]:
        together.wait(30)
        own(torch.ones(1, 4))
        nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) if mine >= 0 else 0
        return torch.get_num_threads(), nice, own is model, own.weight is model.weight

    found = workers.map(look, [1, 2])
    workers.close()
    nice = min(19, mine + 10) if sys.platform == "linux" else found[0][1]
    assert found == [(1, nice, False, True)] * 2
    # Threads that begin later, such as the next engine's, still get all cores.
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [2]


@pytest.mark.skipif(sys.platform != "linux", reason="counts the system's threads")
def test_no_helpers_stay(two_threads: None) -> None:
    model = nn.Linear(512, 512)
    workers = Workers(model, "cpu")

    def work(own: nn.Linear, item: int) -> int:
        for _ in range(20):
            own(torch.ones(512, 512))
        return len(os.listdir("/proc/self/task"))

    before = len(os.listdir("/proc/self/task"))
    assert max(workers.map(work, range(8))) <= before + workers.count + 1  # one sets torch back
    workers.close()


def test_vectors_come_in_the_texts_order() -> None:
    encoder = SentenceEncoder(Settings(_env_file=None, device="cpu"))  # type: ignore[call-arg]
    texts = [f"helmet {number} " * (1 + number % 7) for number in range(40)]
    together = encoder.encode(texts)
    assert len(together.vectors) == 40
    for number in (0, 6, 39):
        alone = encoder.encode([texts[number]]).vectors[0]
        assert together.vectors[number] == pytest.approx(alone, abs=1e-4)
    with pytest.raises(BadRequest, match=r"input\[1\] has \d+ tokens and all-MiniLM-L6-v2 reads"):
        encoder.encode(["short", "word " * 400])
    encoder.close()
