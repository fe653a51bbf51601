"""Attribute filters of a vector-store search: `{"type": "eq", "key": …, "value": …}` and so on."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from rag_backend.errors import BadRequest
from rag_backend.knowledge.models import SearchableFile, chunk_id

_MAX_DEPTH = 8


def _equal(one: Any, other: Any) -> bool:
    """As in JSON, where `true` is not 1."""
    return isinstance(one, bool) is isinstance(other, bool) and bool(one == other)


def _contains(value: Any, options: Any) -> bool:
    return any(_equal(value, option) for option in options)


_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": _equal,
    "ne": lambda value, other: not _equal(value, other),
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "in": _contains,
    "nin": lambda value, options: not _contains(value, options),
}
_TRUE_WHEN_ABSENT = ("ne", "nin")


def check(filters: Any, depth: int = 0) -> None:
    """Raise BadRequest unless `filters` is a comparison or a compound filter of OpenAI's form."""
    if not isinstance(filters, Mapping) or depth > _MAX_DEPTH:
        raise BadRequest(
            "A filter is an object with a `type`, nested at most 8 deep.", param="filters"
        )
    kind = filters.get("type")
    if kind in ("and", "or"):
        nested = filters.get("filters")
        if not isinstance(nested, list) or not nested:
            raise BadRequest(f"A filter of type `{kind}` needs a list `filters`.", param="filters")
        for item in nested:
            check(item, depth + 1)
    elif isinstance(kind, str) and kind in _COMPARISONS:
        _check_comparison(kind, filters)
    else:
        allowed = ", ".join([*_COMPARISONS, "and", "or"])
        raise BadRequest(f"Filter type {kind!r} is not one of {allowed}.", param="filters")


def _check_comparison(kind: str, filters: Mapping[str, Any]) -> None:
    value = filters.get("value")
    if not isinstance(filters.get("key"), str) or "value" not in filters:
        raise BadRequest(f"A filter of type `{kind}` needs `key` and `value`.", param="filters")
    if kind in ("in", "nin") and not isinstance(value, list):
        raise BadRequest(f"A filter of type `{kind}` needs a list as `value`.", param="filters")
    if not all(isinstance(item, str | int | float) for item in _listed(kind, value)):
        raise BadRequest(
            f"A filter of type `{kind}` compares with a text, a number or a boolean.",
            param="filters",
        )
    if kind in ("gt", "gte", "lt", "lte") and not _is_number(value):
        raise BadRequest(f"A filter of type `{kind}` needs a number as `value`.", param="filters")


def _listed(kind: str, value: Any) -> list[Any]:
    return value if kind in ("in", "nin") else [value]


def matches(filters: Mapping[str, Any], attributes: Mapping[str, Any]) -> bool:
    """Whether a file with these attributes passes a filter that `check` accepted."""
    kind = filters["type"]
    if kind == "and":
        return all(matches(item, attributes) for item in filters["filters"])
    if kind == "or":
        return any(matches(item, attributes) for item in filters["filters"])
    if filters["key"] not in attributes:
        return kind in _TRUE_WHEN_ABSENT
    value = attributes[filters["key"]]
    if kind in ("gt", "gte", "lt", "lte") and not _is_number(value):
        return False
    return _COMPARISONS[kind](value, filters["value"])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class Selection:
    """The files that a filter lets through, at one revision of a store.

    Attributes:
        versions: {file id: its `SearchableFile.version`}.
        share: The part of the store's files that they are, in 0..1.
    """

    def __init__(
        self,
        files: Sequence[SearchableFile],
        share: float,
        count: Callable[[Sequence[str]], Mapping[str, int]],
    ) -> None:
        """`count` gives {file id: number of chunks} of file ids; it is asked once, if at all."""
        self.versions = {file.file_id: file.version for file in files}
        self.share = share
        self._count = count

    def __contains__(self, chunk: str) -> bool:
        """Whether a chunk, by its id, belongs to one of the files."""
        return chunk.rpartition(":")[0] in self.versions

    def __len__(self) -> int:
        """Number of files."""
        return len(self.versions)

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """{file id: number of its chunks}, of files that have any. Synchronous."""
        return self._count(list(self.versions))

    @cached_property
    def size(self) -> int:
        """Number of chunks. Synchronous."""
        return sum(self.counts.values())

    def chunks(self, file_ids: Iterable[str] | None = None) -> list[str]:
        """Ids of all chunks, or of those of some of the files. Synchronous."""
        wanted = self.counts if file_ids is None else file_ids
        return [chunk_id(file, n) for file in wanted for n in range(self.counts[file])]

    def enough(self, k: int) -> int:
        """How many of the nearest to look at, to find k of these files' among them most likely.

        As many as hold k of them on average and 30 % more; a filter that has to do with the
        question can need more, or all.
        """
        return int(1.3 * k / self.share) + 20 if self.share else 0
