"""From a step's logits to the tokens of its rows."""

from __future__ import annotations

from collections.abc import Sequence as Items

import torch

from llm_offline.engine.interface import TokenLogprob
from llm_offline.engine.sampling import drawing, sampler
from llm_offline.engine.sequence import Drawn
from llm_offline.engine.step import Row


def outcome(logits: torch.Tensor, rows: Items[Row]) -> list[Drawn]:
    """The tokens of each row from `[samples, vocabulary]` in fp32, which are changed in place."""
    if not len(logits):
        return [Drawn([], []) for _ in rows]
    draws = [draw for row in rows for draw in drawing.draws(row)]
    are_numbers = torch.isfinite(logits.amax(-1))
    asked = [draw.sampling.logprobs for draw in draws]
    before = logits.log_softmax(-1) if any(n is not None for n in asked) else None
    # Both in one copy: a GPU is waited for once a step.
    tokens, numbers = torch.stack([sampler.draw(logits, draws), are_numbers]).tolist()
    found = []
    at = 0
    for row in rows:
        until = at + row.samples
        logprobs = (
            []
            if before is None or row.sequence.request.sampling.logprobs is None
            else [_logprob(before[n], tokens[n], asked[n] or 0) for n in range(at, until)]
        )
        found.append(Drawn(tokens[at:until], logprobs, all(numbers[at:until])))
        at = until
    return found


def _logprob(logprobs: torch.Tensor, token: int, count: int) -> TokenLogprob:
    best = logprobs.topk(count)
    top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return TokenLogprob(token, float(logprobs[token]), top)
