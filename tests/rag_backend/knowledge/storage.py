"""Where a test's catalog and vectors are: in the test's directory, or on two servers.

A directory of a test has, on the servers, a schema and a database of its own, named after its path:
so the same test opens, kills and reopens either, from another process too.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.chroma import open_embedded, open_server
from rag_backend.knowledge.models import new_id
from rag_backend.knowledge.sql.opening import open_postgres, open_sqlite
from rag_backend.knowledge.vectors import VectorIndex

POSTGRES, CHROMA = "TEST_DATABASE_URL", "TEST_CHROMA_URL"
"""Variables of the environment; not set: everything is in the directory."""
WHOLE = "TEST_WHOLE_SERVERS"
"""Set: no schema and no database of a test's own, as a backend uses the servers."""


def on_servers() -> bool:
    """Whether the test at hand runs on the servers."""
    return POSTGRES in os.environ


def open_catalog(directory: Path) -> Catalog:
    """The catalog that belongs to the directory; each call is another backend's."""
    if not on_servers():
        return Catalog(open_sqlite(directory / "catalog.sqlite"))
    if WHOLE in os.environ:
        return Catalog(open_postgres(os.environ[POSTGRES]), owner=new_id("backend_"))
    schema = _name(directory)
    with (
        contextlib.suppress(psycopg.errors.UniqueViolation),  # somebody does the same
        psycopg.connect(os.environ[POSTGRES]) as connection,
    ):
        # The name is ours, of letters and digits.
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}".encode())
    return Catalog(open_postgres(schema_url(schema)), owner=new_id("backend_"))


def schema_url(schema: str) -> str:
    """DATABASE_URL of one schema."""
    return f"{os.environ[POSTGRES]}?options=-csearch_path%3D{schema}"


def open_vectors(directory: Path) -> VectorIndex:
    """The vectors that belong to the directory."""
    if not on_servers():
        return VectorIndex(open_embedded(directory / "chroma"))
    url, name = os.environ[CHROMA], _name(directory)
    if WHOLE in os.environ:
        return VectorIndex(open_server(url))
    databases = f"{url}/api/v2/tenants/default_tenant/databases"
    assert httpx.post(databases, json={"name": name}, timeout=60).status_code in (200, 409)
    return VectorIndex(open_server(url, name))


def _name(directory: Path) -> str:
    return "t_" + hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:16]


@contextlib.contextmanager
def on(servers: tuple[str, str] | None, whole: bool = False) -> Iterator[None]:
    """Run on (PostgreSQL, Chroma), or in directories; `whole`: see WHOLE."""
    with pytest.MonkeyPatch.context() as patch:
        if whole:
            patch.setenv(WHOLE, "1")
        for name, url in zip((POSTGRES, CHROMA), servers or (None, None), strict=True):
            if url is None:
                patch.delenv(name, raising=False)
            else:
                patch.setenv(name, url)
        yield
