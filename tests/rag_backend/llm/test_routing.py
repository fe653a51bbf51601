"""Who is asked: rules in their order, the score, and what failures change."""

from __future__ import annotations

from typing import Any

import pytest

from rag_backend.errors import UpstreamRefused, UpstreamUnavailable
from rag_backend.llm.assemble import routing
from rag_backend.llm.fallback import Fallback
from rag_backend.llm.notes import Note, Route
from rag_backend.llm.provider import ChatRequest, LLMProvider
from rag_backend.llm.routing import Named, Overflowing, Router, Side
from rag_backend.llm.share import Share
from rag_backend.metrics import Metrics
from tests.rag_backend.llm.support import Scripted, collect, saying, text_before_error, text_of

SIMPLE = "Who approves expenses?"
HARD = "Why do the rules for A and B differ, how do they interact, and what if both apply? Explain."
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
FULL = UpstreamRefused("The prompt is too long.", status=400, code="context_length_exceeded")
DOWN = UpstreamUnavailable("down")


class Tried:
    """A router and what it told."""

    def __init__(
        self,
        local: int | None = 4096,
        strong: int | None = 100_000,
        features: tuple[str, ...] = (),
        share: float = 0.3,
    ) -> None:
        self.told: list[Route] = []
        sides = Side("local", local), Side("openai", strong)
        self.router = Router(*sides, frozenset(features), Share(share), self.told.append)

    def route(self, question: str = SIMPLE, *, minor: bool = False, **options: Any) -> Route:
        return self.router.decide(asking(question, minor=minor, **options))


def asking(question: str = SIMPLE, *, minor: bool = False, **options: Any) -> ChatRequest:
    messages = ({"role": "user", "content": question},)
    return ChatRequest(messages, options, minor=minor, note=Note())


def test_simple_and_hard() -> None:
    tried = Tried()
    simple, hard = tried.route(), tried.route(HARD)
    assert (simple.provider, simple.rule) == ("local", "score")
    assert (hard.provider, hard.rule) == ("openai", "score")
    assert simple.score is not None
    assert hard.score is not None
    assert hard.threshold is not None
    assert simple.score < hard.threshold < hard.score
    assert tried.told == [simple, hard]


RULES: list[tuple[dict[str, Any], dict[str, Any], str, str, str]] = [
    ({}, {"question": "a " * 9000}, "openai", "context", "prompt exceeds the local context"),
    ({}, {"max_tokens": 4090}, "openai", "context", "prompt exceeds the local context"),
    ({}, {"tools": TOOLS}, "openai", "features", "needs tools"),
    ({}, {"response_format": {"type": "json_object"}}, "openai", "features", "needs response_"),
    ({}, {"logprobs": True}, "openai", "features", "needs logprobs"),
    ({}, {"question": HARD, "minor": True}, "local", "task", "task of the client"),
    ({}, {"tools": TOOLS, "minor": True}, "openai", "features", "needs tools"),
    (
        {"local": None, "strong": 4096},
        {"question": "a " * 9000},
        "local",
        "context",
        "prompt exceeds the strong context",
    ),
    ({"local": 500, "strong": 400}, {"question": "a " * 900}, "local", "context", "prompt"),
    ({"local": 500, "strong": 600}, {"question": "a " * 900}, "openai", "context", "prompt"),
]


@pytest.mark.parametrize(("house", "asked", "provider", "rule", "reason"), RULES)
def test_hard_rules_come_before_the_score(
    house: dict[str, Any], asked: dict[str, Any], provider: str, rule: str, reason: str
) -> None:
    route = Tried(**house).route(**asked)
    assert (route.provider, route.rule, route.score) == (provider, rule, None)
    assert route.reasons[0].startswith(reason)


@pytest.mark.parametrize(
    "options",
    [{"tools": []}, {"response_format": {"type": "text"}}, {"logprobs": False}, {"seed": 1}],
)
def test_what_asks_for_nothing_decides_nothing(options: dict[str, Any]) -> None:
    assert Tried().route(**options).rule == "score"


def test_what_the_local_model_can_is_left_to_the_score() -> None:
    tried = Tried(features=("tools", "response_format"))
    assert tried.route(tools=TOOLS).rule == "score"
    assert tried.route(tools=TOOLS, logprobs=True).reasons == ("needs logprobs",)


def test_rules_count_for_the_share_and_tasks_do_not() -> None:
    tried = Tried(share=0.5)
    for _ in range(20):
        tried.route(tools=TOOLS)
    assert tried.router.share.recent == 1.0
    assert tried.route(HARD).provider == "local"  # the rules have used the share up
    seen = tried.router.share.seen
    tried.route(minor=True)
    assert tried.router.share.seen == seen


