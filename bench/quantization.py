"""What weights in 8 and 4 bits cost in agreement, and what they save in memory and time.

    python -m bench.quantization --model FOLDER   # agreement of a model of yours
    python -m bench.quantization                  # of a tiny one that is trained first
    python -m bench.quantization speed layer memory

`agreement` compares with the same model in fp32, on texts of this repository: how often the most
likely token is the same at each place of a text, the Kullback-Leibler divergence there in nats, the
ratio of perplexities, and how many of 64 tokens of greedy answers are the same before the first
that differs. Weights that are random say nothing about this, so without `--model` a tiny Llama is
trained for `--minutes` on nine of ten paragraphs of the repository and asked for the tenth. Larger
models lose less than small ones.

`speed`, `layer` and `memory` need no trained weights: tokens a second in the engine, the CPU time
of one layer, and the memory of the process (Linux: `RssAnon`, which mapped files are no part of) at
its highest while loading.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from torch import nn
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from bench.engine import run
from bench.engine_models import GREEDY, PROMPT, SHAPES, aside, load, prompts, write_model
from llm_offline.engine.hardware.device import choose_device
from llm_offline.engine.interface import GenerationRequest
from llm_offline.engine.weights.arranging import arrange
from llm_offline.engine.weights.cpu_linear import Int4Linear, Int8Linear, PackedLinear

ROOT = Path(__file__).resolve().parent.parent
WINDOW = 256
"""Tokens of a text that are seen together."""
ANSWER, ASKED = 64, 16
# A device that is a CPU and is not named like one gets the layers for GPUs, without their kernels.
LIKE_A_GPU = "cpu:0"
KINDS = {
    "bf16": ("none", torch.bfloat16, LIKE_A_GPU),
    "int8, CPU": ("int8", torch.float32, "cpu"),
    "int8, GPU": ("int8", torch.float32, LIKE_A_GPU),
    "int4, CPU": ("int4", torch.float32, "cpu"),
    "int4, GPU": ("int4", torch.float32, LIKE_A_GPU),
}


def main() -> None:
    """Measure what is asked for, and print one table a section."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    sections = {"agreement": agreement, "speed": speed, "layer": layer, "memory": memory}
    parser.add_argument("sections", nargs="*", default=["agreement"], help=", ".join(sections))
    parser.add_argument("--model", type=Path, help="a folder; without it a tiny one is trained")
    parser.add_argument("--minutes", type=float, default=2.0, help="of training")
    parser.add_argument("--windows", type=int, default=40, help=f"texts of {WINDOW} tokens")
    parser.add_argument("--shape", choices=SHAPES, default="100M", help="for speed and memory")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loading", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loading:
        print(json.dumps(_watched_load(Path(options.loading[0]), options.loading[1], options)))
        return
    for name in options.sections:
        print(f"\n## {name}\n", flush=True)
        sections[name](options)


def agreement(options: argparse.Namespace) -> None:
    """Each kind of weights against fp32."""
    with tempfile.TemporaryDirectory() as scratch:
        held_out = None
        folder = options.model
        if folder is None:
            folder, held_out = _train(Path(scratch) / "model", options.minutes)
        _compare(folder, "\n\n".join(held_out or _examples()), options.windows)


