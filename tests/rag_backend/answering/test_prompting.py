"""What a model is told."""

from __future__ import annotations

from rag_backend.answering.prompting import grounded_messages, render
from rag_backend.llm.provider import Evidence
from tests.rag_backend.answering.fakes import assistant, user

SOURCES = [
    Evidence(1, "handbook.md › Leave", "Twelve days & <b>no</b> {{ more }}.", 1.0),
    Evidence(4, "rules.pdf, p. 2", "Line one\nline two", 0.5),
]
TALK = [user("Hello"), assistant("Hi!"), user("How many days?")]


def test_sources_stand_as_they_are_before_the_conversation() -> None:
    system, *rest = grounded_messages(TALK, SOURCES, "en")
    assert rest == TALK
    assert system["role"] == "system"
    assert "like [1]." in system["content"]
    assert "the language of the question" in system["content"]
    assert system["content"].endswith(
        "Sources:\n[1] handbook.md › Leave\nTwelve days & <b>no</b> {{ more }}.\n"
        "[4] rules.pdf, p. 2\nLine one\nline two"
    )


def test_what_varies() -> None:
    (system, _) = grounded_messages([user("Mấy ngày?")], SOURCES, "vi", markers=False)
    assert "Answer in Vietnamese" in system["content"]
    assert "like [1]" not in system["content"]


def test_the_clients_own_instructions() -> None:
    given = {"role": "system", "content": "Speak like a {{ pirate }}."}
    (system, _) = grounded_messages([given, user("Days?")], SOURCES, "en")
    assert "Speak like a {{ pirate }}." in system["content"]


def test_every_template_renders() -> None:
    assert "NONE" in render("condense", question="Q?", text="T")
    assert render("rewrite", turns=TALK, question="And?").endswith("Last question: And?")
