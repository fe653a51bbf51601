"""A checkpoint's weights → a transformers network on the CPU, with progress told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from llm_offline.checkpoint import is_pickled
from llm_offline.engine.hardware.device import lacks_memory
from llm_offline.errors import StartError, first_line
from llm_offline.progress import Progress

_hf_logging: Any = transformers.utils.logging  # untyped
_model_class: Any = AutoModelForCausalLM  # untyped


def quieten() -> None:
    """transformers' own lines and bars say nothing that the log here does not."""
    _hf_logging.set_verbosity_error()
    _hf_logging.disable_progress_bar()


def read_network(folder: Path, files: list[Path], dtype: Any, progress: Progress) -> Any:
    """The network on the CPU, in a torch dtype or, where that is "auto", in its own.

    Args:
        folder: The model's.
        files: Its weights, checked.
        dtype: In its own dtype a file is mapped into memory and read when it is needed.
        progress: Told how many tensors were read.

    Raises:
        StartError: The files do not make a whole causal language model, or memory ran out.
    """
    progress.enter("reading the weights")
    previous = _hf_logging.set_tqdm_hook(_reporting_to(progress))
    try:
        model, report = _model_class.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=not any(map(is_pickled, files)),
            weights_only=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            # Not to be ignored but reported, below: else the error says nothing of which.
            ignore_mismatched_sizes=True,
        )
    except (
        ValueError,
        OSError,
        RuntimeError,
        KeyError,
        TypeError,
        AttributeError,
        ImportError,
        MemoryError,
        SafetensorError,
    ) as error:
        if lacks_memory(error):
            raise StartError(
                f"the memory ran out while the weights in {folder} were read: close what uses it, "
                "or choose --quantization or a smaller model"
            ) from error
        raise StartError(
            f"{folder} cannot be loaded as a causal language model: {first_line(error)}"
        ) from error
    finally:
        _hf_logging.set_tqdm_hook(previous)
    _check_all_there(folder, report)
    return model


def _check_all_there(folder: Path, report: dict[str, Any]) -> None:
    misfits = [name for name, *_ in report["mismatched_keys"]]
    lacking = sorted([*report["missing_keys"], *misfits])
    if lacking:
        raise StartError(
            f"{folder} lacks {len(lacking)} of the model's weights, or has them in another shape "
            f"({lacking[0]}, ...): it is not a whole causal language model; copy or download it "
            "again, or choose another"
        )


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
