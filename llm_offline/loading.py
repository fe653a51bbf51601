"""From a model's name to a running engine, in a thread: the server answers `/health` already."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

from transformers import GenerationConfig

from llm_offline.checkpoint import is_pickled, read_tokenizer
from llm_offline.engine.compute.runner import Runner
from llm_offline.engine.hardware.device import DTYPES, memory_errors
from llm_offline.engine.interface import Sampling
from llm_offline.engine.text.grammar import Grammars
from llm_offline.engine.text.model_text import ModelText, choose_template
from llm_offline.engine.weights.arranging import arrange
from llm_offline.errors import StartError
from llm_offline.fitting import has_room_beside
from llm_offline.kernels import slow_because
from llm_offline.limits import Limits, limits
from llm_offline.loaded import LoadedModel
from llm_offline.network_reading import quieten, read_network
from llm_offline.progress import Progress
from llm_offline.remarks import remarks
from llm_offline.settings import Settings
from llm_offline.weighing import Candidate, find

log = logging.getLogger(__name__)


def load_model(settings: Settings, progress: Progress, *, encoder: bool = True) -> LoadedModel:
    """Find, check, read and warm up the model that the settings name.

    Args:
        settings: See there.
        progress: Told what is being done.
        encoder: Whether the encoder that they name is still to come to the device.

    Raises:
        StartError: One sentence that says what is wrong and what to do.
    """
    began = time.monotonic()
    quieten()
    found = find(settings, progress, encoder=encoder)
    has_room_beside(settings.model, found.need, None)
    progress.enter("reading the tokenizer")
    tokenizer = read_tokenizer(found.folder)
    template, origin = choose_template(tokenizer, settings.chat_template)
    network, advice = _network(settings, found, tokenizer, progress)
    bounds = _tried(settings, found, network, progress)
    model = LoadedModel(
        network=network,
        text=ModelText(tokenizer, template),
        grammars=Grammars(tokenizer, network.vocabulary, network.stop_ids),
        context=bounds.context,
        defaults=_defaults(advice),
        device=found.device,
        dtype=found.dtype,
        quantization=settings.quantization,
        weights_bytes=network.weights_bytes,
        kv_bytes=bounds.tokens * network.bytes_per_token,
        kv_tokens=bounds.tokens,
        template=origin if template != "" else None,
    )
    told = remarks(
        model,
        bounds,
        sizes=found.sizes,
        slow=slow_because(settings.quantization, found.device, found.dtype),
        decoding=network.decoding,
        most_rows=settings.max_batch,
        template=origin,
        seconds=time.monotonic() - began,
    )
    return replace(model, remarks=told)


def _network(
    settings: Settings, found: Candidate, tokenizer: Any, progress: Progress
) -> tuple[Runner, GenerationConfig]:
    """The network on its device, and its authors' advice on how to use it."""
    device, dtype, quantization = found.device, DTYPES[found.dtype], settings.quantization
    if any(map(is_pickled, found.files)):
        log.warning(
            "%s: the weights are pickles (--allow-pickle); read none that you do not trust",
            found.folder,
        )
    quantized = quantization != "none"
    # In its own dtype a file is mapped into memory and read when it is needed: tensor by tensor.
    # What is arranged refers to it no more.
    weights = read_network(found.folder, found.files, "auto" if quantized else dtype, progress)
    progress.enter(f"arranging the weights for {'this CPU' if device == 'cpu' else device}")

    def tell(done: int, of: int) -> None:
        if done == 1:
            progress.enter(f"quantizing the weights ({quantization})", total=of, unit="tensors")
        progress.advance(1)

    def too_large() -> StartError:
        return StartError(
            f"{device} ran out of memory while the weights were arranged ({quantization}): close "
            "what uses it, choose a smaller model, or use --device cpu"
        )

    with memory_errors(too_large):
        arrange(weights, quantization, device=device, dtype=dtype, told=tell)
    progress.enter(f"moving the weights to {device}")
    advice = weights.generation_config
    stops = _stop_ids(found.config, advice, tokenizer)
    return Runner(weights, device=device, stop_ids=stops, quantized=quantized), advice


def _tried(settings: Settings, found: Candidate, network: Runner, progress: Progress) -> Limits:
    """What the network has to work with, once it has its KV cache and has worked."""
    room = network.room(settings.max_batch, settings.kv_memory, found.need.beside)
    bounds = limits(settings, found.config, room)
    progress.enter("trying the model")
    network.allocate(
        bounds.tokens,
        context=bounds.context,
        most_rows=settings.max_batch,
        graphs=settings.cuda_graphs,
    )
    return bounds


def _stop_ids(config: Any, generation: GenerationConfig, tokenizer: Any) -> frozenset[int]:
    """All ids that end a text: generation_config, config and tokenizer each know some."""
    ids: set[int] = set()
    for known in (generation.eos_token_id, config.eos_token_id, tokenizer.eos_token_id):
        ids |= set(known) if isinstance(known, list | tuple) else {known} - {None}
    return frozenset(ids)


def _defaults(generation: GenerationConfig) -> Sampling:
    """What the model's authors advise, where a request says nothing."""

    def or_one(value: float | None) -> float:
        return 1.0 if value is None else float(value)

    return Sampling(
        temperature=or_one(generation.temperature),
        top_p=or_one(generation.top_p),
        top_k=generation.top_k or 0,
        min_p=generation.min_p or 0.0,
        repetition_penalty=or_one(generation.repetition_penalty),
    )
