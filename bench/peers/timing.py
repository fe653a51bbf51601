"""What every contender's script shares: texts in, one line of JSON out. Plain Python."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path


def run(libraries: list[str], prepare: Callable[[str], Callable[[list[str]], object]]) -> None:
    """Time one contender: `SCRIPT MODEL_FOLDER TEXTS.json`.

    Args:
        libraries: Distributions whose versions are printed.
        prepare: Loads the model from a folder; returns what embeds (and stores) the texts. It is
            called once with a few texts before the clock starts.
    """
    folder, texts = sys.argv[1], json.loads(Path(sys.argv[2]).read_text("utf-8"))
    work = prepare(folder)
    work(texts[:32])
    began = time.perf_counter()
    work(texts)
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "versions": {name: version(name) for name in libraries}}))
