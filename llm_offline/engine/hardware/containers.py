"""How much memory a container leaves to the process: psutil tells of the whole machine."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path, PurePosixPath

_GROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
# (limit, in use, what can be dropped), of the second and the first version of cgroups.
_FILES = {
    "": ("memory.max", "memory.current", ("inactive_file", "active_file")),
    "memory": (
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
}


def container_room(
    free: int, total: int, *, groups: Path = _GROUPS, membership: Path = _MEMBERSHIP
) -> tuple[int, int]:
    """(free, total) bytes: those of the machine, or of a control group around us that has fewer.

    Args:
        free: Of the machine.
        total: Of the machine.
        groups: Where the kernel shows control groups.
        membership: Which of them this process is in.
    """
    for controller, path in _memberships(membership):
        root = groups / controller
        # Each group around ours bounds it. In a container ours may be shown as the root.
        for group in (PurePosixPath(path), *PurePosixPath(path).parents):
            found = _room(root / str(group).lstrip("/"), *_FILES[controller])
            if found is not None:
                free, total = min(free, found[0]), min(total, found[1])
    return max(0, free), total


def _memberships(file: Path) -> list[tuple[str, str]]:
    """(controller, group): the second version has all controllers in one, whose name is empty."""
    with suppress(OSError, UnicodeDecodeError):
        lines = [line.split(":", 2) for line in file.read_text("utf-8").splitlines()]
        parts = [(line[1], line[2]) for line in lines if len(line) == 3]
        return [
            (name, path) for names, path in parts for name in names.split(",") if name in _FILES
        ]
    return []


def _room(group: Path, limit: str, used: str, droppable: tuple[str, ...]) -> tuple[int, int] | None:
    """(free, limit) of one group; None where it has no limit."""
    with suppress(OSError, ValueError):
        most = int((group / limit).read_text("utf-8"))
        taken = int((group / used).read_text("utf-8"))
        # Cached files are in the count, and go when memory is wanted.
        rows = [line.split() for line in (group / "memory.stat").read_text("utf-8").splitlines()]
        cached = sum(int(value) for name, value in rows if name in droppable)
        return most - taken + cached, most
    return None
