"""The engine's state as Prometheus reads it, under vLLM's names where the meaning is the same.

What embeddings are counted by is called as in text-embeddings-inference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from llm_offline.encoding import EncodingStatus
from llm_offline.engine.interface import EngineStatus, Histogram

_PREFIX = "llm_offline_"


def exposition(status: EngineStatus, memory: Mapping[str, int], *, loaded: bool) -> str:
    """All of `/metrics`; `memory` in bytes, see `loaded.Network.memory`; `loaded`: a model is."""
    return "\n".join(_lines(status, memory, loaded)) + "\n"


def encoding_exposition(status: EncodingStatus) -> str:
    """The part of `/metrics` about `/v1/embeddings`."""
    ready = int(status.state == "ready")
    lines = [
        *_single("embed_model_loaded", "gauge", ready),
        *_single("embed_queue_size", "gauge", status.waiting),
        *_single("embed_request_count_total", "counter", status.asked),
        *_single("embed_request_success_total", "counter", status.answered),
    ]
    return "\n".join(lines) + "\n"


def _lines(status: EngineStatus, memory: Mapping[str, int], loaded: bool) -> Iterator[str]:
    gauges: dict[str, float] = {
        "model_loaded": int(loaded),
        "num_requests_running": status.running,
        "num_requests_waiting": status.waiting,
        "kv_cache_usage_perc": status.kv_cache_usage,  # 0 to 1, as in vLLM
    }
    gauges |= {f"device_memory_{name}": value for name, value in memory.items()}
    for name, value in gauges.items():
        yield from _single(name, "gauge", value)
    yield from _single("prompt_tokens_total", "counter", status.prompt_tokens)
    yield from _single("generation_tokens_total", "counter", status.generation_tokens)
    for name, count in sorted(status.counters.items()):
        yield from _single(f"{name}_total", "counter", count)
    yield f"# TYPE {_PREFIX}requests_total counter"
    for how, count in sorted(status.finished.items()):
        yield f'{_PREFIX}requests_total{{finished_reason="{how}"}} {count}'
    for name, histogram in status.histograms.items():
        yield from _histogram(name, histogram)


def _single(name: str, kind: str, value: float) -> Iterator[str]:
    yield f"# TYPE {_PREFIX}{name} {kind}"
    yield f"{_PREFIX}{name} {value}"


def _histogram(name: str, histogram: Histogram) -> Iterator[str]:
    yield f"# TYPE {_PREFIX}{name} histogram"
    counts = histogram.cumulative()
    for bound, count in counts:
        yield f'{_PREFIX}{name}_bucket{{le="{bound}"}} {count}'
    yield f"{_PREFIX}{name}_sum {histogram.total}"
    yield f"{_PREFIX}{name}_count {counts[-1][1]}"
