"""How far the start of the model is; written by the loading thread, read by `/health`."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of the start.

    Attributes:
        name: What is being done, in words.
        done: How much of it, in `unit`; None where that is not known.
        total: How much there is, in `unit`.
        unit: "bytes" or "tensors".
    """

    name: str
    done: int | None = None
    total: int | None = None
    unit: str = "bytes"

    @property
    def percent(self) -> float | None:
        """How much of it is done, 0 to 100; None where that is not known."""
        if self.done is None or not self.total:
            return None
        return round(100 * min(1.0, self.done / self.total), 1)

    def as_json(self) -> dict[str, Any]:
        """For `/health`: `stage`, and `done`, `total`, `unit`, `percent` where known."""
        known: dict[str, Any] = {"stage": self.name}
        if self.percent is not None:
            known |= {"done": self.done, "total": self.total, "unit": self.unit}
            known["percent"] = self.percent
        return known

    def __str__(self) -> str:
        return self.name if self.percent is None else f"{self.name} ({self.percent:.0f} %)"


class Progress:
    """The current stage. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stage = Stage("starting")

    @property
    def stage(self) -> Stage:
        """The current stage."""
        with self._lock:
            return self._stage

    def enter(self, name: str, *, total: int | None = None, unit: str = "bytes") -> None:
        """Begin a stage."""
        with self._lock:
            self._stage = Stage(name, 0 if total else None, total, unit)

    def advance(self, by: int, *, total: int | None = None) -> None:
        """Some more of the current stage is done; `total` corrects how much there is."""
        with self._lock:
            now = self._stage
            self._stage = Stage(now.name, (now.done or 0) + by, total or now.total, now.unit)
