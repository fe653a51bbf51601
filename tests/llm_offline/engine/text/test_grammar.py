"""JSON that a model of random weights writes: always whole, always of its schema."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llm_offline.engine.continuous import ContinuousBatching
from llm_offline.engine.interface import GenerationRequest, Sampling
from llm_offline.engine.text import grammar
from llm_offline.engine.text.calling import Signature
from llm_offline.engine.text.grammar import Grammars
from llm_offline.errors import BadRequest, UnsupportedFeature
from llm_offline.loaded import LoadedModel
from tests.llm_offline.engine.stepping import Stepper

NAMES = ["name", "số tiền", "a b", "id", "x1", "điều", 'say "x"', "tên đầy đủ của người"]
LEAVES: list[dict[str, Any]] = [
    {"type": "string", "maxLength": 20},
    {"type": "string", "minLength": 2, "maxLength": 5},
    {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,4}$"},
    {"type": "string", "pattern": "^(Điều|Khoản) [1-9][0-9]?$"},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "uuid"},
    {"type": "integer"},
    {"type": "integer", "minimum": 3},
    {"type": "integer", "exclusiveMaximum": -2},
    {"type": "integer", "minimum": -20, "maximum": 1000, "multipleOf": 5},
    {"type": "number"},
    {"type": "number", "minimum": 0, "maximum": 1},
    {"type": "boolean"},
    {"type": "null"},
    {"type": ["string", "null"], "maxLength": 8},
    {"type": ["integer", "boolean"]},
    {"enum": ["đỏ", "xanh", 3, None, {"a": [1]}]},
    {"const": "Nghị định 100/2019/NĐ-CP"},
    {"$ref": "#/$defs/money"},
    {"$ref": "#/$defs/tree"},
]
DEFS: dict[str, Any] = {
    "money": {
        "type": "object",
        "properties": {"amount": {"type": "integer", "minimum": 0}, "unit": {"enum": ["đ", "$"]}},
        "required": ["amount", "unit"],
        "additionalProperties": False,
    },
    "tree": {
        "type": "object",
        "properties": {"of": {"type": "array", "maxItems": 1, "items": {"$ref": "#/$defs/tree"}}},
        "additionalProperties": False,
    },
}


def _schema(dice: random.Random, depth: int = 0) -> dict[str, Any]:
    """A random schema whose texts are short."""
    deep = ["object", "object", "array", "anyOf", "tuple", "map"] if depth < 3 else []
    kind = "object" if depth == 0 else dice.choice(["leaf"] * 6 + deep)
    if kind == "object":
        names = dice.sample(NAMES, dice.randint(1, 4))
        return {
            "type": "object",
            "properties": {name: _schema(dice, depth + 1) for name in names},
            "required": dice.sample(names, dice.randint(0, len(names))),
            "additionalProperties": False,
        }
    if kind == "array":
        least = dice.randint(0, 2)
        items = _schema(dice, depth + 1)
        return {"type": "array", "items": items, "minItems": least, "maxItems": least + 2}
    if kind == "tuple":
        first = [_schema(dice, depth + 1) for _ in range(2)]
        return {"type": "array", "prefixItems": first, "items": False, "minItems": 2}
    if kind == "map":
        value = _schema(dice, depth + 1)
        return {"type": "object", "additionalProperties": value, "maxProperties": 2}
    if kind == "anyOf":
        return {"anyOf": [_schema(dice, depth + 1) for _ in range(2)]}
    return dice.choice(LEAVES)


def _request(loaded: LoadedModel, number: int) -> tuple[dict[str, Any], GenerationRequest]:
    """The schema of this number, and a request for it; some of them penalised."""
    dice = random.Random(number)
    schema = _schema(dice) | {"$defs": DEFS}
    sampling = Sampling(
        temperature=dice.choice([0.0, 1.0, 1.5]),
        seed=number,
        frequency_penalty=dice.choice([0, 0, 0.5]),
        repetition_penalty=dice.choice([1, 1, 1.2]),
    )
    prompt = tuple(loaded.text.encode(json.dumps(schema, ensure_ascii=False))[:100])
    return schema, GenerationRequest(
        prompt, sampling, max_tokens=1500, grammar=loaded.grammars.json_schema(schema)
    )


async def test_every_text_is_json_of_its_schema(loaded: LoadedModel) -> None:
    """200 random schemas, all at once, with guesses, in a cache that is too small for them."""
    engine = ContinuousBatching(
        loaded.network, loaded.text.decode, context=4096, max_queue=200, max_batch=16
    )
    asked = [_request(loaded, number) for number in range(200)]
    generations = [engine.generate(request) for _, request in asked]
    for (schema, _), generation in zip(asked, generations, strict=True):
        text = "".join([delta.text async for delta in generation])
        jsonschema.validate(json.loads(text), schema)
    counters = engine.status().counters
    engine.stop()
    assert engine.join(10)
    assert counters["spec_decode_num_accepted_tokens"] > 1000


PAIR = {"a": {"type": "integer"}, "b": {"type": "object", "properties": {"c": {"type": "string"}}}}
NEEDS_A, NEEDS_B = {"required": ["a"]}, {"required": ["b"]}
EITHER = [NEEDS_A, NEEDS_B]


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": PAIR, "anyOf": EITHER},
        {"properties": PAIR, "anyOf": EITHER, "additionalProperties": False},
        {"properties": PAIR, "allOf": [{"anyOf": EITHER}]},
        {"properties": PAIR, "anyOf": [{"anyOf": EITHER}]},
        {"properties": PAIR, "required": ["a"], "anyOf": [NEEDS_B, {"required": ["d"]}]},
        {"properties": PAIR, "$ref": "#/$defs/A", "$defs": {"A": NEEDS_A}},
        {"allOf": [{"$ref": "#/$defs/P"}, NEEDS_A], "$defs": {"P": {"properties": PAIR}}},
        {"properties": PAIR, "anyOf": [NEEDS_A, {"type": "null"}]},
    ],
    ids=str,
)
def test_one_object_described_in_several_places(
    loaded: LoadedModel, schema: dict[str, Any]
) -> None:
    schema = {"type": "object", **schema}
    grammar = loaded.grammars.json_schema(schema)
    for text in (
        '{"a": 1}',
        '{"b": {"c": "x"}}',
        '{"a": 1, "b": {}}',
        '{"a": 1, "b": {"c": "x"}, "d": [true]}',
        '{"a": "x", "b": {}}',
        '{"b": {"c": 1}}',
        "{}",
        "null",
    ):
        fits = jsonschema.Draft202012Validator(schema).is_valid(json.loads(text))
        tokens = loaded.text.encode(text, add_special_tokens=False)
        assert grammar.follows(tokens) is fits, text


def test_guesses_change_no_text_that_follows_a_grammar(loaded: LoadedModel) -> None:
    """And what a grammar leaves no choice about costs fewer steps than tokens."""
    numbers = range(300, 316)
    together = Stepper(loaded.network, step_tokens=300)
    guessed = together.texts_of([_request(loaded, number)[1] for number in numbers])
    steps = 0
    for number, text in zip(numbers, guessed, strict=True):
        alone = Stepper(loaded.network, share=False, speculate=False)
        assert alone.texts_of([_request(loaded, number)[1]]) == [text]
        steps = max(steps, alone.steps)
    assert together.steps < steps


def test_forced_tokens_are_drafts(loaded: LoadedModel) -> None:
    schema = {
        "type": "object",
        "properties": {"a name that takes a lot of tokens": {"enum": ["and only one value"]}},
        "required": ["a name that takes a lot of tokens"],
        "additionalProperties": False,
    }
    texts, steps = [], []
    for speculate in (False, True):
        stepper = Stepper(loaded.network, speculate=speculate)
        grammar = loaded.grammars.json_schema(schema)
        request = GenerationRequest((5, 6), Sampling(temperature=0), 200, grammar=grammar)
        texts.append(loaded.text.decode(stepper.texts_of([request])[0]))
        steps.append(stepper.steps)
    assert texts[0] == texts[1]
    jsonschema.validate(json.loads(texts[1]), schema)
    assert steps[1] < 0.5 * steps[0]


def test_masks_of_a_draft_are_those_of_its_tokens_one_by_one(loaded: LoadedModel) -> None:
    dice = random.Random(4)
    for number in range(20):
        grammar, same = (_request(loaded, number)[1].grammar for _ in range(2))
        assert grammar is not None
        assert same is not None
        said: list[int] = []
        masks = []
        while not same.is_complete and len(said) < 200:
            masks.append(same.allowed()[0])
            said.append(dice.choice(masks[-1].nonzero()[:, 0].tolist()))
            same.consume(said[-1])
        at = 0
        while at + 4 < len(said):
            assert grammar.fitting(said[at : at + 4]) == 4
            found = grammar.allowed(said[at : at + 4])
            assert torch.equal(found, torch.stack(masks[at : at + 5]))
            for token in said[at : at + 4]:
                grammar.consume(token)
            at += 4
        assert grammar.fitting([-1 % loaded.network.vocabulary, 0]) <= 2


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "wizard"}, "Invalid type"),
        ({"type": "object", "properties": 3}, "properties must be an object"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"$ref": "#/nowhere"}, "nowhere"),
        ({"$ref": "#"}, "no text can follow"),
        ({"type": "string", "pattern": "("}, "regex"),
        ({"a": object()}, "not a JSON schema"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "of its own, or write anyOf"),
    ],
)
def test_a_schema_that_cannot_be_used(
    loaded: LoadedModel, schema: dict[str, Any], reason: str
) -> None:
    with pytest.raises(BadRequest, match=reason) as refused:
        loaded.grammars.json_schema(schema)
    assert "\n" not in str(refused.value)


def test_a_schema_is_looked_at_without_torch(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests are looked at in threads of a pool, where it would leave helpers behind."""
    monkeypatch.setattr(grammar, "torch", None)
    assert not loaded.grammars.json_object().is_complete
    with pytest.raises(BadRequest, match="no text can follow"):
        loaded.grammars.json_schema({"$ref": "#"})


