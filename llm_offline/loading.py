"""From a model's name to a running engine.

It runs in a thread while the server answers
`/health` already.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from llm_offline.engine.device import DTYPES, choose_device, choose_dtype, memory
from llm_offline.engine.grammar import Grammars
from llm_offline.engine.interface import Sampling
from llm_offline.engine.quantized_linear import HAS_TRITON
from llm_offline.engine.runner import Runner
from llm_offline.engine.text import ModelText, choose_template
from llm_offline.engine.weights import WeightBytes, arrange, weight_bytes
from llm_offline.errors import StartError
from llm_offline.fitting import LEAST_CONTEXT
from llm_offline.hub import model_folder
from llm_offline.loaded import LoadedModel
from llm_offline.progress import Progress
from llm_offline.settings import Settings

_hf_logging: Any = transformers.utils.logging  # untyped
_model_class: Any = AutoModelForCausalLM  # untyped


def load_model(settings: Settings, progress: Progress) -> LoadedModel:
    """Find, check, read and warm up the model that the settings name.

    Raises:
        StartError: One sentence that says what is wrong and what to do.
    """
    began = time.monotonic()
    _hf_logging.set_verbosity_error()
    _hf_logging.disable_progress_bar()
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    folder = model_folder(settings.model, progress, revision=settings.revision)
    progress.enter("checking the files")
    check_files(folder)
    config = read_config(folder)
    sizes = weight_sizes(config, dtype, device)
    _check_room(settings, sizes, dtype, device)
    progress.enter("reading the tokenizer")
    tokenizer = _tokenizer(folder)
    template, origin = choose_template(tokenizer, settings.chat_template)
    quantized = settings.quantization != "none"
    # In its own dtype a file is mapped into memory and read when it is needed: tensor by tensor.
    weights = _weights(folder, "auto" if quantized else DTYPES[dtype], progress)
    _arrange(weights, settings.quantization, dtype, device, progress)
    progress.enter(f"moving the weights to {device}")
    stops = _stop_ids(config, weights.generation_config, tokenizer)
    network = Runner(weights, device=device, stop_ids=stops, quantized=quantized)
    weight = held_by(weights)
    room = _room(settings, network)
    context, limited_by = _context(settings, config, room)
    progress.enter("trying the model")
    tokens = min(room, settings.max_batch * context)
    network.allocate(
        tokens, context=context, most_rows=settings.max_batch, graphs=settings.cuda_graphs
    )
    held = tokens * network.bytes_per_token
    return LoadedModel(
        network=network,
        text=ModelText(tokenizer, template),
        grammars=Grammars(tokenizer, network.vocabulary, stops),
        context=context,
        defaults=_defaults(weights.generation_config),
        device=device,
        dtype=dtype,
        weights_bytes=weight,
        kv_bytes=held,
        kv_tokens=tokens,
        template=origin if template != "" else None,
        remarks=(
            *_weight_remarks(settings.quantization, sizes, dtype, device),
            f"KV cache {_amount(held)}",
            f"context {context} tokens ({limited_by})",
            f"{tokens / context:.1f} requests of full length fit; up to {settings.max_batch} run "
            "together",
            *([f"decoding by {network.decoding}"] if network.decoding else []),
            f"chat template: {origin}",
            f"loaded in {time.monotonic() - began:.1f} s on {device} in {dtype}",
        ),
    )


def check_files(folder: Path) -> None:
    """Refuse what is not a whole safetensors checkpoint, before minutes go into reading it."""
    if not (folder / "config.json").is_file():
        raise StartError(
            f"{folder} is not a model: it has no config.json; give the folder that holds "
            "config.json, the tokenizer and the safetensors files"
        )
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise StartError(
                f"{file} is damaged or was not copied whole ({error}): copy or download it again"
            ) from error


def weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(_json(index).get("weight_map", {}).values()))
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise StartError(
                f"{folder} lacks {', '.join(missing)}, which its index names: copy or download "
                "the model again"
            )
        return [folder / name for name in names]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if (folder / "adapter_config.json").is_file():
        raise StartError(
            f"{folder} holds an adapter (LoRA), not a whole model: merge it into its base model"
        )
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        raise StartError(
            f"{folder} has only pickled weights, which are refused because loading them runs "
            "code: get the model's safetensors version, or convert it on a machine you can lose"
        )
    raise StartError(f"{folder} has no weights: model.safetensors is missing")


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StartError(f"{file} cannot be read as JSON: {error}") from error
    return content if isinstance(content, dict) else {}


def read_config(folder: Path) -> Any:
    described = _json(folder / "config.json")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except (ValueError, KeyError, TypeError, OSError, AttributeError) as error:
        kind = described.get("model_type", "unknown")
        raise StartError(
            f"{folder / 'config.json'} describes a model of type {kind!r} that transformers "
            f"{transformers.__version__} cannot build: {_first_line(error)}"
        ) from error


def _tokenizer(folder: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        # tokenizers raises bare Exceptions for files it cannot read.
        raise StartError(
            f"the tokenizer in {folder} cannot be read ({_first_line(error)}): tokenizer.json is "
            "needed, and tokenizer_config.json beside it"
        ) from error


def weight_sizes(config: Any, dtype: str, device: str) -> dict[str, WeightBytes]:
    """What the weights take, by quantization: from a model without numbers.

    Empty where no such model can be built, which reading the weights will then say better.
    """
    try:
        with torch.device("meta"):
            skeleton = _model_class.from_config(config, dtype=DTYPES[dtype])
    except (ValueError, RuntimeError, KeyError, AttributeError, TypeError):
        return {}
    names = ("none", "int8", "int4")
    return {name: weight_bytes(skeleton, name, DTYPES[dtype], device) for name in names}


def _check_room(
    settings: Settings, sizes: Mapping[str, WeightBytes], dtype: str, device: str
) -> None:
    """Refuse weights that are larger than the memory, before minutes go into reading them.

    Raises:
        StartError: They are; with the quantizations that would make them fit.
    """
    if not sizes:
        return
    free = memory(torch.device(device))["free_bytes"]
    wanted = sizes[settings.quantization].total
    if wanted <= free:
        return
    smaller = [
        f"--quantization {name} ({size.total / 2**30:.1f} GiB)"
        for name, size in sizes.items()
        if size.total <= min(free, wanted - 1)
    ]
    ways = [" or ".join(smaller)] if smaller else []
    raise StartError(
        f"the model's weights take {wanted / 2**30:.1f} GiB "
        f"({_kind(settings.quantization, dtype)}), and {device} has {free / 2**30:.1f} GiB free: "
        + ", ".join(["close what uses it", *ways, "or choose a smaller model"])
    )


def _arrange(model: Any, quantization: str, dtype: str, device: str, progress: Progress) -> None:
    progress.enter(f"arranging the weights for {'this CPU' if device == 'cpu' else device}")

    def tell(done: int, of: int) -> None:
        if done == 1:
            progress.enter(f"quantizing the weights ({quantization})", total=of, unit="tensors")
        progress.advance(1)

    try:
        arrange(model, quantization, device=device, dtype=DTYPES[dtype], told=tell)
    except torch.OutOfMemoryError as error:
        raise StartError(
            f"{device} ran out of memory while the weights were quantized ({quantization}): close "
            "what uses it, choose a smaller model, or use --device cpu"
        ) from error


def _kind(quantization: str, dtype: str) -> str:
    return dtype if quantization == "none" else f"{quantization} and {dtype}"


def _weight_remarks(
    quantization: str, sizes: Mapping[str, WeightBytes], dtype: str, device: str
) -> list[str]:
    """For the start's report: what the weights take, and what of them is quantized."""
    if not sizes:
        return []
    size = sizes[quantization]
    told = [f"weights {size.total / 2**30:.2f} GiB ({_kind(quantization, dtype)})"]
    if quantization == "none":
        return told
    told[0] += f": {size.numbers / size.of:.0%} of the weights quantized, the rest in {dtype}"
    if device != "cpu" and not (device.startswith("cuda") and HAS_TRITON):
        told.append(
            f"{quantization} saves memory only, and time not: its kernels need CUDA and Triton, so "
            "the weights are written out in each step"
        )
    return told


