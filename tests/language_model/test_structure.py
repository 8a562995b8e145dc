"""What a text must match, and that the transformers engine writes nothing else."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit.torch_threads import torch_threads
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from selfimprove_dagster import embedded
from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.language_model import open_language_model
from selfimprove_dagster.language_model.base import Generation, SamplingParameters
from selfimprove_dagster.language_model.prompting import Prompting, Thinking
from selfimprove_dagster.language_model.sampling import draw
from selfimprove_dagster.language_model.structure import Structure
from selfimprove_dagster.language_model.transformers_engine import TransformersLanguageModel

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "verdict": {"enum": ["good", "bad"]},
        "score": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["verdict", "score"],
    "additionalProperties": False,
}
VERDICT = Structure.of_schema(SCHEMA)
LETTER = Structure(regex="[A-D]")
LETTERS = Structure(regex="[A-D]{2,5}")
GOOD = '{"verdict": "good", "score": 7}'


@pytest.mark.parametrize(
    ("structure", "text", "problem"),
    [
        (LETTER, "B", None),
        (LETTER, "", "it does not match the regular expression [A-D]"),
        (LETTER, "BB", "it does not match the regular expression [A-D]"),
        (LETTER, "B\n", "it does not match the regular expression [A-D]"),
        (Structure(regex="^a|b$"), "b", None),
        (VERDICT, GOOD, None),
        (VERDICT, f" {GOOD}\n", None),
        (VERDICT, GOOD[:-1], "it is no JSON: Expecting ',' delimiter: line 1 column 31 (char 30)"),
        (VERDICT, "", "it is no JSON: Expecting value: line 1 column 1 (char 0)"),
        (VERDICT, GOOD.replace("7", "NaN"), "it is no JSON: NaN is no number in JSON"),
        (VERDICT, GOOD.replace("7", "100"), "$.score: 100 is greater than the maximum of 99"),
        (VERDICT, GOOD.replace("good", "fine"), "$.verdict: 'fine' is not one of ['good', 'bad']"),
        (VERDICT, '{"verdict": "good"}', "$: 'score' is a required property"),
    ],
)
def test_a_text_matches_as_a_whole_or_the_reason_is_given(
    structure: Structure, text: str, problem: str | None
) -> None:
    structure.check()
    assert structure.mismatch(text) == problem


@pytest.mark.parametrize(
    ("structure", "why"),
    [
        (Structure(regex="[A-D"), r"'\[A-D' is no regular expression: unterminated character set"),
        (Structure(regex="(?=a)a"), "cannot be generated: .*look-around"),
        (
            Structure.of_schema({"type": "whole"}),
            r"the JSON schema is wrong at \$\.type: 'whole' is not valid",
        ),
        (Structure(json_schema="[]"), "a JSON schema is an object, not list"),
        (Structure.of_schema({"$schema": 5}), r"\$schema of the JSON schema must be the address of a draft"),
        (Structure.of_schema({"not": {}}), 'the JSON schema cannot be generated: .*"not"'),
        (
            Structure.of_schema({"$ref": "#/$defs/a"}),
            "the JSON schema refers to #/\\$defs/a, which is not in it",
        ),
        (
            Structure.of_schema({"anyOf": [{"$ref": "https://example.org/a.json"}]}),
            "refers to https://example.org/a.json, which is not in it",
        ),
    ],
)
def test_a_structure_that_nothing_can_match_is_refused(structure: Structure, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        structure.check()


def test_a_structure_is_one_of_two_and_keeps_the_order_of_properties() -> None:
    for given in ({}, {"regex": "a", "json_schema": "{}"}):
        with pytest.raises(ValueError, match="either regex or json_schema"):
            Structure(**given)
    swapped = {**SCHEMA, "properties": dict(reversed(SCHEMA["properties"].items()))}
    assert swapped == SCHEMA and Structure.of_schema(swapped) != VERDICT
    assert Structure(**json.loads(json.dumps(VERDICT.parameters, sort_keys=True))) == VERDICT
    assert len({VERDICT, Structure.of_schema(SCHEMA), LETTER}) == 2


def test_a_schema_is_read_from_a_file_of_json(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA, indent=2))
    assert Structure.read(path) == VERDICT
    path.write_text("{")
    with pytest.raises(ValueError, match=r"schema\.json is no JSON: Expecting property name"):
        Structure.read(path)
    with pytest.raises(ValueError, match="absent cannot be read: No such file"):
        Structure.read(tmp_path / "absent")


@pytest.fixture(scope="module", autouse=True)
def two_lanes() -> Iterator[None]:
    with torch_threads(2):
        yield


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TransformersLanguageModel:
    """A random model of bytes, some pairs of them and two special tokens, with more embeddings than tokens."""
    directory = tmp_path_factory.mktemp("tiny")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [*zip("aeiou", "nrstn", strict=True), ("A", "B"), ('"', ":"), ("{", '"'), ("1", "2")]
    entries = ["<s>", "</s>", *alphabet, *("".join(pair) for pair in pairs)]
    tokenizer = Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(entries)}, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(directory)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=300,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.3,
        max_position_embeddings=128,
        **sizes,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    model = open_language_model(directory)
    assert isinstance(model, TransformersLanguageModel)
    return model


@pytest.fixture(scope="module")
def base() -> TransformersLanguageModel:
    model = open_language_model(embedded.BASE_MODEL)
    assert isinstance(model, TransformersLanguageModel)
    return model


WAYS = {
    "greedy": SamplingParameters(temperature=0.0, max_tokens=60),
    "sampled": SamplingParameters(temperature=1.0, max_tokens=60),
    "truncated": SamplingParameters(temperature=1.5, top_p=0.9, top_k=20, max_tokens=60),
}


def drawn(
    model: TransformersLanguageModel, structure: Structure, way: str, **changes: Any
) -> list[list[Generation]]:
    parameters = SamplingParameters(**{**vars(WAYS[way]), "structure": structure, **changes})
    prompts = model.encode_many(["Q: Is it good?\nA:", "Q: What is 2 + 3?\nA:", "x"])
    return model.generate(prompts, [[*range(8)]] * 3, parameters)


@pytest.mark.parametrize("structure", [LETTER, LETTERS, VERDICT], ids=["letter", "letters", "schema"])
@pytest.mark.parametrize("way", [*WAYS])
@pytest.mark.parametrize("name", ["tiny", "base"])
def test_every_row_matches_and_ends_by_its_end_token(
    name: str, way: str, structure: Structure, request: pytest.FixtureRequest
) -> None:
    model: TransformersLanguageModel = request.getfixturevalue(name)
    found = drawn(model, structure, way)
    paths = [*chain.from_iterable(found)]
    for path in paths:
        assert structure.mismatch(path.text) is None
        assert path.finish_reason == "stop" and path.token_ids[-1] in model.end_tokens
        assert model.decode(path.token_ids) == path.text
    assert way == "greedy" or name == "base" or len({path.text for path in paths}) > 1
    if structure == VERDICT:
        assert all(re.fullmatch(r'\{"verdict": "\w+", "score": \d+\}', path.text) for path in paths)


@pytest.mark.parametrize("way", ["greedy", "sampled"])
def test_a_row_is_the_same_alone_as_in_a_batch(tiny: TransformersLanguageModel, way: str) -> None:
    together = drawn(tiny, VERDICT, way)
    parameters = SamplingParameters(**{**vars(WAYS[way]), "structure": VERDICT})
    prompts = tiny.encode_many(["Q: Is it good?\nA:", "Q: What is 2 + 3?\nA:", "x"])
    for prompt, paths in zip(prompts, together, strict=True):
        for seed, path in list(enumerate(paths))[::3]:
            ((alone,),) = tiny.generate([prompt], [[seed]], parameters)
            assert alone.token_ids == path.token_ids


def test_log_probabilities_are_those_of_the_whole_distribution(tiny: TransformersLanguageModel) -> None:
    prompts = tiny.encode_many(["Q: Is it good?\nA:"])
    (path,) = drawn(tiny, VERDICT, "sampled")[0][:1]
    assert tiny.score(prompts, [path.token_ids])[0] == pytest.approx(path.logprobs, abs=1e-4)
    assert sum(path.logprobs) < -20


def test_a_free_row_does_not_depend_on_structures_before_it(tiny: TransformersLanguageModel) -> None:
    prompts, free = tiny.encode_many(["abc"]), WAYS["sampled"]
    before = tiny.generate(prompts, [[1, 2]], free)
    drawn(tiny, LETTER, "sampled")
    assert tiny.generate(prompts, [[1, 2]], free) == before
    assert all(LETTER.mismatch(path.text) for path in before[0])


def test_a_truncated_row_says_so_and_does_not_match(tiny: TransformersLanguageModel) -> None:
    for path in chain.from_iterable(drawn(tiny, VERDICT, "sampled", max_tokens=5)):
        assert path.finish_reason == "length" and len(path.token_ids) == 5
        assert VERDICT.mismatch(path.text) is not None


def test_banned_tokens_stay_banned_and_what_cannot_follow_is_an_error(
    tiny: TransformersLanguageModel,
) -> None:
    letters = [tiny.encode_continuation(letter)[0] for letter in "ABCD"]
    for path in chain.from_iterable(drawn(tiny, LETTER, "sampled", banned=tuple(letters[:3]))):
        assert path.text == "D"
    with pytest.raises(ModelError, match="no token of the model can follow such that the text matches"):
        drawn(tiny, LETTER, "sampled", banned=tuple(letters))


def test_every_end_token_may_follow_exactly_when_the_text_matches(tiny: TransformersLanguageModel) -> None:
    """An end token that has a text, as of a turn, is no part of a text that matches."""
    turn_end = tiny.encode_continuation("B")[0]
    ends = np.union1d(tiny.end_tokens, [turn_end])
    constraint = tiny._constraint(SamplingParameters(structure=LETTERS), ends)
    assert constraint is not None
    matcher = constraint.matcher()
    live = np.ones(1, dtype=bool)
    for text, ending in (("A", False), ("A", True), ("C", True), ("AD", True)):
        for token in tiny.encode_continuation(text):
            constraint.follow([matcher], np.array([token]), np.array([0]))
        allowed = constraint.allowed([matcher], live, 300)[0]
        assert allowed[ends].tolist() == [ending] * len(ends)
    assert np.flatnonzero(allowed).tolist() == ends.tolist()


def test_a_prompt_that_opens_thoughts_is_refused(tiny: TransformersLanguageModel) -> None:
    tiny.prompting = Prompting(thinking=Thinking())
    prompts = tiny.encode_many(["Q: Is it good?\n<think>\n"])
    with pytest.raises(ModelError, match=r"the prompt ends with <think>.*enable_thinking: false"):
        tiny.generate(prompts, [[0]], SamplingParameters(structure=LETTER))
    closed = tiny.encode_many(["Q: Is it good?\n<think>\n\n</think>\n\n"])
    assert (
        LETTER.mismatch(tiny.generate(closed, [[0]], SamplingParameters(structure=LETTER))[0][0].text) is None
    )
    assert len(tiny.generate(prompts, [[0]], SamplingParameters(max_tokens=3))[0]) == 1


def test_the_extra_is_named_if_the_library_is_missing(
    tiny: TransformersLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ModelError, match=r"install the extra `selfimprove_dagster\[structured\]`"):
        tiny.generate([[5]], [[0]], SamplingParameters(structure=LETTER))


def test_sampling_among_allowed_tokens_renormalises() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).repeat(3, 1)
    allowed = torch.tensor([[False, True, False, True]] * 3)
    uniform = torch.tensor([0.0, 0.88, 0.89], dtype=torch.float64)
    tokens, logprobs = draw(logits, uniform, SamplingParameters(), allowed)
    assert tokens.tolist() == [1, 1, 3]  # e / (e + 1/e) is 0.881
    assert logprobs.tolist() == pytest.approx(logits[0].log_softmax(-1)[tokens].tolist())