def test_a_schema_that_is_too_deep(loaded: LoadedModel) -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(500):
        schema = {"type": "array", "items": schema}
    with pytest.raises(BadRequest, match="too deeply"):
        loaded.grammars.json_schema(schema)


def _written(loaded: LoadedModel, grammars: Grammars, schema: dict[str, Any]) -> str:
    request = GenerationRequest(
        (5, 6), Sampling(seed=3), max_tokens=300, grammar=grammars.json_schema(schema)
    )
    return loaded.text.decode(Stepper(loaded.network).texts_of([request])[0])


def _with_tokens(folder: Path, *added: AddedToken) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(list(added))
    return tokenizer


@pytest.mark.parametrize("special", [False, True])
def test_tokens_for_which_the_model_has_no_row(
    loaded: LoadedModel, tiny_folder: Path, special: bool
) -> None:
    """Gemma 3 has one for images, fine-tunes have one to pad with: none may be forced or drawn."""
    tokenizer = _with_tokens(
        tiny_folder,
        AddedToken("helmets", special=special, normalized=False),
        AddedToken("<|image|>", special=True, normalized=False),
    )
    vocabulary = loaded.network.vocabulary
    assert len(tokenizer) == vocabulary + 2
    grammars = Grammars(tokenizer, vocabulary, loaded.network.stop_ids)
    assert _written(loaded, grammars, {"const": "helmets <|image|>"}) == '"helmets <|image|>"'
    grammar = grammars.json_schema({"const": "helmets"})
    assert grammar.forced()
    assert max(grammar.forced()) < vocabulary
    assert grammar.allowed().shape == (1, vocabulary)


