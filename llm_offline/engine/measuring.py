"""What `/metrics` tells of the engine's inside, in vLLM's words."""

from __future__ import annotations

from collections import Counter

from llm_offline.engine.histogram import Histogram
from llm_offline.engine.sequence import Sequence


class Measures:
    """Counters and histograms, by their names in `/metrics`; written by the engine's thread.

    A prompt counts once, when its first token comes: it was read then, whatever part of it was
    found in the cache, and however often it was read.
    """

    def __init__(self) -> None:
        self.prompt_tokens = 0
        """Of all prompts that were read."""
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

    def tokens(
        self, sequence: Sequence, came: int, *, guessed: int, asked_at: float, now: float
    ) -> None:
        """A step gave a sequence `came` tokens, the last ones that it has.

        The time between tokens is what passed since the sequence's last one, whatever the engine
        did meanwhile. Tokens that come together share it: it is counted once for each of them, so
        that the sum over the count is the mean of a text's seconds for a token.

        Args:
            sequence: Whose.
            came: How many; at least 1.
            guessed: How many guesses the step tried for it.
            asked_at: When its request came, by the clock of `now`.
            now: When the step ended, in seconds.
        """
        if sequence.last_token_at is None:
            prompt = len(sequence.request.prompt)
            self.prompt_tokens += prompt
            self.counters["prefix_cache_queries"] += prompt
            self.counters["prefix_cache_hits"] += sequence.cached_tokens
            self.histograms["time_to_first_token_seconds"].add(now - asked_at)
        else:
            between = self.histograms["inter_token_latency_seconds"]
            between.add((now - sequence.last_token_at) / came, came)
        self.counters["spec_decode_num_draft_tokens"] += guessed
        self.counters["spec_decode_num_accepted_tokens"] += came - 1
        sequence.last_token_at = now
