"""What a container leaves of the machine's memory, by files as the kernel shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_offline.engine.hardware.containers import container_room

GIB = 2**30
FREE, TOTAL = 100 * GIB, 128 * GIB


def _group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n", encoding="utf-8")


def _room(tmp_path: Path, membership: str) -> tuple[int, int]:
    (tmp_path / "self").write_text(membership, encoding="utf-8")
    return container_room(FREE, TOTAL, groups=tmp_path / "groups", membership=tmp_path / "self")


def test_without_groups_it_is_the_machines(tmp_path: Path) -> None:
    found = container_room(FREE, TOTAL, groups=tmp_path, membership=tmp_path / "none")
    assert found == (FREE, TOTAL)
    assert _room(tmp_path, "0::/\n") == (FREE, TOTAL)


@pytest.mark.parametrize("path", ["/", "/a/b", "/gone/from/here"])
def test_a_container_of_the_second_version(tmp_path: Path, path: str) -> None:
    """Its own group is the root; what a parent limits counts too, and cached files do not."""
    stat = f"anon {2 * GIB}\ninactive_file {GIB}\nactive_file {GIB}"
    _group(
        tmp_path / "groups",
        memory__max=8 * GIB,
        memory__current=4 * GIB,
        memory__stat=stat,
    )
    _group(tmp_path / "groups/a/b", memory__max="max", memory__current=GIB, memory__stat=stat)
    assert _room(tmp_path, f"0::{path}\n") == (6 * GIB, 8 * GIB)


def test_the_narrowest_group_counts(tmp_path: Path) -> None:
    stat = "inactive_file 0\nactive_file 0"
    for path, limit in (("a", 16), ("a/b", 4)):
        _group(
            tmp_path / "groups" / path,
            memory__max=limit * GIB,
            memory__current=GIB,
            memory__stat=stat,
        )
    assert _room(tmp_path, "0::/a/b\n") == (3 * GIB, 4 * GIB)


def test_the_first_version(tmp_path: Path) -> None:
    _group(
        tmp_path / "groups/memory",
        memory__limit_in_bytes=2 * GIB,
        memory__usage_in_bytes=3 * GIB,
        memory__stat="total_inactive_file 0\ntotal_active_file 0",
    )
    # In use may be more than the limit for a moment.
    assert _room(tmp_path, "9:cpu,cpuacct:/\n4:memory:/docker/x\n0::/\n") == (0, 2 * GIB)
    limitless = {"memory__limit_in_bytes": 2**63 - 4096, "memory__usage_in_bytes": GIB}
    _group(tmp_path / "groups/memory", **limitless)
    assert _room(tmp_path, "4:memory:/\n") == (FREE, TOTAL)
