"""Tests that mark themselves with `storage` run twice: in directories, and on two servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.rag_backend.knowledge import storage as places
from tests.servers import Missing, chroma, postgres

_QUICK = ("test_catalog", "test_following")
"""What runs on the servers every time; the rest there is slow."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the second run of tests that take minutes together."""
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        if params.get("storage") == "servers" and item.path.stem not in _QUICK:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """DATABASE_URL and CHROMA_URL of two servers that run for the whole session."""
    try:
        with postgres() as database, chroma(tmp_path_factory.mktemp("chroma")) as vectors:
            yield database.url, vectors
    except Missing as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module", params=["directory", "servers"])
def storage(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where catalogs and vectors are in this test; skipped where there are no servers."""
    where = str(request.param)
    found = request.getfixturevalue("servers") if where == "servers" else None
    with places.on(found):
        yield where
