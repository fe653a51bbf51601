"""Drawing tokens: an exponential race with counter noise.

`argmax(log p - log E)` with `E` exponential noise for each token draws from `p` (the Gumbel-max
trick). The noise is a hash of (seed, position, token id): no state, so a request's text does not
depend on what else is in the batch, on chunks, preemption or guesses; and one vectorised pass
draws for all rows.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, field

import torch
from torch.nn import functional

from llm_offline.engine.interface import Sampling
from llm_offline.engine.sampling.penalties import Tally

GREEDY = 1e-5
"""Below this a temperature is greedy: the division would leave the range of a float."""

# Tokens among which a nucleus is looked for first; sorting 128,000 for them takes milliseconds. One
# more than a round number: whether another is as likely as the last of a top_k shows in the next.
_LIKELY = 513
_SHORT = 256
# Numbers of 64 bits, a few times which the caches of a CPU's cores hold.
_NEAR = 65_536
# Devices whose rows race on the CPU: noise of fp32 has too few numbers for rare tokens. An Apple
# GPU shares its memory with the CPU, so that the way there is short.
_WITHOUT_FP64 = frozenset({"mps"})


@dataclass(frozen=True, slots=True)
class Draw:
    """What decides one row's token, besides its logits.

    Attributes:
        sampling: The request's wishes.
        seed: Of its noise, 64 bits.
        position: Of the token to be drawn, in the whole text.
        tally: Of the tokens before it, without the draft; None where nothing is penalised.
        draft: Guesses before it, which count as said.
        allowed: bool `[vocabulary]`, or None where a grammar restricts nothing.
    """

    sampling: Sampling
    seed: int
    position: int
    tally: Tally | None = None
    draft: Items[int] = ()
    allowed: torch.Tensor | None = field(default=None, compare=False)


def draw(logits: torch.Tensor, rows: Items[Draw]) -> torch.Tensor:
    """Token ids, int64 `[R]`, from logits `[R, vocabulary]` in fp32, which are changed in place."""
    for number, row in enumerate(rows):
        _adjust(logits[number], row)
    sampled = [n for n, row in enumerate(rows) if not is_greedy(row.sampling)]
    if not sampled:
        return logits.argmax(-1)
    some = _some(logits, sampled)
    if some.device.type in _WITHOUT_FP64:
        some = some.cpu()
    found = _race(some, [rows[n] for n in sampled]).to(logits.device)
    if len(sampled) == len(rows):
        return found
    tokens = logits.argmax(-1)
    tokens[sampled] = found
    return tokens


def is_greedy(sampling: Sampling) -> bool:
    """Whether only the most likely token can be drawn."""
    return sampling.temperature < GREEDY or sampling.top_p == 0 or sampling.top_k == 1


def _adjust(logits: torch.Tensor, row: Draw) -> None:
    """Penalties, biases and the grammar, in place, on `[vocabulary]`."""
    if row.tally is not None:
        row.tally.penalise(logits, row.sampling, row.draft)
    if row.sampling.logit_bias:
        tokens, biases = zip(*row.sampling.logit_bias, strict=True)
        logits.index_add_(0, _like(logits, tokens, torch.long), _like(logits, biases))
    if row.allowed is not None:
        logits.masked_fill_(~row.allowed.to(logits.device), -torch.inf)


def _race(logits: torch.Tensor, rows: Items[Draw]) -> torch.Tensor:
    """Token ids for rows that are sampled."""
    temperatures = _column(logits, [row.sampling.temperature for row in rows])
    scaled = (logits - logits.amax(-1, keepdim=True)).div_(temperatures)
    truncated = [n for n, row in enumerate(rows) if _is_truncated(row.sampling, logits.shape[1])]
    whole = sorted(set(range(len(rows))) - set(truncated))
    tokens = torch.empty(len(rows), dtype=torch.long, device=logits.device)
    if whole:
        tokens[whole] = _race_whole(_some(scaled, whole), [rows[n] for n in whole])
    if truncated:
        chosen = [rows[n] for n in truncated]
        tokens[truncated] = _race_truncated(_some(scaled, truncated), chosen)
    return tokens


def _some(values: torch.Tensor, rows: Items[int]) -> torch.Tensor:
    """`values[rows]`, without a copy if these are all."""
    return values if len(rows) == len(values) else values[rows]


def _race_whole(scaled: torch.Tensor, rows: Items[Draw]) -> torch.Tensor:
    """With min_p alone."""
    if any(row.sampling.min_p for row in rows):
        least = _column(scaled, [row.sampling.min_p for row in rows]).log()
        scaled = scaled.masked_fill(scaled < least, -torch.inf)
    ids = torch.arange(scaled.shape[1], device=scaled.device)[None]
    return _first_past(scaled, ids, rows)[:, 0]


def _is_truncated(sampling: Sampling, vocabulary: int) -> bool:
    return sampling.top_p < 1 or 0 < sampling.top_k < vocabulary


def _race_truncated(scaled: torch.Tensor, rows: Items[Draw]) -> torch.Tensor:
    """With top_k, then top_p of what that leaves, then min_p: the library's order.

    Only those rows are sorted as a whole whose own tokens call for it, and of equally likely ones,
    of which bf16 has many, the lower id comes first either way: neighbours change nothing.
    """
    ordered, ids = _by_value_and_id(*scaled.topk(min(_LIKELY, scaled.shape[1])))
    kept, enough = _kept(ordered, scaled, rows)
    tokens = _raced(ordered, ids, kept, rows)
    lacking = [n for n, found in enumerate(enough.tolist()) if not found]
    if lacking:
        some, chosen = scaled[lacking], [rows[n] for n in lacking]
        ordered, ids = some.sort(descending=True, stable=True)
        kept, _ = _kept(ordered, some, chosen)
        tokens[lacking] = _raced(ordered, ids, kept, chosen)
    return tokens


def _raced(
    ordered: torch.Tensor, ids: torch.Tensor, kept: torch.Tensor, rows: Items[Draw]
) -> torch.Tensor:
    places = _first_past(ordered.masked_fill(~kept, -torch.inf), ids, rows)
    return ids.gather(1, places)[:, 0]


def _by_value_and_id(values: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both in the order that a stable sort gives: `topk` has one of its own for equal values."""
    ids, places = ids.sort()
    values, order = values.gather(1, places).sort(descending=True, stable=True)
    return values, ids.gather(1, order)


