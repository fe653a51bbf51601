"""A new backend over what one that was killed left, whatever it was doing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.rag_backend.knowledge.building import (
    DirectReading,
    assert_agreement,
    opened_library,
    put,
    settled,
    statuses,
)
from tests.rag_backend.knowledge.crashing import AT_THE_END, DIED, STAGES
from tests.rag_backend.knowledge.fake_embedding import FakeEmbedding
from tests.rag_backend.knowledge.storage import on_servers

# The first test waits for twenty processes, each of which loads Chroma.
pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[3]
EARLY = (
    "attached, not read",
    "read, not embedded",
    "embedded, not written",
    "vectors written, no postings",
    "postings written, not visible",
    "visible, the old version not removed",
)
"""Where the next file may have been on its way when the process died: it is put meanwhile."""


@pytest.fixture(scope="module")
def remains(storage: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each stage the directory that a process left which died there; all die at once."""
    folders = {stage: tmp_path_factory.mktemp("killed") / "data" for stage in STAGES}
    module = "tests.rag_backend.knowledge.crashing"
    waiting = list(folders.items())
    while waiting:  # a few at a time: each loads Chroma
        batch, waiting = waiting[:4], waiting[4:]
        processes = [
            subprocess.Popen([sys.executable, "-m", module, str(folder), stage], cwd=ROOT)
            for stage, folder in batch
        ]
        for (stage, _), process in zip(batch, processes, strict=True):
            died = 0 if stage == AT_THE_END else DIED
            assert process.wait(timeout=240) == died, stage
    return folders


@pytest.mark.parametrize("stage", STAGES)
async def test_everything_is_finished_and_nothing_is_left(
    remains: dict[str, Path], stage: str
) -> None:
    reading = DirectReading(remains[stage] / "reading")
    async with opened_library(remains[stage], FakeEmbedding(), reading) as library:
        store = await library.store("default")
        await settled(library, store)
        assert set(statuses(library, store).values()) == {"completed"}
        assert_agreement(library)
        # Bytes that were never recorded are kept aside; those that were deleted are gone.
        if stage not in EARLY:
            unrecorded = stage == "bytes written, not recorded" and not on_servers()
            assert library.blobs.path("lost").exists() == unrecorded
        # Whatever the client was not told, it does again.
        await put(library, store, "a.md", b"# A\n\nThe second version.")
        await put(library, store, "c.md", b"# C\n\nA third file.")
        await settled(library, store)
        assert set(statuses(library, store)) - {"b.md", "long.md"} == {"a.md", "c.md"}
        assert_agreement(library)
        hits = await library.search(store, "the second version", 5)
        assert hits[0].chunk.text == "The second version."
        assert "The first version." not in {hit.chunk.text for hit in hits}
