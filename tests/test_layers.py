"""Imports point down the house, in every module, inside functions too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# The higher the number, the higher the floor. A module may import from its own floor's package
# or from lower floors; the longest matching prefix decides.
FLOORS = {
    "rag_backend.main": 80,
    "rag_backend.startup": 70,
    "rag_backend.app": 60,
    "rag_backend.api": 50,
    "rag_backend.answering": 40,
    "rag_backend.web": 30,
    "rag_backend.knowledge": 30,
    "rag_backend.llm": 30,
    "rag_backend.checks": 45,
    "rag_backend.metrics": 20,
    "rag_backend.readiness": 25,
    "rag_backend.summarising": 10,
    "rag_backend.logs": 15,
    "rag_backend.notes": 8,
    "rag_backend.ownership": 20,
    "rag_backend.text": 10,
    "rag_backend.utterances": 12,
    "rag_backend.clauses": 12,
    "rag_backend.patience": 20,
    "rag_backend.upstream": 15,
    "rag_backend.telling": 10,
    "rag_backend.listening": 20,
    "rag_backend.exposure": 20,
    "ingest.reading": 20,
    "ingest.chunking": 20,
    "rag_backend.masking": 10,
    "rag_backend.settings": 10,
    "rag_backend.keys": 5,
    "rag_backend.values": 8,
    "rag_backend.spelling": 5,
    "rag_backend.errors": 5,
    "rag_backend.stop_words": 5,
    "ingest.document": 5,
    "ingest.errors": 5,
    "ingest.env_file": 5,
    "ingest.interrupted": 5,
    "ingest.missing": 5,
    "llm_offline.main": 80,
    "llm_offline.starting": 70,
    "llm_offline.app": 60,
    "llm_offline.api": 50,
    "llm_offline.tasks": 40,
    "llm_offline.engine.compute": 30,
    "llm_offline.engine.sampling": 25,
    "llm_offline.engine": 20,
    "llm_offline.engine.weights": 15,
    "llm_offline.engine.text": 10,
    "llm_offline.engine.hardware": 10,
    "llm_offline.settings": 8,
    "llm_offline.errors": 5,
}
# Side by side: neither may know the other.
STRANGERS = [("rag_backend.knowledge", "rag_backend.llm")]
# Heavy libraries, and the only modules (or packages) that may import them.
HEAVY = {
    "torch": {
        "rag_backend.knowledge.embedding",
        "rag_backend.knowledge.parallel",
        "rag_backend.knowledge.reranking",
        "llm_offline.kernels",
        "llm_offline.pickles",
        "llm_offline.weighing",
        "llm_offline.workers",
        # What plans (scheduler, sequences) and what is above it (HTTP) knows no tensor.
        "llm_offline.engine.compute",
        "llm_offline.engine.hardware.device",
        "llm_offline.engine.sampling",
        "llm_offline.engine.weights",
        "llm_offline.engine.text.grammar",
    },
    "triton": {
        "llm_offline.engine.compute.triton_decode",
        "llm_offline.engine.weights.triton_matmul",
    },
    "llguidance": {"llm_offline.engine.text.grammar"},
    "onnx": {"rag_backend.knowledge.bert_graph"},
    "chromadb": {"rag_backend.knowledge.chroma"},
    "tantivy": {"rag_backend.knowledge.lexical"},
    "sqlalchemy": {"rag_backend.knowledge.sql"},
    "openai": {
        "rag_backend.upstream",
        "rag_backend.llm.events",
        "rag_backend.llm.openai_compatible",
        "ingest.client",
    },
    "redis": {"rag_backend.llm.cache.redis"},
    "uvicorn": {"rag_backend.main", "llm_offline.starting"},
}


def modules() -> list[tuple[str, Path]]:
    found = []
    for package in ("rag_backend", "ingest", "llm_offline"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.append((".".join(p for p in parts if p != "__init__"), path))
    return found


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute here"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module: str) -> str | None:
    matching = [name for name in FLOORS if module == name or module.startswith(name + ".")]
    return max(matching, key=len) if matching else None


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: str(value))
def test_imports_point_down(module: str, path: Path) -> None:
    ours = room(module)
    for imported in imports(path):
        theirs = room(imported)
        if ours and theirs and ours != theirs:
            assert FLOORS[theirs] < FLOORS[ours], f"{module} imports {imported}"
            assert (ours, theirs) not in STRANGERS
            assert (theirs, ours) not in STRANGERS


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: str(value))
def test_packages_keep_apart(module: str, path: Path) -> None:
    """The model server knows nobody; the command line knows no backend."""
    allowed = {
        "llm_offline": {"llm_offline"},
        "ingest": {"ingest"},
        "rag_backend": {"rag_backend", "ingest"},
    }[module.split(".")[0]]
    for imported in imports(path):
        top = imported.split(".")[0]
        if top in ("rag_backend", "ingest", "llm_offline"):
            assert top in allowed, f"{module} imports {imported}"


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: str(value))
def test_heavy_libraries_have_one_door(module: str, path: Path) -> None:
    for imported in imports(path):
        doors = HEAVY.get(imported.split(".")[0])
        inside = doors is None or any((module + ".").startswith(door + ".") for door in doors)
        assert inside, f"{module} imports {imported}"


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: str(value))
def test_the_environment_is_read_in_settings_only(module: str, path: Path) -> None:
    source = path.read_text("utf-8")
    reads = "os.environ" in source.replace("os.environ.setdefault", "") or "getenv" in source
    assert not reads or module.endswith(".settings"), f"{module} reads the environment"