def _kept(
    ordered: torch.Tensor, scaled: torch.Tensor, rows: Items[Draw]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of the ordered tokens may be drawn, and for which rows no other one may: `[R]`."""
    vocabulary, likely = scaled.shape[1], ordered.shape[1]
    wishes = [row.sampling for row in rows]
    ranks = torch.arange(likely, device=scaled.device)
    most = _column(scaled, [min(w.top_k or vocabulary, vocabulary) for w in wishes])
    by_rank = ranks < most
    # In fp64: the number of rows decides in which order a sum is added up, and must change nothing.
    weights = ordered.double().exp()
    mass = weights.masked_fill(~by_rank, 0).sum(-1, keepdim=True)
    if any(not 0 < w.top_k <= likely for w in wishes):
        # Without top_k the nucleus is one of the whole vocabulary.
        whole = _mass(scaled)
        mass = torch.where(most > likely, whole, mass)
    shares = weights / mass
    # A token stays if the mass before it has not reached top_p: the most likely one always stays.
    before = shares.cumsum(-1) - shares
    nucleus = _column(scaled, [w.top_p for w in wishes])
    kept = by_rank & (before < nucleus) & (ordered > -torch.inf)
    kept &= ordered >= _column(scaled, [w.min_p for w in wishes]).log()
    kept[:, 0] = True
    # Of what is as likely as the last one here, there may be more than is here.
    least = ordered.masked_fill(~kept, torch.inf).amin(-1)
    found = (least > ordered[:, -1]) & ((most <= likely) | (most == vocabulary))[:, 0]
    return kept, found | (ordered[:, -1] == -torch.inf) | (likely == vocabulary)


def _mass(scaled: torch.Tensor) -> torch.Tensor:
    """Of a whole vocabulary: `[R, n]` unnormalised log-probabilities → fp64 `[R, 1]`."""
    weights = scaled.exp()
    if lacking := -scaled.shape[1] % _SHORT:
        weights = functional.pad(weights, (0, lacking))
    # Short sums in fp32, each added up by one thread, take half the time of one in fp64.
    return weights.view(len(scaled), -1, _SHORT).sum(-1).sum(-1, keepdim=True, dtype=torch.float64)


def _first_past(scores: torch.Tensor, ids: torch.Tensor, rows: Items[Draw]) -> torch.Tensor:
    """The race: `[R, n]` unnormalised log-probabilities → `[R, 1]`, the places of the winners.

    `ids`: int64, the tokens at these places, `[1, n]` if the same in each row.
    """
    seeds = torch.tensor([[_mixed(row.seed, row.position)] for row in rows], device=scores.device)
    # As much at once as a CPU's caches hold; a GPU would wait for the calls.
    most = max(1, _NEAR // scores.shape[1]) if scores.device.type == "cpu" else len(rows)
    found = []
    for at in range(0, len(rows), most):
        part = slice(at, at + most)
        # E / p, of which the least wins; less than 0 throughout, so that -inf is never the most.
        noise = uniform(seeds[part], ids if len(ids) == 1 else ids[part]).log_()
        found.append(noise.div_(scores[part].exp()).argmax(-1, keepdim=True))
    return torch.cat(found)


def _column(like: torch.Tensor, values: Items[float]) -> torch.Tensor:
    return _like(like, values)[:, None]


def _like(
    like: torch.Tensor, values: Items[float], dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype, device=like.device)


_WORD = 2**64


def _signed(word: int) -> int:
    """The 64 bits as torch's int64 holds them."""
    word %= _WORD
    return word - _WORD if word >= _WORD // 2 else word


def _mixed(seed: int, position: int) -> int:
    return _signed(_finalised(_finalised(seed % _WORD) + position * 0x9E3779B97F4A7C15))


def _finalised(word: int) -> int:
    """SplitMix64's finaliser (Steele et al., 2014) on Python's integers."""
    word %= _WORD
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % _WORD
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % _WORD
    return word ^ (word >> 31)


def uniform(seeds: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """float64 in (0, 1), a function of seed and id: int64 `[R, 1]` and `[R, n]` → `[R, n]`.

    SplitMix64's finaliser again; int64 products wrap around as 64-bit words do.
    """
    word = seeds + ids * _signed(0x9E3779B97F4A7C15)
    word = (word ^ _shifted(word, 30)) * _signed(0xBF58476D1CE4E5B9)
    word = (word ^ _shifted(word, 27)) * _signed(0x94D049BB133111EB)
    word = word ^ _shifted(word, 31)
    # One bit less than a float64 has: with the half that is added none is rounded to 1.
    return (_shifted(word, 12).double() + 0.5) * 2.0**-52


def _shifted(word: torch.Tensor, bits: int) -> torch.Tensor:
    """To the right, with zeros from the left."""
    return (word >> bits) & ((1 << (64 - bits)) - 1)