def test_words_for_which_the_model_has_no_row(loaded: LoadedModel, tiny_folder: Path) -> None:
    """Also of a vocabulary that is wider than the model in itself."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    narrow = len(tokenizer) - 40
    grammars = Grammars(tokenizer, narrow, loaded.network.stop_ids)
    grammar = grammars.json_schema({"enum": [tokenizer.decode([at]) for at in range(300, 591)]})
    assert grammar.allowed().shape == (1, narrow)
    while forced := grammar.forced():
        assert max(forced) < narrow
        grammar.consume(forced[0])


@pytest.mark.parametrize("stop_ids", [[], [5000]])
def test_a_model_without_a_token_that_ends_a_text(
    loaded: LoadedModel, tiny_folder: Path, stop_ids: list[int]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    grammars = Grammars(tokenizer, loaded.network.vocabulary, stop_ids)
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    closed = schema | {"additionalProperties": False}
    assert json.loads(_written(loaded, grammars, closed))["a"] in (1, 2)


@pytest.mark.parametrize("ends", [[], [5], [3, 5, 39], [5, 99]], ids=str)
@pytest.mark.parametrize("has_own", [False, True])
def test_an_end_that_the_tokenizer_has_no_text_for(
    tiny_folder: Path, ends: list[int], has_own: bool
) -> None:
    """Logits are often wider than the tokenizer; of those rows a text may take its ends only."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    words = len(tokenizer)
    known = [tokenizer.convert_tokens_to_ids("<|eot_id|>")] if has_own else []
    grammars = Grammars(tokenizer, words + 40, [*known, *(words + end for end in ends)])
    find = Signature("find", {"type": "object"})
    matcher = grammars.calls([find], several=True, otherwise="text")
    for token in tokenizer.encode("hello", add_special_tokens=False):
        matcher.consume(token)
    allowed = set(matcher.allowed()[0].nonzero()[:, 0].tolist())
    rows = {token - words for token in allowed if token >= words}
    assert rows == {end for end in ends if end < 40}
    assert allowed.issuperset(known)
    for row in rows:
        assert matcher.fitting([words + row]) == 1
    if rows:
        matcher.consume(words + min(rows))
        assert matcher.is_complete


@pytest.mark.parametrize("ends", [[], [3], [20]], ids=str)
def test_such_an_end_where_the_ids_of_words_have_a_gap(tiny_folder: Path, ends: list[int]) -> None:
    backend = AutoTokenizer.from_pretrained(tiny_folder).backend_tokenizer
    said = json.loads(backend.to_str())
    words = said["model"]["vocab"]
    last, at = max(words.items(), key=lambda word: int(word[1]))
    words[last] = at + 9
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=type(backend).from_str(json.dumps(said)))
    grammars = Grammars(tokenizer, at + 50, [at + end for end in ends])
    matcher = grammars.calls(
        [Signature("find", {"type": "object"})], several=True, otherwise="text"
    )
    for token in tokenizer.encode("hello", add_special_tokens=False):
        matcher.consume(token)
    assert [at + end for end in ends] == [
        token for token in matcher.allowed()[0].nonzero()[:, 0].tolist() if token >= at
    ]


def test_a_tokenizer_that_cannot_be_read(loaded: LoadedModel, tiny_folder: Path) -> None:
    class Slow:
        is_fast = False

    grammars = Grammars(Slow(), loaded.network.vocabulary, loaded.network.stop_ids)
    with pytest.raises(UnsupportedFeature, match="leave response_format and tools out"):
        grammars.json_object()
