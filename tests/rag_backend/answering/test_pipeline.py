"""From a question to a cited answer, with scripted providers and given passages."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Literal, cast

import pytest

from rag_backend.answering.condensing import Condenser
from rag_backend.answering.pipeline import Pipeline, Question
from rag_backend.answering.replies import NOTHING_FOUND
from rag_backend.errors import UnsupportedFeature, UpstreamBroken, UpstreamUnavailable
from rag_backend.llm.complete import fold
from rag_backend.llm.extractive import Extractive
from rag_backend.llm.prices import FREE, Price
from rag_backend.llm.pricing import Money
from rag_backend.llm.provider import Chunk, LLMProvider, Message
from rag_backend.metrics import Metrics
from tests.rag_backend.answering.fakes import (
    STORE,
    FakeLibrary,
    Scripted,
    Silent,
    assistant,
    chunk,
    said,
    user,
)

LEAVE = "Employees have twelve days of annual leave."
LUNCH = "The lunch allowance is 45,000 VND a day."
ASK = user("How many days of annual leave do employees have?")
ANSWER = ("Twelve ", "days [1", "], they", " say [7].")


class House:
    """A pipeline and everything that it was given."""

    def __init__(
        self,
        library: FakeLibrary,
        *,
        local: LLMProvider | None = None,
        no_answer: Literal["say", "model"] = "say",
        condense: Literal["auto", "always", "never"] = "auto",
        budget: int = 2500,
    ) -> None:
        self.library = library
        self.metrics = Metrics()
        condenser = Condenser(condense, budget, local, patience=0.01)
        self.pipeline = Pipeline(cast(Any, library), condenser, local, no_answer, self.metrics)

    def stream(
        self, provider: LLMProvider, *messages: Message, **options: Any
    ) -> AsyncGenerator[Chunk, None]:
        asked = Question(messages or (ASK,), options, provider, None, STORE, "http://here")
        return self.pipeline.answer(asked)

    async def ask(
        self, provider: LLMProvider, *messages: Message, **options: Any
    ) -> dict[str, Any]:
        return await fold(self.stream(provider, *messages, **options))


@pytest.fixture
def house() -> House:
    return House(FakeLibrary([LEAVE, LUNCH]))


def text(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


async def test_a_cited_answer(house: House) -> None:
    provider = Scripted(*ANSWER)
    answer = await house.ask(provider)
    assert text(answer) == "Twelve days [1], they say."
    assert (answer["model"], answer["provider"]) == ("tiny", "scripted")
    (citation,) = answer["citations"]
    assert citation["filename"] == "doc-1.md"
    (note,) = answer["choices"][0]["message"]["annotations"]
    place = note["url_citation"]
    assert text(answer)[place["start_index"] : place["end_index"]] == "[1]"
    (request,) = provider.requests
    system, asked = request.messages
    assert f"[1] doc-1.md\n{LEAVE}" in system["content"]
    assert asked == ASK
    assert request.grounding is not None
    assert [e.number for e in request.grounding.passages] == [1, 2]
    assert provider.closed == 1


async def test_the_order_of_chunks(house: House) -> None:
    chunks = [c async for c in house.stream(Scripted(*ANSWER))]
    deltas = [c["choices"][0]["delta"] for c in chunks[:-1]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[1] == {"content": "Twelve"}  # the blank may belong to a marker
    assert deltas[-2].keys() == {"content", "annotations"}
    assert "citations" in chunks[-3]
    assert deltas[-1] == {}
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["choices"] == []
    assert len({c["id"] for c in chunks}) == 1


async def test_system_messages_become_one(house: House) -> None:
    provider = Scripted("Twelve.")
    developer = {"role": "developer", "content": "Be brief."}
    await house.ask(provider, {"role": "system", "content": "Be polite."}, developer, ASK)
    messages = provider.requests[0].messages
    assert [m["role"] for m in messages] == ["system", "user"]
    assert "Be polite.\n\nBe brief." in messages[0]["content"]


async def test_usage_is_passed_on_or_estimated(house: House) -> None:
    counted = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    assert (await house.ask(Scripted("Twelve.", usage=counted)))["usage"] == counted
    estimated = (await house.ask(Scripted("Twelve.")))["usage"]
    assert estimated["prompt_tokens"] > 20
    assert estimated["completion_tokens"] == 3
    assert estimated["total_tokens"] == sum(estimated.values()) / 2


async def test_a_provider_that_names_nothing_still_signs(house: House) -> None:
    head = {"model": None, "provider": None}
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
    nameless = Scripted(said("Twelve.") | head, end | head, finish=None, name="quiet")
    answer = await house.ask(nameless)
    assert (answer["provider"], answer["choices"][0]["finish_reason"]) == ("quiet", "length")


async def test_odd_chunks_do_no_harm(house: House) -> None:
    odd: list[Chunk] = [
        {"choices": None},
        {"choices": [{"index": 0, "delta": None}]},
        {"choices": [{"index": 0, "delta": {"role": "assistant", "tool_calls": []}}]},
        {"choices": [{"index": 0, "delta": {"reasoning_content": "Hm. "}}]},
    ]
    answer = await house.ask(Scripted(*odd, "Twelve [1]."))
    assert answer["choices"][0]["message"]["reasoning_content"] == "Hm. "
    assert text(answer) == "Twelve [1]."


async def test_errors_pass_through(house: House) -> None:
    with pytest.raises(UpstreamUnavailable):
        await house.ask(Scripted(UpstreamUnavailable("It is away.")))
    with pytest.raises(UpstreamBroken):
        await house.ask(Scripted("Twel", finish=None))
    with pytest.raises(UpstreamBroken):
        await house.ask(Scripted(said(cast(Any, [{"type": "text"}]))))


async def test_closing_closes_the_provider(house: House) -> None:
    provider = Scripted(*ANSWER)
    chunks = house.stream(provider)
    await anext(chunks)
    await chunks.aclose()
    assert provider.closed == 1


@pytest.mark.parametrize(
    "hello", ["Xin chào", "hello", "Hi there!", "cảm ơn", "Cảm ơn bạn nhiều.", "Thanks a lot!"]
)
async def test_small_talk_is_plain_chat(house: House, hello: str) -> None:
    provider = Scripted("You are welcome [1].")
    answer = await house.ask(provider, user(hello))
    assert house.library.queries == []
    assert provider.requests[0].messages == (user(hello),)
    assert text(answer) == "You are welcome [1]."  # no source, so no marker of ours
    assert answer["citations"] == []


OPEN_WEBUI = (
    "### Task:\nGenerate a concise, 3-5 word title with an emoji summarizing the chat history.",
    "### Task:\nGenerate 1-3 broad tags categorizing the main themes of the chat history.",
    "### Task:\nSuggest 3-5 relevant follow-up questions or prompts that the user might ask.",
)


@pytest.mark.parametrize("task", OPEN_WEBUI)
async def test_a_clients_own_tasks_are_plain_chat(house: House, task: str) -> None:
    provider = Scripted('{"title": "Annual leave"}')
    await house.ask(provider, user(f"{task}\n### Chat History:\nUSER: {ASK['content']}"))
    assert house.library.queries == []
    assert len(provider.requests[0].messages) == 1


@pytest.mark.parametrize(
    ("question", "is_task"),
    [
        ("Provide a short title for the conversation above.", True),
        ("Generate a concise title for this chat.", True),
        ("Summarize this conversation in one line.", True),
        ("What is the title of the employee handbook?", False),
        ("Please provide the job title of the person who signs contracts.", False),
        ("Write down the steps of the follow-up inspection.", False),
    ],
)
async def test_questions_are_not_mistaken_for_tasks(
    house: House, question: str, is_task: bool
) -> None:
    await house.ask(Scripted("Leave."), ASK, assistant("Twelve."), user(question))
    assert (house.library.queries == []) == is_task


async def test_an_empty_store_is_plain_chat() -> None:
    house = House(FakeLibrary())
    provider = Scripted("It depends.")
    answer = await house.ask(provider)
    assert text(answer) == "It depends."
    assert provider.requests[0].messages == (ASK,)
    assert house.library.queries == []


@pytest.mark.parametrize(
    ("question", "language"),
    [
        ("Who won the cup in 1998?", "en"),
        ("Cách nấu phở bò ngon?", "vi"),
        ("cach nau pho la gi", "vi"),
    ],
)
async def test_nothing_relevant_is_said_without_a_model(question: str, language: str) -> None:
    house = House(FakeLibrary([LEAVE], relevance=0.1))
    provider = Scripted("Never asked.")
    answer = await house.ask(provider, user(question))
    assert text(answer) == NOTHING_FOUND[language]
    assert answer["provider"] == answer["model"] == "documents"
    assert answer["citations"] == []
    assert provider.requests == []


async def test_nothing_relevant_may_be_the_models() -> None:
    house = House(FakeLibrary([LEAVE], relevance=0.1), no_answer="model")
    provider = Scripted("France, I think.")
    answer = await house.ask(provider, user("Who won the cup in 1998?"))
    assert text(answer) == "France, I think."
    assert len(provider.requests[0].messages) == 1


@pytest.mark.parametrize(
    "options", [{"response_format": {"type": "json_object"}}, {"tools": [{}]}, {"logprobs": True}]
)
async def test_what_needs_a_model_gets_one(options: dict[str, Any]) -> None:
    row = chunk("Wifi? | Ask.", question="Wifi?", answer="Ask.")
    house = House(FakeLibrary([LEAVE], relevance=0.1, rows={"Wifi?": row}))
    for question in ("Wifi?", "Who won the cup in 1998?"):
        assert text(await house.ask(Scripted("{}"), user(question), **options)) == "{}"
        with pytest.raises(UnsupportedFeature):
            await house.ask(Extractive("extractive"), user(question), **options)


async def test_a_curated_answer_is_verbatim() -> None:
    answer_text = "Use `wifi[1]`, or ask [9] the reception."
    row = chunk(f"Wifi? | {answer_text}", 4, question="Wifi?", answer=answer_text, page=2)
    house = House(FakeLibrary([LEAVE], rows={"Wifi?": row}))
    provider = Scripted("Never asked.")
    answer = await house.ask(provider, user("Wifi?"))
    assert text(answer) == answer_text
    assert answer["provider"] == "documents"
    (citation,) = answer["citations"]
    assert (citation["file_id"], citation["page"]) == ("file-4", 2)
    assert (citation["start_index"], citation["end_index"]) == (0, len(answer_text))
    assert provider.requests == []


async def test_a_curated_question_is_known_in_any_turn() -> None:
    row = chunk("Wifi? | Ask.", question="Wifi?", answer="Ask.")
    house = House(FakeLibrary([LEAVE], rows={"Wifi?": row}), local=Scripted("Never asked."))
    answer = await house.ask(Scripted("Never."), ASK, assistant("Twelve."), user("Wifi?"))
    assert text(answer) == "Ask."


@pytest.mark.parametrize(
    "said", ["Cho em hỏi wifi là gì ạ?", "Could you tell me please: wifi là gì"]
)
async def test_a_curated_question_is_known_with_courtesies_around_it(said: str) -> None:
    row = chunk("Wifi là gì | Ask.", question="Wifi là gì", answer="Ask.")
    house = House(FakeLibrary([LEAVE], rows={"wifi là gì": row}))
    answer = await house.ask(Scripted("Never."), user(said))
    assert text(answer) == "Ask."


async def test_a_curated_question_is_known_without_its_diacritics() -> None:
    row = chunk("Thẻ xe? | Mẫu G-12.", question="Làm lại thẻ xe?", answer="Mẫu G-12.")
    house = House(FakeLibrary(chunks=[row]))
    answer = await house.ask(Scripted("Never."), user("lam lai the xe"))
    assert text(answer) == "Mẫu G-12."
    assert answer["citations"][0]["file_id"] == row.file_id
    other = Scripted("Asked.")
    await house.ask(other, user("lam lai the xe moi"))
    await house.ask(other, user("lam lai the xe"), response_format={"type": "json_object"})
    assert len(other.requests) == 2


async def test_courtesies_are_not_searched_for() -> None:
    house = House(FakeLibrary([LEAVE]))
    await house.ask(Scripted("Twelve."), user("Could you please tell me how many days I get?"))
    assert house.library.queries == ["how many days I get?"]


async def test_not_knowing_cites_nothing(house: House) -> None:
    answer = await house.ask(Scripted("The sources do not ", "contain annual leave [1]."))
    assert text(answer) == "The sources do not contain annual leave."
    assert answer["citations"] == []
    assert answer["choices"][0]["message"]["annotations"] == []


async def test_json_keeps_its_brackets(house: House) -> None:
    form = {"type": "json_object"}
    provider = Scripted('{"days": ', "[9, 1]}")
    answer = await house.ask(provider, response_format=form)
    assert text(answer) == '{"days": [9, 1]}'
    assert "like [1]" not in provider.requests[0].messages[0]["content"]


async def test_tool_calls_pass(house: House) -> None:
    part = {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x": [9]}'}}
    call: Chunk = {"choices": [{"index": 0, "delta": {"tool_calls": [part]}}]}
    answer = await house.ask(Scripted(call, finish="tool_calls"), tools=[{}])
    message = answer["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"][0]["function"]["arguments"] == '{"x": [9]}'


async def test_after_a_tool_it_is_plain_chat(house: House) -> None:
    provider = Scripted("Seven.")
    tool = {"role": "tool", "content": "7", "tool_call_id": "a"}
    await house.ask(provider, ASK, assistant(""), tool)
    assert house.library.queries == []


async def test_a_follow_up_is_searched_for_as_rewritten() -> None:
    local = Scripted("How much is the fine for motorbikes?", name="local")
    house = House(FakeLibrary([LEAVE]), local=local)
    provider = Scripted("Twelve [1].")
    first, second = user("How much is the fine for cars?"), user("And for motorbikes?")
    await house.ask(provider, first, assistant("Much."), second)
    assert house.library.queries == ["How much is the fine for motorbikes?"]
    assert provider.requests[0].messages[-1] == second  # the model reads what was written
    grounding = provider.requests[0].grounding
    assert grounding is not None
    assert grounding.question == "How much is the fine for motorbikes?"


class TestCondensed:
    """Quotes come from the documents, whatever the model was shown."""

    texts = (f"{LEAVE} Nobody counts public holidays.", LUNCH)

    async def test_by_the_local_model(self) -> None:
        local = Scripted("12 days.", name="local")
        house = House(FakeLibrary(self.texts), local=local, condense="always")
        provider = Scripted("Twelve days of annual leave [1].")
        answer = await house.ask(provider)
        assert "[1] doc-1.md\n12 days." in provider.requests[0].messages[0]["content"]
        assert answer["citations"][0]["quote"] == LEAVE
        assert 'method="model"' in house.metrics.exposition().decode()

    async def test_what_needs_no_model_reads_the_documents(self) -> None:
        local = Scripted("About 12 days, I guess.", name="local")
        house = House(FakeLibrary(self.texts), local=local, condense="always")
        answer = await house.ask(Extractive("extractive"))
        assert LEAVE in text(answer)
        assert local.requests == []
        model = Scripted("Twelve [1].")
        await house.ask(model)
        grounding = model.requests[0].grounding
        assert grounding is not None
        assert grounding.passages[0].text == self.texts[0]

    async def test_a_source_that_was_left_out_cannot_be_cited(self) -> None:
        class Choosy(Scripted):
            async def stream(self, request: Any) -> AsyncGenerator[Chunk, None]:
                self._steps = ("NONE",) if LUNCH in request.messages[0]["content"] else (LEAVE,)
                async for one in super().stream(request):
                    yield one

        house = House(FakeLibrary(self.texts), local=Choosy(), condense="always")
        answer = await house.ask(Scripted("Twelve [1], 45,000 [2]."))
        assert text(answer) == "Twelve [1], 45,000."
        assert [c["index"] for c in answer["citations"]] == [1]

    @pytest.mark.parametrize(
        "local",
        [None, Silent(), Scripted(UpstreamUnavailable("Away.")), Scripted("cut", finish=None)],
        ids=["absent", "slow", "failing", "cut"],
    )
    async def test_without_it(self, local: LLMProvider | None) -> None:
        house = House(FakeLibrary(self.texts), local=local, condense="always")
        provider = Scripted("Twelve [1].")
        answer = await house.ask(provider)
        assert answer["citations"][0]["quote"] == LEAVE
        assert "holidays" not in provider.requests[0].messages[0]["content"]
        assert 'method="extractive"' in house.metrics.exposition().decode()


USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}


def _priced(house: House) -> str:
    prices = {"scripted": Price(1_000_000, 0, 0), "local": FREE}
    house.pipeline._money = Money(lambda name, _: prices.get(name), "scripted", house.metrics)
    return "rag_saved_usd_total"


async def test_what_condensing_spares_is_priced_as_the_provider_counts() -> None:
    house = House(FakeLibrary([LEAVE * 40, LUNCH * 40]), budget=200)
    name = _priced(house)
    question = Question((ASK,), {}, Scripted(*ANSWER, usage=USAGE), None, STORE, "http://here")
    await fold(house.pipeline.answer(question))
    shown = house.metrics.exposition().decode()
    spared = question.note.spared
    assert spared > 100
    assert f'{name}{{baseline="scripted",by="condensing"}} {float(spared)}' in shown
    assert 'rag_spent_usd_total{provider="scripted"} 100.0' in shown
    asked = cast(Scripted, question.provider).requests[0]
    assert asked.note is question.note
    assert not asked.minor
    # The provider counted fewer tokens than were estimated, and so of what was left out.
    before, after = (
        house.metrics.condensed_tokens.labels("extractive", when)._value.get()
        for when in ("before", "after")
    )
    assert spared < before - after


@pytest.mark.parametrize("provider", [Extractive("extractive"), Scripted("x", name="documents")])
async def test_answers_without_a_model_cost_and_save_nothing(
    house: House, provider: LLMProvider
) -> None:
    _priced(house)
    await house.ask(provider)
    assert "_usd_total{" not in house.metrics.exposition().decode()


async def test_a_clients_own_task_is_told(house: House) -> None:
    provider = Scripted("A title")
    await house.ask(provider, user("### Task:\nGenerate a title for the chat"))
    assert provider.requests[0].minor
