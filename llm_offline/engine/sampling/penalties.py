"""Penalties for what a text has already, from tallies that are kept from step to step.

What a step costs depends on the different tokens of a text and on those that are new, and not on
the length of its prompt.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from itertools import count

import torch

from llm_offline.engine.interface import Sampling


class Tally:
    """The different tokens of one text, and how often each was said."""

    def __init__(self, prompt: Items[int] = (), said: Items[int] = ()) -> None:
        """What the prompt has is seen, but not said."""
        self._places = dict(zip(dict.fromkeys(prompt), count(), strict=False))
        # Both by place. They follow the logits to their device.
        self._ids = torch.tensor([*self._places], dtype=torch.long)
        self._times = torch.zeros(len(self._ids))
        self.said = 0
        """Tokens that were counted as said."""
        self.extend(said)

    def extend(self, tokens: Items[int]) -> None:
        """More was said."""
        if tokens:
            new, self._ids, self._times = self._after(tokens)
            self._places |= new
            self.said += len(tokens)

    def penalise(self, logits: torch.Tensor, wishes: Sampling, draft: Items[int] = ()) -> None:
        """Change logits `[vocabulary]` in place, as if `draft` had been said, too."""
        self._ids, self._times = self._ids.to(logits.device), self._times.to(logits.device)
        # Guesses are not kept: they may be wrong.
        ids, times = self._after(draft)[1:] if draft else (self._ids, self._times)
        values = logits.gather(0, ids)
        if wishes.repetition_penalty != 1:
            factor = wishes.repetition_penalty
            values = torch.where(values < 0, values * factor, values / factor)
        if wishes.presence_penalty or wishes.frequency_penalty:
            values -= wishes.presence_penalty * (times > 0) + wishes.frequency_penalty * times
        logits.scatter_(0, ids, values)

    def _after(self, tokens: Items[int]) -> tuple[dict[int, int], torch.Tensor, torch.Tensor]:
        """Places of those never seen before, and all ids and times, once `tokens` are said."""
        unseen = (token for token in dict.fromkeys(tokens) if token not in self._places)
        new = dict(zip(unseen, count(len(self._places)), strict=False))
        places = [new[one] if one in new else self._places[one] for one in tokens]
        device = self._ids.device
        ids = torch.cat([self._ids, torch.tensor([*new], dtype=torch.long, device=device)])
        times = torch.cat([self._times, torch.zeros(len(new), device=device)])
        more = torch.tensor(places, device=device)
        return new, ids, times.index_add_(0, more, torch.ones(len(places), device=device))
