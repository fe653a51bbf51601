"""What memory a model takes, before it is loaded, and whether that is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from llm_offline.engine.hardware.sizing import LEAST_CONTEXT
from llm_offline.errors import StartError

_GIB = 2**30
# Activations of a step, and what the allocator rounds up.
_SPARE = _GIB // 8


@dataclass(frozen=True, slots=True)
class Held:
    """What a model has that is loaded already, in bytes."""

    name: str
    weights: int
    kv: int


@dataclass(frozen=True, slots=True)
class Need:
    """A model on the disk, weighed: estimates from its files. Amounts are bytes.

    Attributes:
        weights: All of them, quantized as they will be.
        kv_token: Keys and values of one token.
        context: Tokens of prompt and answer together.
        kv_wanted: Keys and values of as many requests of full length as may run.
        kv_share: How much of the memory beside the weights keys and values may take.
        free: Free on the device when it was weighed, but for `beside`.
        device: Where it would compute.
        by_quantization: What the weights would take otherwise; empty where that is not known.
        kv_asked: Keys and values for which `--kv-memory` asks; 0 where it is not set.
        beside: Kept free for an encoder.
    """

    weights: int
    kv_token: int
    context: int
    kv_wanted: int
    kv_share: float
    free: int
    device: str
    by_quantization: Mapping[str, int] = field(default_factory=dict)
    kv_asked: int = 0
    beside: int = 0

    def fits(self, free: int) -> bool:
        """Whether it runs at all in so much memory: with what was asked for, or a short context."""
        kv = self.kv_asked or self.kv_token * min(self.context, LEAST_CONTEXT)
        return self.weights + kv + _SPARE <= free

    def fits_whole(self, free: int) -> bool:
        """Whether it has room for all keys and values that it can use, too."""
        room = (free - self.weights - _SPARE) * self.kv_share
        return self.fits(free) and self.kv_wanted <= room

    def free_beside(self, held: Held | None) -> int:
        """What is free while another model stays.

        A CPU's memory counts as taken once it was written to, and of what the other one has
        reserved for keys and values nothing may have been yet.
        """
        return self.free - (held.kv if held is not None and self.device == "cpu" else 0)

    def free_without(self, held: Held | None) -> int:
        """What would be free if another model went; see `free_beside`."""
        if held is None:
            return self.free
        return self.free + held.weights + (0 if self.device == "cpu" else held.kv)

    def refusal(self, name: str, free: int, without: str | None) -> str:
        """Why it does not fit: one sentence with the numbers.

        Args:
            name: Of the model.
            free: What there would be.
            without: The model that would be unloaded for it, if any.
        """
        ways = ["close what uses it", "choose a smaller model", *self._smaller(free)]
        cache = f"{self.kv_token * 1024 / 2**20:.0f} MiB for each 1,024 tokens of context"
        if self.kv_asked:
            ways.insert(0, "lower --kv-memory")
            cache = f"{self.kv_asked / _GIB:.2f} GiB for keys and values (--kv-memory)"
        would = f"would be free without {without}" if without else "are free"
        kept = f" beside {self.beside / _GIB:.1f} GiB kept for the encoder" if self.beside else ""
        return (
            f"{name} does not fit: it needs about {self.weights / _GIB:.1f} GiB for its weights "
            f"and {cache}, and {max(0, free) / _GIB:.1f} GiB {would} on {self.device}{kept}: "
            + ", or ".join(ways)
        )

    def _smaller(self, free: int) -> list[str]:
        """Flags with which it would fit."""
        return [
            f"--quantization {name} ({weights / _GIB:.1f} GiB)"
            for name, weights in self.by_quantization.items()
            if weights < self.weights and replace(self, weights=weights).fits(free)
        ]


def has_room_beside(name: str, need: Need, held: Held | None) -> bool:
    """Whether a model can be loaded, with all that it can use, while another one stays.

    Raises:
        StartError: It does not fit even without the other one.
    """
    alone = need.free_without(held)
    if not need.fits(alone):
        raise StartError(need.refusal(name, alone, held.name if held else None))
    return held is None or need.fits_whole(need.free_beside(held))
