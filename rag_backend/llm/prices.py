"""Prices as data: what a million tokens cost, in US dollars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SOURCE = "table of 2026-05"


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens.

    Attributes:
        cached_in: Of prompt tokens that the provider itself had kept from an earlier request.
        source: Where it comes from, for people.
    """

    input: float
    output: float
    cached_in: float
    source: str = "settings"

    def of(self, prompt: int, completion: int, cached: int = 0) -> float:
        """What an answer costs; `cached` of the prompt's tokens were kept."""
        fresh = max(0, prompt - cached)
        paid = fresh * self.input + (prompt - fresh) * self.cached_in + completion * self.output
        return paid / 1_000_000


FREE = Price(0, 0, 0, "local")
"""Of a model on one's own machine, where nobody says otherwise."""

# (input, cached input, output) at OpenAI, standard tier, as known in May 2026. Prices change: the
# list in force is at https://developers.openai.com/api/docs/pricing, and OPENAI_PRICE_IN,
# OPENAI_PRICE_CACHED_IN and OPENAI_PRICE_OUT overrule this one. A model that is not here has no
# price: a family's name says nothing of a later snapshot's.
_OPENAI: Mapping[str, tuple[float, float, float]] = {
    "gpt-5.4": (2.50, 0.25, 15.00),
    "gpt-5.4-mini": (0.75, 0.075, 4.50),
    "gpt-5.4-nano": (0.20, 0.02, 1.25),
    "gpt-5.2": (1.75, 0.175, 14.00),
    "gpt-5.1": (1.25, 0.125, 10.00),
    "gpt-5": (1.25, 0.125, 10.00),
    "gpt-5-2025-08-07": (1.25, 0.125, 10.00),
    "gpt-5-mini": (0.25, 0.025, 2.00),
    "gpt-5-mini-2025-08-07": (0.25, 0.025, 2.00),
    "gpt-5-nano": (0.05, 0.005, 0.40),
    "gpt-5-nano-2025-08-07": (0.05, 0.005, 0.40),
    "gpt-4.1": (2.00, 0.50, 8.00),
    "gpt-4.1-2025-04-14": (2.00, 0.50, 8.00),
    "gpt-4.1-mini": (0.40, 0.10, 1.60),
    "gpt-4.1-mini-2025-04-14": (0.40, 0.10, 1.60),
    "gpt-4.1-nano": (0.10, 0.025, 0.40),
    "gpt-4.1-nano-2025-04-14": (0.10, 0.025, 0.40),
    "gpt-4o": (2.50, 1.25, 10.00),
    "gpt-4o-2024-11-20": (2.50, 1.25, 10.00),
    "gpt-4o-2024-08-06": (2.50, 1.25, 10.00),
    "gpt-4o-2024-05-13": (5.00, 5.00, 15.00),
    "gpt-4o-mini": (0.15, 0.075, 0.60),
    "gpt-4o-mini-2024-07-18": (0.15, 0.075, 0.60),
    "o3": (2.00, 0.50, 8.00),
    "o3-2025-04-16": (2.00, 0.50, 8.00),
    "o4-mini": (1.10, 0.275, 4.40),
    "o4-mini-2025-04-16": (1.10, 0.275, 4.40),
}


def openai_price(*models: str | None) -> Price | None:
    """The price of the first of these models that the table knows."""
    known = (_OPENAI[model] for model in models if model is not None and model in _OPENAI)
    found = next(known, None)
    if found is None:
        return None
    fresh, cached, out = found
    return Price(fresh, out, cached, SOURCE)


def given_price(
    price_in: float | None, price_out: float | None, cached_in: float | None
) -> Price | None:
    """The price that somebody set; without `cached_in`, kept tokens cost what others do.

    Raises:
        ValueError: one without the other; one line.
    """
    if price_in is None and price_out is None and cached_in is None:
        return None
    if price_in is None or price_out is None:
        raise ValueError("the prices of input and output go together: give both")
    return Price(price_in, price_out, price_in if cached_in is None else cached_in)
