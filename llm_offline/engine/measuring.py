"""What `/metrics` tells of the engine's inside."""

from __future__ import annotations

from collections import Counter

from llm_offline.engine.interface import Histogram
from llm_offline.engine.sequence import Sequence


class Measures:
    """Counters and histograms, by their names in `/metrics`; written by the engine's thread."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter(
            prefix_cache_queries=0,
            prefix_cache_hits=0,
            spec_decode_num_draft_tokens=0,
            spec_decode_num_accepted_tokens=0,
            step_failures=0,
            out_of_memory=0,
        )
        self.histograms = {
            "time_to_first_token_seconds": Histogram(),
            "inter_token_latency_seconds": Histogram(),
        }

    def first_token(self, seconds: float, sequence: Sequence) -> None:
        """A sequence's first token came `seconds` after its request."""
        self.histograms["time_to_first_token_seconds"].add(seconds)
        self.counters["prefix_cache_queries"] += len(sequence.request.prompt)
        self.counters["prefix_cache_hits"] += sequence.cached_tokens

    def tokens(self, seconds: float, count: int, guessed: int) -> None:
        """A step of `seconds` gave a sequence `count` tokens, and tried `guessed` guesses."""
        self.histograms["inter_token_latency_seconds"].add(seconds / count, count)
        self.counters["spec_decode_num_draft_tokens"] += guessed
        self.counters["spec_decode_num_accepted_tokens"] += count - 1
