"""Triton's kernels without a GPU: interpreted, and compiled for GPUs that are not here.

In processes of their own: whether kernels are interpreted is decided when triton is imported, which
torch does when it finds it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from llm_offline.engine.compute.decoding import gpu_decode

HERE = Path(__file__).parent

needs_triton = pytest.mark.skipif(
    find_spec("triton") is None,
    reason="Triton is not installed (1 GB): pip install '.[triton]'",
)


def _run(*arguments: str, interpret: bool) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        # Fusing multiplication and addition is what Triton does; it only warns that this may end.
        env=os.environ | {"TRITON_INTERPRET": str(int(interpret)), "TRITON_DEFAULT_FP_FUSION": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_triton
def test_kernels_give_what_plain_torch_gives() -> None:
    out = _run("pytest", "-q", "-p", "no:cacheprovider", str(HERE / "interpreted_kernels.py"),
               interpret=True)  # fmt: skip
    assert " passed" in out


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("capability", [75, 80, 89, 90])
def test_kernels_compile_for_gpus_that_are_not_here(capability: int) -> None:
    out = _run("tests.llm_offline.engine.compute.compile_kernels", str(capability), interpret=False)
    assert out.split() == ["cubin"] * (6 if capability == 75 else 8)


@pytest.mark.skipif(find_spec("triton") is not None, reason="Triton is installed")
def test_without_triton_there_are_no_kernels() -> None:
    with pytest.raises(ImportError):
        gpu_decode()
