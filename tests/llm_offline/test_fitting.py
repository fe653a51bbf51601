"""Whether a model fits: arithmetic."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llm_offline.errors import StartError
from llm_offline.fitting import Held, Need, has_room_beside

GIB = 2**30
# A 3B model in bf16, with 8,192 tokens of context, sixteen of which may run together.
NEED = Need(
    weights=6 * GIB,
    kv_token=112 * 1024,
    context=8192,
    kv_wanted=16 * 8192 * 112 * 1024,
    kv_share=0.5,
    free=10 * GIB,
    device="cpu",
)
OLD = Held("old", weights=6 * GIB, kv=3 * GIB)


def test_weights_and_a_little_context_are_the_least() -> None:
    assert NEED.fits(7 * GIB)
    assert not NEED.fits(6 * GIB)


def test_beside_only_with_all_keys_and_values_that_it_can_use() -> None:
    assert NEED.fits_whole(35 * GIB)
    assert not NEED.fits_whole(30 * GIB)
    assert not has_room_beside("new", NEED, OLD)
    assert has_room_beside("new", replace(NEED, free=38 * GIB), OLD)
    # On a CPU, the keys and values that the old one has reserved may still be to be taken.
    assert not has_room_beside("new", replace(NEED, free=36 * GIB), OLD)
    assert has_room_beside("new", replace(NEED, free=36 * GIB, device="cuda"), OLD)


def test_alone_there_is_no_choice() -> None:
    assert has_room_beside("new", NEED, None)
    with pytest.raises(StartError, match=r"new does not fit: it needs about 6\.0 GiB .* 4\.0 GiB"):
        has_room_beside("new", replace(NEED, free=4 * GIB), None)


def test_a_refusal_names_what_would_fit() -> None:
    sizes = {"none": 6 * GIB, "int8": 4 * GIB, "int4": 2 * GIB}
    tight = replace(NEED, free=3 * GIB, by_quantization=sizes)
    with pytest.raises(StartError, match=r"smaller model, or --quantization int4 \(2\.0 GiB\)$"):
        has_room_beside("new", tight, None)


def test_what_would_be_free_without_the_old_one_counts() -> None:
    tight = replace(NEED, free=GIB // 2)
    assert not has_room_beside("new", tight, OLD)
    with pytest.raises(StartError, match="would be free without old"):
        has_room_beside("new", replace(tight, weights=7 * GIB), OLD)
    # A GPU's memory is taken when it is reserved.
    assert not has_room_beside("new", replace(tight, weights=7 * GIB, device="cuda"), OLD)


def test_kv_memory_that_does_not_fit_disturbs_nobody() -> None:
    asked = replace(NEED, free=11 * GIB, kv_asked=6 * GIB)
    with pytest.raises(StartError, match=r"6\.00 GiB for keys and values \(--kv-memory\)") as told:
        has_room_beside("new", asked, None)
    assert ": lower --kv-memory, or close" in str(told.value)
    assert has_room_beside("new", replace(asked, kv_asked=4 * GIB), None)


def test_a_refusal_tells_of_the_room_kept_for_an_encoder() -> None:
    with pytest.raises(StartError, match=r"on cuda beside 1\.5 GiB kept for the encoder: close"):
        has_room_beside("new", replace(NEED, free=GIB, device="cuda", beside=3 * GIB // 2), None)