@pytest.mark.parametrize(("share", "provider"), [(0.0, "local"), (1.0, "openai")])
def test_all_or_nothing(share: float, provider: str) -> None:
    tried = Tried(share=share)
    assert {tried.route(q).provider for q in (SIMPLE, HARD) for _ in range(30)} == {provider}


def test_the_header_is_ascii_and_of_fixed_words() -> None:
    route = Tried().route("Tại sao “phí” lại khác nhau; x-route: hacked\r\nset-cookie: a=b?")
    assert route.header().isascii()
    assert "\n" not in route.header()
    assert "hacked" not in route.header()
    scored = Route("local", "score", ("short", "one passage"), 0.312, 0.55)
    assert scored.header() == 'local; score=0.31; threshold=0.55; reasons="short, one passage"'
    named = Route("ollama", "named", ("named in the request",))
    assert named.header() == 'ollama; reasons="named in the request"'


class House:
    """A router with two scripted providers and stand-ins, put together as the backend does."""

    def __init__(
        self, local: list[Any], strong: list[Any], *stand_ins: LLMProvider, **router: Any
    ) -> None:
        self.tried = Tried(**router)
        self.local, self.strong = Scripted(local, name="local"), Scripted(strong, name="openai")
        strong_chain = Fallback([self.strong, self.local, *stand_ins])
        self.provider = routing(
            *("smart", self.tried.router, self.local, self.strong, stand_ins, strong_chain),
            Metrics(),
        )

    async def ask(self, request: ChatRequest) -> tuple[str, Route]:
        text = text_of(await collect(self.provider, request))
        assert request.note is not None
        assert request.note.route is not None
        return text, request.note.route


async def test_each_question_reaches_its_provider() -> None:
    house = House(saying("local says"), saying("strong says"))
    assert house.provider.name == "smart"
    assert (await house.ask(asking(SIMPLE)))[0] == "local says"
    assert (await house.ask(asking(HARD)))[0] == "strong says"
    assert [len(p.requests) for p in (house.local, house.strong)] == [1, 1]
    assert (house.local.open, house.strong.open) == (0, 0)


async def test_the_local_model_stands_in_for_the_strong_one() -> None:
    text, route = await House(saying("local says"), [DOWN]).ask(asking(HARD))
    assert (text, route.provider) == ("local says", "openai")


async def test_the_strong_one_does_not_stand_in_for_the_local_one() -> None:
    last = Scripted(saying("sentences"), name="extractive")
    house = House([DOWN], saying("strong says"), last)
    assert (await house.ask(asking(SIMPLE)))[0] == "sentences"
    assert not house.strong.requests
    alone = House([DOWN], saying("strong says"))
    _, error = await text_before_error(alone.provider, UpstreamUnavailable)
    assert str(error) == "down"


async def test_it_does_where_the_user_listed_it() -> None:
    strong = Scripted(saying("strong says"), name="openai")
    house = House([DOWN], saying("never"), strong)
    text, route = await house.ask(asking(SIMPLE))
    assert (text, route.provider) == ("strong says", "local")


async def test_a_prompt_too_long_for_the_local_model() -> None:
    house = House([FULL], saying("strong says"))
    request = asking(SIMPLE)
    text, route = await house.ask(request)
    assert (text, route.provider, route.rule) == ("strong says", "openai", "overflow")
    assert route.reasons == ("short", "refused as too long")
    assert route.score is not None
    assert [told.rule for told in house.tried.told] == ["score", "overflow"]
    (moved,) = house.strong.requests
    assert moved.messages == request.messages


async def test_other_refusals_are_final() -> None:
    refused = UpstreamRefused("temperature is too hot", status=400)
    house = House([refused], saying("strong says"))
    await text_before_error(house.provider, UpstreamRefused)
    assert not house.strong.requests


async def test_too_long_for_both_and_a_stand_in_that_reads_no_prompt() -> None:
    last = Scripted(saying("sentences"), name="extractive")
    assert (await House([FULL], [FULL], last).ask(asking(SIMPLE)))[0] == "sentences"


async def test_what_was_said_is_not_said_again_by_another() -> None:
    broken = [*saying("half")[:2], FULL]
    provider = Overflowing(Scripted(broken), Scripted(saying("again")), lambda _: None)
    text, error = await text_before_error(provider, UpstreamRefused)
    assert (text, error) == ("half", FULL)


async def test_a_named_provider_is_noted() -> None:
    told: list[Route] = []
    request = asking(HARD)
    named = Named(Scripted(saying("x"), name="local"), told.append)
    assert text_of(await collect(named, request)) == "x"
    assert told == [Route("local", "named", ("named in the request",))]
    assert request.note is not None
    assert request.note.route == told[0]
    assert named.name == "local"


async def test_nobody_needs_a_note() -> None:
    house = House(saying("local says"), saying("strong says"))
    request = ChatRequest(({"role": "user", "content": SIMPLE},))
    assert text_of(await collect(house.provider, request)) == "local says"
