"""How near the engine's decoding is to what a GPU's memory allows: `bench.engine gpu`.

At batch 1 every token reads all weights and the text's keys and values once, so tokens a second are
bounded by the memory's bandwidth, which a large copy measures first. Then the ways to keep the
weights and to issue the kernels, the most important ones first, with `generate` of the same batch
beside them; prompts are read before the clock starts.

Each way is measured in a process of its own (`bench.engine_gpu_row`), which has the whole card: one
that fails, or hangs, costs its own figures alone. What is known is printed at once, and written to
`--out` as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

ROOT = Path(__file__).resolve().parent.parent
NOT_MEASURED = "No CUDA GPU is here: the GPU part was not measured."
LONGEST = 240.0
"""Seconds after which one way has hung."""
END: dict[str, Any] = {}
"""What a row's process says last: a compiler's helpers may keep its output open after it."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured, and where: `copied` bytes, `prompt` and `answer` tokens."""

    device: str = "cuda"
    copied: int = 2**30
    batches: tuple[int, ...] = (1, 8, 32, 64)
    prompt: int = 256
    answer: int = 128


REHEARSAL = Extent("cpu", 2**24, (1, 2), 32, 8)


@dataclass(slots=True)
class Row:
    """A way to keep the weights and to issue the kernels, and what was found.

    Attributes:
        weights: `none` (bf16), `int8` or `int4`.
        graphs: Of `--cuda-graphs`; or `generate`, transformers' own.
        how: What the engine made of it.
        gib: Of weights.
        seconds: To load, quantize, compile and record.
        rates: Tokens a second by batch.
        share: Of what the bandwidth allows at batch 1 with these weights.
        reasons: Why there is no figure, by batch, or for all.
    """

    weights: str
    graphs: str
    how: str = ""
    gib: float | None = None
    seconds: float | None = None
    rates: dict[str, float] = field(default_factory=dict)
    share: float | None = None
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For a person."""
        weights = "bf16" if self.weights == "none" else self.weights
        graphs = self.graphs if self.graphs == "generate" else f"graphs {self.graphs}"
        return f"{weights}, {graphs}"

    def learn(self, news: dict[str, Any]) -> str:
        """Take in what a row's process says; the same for a person."""
        if "rate" in news:
            self.rates[news["batch"]] = news["rate"]
            said = f"batch {news['batch']}: {news['rate']:.1f} tokens/s"
            if "share" in news:
                self.share = news["share"]
                said += f", {self.share:.2f} of the bandwidth's limit"
            return said
        if "why" in news:
            self.reasons[news["batch"]] = news["why"]
            where = f"batch {news['batch']}: " if news["batch"] != "all" else ""
            return f"{where}not measured: {news['why']}"
        self.how, self.gib, self.seconds = news["how"], news["gib"], news["seconds"]
        return f"ready in {self.seconds:.0f} s, weights {self.gib:.2f} GiB, {self.how}"


def rows() -> list[Row]:
    """The most important first: there may not be time for all."""
    return [
        Row("none", "compiled"),
        Row("none", "generate"),
        Row("int8", "compiled"),
        Row("int4", "compiled"),
        Row("none", "plain"),
        Row("none", "off"),
    ]


def measure(folder: Path, options: argparse.Namespace) -> None:
    """Print the bandwidth, each figure as it comes, and the table."""
    extent = REHEARSAL if options.rehearse else Extent()
    deadline = time.monotonic() + options.minutes * 60
    found: dict[str, Any] = {"torch": torch.__version__, "rehearsal": options.rehearse}
    asked = rows()

    def write() -> None:
        if options.out is not None:
            found["rows"] = [asdict(row) for row in asked]
            beside = options.out.with_name(options.out.name + ".part")
            beside.write_text(json.dumps(found, indent=1), "utf-8")
            beside.replace(options.out)

    if options.rehearse:
        print("A rehearsal on the CPU: the figures mean nothing.\n")
    for news in _told(folder, {"what": "bandwidth"}, extent, deadline):
        found |= news
        if "why" in news:
            print(f"The bandwidth was not measured: {news['why']}\n", flush=True)
        else:
            print(f"{news['device']}, PyTorch {torch.__version__}: a large copy reads and writes "
                  f"{news['bandwidth'] / 1e9:.0f} GB/s.\n", flush=True)  # fmt: skip
        write()
    for row in asked:
        wanted = {"what": row.graphs, "weights": row.weights, "bandwidth": found.get("bandwidth")}
        for news in _told(folder, wanted, extent, deadline):
            print(f"{row.name}: {row.learn(news)}", flush=True)
            write()
    print("\n" + table(asked, extent.batches), flush=True)


def table(asked: list[Row], batches: tuple[int, ...]) -> str:
    """Markdown: tokens a second, and beside those of bf16 and `generate` their ratio."""
    heads = " | ".join(f"batch {batch}" for batch in batches)
    lines = [
        f"| weights, way | GiB | {heads} | share of the limit at batch 1 |",
        "|" + "---|" * (len(batches) + 3),
    ]
    peer = next((row.rates for row in asked if row.graphs == "generate"), {})
    for row in asked:
        if not row.rates:
            reason = next(iter(row.reasons.values()), "no time was left")
            lines.append(f"| {row.name} | not measured: {' '.join(reason.split())} |")
            continue
        cells = []
        for batch in map(str, batches):
            rate = row.rates.get(batch)
            ratio = f" (× {rate / peer[batch]:.2f})" if rate and batch in peer else ""
            cells.append("not measured" if rate is None else f"{rate:.0f}{ratio}")
        share = "not measured" if row.share is None else f"{row.share:.2f}"
        gib = "" if row.gib is None else f"{row.gib:.2f}"
        lines.append(f"| {row.name} | {gib} | {' | '.join(cells)} | {share} |")
    return "\n".join(lines) + "\n\n(× beside `generate` of the same batch)"


def _told(
    folder: Path, wanted: dict[str, Any], extent: Extent, deadline: float
) -> Iterator[dict[str, Any]]:
    """What a row's process says, line by line, until it has ended or its time is over."""
    over = min(deadline, time.monotonic() + LONGEST)
    if over - time.monotonic() < 10:
        yield {"batch": "all", "why": "no time was left (--minutes)"}
        return
    asked = json.dumps(wanted | {"folder": str(folder), "extent": asdict(extent)})
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.engine_gpu_row", asked],
        cwd=ROOT, env=os.environ | {"HF_HUB_OFFLINE": "1"}, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    assert process.stdout is not None
    reading = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
    reading.start()
    try:
        while (line := lines.get(timeout=max(0.0, over - time.monotonic()))) is not None:
            news = json.loads(line) if line.startswith("{") else None
            if news == END:
                break
            if news is not None:
                yield news
        if process.wait(30):
            yield {"batch": "all", "why": f"its process ended with {process.returncode}"}
    except (queue.Empty, subprocess.TimeoutExpired):
        yield {"batch": "all", "why": "it took too long and was ended"}
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reading.join(10)


def _read(pipe: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    with pipe:
        for line in pipe:
            lines.put(line)
    lines.put(None)
