"""Which texts may be written where functions may, or must, be called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer

from llm_offline.api.calls import calls_in
from llm_offline.engine.interface import GenerationRequest, Sampling
from llm_offline.engine.text.calling import Signature
from llm_offline.engine.text.grammar import Grammars
from llm_offline.errors import BadRequest
from llm_offline.loaded import LoadedModel
from tests.llm_offline.engine.stepping import Stepper

FINE = Signature(
    "fine",
    {
        "type": "object",
        "properties": {"vehicle": {"$ref": "#/$defs/Vehicle"}},
        "required": ["vehicle"],
        "additionalProperties": False,
        "$defs": {"Vehicle": {"enum": ["ô tô", "xe máy"]}},
    },
)
LOOK = Signature('look "up"', {"type": "object"})
GOOD = '{"name": "fine", "parameters": {"vehicle": "xe máy"}}'
BAD = '{"name": "fine", "parameters": {"vehicle": "bus"}}'
MARKED = '<tool_call>\n{"name": "fine", "arguments": {"vehicle": "ô tô"}}\n</tool_call>'


class Followed:
    """Grammars of a tokenizer, asked about whole texts."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        stops = [tokenizer.eos_token_id]
        self.grammars = Grammars(tokenizer, len(tokenizer), stops)

    def __call__(self, text: str, **wishes: Any) -> bool:
        matcher = self.grammars.calls([FINE, LOOK], **({"several": True} | wishes))
        return matcher.follows(self.tokenizer.encode(text, add_special_tokens=False))


@pytest.fixture(scope="module")
def llama(tiny_folder: Path) -> Followed:
    return Followed(AutoTokenizer.from_pretrained(tiny_folder))


@pytest.fixture(scope="module")
def qwen(tiny_folder: Path) -> Followed:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    marks = ("<tool_call>", "</tool_call>", "<think>", "</think>")
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in marks])
    return Followed(tokenizer)


def test_a_required_call(llama: Followed) -> None:
    assert llama(GOOD)
    assert llama('{"name":"look \\"up\\"","arguments":{"a": [1, {"b": null}]}}')
    assert not llama(BAD)
    assert not llama("Xin chào")
    assert not llama('{"name": "rob", "parameters": {}}')
    assert not llama(GOOD + " and so on")


def test_as_many_calls_as_are_wanted(llama: Followed, qwen: Followed) -> None:
    for followed, one, two in (
        (llama, GOOD, f"{GOOD}; {GOOD}"),
        (qwen, MARKED, f"{MARKED}\n{MARKED}"),
    ):
        for otherwise in (None, "text"):
            assert followed(two, several=True, otherwise=otherwise)
            assert followed(one, several=False, otherwise=otherwise)
            assert not followed(two, several=False, otherwise=otherwise)


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("", True),
        ("  Xin {chào}", True),
        ("<b> is bold", True),
        (GOOD, True),
        (f"\n{GOOD}", True),
        (BAD, False),
        ('{"a": 1}', False),
        ("[1]", False),
    ],
)
def test_calls_or_words(llama: Followed, qwen: Followed, text: str, allowed: bool) -> None:
    assert llama(text, otherwise="text") is allowed
    assert qwen(text, otherwise="text") is allowed


def test_marked_calls_after_words(qwen: Followed) -> None:
    assert qwen(f"I look.\n{MARKED}", otherwise="text")
    assert qwen(f"<think>\n{{Hm}}</think>\n\n{MARKED}\n{MARKED}", otherwise="text")
    assert not qwen(f"I look.\n{MARKED}".replace("ô tô", "bus"), otherwise="text")
    assert not qwen("I look.\n<tool_call>\nwell", otherwise="text")


def test_calls_or_an_answer_of_a_schema(llama: Followed, qwen: Followed) -> None:
    answer = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    assert llama('{"a": 1}', otherwise=answer)
    assert qwen(f"{MARKED}\n{MARKED}", otherwise=answer)
    assert qwen('{\n"a": 1}', otherwise=answer)
    # White space says nothing about which of the two it will be.
    assert llama(GOOD.replace("{", "{\n\n"), otherwise=answer)
    assert llama(GOOD, otherwise=answer)
    assert not llama("Xin chào", otherwise=answer)
    assert not llama('{"a": "one"}', otherwise=answer)


