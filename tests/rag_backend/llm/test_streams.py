"""What counts as output."""

from __future__ import annotations

import pytest

from rag_backend.errors import UpstreamBroken
from rag_backend.llm.provider import Chunk
from rag_backend.llm.streams import begin, estimate_tokens, has_output
from tests.rag_backend.llm.support import ASK, ROLE, Scripted, delta, finish


@pytest.mark.parametrize(
    ("chunk", "output"),
    [
        (ROLE, False),
        (delta(), False),
        (delta(content=None, role="assistant"), False),
        ({"choices": []}, False),
        ({"choices": None}, False),
        (delta(content=" "), True),
        (delta(refusal="No"), True),
        (delta(tool_calls=[{"index": 0}]), True),
        (finish("content_filter"), True),
    ],
)
def test_has_output(chunk: Chunk, output: bool) -> None:
    assert has_output(chunk) is output


async def test_begin_holds_what_came_and_leaves_the_rest() -> None:
    script = Scripted([ROLE, delta(content="a"), delta(content="b")])
    begun = await begin(script, ASK)
    assert begun.held == [ROLE, delta(content="a")]
    assert [chunk async for chunk in begun.rest] == [delta(content="b")]


async def test_begin_closes_what_fails() -> None:
    script = Scripted([ROLE, UpstreamBroken("cut")])
    with pytest.raises(UpstreamBroken):
        await begin(script, ASK)
    assert script.open == 0


def test_estimates_are_on_the_safe_side() -> None:
    assert estimate_tokens("") == 0
    assert estimate_tokens("abcd") == 2