def _compare(folder: Path, text: str, most: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor(tokenizer.encode(text, add_special_tokens=False))
    windows = ids[: len(ids) // WINDOW * WINDOW].view(-1, WINDOW)[:most]
    full = _Judged(_model(folder, None), windows)
    print(f"{windows.numel()} tokens of text; perplexity in fp32 {math.exp(full.loss):.1f}\n")
    print("| weights | same top token | KL, nats | perplexity | same greedy tokens |")
    print("|---|---|---|---|---|")
    for kind in KINDS:
        found = _Judged(_model(folder, kind), windows, full)
        print(
            f"| {kind} | {found.same_top:.1%} | {found.divergence:.5f} "
            f"| × {math.exp(found.loss - full.loss):.4f} | {found.same_greedy:.0%} |",
            flush=True,
        )


class _Judged:
    """What a model makes of texts, beside what another does.

    Attributes:
        logprobs: Of every token at every place.
        loss: Mean negative log-likelihood of the text.
        answers: Greedy ones, to the beginnings of the texts.
    """

    def __init__(self, model: Any, windows: torch.Tensor, full: _Judged | None = None) -> None:
        logprobs, losses = [], []
        with torch.inference_mode():
            for window in windows:
                # Each text by itself; the kernels see as many rows as in a prompt.
                said = model(window[None], use_cache=False).logits[0, :-1].float().log_softmax(-1)
                losses.append(functional.nll_loss(said, window[1:]))
                logprobs.append(said.half() if full is None else said)
                if full is not None:
                    logprobs[-1] = _compared(full.logprobs[len(logprobs) - 1].float(), said)
            self.logprobs = logprobs
            self.loss = float(torch.stack(losses).mean())
            wishes = GenerationConfig(
                max_new_tokens=ANSWER, min_new_tokens=ANSWER, do_sample=False, pad_token_id=0
            )
            asked = windows[:ASKED, : WINDOW // 4]
            said = model.generate(
                asked, attention_mask=torch.ones_like(asked), generation_config=wishes
            )
        self.answers = said[:, asked.shape[1] :]
        if full is not None:
            self.same_top, self.divergence = torch.stack(logprobs).mean(0).tolist()
            same = (self.answers == full.answers).int().cumprod(1)
            self.same_greedy = float(same.float().mean())


def _compared(full: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
    """Share of places with the same most likely token, and the mean divergence: `[2]`."""
    same = (full.argmax(-1) == said.argmax(-1)).float().mean()
    divergence = (full.exp() * (full - said)).sum(-1).mean()
    return torch.stack([same, divergence])


def _model(folder: Path, kind: str | None) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if kind is not None:
        quantization, dtype, device = KINDS[kind]
        model = model.to(dtype)
        arrange(model, quantization, device=device, dtype=dtype)
    return model


def _examples() -> list[str]:
    """Texts in English and Vietnamese."""
    files = [ROOT / "README.md", ROOT / "README.vi.md"]
    files += sorted(f for f in (ROOT / "examples").rglob("*") if f.suffix in (".md", ".txt"))
    return [file.read_text("utf-8") for file in files]


def _train(folder: Path, minutes: float) -> tuple[Path, list[str]]:
    """A tiny Llama that has read most of this repository, and what it has not read."""
    files = [f for kind in ("*.md", "*.py") for f in ROOT.rglob(kind)]
    told = [f for f in sorted(files) if "/." not in str(f.relative_to(ROOT.parent))]
    paragraphs = [
        p for f in told for p in re.split(r"\n\s*\n", f.read_text("utf-8")) if len(p) > 80
    ]
    held_out = paragraphs[5::10]
    texts = [text for at, text in enumerate(paragraphs) if at % 10 != 5]
    tokenizer = _tokenizer(texts)
    ids = torch.tensor(tokenizer.encode("\n\n".join(texts)))
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05, betas=(0.9, 0.95))
    began, steps = time.monotonic(), 0
    while (past := (time.monotonic() - began) / 60 / minutes) < 1:
        for part in optimizer.param_groups:
            part["lr"] = 2e-3 * min(1.0, (steps + 1) / 30) * (0.05 + 0.95 * (1 - past))
        at = torch.randint(len(ids) - 129, (16,))
        batch = torch.stack([ids[start : start + 128] for start in at])
        loss = model(batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        steps += 1
    size = sum(p.numel() for p in model.parameters()) / 1e6
    print(
        f"A Llama of {size:.1f}M weights, trained for {steps} steps of 2,048 tokens on {len(ids)} "
        f"tokens, {len(tokenizer)} different ones; last loss {loss.item():.2f}"
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, held_out


def _tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = ByteLevel(add_prefix_space=False)
    bpe.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=2048,
        special_tokens=["<|end|>"],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|end|>")


def speed(options: argparse.Namespace) -> None:
    """Tokens a second in the engine: prompts of 256 tokens, answers of 64, taking turns."""
    device = choose_device("auto")
    with tempfile.TemporaryDirectory() as scratch:
        folder = aside(write_model, Path(scratch) / "model", options.shape)
        models = {
            name: aside(load, folder, options.dtype, quantization=name, kv_memory=1)
            for name in ("none", "int8", "int4")
        }
        print(f"{options.shape}, {device}, {options.dtype}: tokens a second\n")
        print("| batch | none | int8 | | int4 | |")
        print("|---|---|---|---|---|---|")
        for batch in options.batches:
            rates: dict[str, list[float]] = {name: [] for name in models}
            for turn in range(options.rounds):
                asked = [
                    GenerationRequest(prompt, GREEDY, ANSWER)
                    for prompt in prompts(batch, PROMPT, turn)
                ]
                for name, model in models.items():
                    rates[name].append(run(model, asked)[0])
            best = {name: max(found) for name, found in rates.items()}
            print(
                f"| {batch} | {best['none']:.1f} "
                + " ".join(
                    f"| {best[name]:.1f} | × {best[name] / best['none']:.2f}"
                    for name in ("int8", "int4")
                )
                + " |",
                flush=True,
            )


def layer(options: argparse.Namespace) -> None:
    """One layer of a 3B model by the CPU time of one thread, which a busy machine changes least."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    linear = nn.Linear(3072, 8192, bias=False).bfloat16()
    layers = {
        "bf16": PackedLinear(linear), "int8": Int8Linear(linear), "int4": Int4Linear(linear)
    }  # fmt: skip
    print("Milliseconds for a layer of 3072 x 8192\n")
    print("| rows | bf16 | int8 | | int4 | |")
    print("|---|---|---|---|---|---|")
    for rows in (1, 4, 16, 64, 256):
        x = torch.randn(rows, 3072).bfloat16()
        took: dict[str, list[float]] = {name: [] for name in layers}
        for _ in range(options.rounds * 5):
            for name, one in layers.items():
                began = time.thread_time()
                with torch.inference_mode():
                    one(x)
                took[name].append((time.thread_time() - began) * 1000)
        best = {name: min(found) for name, found in took.items()}
        print(
            f"| {rows} | {best['bf16']:.2f} "
            + " ".join(
                f"| {best[name]:.2f} | × {best['bf16'] / best[name]:.2f}"
                for name in ("int8", "int4")
            )
            + " |",
            flush=True,
        )


def memory(options: argparse.Namespace) -> None:
    """The process' own memory while it loads, and what was expected of the weights."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = aside(write_model, Path(scratch) / "model", options.shape)
        size = sum(f.stat().st_size for f in folder.glob("*.safetensors")) / 2**20
        print(f"{options.shape}: a file of {size:.0f} MiB in bf16; the KV cache takes 16 MiB\n")
        print("| weights | expected, MiB | grown by, MiB | at most, MiB | seconds |")
        print("|---|---|---|---|---|")
        for name in ("none", "int8", "int4"):
            command = [sys.executable, "-m", "bench.quantization", "--dtype", options.dtype]
            said = subprocess.run(
                [*command, "--loading", str(folder), name],
                cwd=ROOT, check=True, capture_output=True, text=True,
            ).stdout  # fmt: skip
            seen = json.loads(said.splitlines()[-1])
            print(
                f"| {name} | {seen['expected']:.0f} | {seen['grown']:.0f} | {seen['most']:.0f} "
                f"| {seen['seconds']:.1f} |",
                flush=True,
            )


def _watched_load(folder: Path, quantization: str, options: argparse.Namespace) -> dict[str, float]:
    before, most, done = _anonymous(), 0.0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.002):
            most = max(most, _anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.monotonic()
    model = load(folder, options.dtype, quantization=quantization, kv_memory=2**-6)
    seconds = time.monotonic() - began
    done.set()
    watcher.join()
    said = next(remark for remark in model.remarks if remark.startswith("weights"))
    expected = float(said.split()[1]) * 1024
    return {"expected": expected, "grown": _anonymous() - before, "most": most - before,
            "seconds": seconds}  # fmt: skip


def _anonymous() -> float:
    """MiB of this process that are no mapped files."""
    status = Path("/proc/self/status").read_text("utf-8")
    lines: Iterator[str] = iter(status.splitlines())
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


if __name__ == "__main__":
    main()
