"""Weights in pickles, which older checkpoints have: read only where `--allow-pickle` says so.

A pickle is a program. PyTorch's own unpickler (`weights_only=True`) runs it with nothing at hand
but tensors and containers, and has had holes (CVE-2025-32434, closed in 2.6); so it is a second
wall, and the first is not to open files of strangers.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from pickle import UnpicklingError
from zipfile import BadZipFile, is_zipfile

import torch

from llm_offline.errors import StartError

_FOREIGN = re.compile(r"GLOBAL ([\w.]+)")


def check_pickle(file: Path) -> int:
    """Refuse a file that is not a pickle of tensors, whole, and nothing else; how many there are.

    Raises:
        StartError: It is damaged, or names code that would have to run.
    """
    try:
        # On "meta" no number is kept.
        found = torch.load(file, map_location="meta", mmap=is_zipfile(file), weights_only=True)
        return len(found)
    except (
        UnpicklingError,
        RuntimeError,
        OSError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        AssertionError,
        struct.error,
        BadZipFile,
    ) as error:
        if foreign := _FOREIGN.search(str(error)):
            raise StartError(
                f"{file} holds more than weights: reading it would call {foreign[1]}, which is "
                "refused with --allow-pickle too; get the model's safetensors version"
            ) from error
        raise StartError(
            f"{file} is damaged, was not copied whole, or is not weights that PyTorch wrote: copy "
            "or download it again"
        ) from error
