"""Falling back: before the first output always, after it never."""

from __future__ import annotations

import logging
from contextlib import aclosing

import pytest

from rag_backend.errors import (
    UnsupportedFeature,
    UpstreamBroken,
    UpstreamError,
    UpstreamLimited,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from rag_backend.llm.fallback import Fallback
from rag_backend.llm.provider import ChatRequest
from tests.rag_backend.llm.support import (
    ASK,
    ROLE,
    Scripted,
    collect,
    delta,
    finish,
    saying,
    text_before_error,
    text_of,
)

FAILURES = [
    UpstreamError("5xx"),
    UpstreamUnavailable("down"),
    UpstreamTimeout("slow"),
    UpstreamLimited("busy"),
    UpstreamBroken("cut"),
]


@pytest.mark.parametrize("error", FAILURES, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize(
    "before",
    [[], [ROLE], [ROLE, delta(content=""), delta(content=None)], [delta(tool_calls=[])]],
    ids=["nothing", "role", "empty", "no call"],
)
async def test_moves_on_before_the_first_output(
    error: UpstreamError, before: list[dict[str, object]]
) -> None:
    first = Scripted([*before, error], name="openai")
    second = Scripted(saying("Twelve."), name="local")
    chunks = await collect(Fallback([first, second]))
    assert chunks == saying("Twelve.")  # nothing of the first one's
    assert (first.open, second.open) == (0, 0)


@pytest.mark.parametrize("error", FAILURES, ids=lambda e: type(e).__name__)
async def test_stays_after_the_first_output(error: UpstreamError) -> None:
    first = Scripted([ROLE, delta(content="Twel"), error])
    second = Scripted(saying("Twelve."))
    text, raised = await text_before_error(Fallback([first, second]), UpstreamError)
    assert (text, raised) == ("Twel", error)
    assert second.requests == []


@pytest.mark.parametrize(
    "output",
    [
        delta(content=" "),
        delta(tool_calls=[{"index": 0}]),
        delta(reasoning_content="Let me see"),
        delta(refusal="No"),
        finish("length"),
    ],
)
async def test_whatever_a_client_could_see_is_output(output: dict[str, object]) -> None:
    first = Scripted([ROLE, output, UpstreamBroken("cut")])
    second = Scripted(saying("Twelve."))
    await text_before_error(Fallback([first, second]), UpstreamBroken)
    assert second.requests == []


async def test_a_refusal_is_final() -> None:
    first = Scripted([UpstreamRefused("wrong", status=400)])
    second = Scripted(saying("Twelve."))
    await text_before_error(Fallback([first, second]), UpstreamRefused)
    assert second.requests == []


async def test_the_first_error_is_raised_when_all_fail(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    errors: list[UpstreamError] = [UpstreamLimited("a is busy"), UpstreamUnavailable("b is down")]
    _, raised = await text_before_error(Fallback([Scripted([e]) for e in errors]), UpstreamError)
    assert raised is errors[0]
    assert [record.getMessage() for record in caplog.records] == ["a is busy", "b is down"]


async def test_a_last_resort_that_cannot_do_it_leaves_the_first_error() -> None:
    cannot = Scripted([UnsupportedFeature("no tools here")])
    _, raised = await text_before_error(
        Fallback([Scripted([UpstreamUnavailable("down")]), cannot]), UpstreamUnavailable
    )
    assert str(raised) == "down"
    await text_before_error(Fallback([cannot, Scripted(saying("x"))]), UnsupportedFeature)


async def test_a_stand_ins_refusal_is_about_itself() -> None:
    cannot = Scripted([UpstreamRefused("tools are not offered", status=400)])
    down = Scripted([UpstreamUnavailable("down")])
    _, raised = await text_before_error(Fallback([down, cannot]), UpstreamUnavailable)
    assert str(raised) == "down"
    last = Fallback([down, cannot, Scripted(saying("Twelve."))])
    assert text_of(await collect(last)) == "Twelve."


async def test_a_models_name_is_for_the_first_provider_only() -> None:
    first, second = Scripted([UpstreamBroken("cut")]), Scripted(saying("Twelve."))
    await collect(Fallback([first, second]), ChatRequest(ASK.messages, model="gpt-big"))
    assert (first.requests[0].model, second.requests[0].model) == ("gpt-big", None)


async def test_closing_closes_the_one_that_answers() -> None:
    second = Scripted(saying("Twelve."))
    provider = Fallback([Scripted([UpstreamBroken("cut")]), second])
    async with aclosing(provider.stream(ASK)) as chunks:
        assert text_of([await anext(chunks)]) == ""
        assert second.open == 1
    assert second.open == 0


async def test_a_prompt_too_long_for_one_goes_to_the_next() -> None:
    full = UpstreamRefused("too long", status=400, code="context_length_exceeded")
    first = Scripted([full], name="local")
    second = Scripted(saying("Twelve."), name="extractive")
    assert await collect(Fallback([first, second])) == saying("Twelve.")