def _weights(folder: Path, dtype: Any, progress: Progress) -> Any:
    """The network on the CPU, in a torch dtype or, where that is "auto", in its own.

    Raises:
        StartError: The files do not make a whole causal language model.
    """
    progress.enter("reading the weights")
    previous = _hf_logging.set_tqdm_hook(_reporting_to(progress))
    try:
        loaded = _model_class.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            # Not to be ignored but reported, below: else the error says nothing of which.
            ignore_mismatched_sizes=True,
        )
    except (ValueError, OSError, RuntimeError, KeyError, SafetensorError) as error:
        raise StartError(
            f"{folder} cannot be loaded as a causal language model: {_first_line(error)}"
        ) from error
    finally:
        _hf_logging.set_tqdm_hook(previous)
    model, report = loaded
    misfits = [name for name, *_ in report["mismatched_keys"]]
    lacking = sorted([*report["missing_keys"], *misfits])
    if lacking:
        raise StartError(
            f"{folder} lacks {len(lacking)} of the model's weights, or has them in another shape "
            f"({lacking[0]}, ...): it is not a whole causal language model; copy or download it "
            "again"
        )
    return model


def _reporting_to(progress: Progress) -> Callable[..., Any]:
    """A hook for transformers' progress bars that tells `progress` of the tensors read."""

    def hook(factory: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        items = args[0] if args else options.get("iterable")
        if items is None or options.get("desc") != "Loading weights":
            return factory(*args, **options)
        return _counted(items, progress)

    return hook


class _counted:  # noqa: N801 - stands in for tqdm
    """Iterates like a progress bar and reports to `progress`."""

    def __init__(self, items: Any, progress: Progress) -> None:
        self._items = list(items)
        self._progress = progress

    def __enter__(self) -> _counted:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def __iter__(self) -> Any:
        self._progress.enter("reading the weights", total=len(self._items), unit="tensors")
        for item in self._items:
            yield item
            self._progress.advance(1)


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


def _room(settings: Settings, network: Runner) -> int:
    """Tokens for which there is memory."""
    if network.device.startswith("cuda"):
        return network.room(settings.max_batch, settings.kv_memory)
    if settings.kv_memory is not None:
        return int(settings.kv_memory * 2**30 / network.bytes_per_token)
    return int(network.memory()["free_bytes"] * 0.5 / network.bytes_per_token)


def _context(settings: Settings, config: Any, room: int) -> tuple[int, str]:
    """Tokens of prompt and answer together, and what set the limit."""
    made_for, wanted = longest_context(settings, config), settings.max_context
    if room < (wanted or LEAST_CONTEXT):
        raise StartError(
            f"there is memory for {room} tokens of context, and {wanted or LEAST_CONTEXT} are "
            "needed: raise --kv-memory, lower --max-context, or choose a smaller model"
        )
    if wanted is not None:
        return wanted, "--max-context"
    if room < made_for:
        return room, f"of {made_for}: what memory allows"
    return made_for, "what the model was made for"


def longest_context(settings: Settings, config: Any) -> int:
    """Tokens that the model was made for, as far as they can be given here.

    Raises:
        StartError: `--max-context` is more.
    """
    text: Mapping[str, Any] = config.get_text_config().to_dict()
    made_for: int = text.get("max_position_embeddings") or 4096
    made_for = min(made_for, _even_positions(text) or made_for)
    if settings.max_context is not None and settings.max_context > made_for:
        raise StartError(
            f"--max-context {settings.max_context} is more than the {made_for} tokens that the "
            "model was made for, or can be given here"
        )
    return made_for


def _even_positions(text: Mapping[str, Any]) -> int | None:
    """Tokens up to which a position means the same in every text; None: all of them.

    `longrope` and `dynamic` turn positions otherwise once the longest text of a call is longer than
    this (transformers, `dynamic_rope_update`). Here several texts share a call, and a text's early
    keys are kept from when it was short.
    """
    rope = text.get("rope_parameters") or {}
    kinds = rope.values() if all(isinstance(value, Mapping) for value in rope.values()) else [rope]
    limits = [
        kind.get("original_max_position_embeddings")
        or text.get("original_max_position_embeddings")
        or text.get("max_position_embeddings")
        for kind in kinds
        if kind.get("rope_type") in ("longrope", "dynamic")
    ]
    return min(filter(None, limits), default=None)


def held_by(model: Any) -> int:
    """Bytes of all tensors that a network holds: parameters, and what layers keep beside them."""
    found: dict[int, int] = {}
    for module in model.modules():
        tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        tensors += [value for value in vars(module).values() if hasattr(value, "element_size")]
        found |= {id(one): one.numel() * one.element_size() for one in tensors}
    return sum(found.values())


def _amount(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.1f} MiB"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
