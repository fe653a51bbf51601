"""What is decided about a request on its way, for whoever asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Rule = Literal["named", "task", "context", "features", "score", "overflow"]
"""What decided: the request's `model`; a chat client's own task; who can hold the prompt; who can
do what is asked; the score; or the local model's refusal of a prompt that was too long."""


@dataclass(frozen=True, slots=True)
class Route:
    """Which provider a request was sent to, and why.

    Attributes:
        reasons: A few of a small, fixed set of words; nothing of the user's.
        score, threshold: In 0..1; None where another rule decided.
    """

    provider: str
    rule: Rule
    reasons: tuple[str, ...]
    score: float | None = None
    threshold: float | None = None

    def header(self) -> str:
        """As the response's `x-route` shows it."""
        parts = [self.provider]
        if self.score is not None and self.threshold is not None:
            parts += [f"score={self.score:.2f}", f"threshold={self.threshold:.2f}"]
        return "; ".join([*parts, f'reasons="{", ".join(self.reasons)}"'])


@dataclass(slots=True)
class Note:
    """Filled in while a request is answered.

    Attributes:
        route: None where nothing was routed, and until it is.
        spared: Tokens that condensing took out of the prompt, as the provider would count them.
    """

    route: Route | None = None
    spared: int = 0