def test_a_check_of_what_was_written(llama: Followed, qwen: Followed) -> None:
    for followed, good in ((llama, f"{GOOD}; {GOOD}"), (qwen, MARKED)):
        check = followed.grammars.call_check([FINE])
        assert check(good)
        assert not check(BAD)
        assert not check("Xin chào")


@pytest.mark.parametrize("schema", [{"type": "x"}, {"required": 5}, {"properties": 7}])
def test_schemas_that_are_none(llama: Followed, schema: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=r"^tools: .*schema") as refused:
        llama.grammars.calls([Signature("f", {"type": "object"} | schema)], several=True)
    assert refused.value.param == "tools"
    assert "SP" not in str(refused.value)


VEHICLE = {"properties": {"vehicle": {"enum": ["ô tô", "xe máy"]}}, "additionalProperties": False}
LOOSE: list[dict[str, Any]] = [
    VEHICLE,
    VEHICLE | {"type": ["object", "null"]},
    {"anyOf": [VEHICLE, {"type": "null"}]},
    {"$ref": "#/$defs/Args", "$defs": {"Args": VEHICLE}},
    {"$id": "https://example.org/f", "$ref": "#/$defs/Args", "$defs": {"Args": VEHICLE}},
    {"$ref": "#args", "$defs": {"Args": VEHICLE | {"$anchor": "args"}}},
    {"anyOf": [{"$ref": "#/$defs/Args"}, {"type": "null"}], "$defs": {"Args": VEHICLE}},
]
ANSWER = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}


@pytest.mark.parametrize("schema", LOOSE, ids=str)
@pytest.mark.parametrize("otherwise", [None, "text", {"type": "array"}, ANSWER], ids=str)
def test_arguments_are_objects_whatever_else_their_schema_allows(
    llama: Followed, schema: dict[str, Any], otherwise: Any
) -> None:
    functions = [LOOK, Signature("f", schema)]
    matcher = llama.grammars.calls(functions, several=True, otherwise=otherwise)

    def follows(arguments: str) -> bool:
        text = f'{{"name": "f", "parameters": {arguments}}}'
        return matcher.follows(llama.tokenizer.encode(text, add_special_tokens=False))

    assert follows('{"vehicle": "xe máy"}')
    for value in ("false", "null", "3", '"xe máy"', "[]"):
        assert not follows(value)


def test_arguments_of_which_one_or_the_other_is_required(llama: Followed) -> None:
    either = [{"required": ["plate"]}, {"required": ["vehicle"]}]
    schema = {"properties": {"plate": {}, **VEHICLE["properties"]}, "anyOf": either}
    for otherwise in (None, "text", ANSWER):
        matcher = llama.grammars.calls([Signature("f", schema)], several=True, otherwise=otherwise)
        for arguments, fits in (
            ('{"plate": 3}', True),
            ('{"vehicle": "xe máy"}', True),
            ("{}", False),
        ):
            text = f'{{"name": "f", "arguments": {arguments}}}'
            assert matcher.follows(llama.tokenizer.encode(text, add_special_tokens=False)) is fits


@pytest.mark.parametrize("schema", LOOSE[:3], ids=str)
def test_each_required_call_is_one(loaded: LoadedModel, schema: dict[str, Any]) -> None:
    requests = [
        GenerationRequest(
            (5, 6, 7),
            Sampling(seed=seed),
            max_tokens=300,
            grammar=loaded.grammars.calls([Signature("f", schema)], several=False),
        )
        for seed in range(12)
    ]
    for tokens in Stepper(loaded.network).texts_of(requests):
        assert len(calls_in(loaded.text.decode(tokens), {"f"})) == 1


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string"},
        {"type": ["null", "array"]},
        {"enum": [1, None]},
        {"const": "x"},
        {"anyOf": [{"type": "null"}, {"type": "string"}]},
        {"$ref": "#/$defs/Name", "$defs": {"Name": {"type": "string"}}},
    ],
    ids=str,
)
def test_a_function_whose_arguments_cannot_be_an_object(
    llama: Followed, schema: dict[str, Any]
) -> None:
    with pytest.raises(BadRequest, match=r'^tools: .*schema of the function "f"') as refused:
        llama.grammars.calls([LOOK, Signature("f", schema)], several=True)
    assert refused.value.param == "tools"
