"""Where a model computes, in what numbers, and how much memory there is."""

from __future__ import annotations

import ctypes
import gc
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psutil
import torch

from llm_offline.engine.hardware.containers import container_room
from llm_offline.errors import LLMOfflineError, OutOfMemory, StartError

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def choose_device(wanted: str, flag: str = "--device") -> str:
    """`auto` → cuda when present, else cpu; `flag`: what the user set, for messages.

    Raises:
        StartError: The device that was asked for is not there.
    """
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda"):
        index = int(wanted.partition(":")[2] or 0)
        if index >= torch.cuda.device_count():
            raise StartError(
                f"{flag} {wanted}: PyTorch {torch.__version__} sees {torch.cuda.device_count()} "
                f"CUDA device(s); install PyTorch's CUDA build and the driver, or use {flag} cpu"
            )
    if wanted == "mps" and not torch.backends.mps.is_available():
        raise StartError(f"{flag} mps: this machine has no Apple GPU; use {flag} cpu")
    return wanted


def choose_dtype(wanted: str, device: str) -> str:
    """`auto` → the smallest type that the device computes in natively: bf16, else fp16 or fp32."""
    if wanted != "auto":
        return wanted
    if device.startswith("cuda"):
        # including_emulation=False: Turing and older only emulate bf16, slowly.
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device == "mps":
        return "fp16"
    cpu = torch.cpu.get_capabilities()
    return "bf16" if cpu.get("avx512_bf16") or cpu.get("amx_bf16") else "fp32"


def memory(device: torch.device) -> dict[str, int]:
    """Bytes in use by this process and free on its device, for `/health`."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        used = torch.cuda.memory_reserved(device)
        # What the allocator keeps but no tensor needs is as good as free.
        free += used - torch.cuda.memory_allocated(device)
        return {"used_bytes": used, "free_bytes": free, "total_bytes": total}
    system = psutil.virtual_memory()
    used = psutil.Process(os.getpid()).memory_info().rss
    free, total = container_room(system.available, system.total)
    return {"used_bytes": used, "free_bytes": free, "total_bytes": total}


def give_back() -> None:
    """Give the system back what no tensor needs any more."""
    gc.collect()
    _empty_cache()
    # The C library keeps what was freed between other things, unless it is told.
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@contextmanager
def returnable() -> Iterator[None]:
    """What is allocated meanwhile on a CPU can be given back whole, whatever lies beside it.

    glibc learns from each large block that is freed to put the next one of that size on a heap,
    where weights of several models then lie mixed: of 89 MiB of weights in bf16, up to 120 MiB
    stayed with the process, and loading them took 190 instead of 105.
    """
    try:
        allocator = ctypes.CDLL("libc.so.6")
        allocator.mallopt(_M_MMAP_THRESHOLD, 2**20)
    except (OSError, AttributeError):
        yield
        return
    try:
        yield
    finally:
        # What it would have learnt: activations must not go to the system and back at each step.
        allocator.mallopt(_M_MMAP_THRESHOLD, 2**25)
        allocator.mallopt(_M_TRIM_THRESHOLD, 2**26)


def lacks_memory(error: BaseException) -> bool:
    """Whether torch, or a library below it, raised this because memory ran out, on any device.

    A CPU's allocator raises a plain `RuntimeError`, CUDA's libraries have words of their own, and a
    launch that finds no memory is an `AcceleratorError`.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _NO_ROOM.search(str(error)) is not None


_NO_ROOM = re.compile(
    r"out of memory|allocate memory|not enough memory|bad_alloc|_ALLOC(ATION)?_FAILED"
)


def _for_a_request() -> LLMOfflineError:
    return OutOfMemory(
        "the device ran out of memory for this request: shorten the prompt, or start the server "
        "with a smaller --max-context"
    )


@contextmanager
def memory_errors(told: Callable[[], LLMOfflineError] = _for_a_request) -> Iterator[None]:
    """Map what is raised when memory runs out (see `lacks_memory`) to what `told` makes."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not lacks_memory(error):
            raise
        _empty_cache()
        raise told() from error


def _empty_cache() -> None:
    # A device that is lost, as after an assertion, refuses this too.
    with suppress(RuntimeError):
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()
