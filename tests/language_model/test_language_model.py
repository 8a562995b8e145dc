"""The transformers engine, on tiny random models."""

from __future__ import annotations

import gc
import json
import math
import shutil
import subprocess
import sys
import weakref
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from kit.torch_threads import torch_threads
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from selfimprove_dagster.embedded import BASE_MODEL
from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.language_model import open_language_model, scoring
from selfimprove_dagster.language_model.base import Generation, LanguageModel, SamplingParameters
from selfimprove_dagster.language_model.lanes import merged
from selfimprove_dagster.language_model.network import Network
from selfimprove_dagster.language_model.prompting import Prompting, Thinking
from selfimprove_dagster.language_model.sampling import draw, uniforms
from selfimprove_dagster.language_model.stopping import StopStrings, cut_after_thoughts
from selfimprove_dagster.language_model.tokens import TokenText
from selfimprove_dagster.language_model.transformers_engine import TransformersLanguageModel
from selfimprove_dagster.language_model.weights import weights_hash

VOCABULARY = 300
END = 1
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "bos_token_id": 0,
    "eos_token_id": END,
    "initializer_range": 0.3,
}
WIDE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def save_tokenizer(directory: Path) -> None:
    """Bytes, a few merged pairs, and the two special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [(a, b) for a in "aeiou" for b in "nrst"]
    entries = ["<s>", "</s>", *alphabet, *("".join(pair) for pair in pairs)]
    tokenizer = Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(entries)}, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(
        directory
    )


def save_model(directory: Path, kind: str) -> Path:
    torch.manual_seed(0)
    model = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **WIDE)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, **WIDE)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**SIZES, n_embd=32, n_layer=2, n_head=4, n_positions=128)),
        "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, **WIDE, sliding_window=8)),
        "bloom": lambda: BloomForCausalLM(BloomConfig(**SIZES, hidden_size=32, n_layer=2, n_head=4)),
    }[kind]()
    model.save_pretrained(directory)
    save_tokenizer(directory)
    return directory


@pytest.fixture(scope="module", autouse=True)
def two_lanes() -> Iterator[None]:
    """Two streams of work, however many threads the other tests are given."""
    with torch_threads(2):
        yield


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "llama", "llama")


@pytest.fixture(scope="module")
def engine(directory: Path) -> TransformersLanguageModel:
    model = open_language_model(directory)
    assert isinstance(model, TransformersLanguageModel)
    return model


def random_prompts(count: int, seed: int = 0) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(2, VOCABULARY, random.integers(1, 20)).tolist() for _ in range(count)]


def reference_logprobs(directory: Path, ids: list[int]) -> torch.Tensor:
    """ln p of every token after every position, one sequence at a time in float64."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64, attn_implementation="eager")
    with torch.inference_mode():
        return model.eval()(torch.tensor([ids])).logits[0].log_softmax(-1)


# Seeds


def test_a_uniform_depends_on_its_seed_and_step_only() -> None:
    seeds = np.array([5, 6, 5, 2**63 - 1])
    together = uniforms(seeds, np.array([0, 0, 1, 7]))
    alone = [uniforms(seeds[i : i + 1], np.array([step]))[0] for i, step in enumerate([0, 0, 1, 7])]
    assert together.tolist() == alone
    assert len(set(alone)) == 4


def test_uniforms_are_uniform_over_seeds_and_over_steps() -> None:
    count = 20_000
    for seeds, steps in (
        (np.arange(count), np.zeros(count, dtype=np.int64)),
        (np.full(count, 3), np.arange(count)),
    ):
        values = uniforms(seeds, steps)
        expected = count / 20
        observed = np.histogram(values, bins=20, range=(0, 1))[0]
        # chi-squared with 19 degrees of freedom: 43.8 is its 99.9th percentile.
        assert ((observed - expected) ** 2 / expected).sum() < 43.8
        assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.03


def test_a_row_is_the_same_in_any_company(engine: TransformersLanguageModel) -> None:
    prompts = random_prompts(12)
    seeds = [[100 * i + j for j in range(5)] for i in range(12)]
    parameters = SamplingParameters(max_tokens=30)
    together = engine.generate(prompts, seeds, parameters)
    for index in (0, 7):
        alone = engine.generate([prompts[index]], [seeds[index][2:3]], parameters)[0][0]
        assert alone.token_ids == together[index][2].token_ids
    backwards = engine.generate(prompts[::-1], [row[::-1] for row in seeds[::-1]], parameters)
    assert tokens_of(backwards) == [row[::-1] for row in tokens_of(together)[::-1]]


def test_a_small_token_budget_changes_nothing_but_the_batches(
    directory: Path, engine: TransformersLanguageModel
) -> None:
    small = open_language_model(directory, token_budget=150)
    prompts = random_prompts(9)
    seeds = [[i, i + 50, i + 100] for i in range(9)]
    parameters = SamplingParameters(max_tokens=25)
    assert tokens_of(small.generate(prompts, seeds, parameters)) == tokens_of(
        engine.generate(prompts, seeds, parameters)
    )


def tokens_of(generations: list[list[Generation]]) -> list[list[list[int]]]:
    return [[row.token_ids for row in group] for group in generations]


# Models


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "mistral", "bloom"])
def test_greedy_decoding_and_scores_are_those_of_the_model(kind: str, tmp_path: Path) -> None:
    directory = save_model(tmp_path / kind, kind)
    engine = open_language_model(directory)
    assert isinstance(engine, TransformersLanguageModel)
    assert engine.shares_prompts == (kind in ("llama", "qwen2", "gpt2"))
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    prompts = random_prompts(6)
    parameters = SamplingParameters(temperature=0, max_tokens=20)
    for prompt, (first, second) in zip(
        prompts, engine.generate(prompts, [[1, 2]] * 6, parameters), strict=True
    ):
        expected = model.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=20, pad_token_id=END
        )[0, len(prompt) :].tolist()
        assert first.token_ids == second.token_ids == expected
        logprobs = reference_logprobs(directory, prompt + expected)[len(prompt) - 1 : -1]
        wanted = logprobs.gather(-1, torch.tensor(expected)[:, None])[:, 0].tolist()
        assert first.logprobs == pytest.approx(wanted, abs=1e-3)
        assert engine.score([prompt], [expected])[0] == pytest.approx(wanted, abs=1e-4)


def test_positions_end_where_the_model_ends(tmp_path: Path) -> None:
    engine = open_language_model(save_model(tmp_path / "gpt2", "gpt2"))
    prompts = [[5] * 120, [7] * 3]
    long, short = engine.generate(prompts, [[1], [2]], SamplingParameters(max_tokens=40))
    assert len(long[0].token_ids) <= 8
    assert len(short[0].token_ids) <= 40


def test_a_prompt_without_room_is_a_row_without_text(tmp_path: Path) -> None:
    engine = open_language_model(save_model(tmp_path / "gpt2", "gpt2"))
    told: list[int] = []
    parameters = SamplingParameters(max_tokens=4)
    (short,), full, (other,) = engine.generate(
        [[5], [5] * 128, [7]], [[1], [2, 3], [4]], parameters, lambda rows, tokens: told.append(rows)
    )
    problem = "too_long: the prompt has 128 tokens, and the model has 128 positions"
    assert full == [Generation([], [], "", "too_long", problem)] * 2
    assert [[short], [other]] == engine.generate([[5], [7]], [[1], [4]], parameters)
    assert sum(told) == 4
    assert engine.generate([[5] * 128], [[1]], parameters) == [full[:1]]


# What a generation says


def test_recorded_logprobs_equal_scores(engine: TransformersLanguageModel) -> None:
    prompts = random_prompts(5)
    parameters = SamplingParameters(temperature=0.7, top_k=50, top_p=0.9, max_tokens=20)
    for prompt, group in zip(prompts, engine.generate(prompts, [[1, 2, 3]] * 5, parameters), strict=True):
        scores = engine.score([prompt] * 3, [row.token_ids for row in group])
        for row, score in zip(group, scores, strict=True):
            assert row.logprobs == pytest.approx(score, abs=1e-3)


def test_finish_reasons(engine: TransformersLanguageModel) -> None:
    generations = engine.generate([[5, 6, 7]], [list(range(200))], SamplingParameters(max_tokens=40))[0]
    reasons = {row.finish_reason for row in generations}
    assert reasons == {"stop", "length"}
    for row in generations:
        assert len(row.token_ids) == len(row.logprobs) <= 40
        if row.finish_reason == "stop":
            assert row.token_ids[-1] == END
            assert END not in row.token_ids[:-1]
        else:
            assert len(row.token_ids) == 40
        assert row.text == engine.decode(row.token_ids)
        assert "</s>" not in row.text


def test_one_token_at_most(engine: TransformersLanguageModel) -> None:
    generations = engine.generate([[5], [6, 7]], [[1, 2], [3]], SamplingParameters(max_tokens=1))
    assert [[len(row.token_ids) for row in group] for group in generations] == [[1, 1], [1]]


def test_nothing_to_do(engine: TransformersLanguageModel) -> None:
    assert engine.generate([], [], SamplingParameters()) == []
    assert engine.generate([[5], [6]], [[], [1]], SamplingParameters(max_tokens=2))[0] == []
    assert engine.score([], []) == []
    assert engine.score([[5]], [[]]) == [[]]
    assert engine.next_token_probability([[]], 4) == [[]]


def test_progress_adds_up(engine: TransformersLanguageModel) -> None:
    told: list[tuple[int, int]] = []
    generations = engine.generate(
        random_prompts(6), [[1, 2, 3]] * 6, SamplingParameters(max_tokens=30), lambda *news: told.append(news)
    )
    assert sum(rows for rows, _ in told) == 18
    assert sum(tokens for _, tokens in told) == sum(len(row.token_ids) for row in chain(*generations))
    assert len(told) > 1


def test_an_error_in_progress_ends_the_call(engine: TransformersLanguageModel) -> None:
    def fail(rows: int, tokens: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.generate(random_prompts(6), [[1, 2, 3]] * 6, SamplingParameters(max_tokens=30), fail)


# Stop strings


def test_text_is_cut_before_a_stop_string_that_spans_tokens(engine: TransformersLanguageModel) -> None:
    prompts = random_prompts(8)
    seeds = [list(range(i, i + 20)) for i in range(8)]
    free = engine.generate(prompts, seeds, SamplingParameters(max_tokens=30))
    # What three neighbouring tokens of a free run spell stops the same run now.
    texts = (engine.decode(row.token_ids[4:7]) for group in free for row in group)
    stop = next(text for text in texts if len(text) >= 3 and text.isascii())
    stopped = engine.generate(prompts, seeds, SamplingParameters(max_tokens=30, stop=(stop, "never this")))
    cut = 0
    for old, new in zip(chain(*free), chain(*stopped), strict=True):
        assert new.token_ids == old.token_ids[: len(new.token_ids)]
        if stop in old.text:
            cut += 1
            assert new.finish_reason == "stop"
            assert new.text == old.text[: old.text.index(stop)]
            assert stop in engine.decode(new.token_ids)
            assert stop not in engine.decode(new.token_ids[:-1])
        else:
            assert new == old
    assert cut


def test_a_stop_string_may_end_in_half_a_token_and_in_bytes() -> None:
    pieces = ["ab", "c", "\u00e9\n", "\ufffd", "x"]

    def decode(ids: Any) -> str:
        return "".join(pieces[i] for i in ids)

    stops = StopStrings(("bc", "\n\n"), lambda: pieces, decode)
    assert stops.candidates(np.array([0, 1, 2, 3, 4])).tolist() == [1, 2, 3]
    assert stops.completed([4, 0, 1])
    assert not stops.completed([4, 1, 0])
    assert stops.cut("xabcx\n\n") == "xa"
    assert StopStrings((), lambda: pieces, decode).candidates(np.array([1])).size == 0


def test_a_stop_string_does_not_end_thoughts() -> None:
    pieces = ["<think>", "a", "\n\n", "</think>", "b"]

    def decode(ids: Any) -> str:
        return "".join(pieces[i] for i in ids)

    stops = StopStrings(("\n\n",), lambda: pieces, decode)
    assert stops.completed([1, 2])
    assert not stops.completed([0, 1, 2])
    assert not stops.completed([0, 1, 2, 3, 4]), "the one before is in the thoughts"
    assert stops.completed([0, 1, 2, 3, 4, 2])
    assert stops.cut("<think>a\n\n</think>b\n\nc") == "<think>a\n\n</think>b"
    assert stops.cut("<think>a\n\nb") == "<think>a\n\nb"
    begun = StopStrings(("\n\n",), lambda: pieces, decode, begun=True)
    assert not begun.completed([1, 2])
    assert begun.completed([1, 2, 3, 4, 2])


def test_what_is_sampled_ends_at_the_first_stop_string_after_the_thoughts() -> None:
    model = open_language_model(BASE_MODEL)
    question = "Q: Tom has 10 pens. He buys 3 more, then loses 2. How many pens does he have?"
    prompt = model.encode_prompts([f"{question}\nA: Let's think step by step."])
    ((free,),) = model.generate(prompt, [[0]], SamplingParameters(temperature=0, max_tokens=60))
    opened, closed, stop = "Go", "10+3=13.", "."
    thoughts, _, said = free.text.partition(closed)
    assert stop in thoughts.partition(opened)[2] and stop in said
    assert isinstance(model, TransformersLanguageModel)
    model.prompting = Prompting(thinking=Thinking(opened, closed))
    ((drawn,),) = model.generate(
        prompt, [[0]], SamplingParameters(temperature=0, max_tokens=60, stop=(stop,))
    )
    assert drawn.text == said.partition(stop)[0]
    assert drawn.token_ids == free.token_ids[: len(drawn.token_ids)]
    assert stop in model.decode(drawn.token_ids).partition(closed)[2]
    assert stop not in model.decode(drawn.token_ids[:-1]).partition(closed)[2]


@given(st.lists(st.sampled_from([*"ab.<>", " a", ". ", "<t>", "</t>", ".</t>"]), max_size=24).map("".join))
@example("a. b</t>a. b")  # ends before a mark that closes thoughts which nothing opened
def test_a_finished_completion_is_cut_where_watching_it_would_have_ended_it(text: str) -> None:
    model = TokenText(BASE_MODEL)
    model.prompting = Prompting(thinking=Thinking("<t>", "</t>", keep=True))
    ids = model.encode_continuation(text)
    prefixes = [model.decode(ids[:length]) for length in range(1, len(ids) + 1)]
    cuts = [cut_after_thoughts(prefix, (".",), model.prompting.thinking) for prefix in prefixes]
    ends = next((length for length, one in enumerate(cuts, 1) if one != prefixes[length - 1]), None)
    found = model.ended(Generation(ids, [-0.5] * len(ids), text, "length"), model.stop_strings((".",)))
    if ends is None:
        assert found == Generation(ids, [-0.5] * len(ids), text, "length")
    else:
        assert found == Generation(ids[:ends], [-0.5] * ends, cuts[ends - 1], "stop")


# Truncation


def frequencies(logits: list[float], parameters: SamplingParameters, count: int = 20_000) -> np.ndarray:
    chance = torch.from_numpy(uniforms(np.arange(count), np.zeros(count, dtype=np.int64)))
    tokens, _ = draw(torch.tensor([logits]).expand(count, -1), chance, parameters)
    return np.bincount(tokens.numpy(), minlength=len(logits)) / count


PROBABILITIES = [0.05, 0.4, 0.1, 0.25, 0.2]
LOGITS = [math.log(p) for p in PROBABILITIES]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (SamplingParameters(), PROBABILITIES),
        (SamplingParameters(top_k=2), [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]),
        (SamplingParameters(top_p=0.6), [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]),
        (SamplingParameters(top_p=0.01), [0, 1, 0, 0, 0]),
        # top_p counts within what top_k left: 0.4 of 0.85 is 0.47, with 0.25 it is 0.76.
        (SamplingParameters(top_k=3, top_p=0.7), [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]),
        (SamplingParameters(temperature=0), [0, 1, 0, 0, 0]),
        (SamplingParameters(temperature=0.5), [p * p / 0.275 for p in PROBABILITIES]),
    ],
)
def test_draws_follow_what_is_left(parameters: SamplingParameters, expected: list[float]) -> None:
    assert frequencies(LOGITS, parameters) == pytest.approx(expected, abs=0.015)


def test_the_ends_of_the_unit_interval_draw_possible_tokens() -> None:
    logits = torch.tensor([[-math.inf, 0.0, 0.0, -math.inf]]).expand(2, -1)
    ends = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    tokens, logprobs = draw(logits, ends, SamplingParameters())
    assert tokens.tolist() == [1, 2]
    assert logprobs.tolist() == pytest.approx([-math.log(2)] * 2)


# Scores


def test_scores_equal_one_sequence_at_a_time(directory: Path, engine: TransformersLanguageModel) -> None:
    contexts, continuations = random_prompts(10, seed=1), random_prompts(10, seed=2)
    contexts[3] = []
    for context, continuation, scores in zip(
        contexts, continuations, engine.score(contexts, continuations), strict=True
    ):
        context = context or [0]
        logprobs = reference_logprobs(directory, context + continuation)
        wanted = [float(logprobs[len(context) - 1 + i, token]) for i, token in enumerate(continuation)]
        assert scores == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral", "bloom"])
def test_scores_of_continuations_that_share_contexts(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = save_model(tmp_path / kind, kind)
    engine = open_language_model(directory)
    random = np.random.default_rng(3)
    contexts = [*random_prompts(3, seed=4), []]
    pairs = [
        (contexts[random.integers(4)], random.integers(2, VOCABULARY, random.integers(0, 40)).tolist())
        for _ in range(30)
    ]
    pairs += [*pairs[:5], (contexts[0] + pairs[0][1], pairs[1][1])]
    found = engine.score(*zip(*pairs, strict=True))
    for (context, continuation), scores in zip(pairs, found, strict=True):
        context = context or [0]
        logprobs = reference_logprobs(directory, context + continuation)[len(context) - 1 :]
        wanted = [float(logprobs[at, token]) for at, token in enumerate(continuation)]
        assert scores == pytest.approx(wanted, abs=1e-4)
    # In batches that part the questions of one context, down to one a batch.
    for most in (60, 1):
        monkeypatch.setattr(scoring, "SCORED_TOKENS", most)
        for scores, wanted in zip(engine.score(*zip(*pairs, strict=True)), found, strict=True):
            assert scores == pytest.approx(wanted, abs=1e-4)


def test_beginnings_and_equal_pairs_are_read_once(
    engine: TransformersLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    original = Network.states

    def spy(network: Network, ids: torch.Tensor, **options: Any) -> torch.Tensor:
        read.append(ids.numel())
        return original(network, ids, **options)

    monkeypatch.setattr(Network, "states", spy)
    engine.score([[5, 6, 7]] * 4, [[8, 9], [8, 9], [10], [11, 12, 13, 14]])
    # 5 6 7, then 8 or 11 12 13: what is asked last is not read.
    assert read == [7]
    engine.score([[5, 6], [5, 6, 7], [5, 6, 8, 9]], [[7, 8], [9], [4]])
    assert read == [7, 5]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.integers(4, 6), min_size=2, max_size=12), min_size=1, max_size=12))
def test_what_sequences_share_changes_nothing(
    engine: TransformersLanguageModel, sequences: list[list[int]]
) -> None:
    pairs = [(sequence[:1], sequence[1:]) for sequence in sequences]
    together = engine.score(*zip(*pairs, strict=True))
    alone = [engine.score([context], [continuation])[0] for context, continuation in pairs]
    for found, wanted in zip(together, alone, strict=True):
        assert found == pytest.approx(wanted, abs=1e-4)
    greedy = SamplingParameters(temperature=0.0, max_tokens=3)
    drawn = engine.generate(sequences, [[0]] * len(sequences), greedy)
    for sequence, (path,) in zip(sequences, drawn, strict=True):
        (own,) = engine.score([sequence], [path.token_ids])
        assert path.logprobs == pytest.approx(own, abs=1e-4)


def test_a_sequence_that_is_too_long_has_no_numbers(engine: TransformersLanguageModel) -> None:
    found = engine.score([[5], [6] * 100, [5]], [[7], [8] * 30, [7]])
    assert found[0] == found[2] == engine.score([[5]], [[7]])[0]
    assert len(found[1]) == 30 and np.isnan(found[1]).all()
    for options in ([[5], [9]], [[5], [9, 10]]):
        fits, too_long = engine.option_probabilities([[5], [6] * 129], options)
        assert sum(fits) == pytest.approx(1) and np.isnan(too_long).all() and len(too_long) == 2
    fits, too_long = engine.next_token_probability([[5], [6] * 129], 4)
    assert np.isfinite(fits).all() and np.isnan(too_long).all() and len(too_long) == 129
    assert engine.among_likeliest([[6] * 100], [[8] * 30], 4, 1) == [[False] * 30]


@pytest.mark.parametrize("options", [[[5], [9], [77]], [[5], [9, 10, 11], [77, 5]]])
def test_option_probabilities(
    directory: Path, engine: TransformersLanguageModel, options: list[list[int]]
) -> None:
    contexts = random_prompts(4)
    for context, found in zip(contexts, engine.option_probabilities(contexts, options), strict=True):
        joint = []
        for option in options:
            logprobs = reference_logprobs(directory, context + option)
            joint.append(sum(float(logprobs[len(context) - 1 + i, t]) for i, t in enumerate(option)))
        wanted = torch.tensor(joint, dtype=torch.float64).softmax(-1).tolist()
        assert found == pytest.approx(wanted, abs=1e-4)
        assert sum(found) == pytest.approx(1)


def test_next_token_probability(directory: Path, engine: TransformersLanguageModel) -> None:
    sequences = random_prompts(5)
    for sequence, found in zip(sequences, engine.next_token_probability(sequences, 42), strict=True):
        assert found == pytest.approx(reference_logprobs(directory, sequence)[:, 42].exp().tolist(), abs=1e-5)


# Text, identity, errors


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral"])
def test_the_likeliest_tokens_are_those_of_the_model(kind: str, tmp_path: Path) -> None:
    """Shared contexts and padded batches alike, against one float64 sequence at a time."""
    folder = save_model(tmp_path / kind, kind)
    model = open_language_model(folder)
    prompts = random_prompts(8)
    contexts = [prompts[0], prompts[0], prompts[1], [], prompts[3]]
    continuations = [prompts[4], prompts[5], prompts[6], prompts[7], []]
    for token, most in ((17, 1), (40, 30), (5, 150), (5, VOCABULARY)):
        found = model.among_likeliest(contexts, continuations, token, most)
        for context, continuation, among in zip(contexts, continuations, found, strict=True):
            started = context or [0]
            logprobs = reference_logprobs(folder, [*started, *continuation])[len(started) - 1 :]
            ranks = [int((row > row[token]).sum()) for row in logprobs[: len(continuation)]]
            assert among == [rank < most for rank in ranks]
        alone = [
            model.among_likeliest([context], [continuation], token, most)[0]
            for context, continuation in zip(contexts, continuations, strict=True)
        ]
        assert alone == found


def test_an_impossible_token_is_not_among_the_likeliest(
    engine: TransformersLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = engine._network.head

    def without_17(states: torch.Tensor) -> torch.Tensor:
        return (states if head is None else head(states)).index_fill(-1, torch.tensor(17), -torch.inf)

    monkeypatch.setattr(engine._network, "head", without_17)
    assert engine.among_likeliest([[5, 6]], [[7, 8]], 17, VOCABULARY) == [[False, False]]
    assert engine.among_likeliest([[5, 6]], [[7, 8]], 18, VOCABULARY) == [[True, True]]
    assert engine.among_likeliest([], [], 17, 1) == []


def test_a_banned_token_is_never_drawn(engine: TransformersLanguageModel) -> None:
    prompts = random_prompts(20)
    for temperature in (0.0, 1.0, 0.7):
        free = SamplingParameters(temperature=temperature, max_tokens=12)
        drawn = [path for (path,) in engine.generate(prompts, [[7]] * 20, free)]
        token = max(set(said := [t for path in drawn for t in path.token_ids]), key=said.count)
        banned = SamplingParameters(temperature=temperature, max_tokens=12, banned=(token,))
        others = [path for (path,) in engine.generate(prompts, [[7]] * 20, banned)]
        for prompt, before, after in zip(prompts, drawn, others, strict=True):
            assert token not in after.token_ids
            same = before.token_ids[: before.token_ids.index(token)] if token in before.token_ids else []
            if temperature == 0:
                assert after.token_ids[: len(same)] == same
            # Log-probabilities stay those of the model's own distribution.
            assert after.logprobs == pytest.approx(engine.score([prompt], [after.token_ids])[0], abs=1e-4)


def test_auto_is_float32_on_a_cpu_and_half_the_size_can_be_asked_for(directory: Path, tmp_path: Path) -> None:
    stored = Path(shutil.copytree(directory, tmp_path / "stored"))
    AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).save_pretrained(stored)
    found = {}
    for dtype in ("auto", "float32", "bfloat16", "float16"):
        model = open_language_model(stored, dtype=dtype, device="cpu")
        assert isinstance(model, TransformersLanguageModel)
        assert model.dtype == ("float32" if dtype == "auto" else dtype)
        assert model.shares_prompts
        ((drawn,),) = model.generate([[5, 6, 7]], [[1]], SamplingParameters(temperature=0, max_tokens=3))
        found[dtype] = drawn.logprobs[0]
    assert found["auto"] == found["float32"]
    assert found["bfloat16"] == pytest.approx(found["float32"], abs=0.1)
    assert found["float16"] == pytest.approx(found["float32"], abs=0.02)


def test_every_end_token_of_the_generation_settings_ends_a_generation(
    directory: Path, engine: TransformersLanguageModel, tmp_path: Path
) -> None:
    greedy = SamplingParameters(temperature=0, max_tokens=20)
    prompt = next(
        prompt
        for prompt in random_prompts(20)
        if len(set(engine.generate([prompt], [[1]], greedy)[0][0].token_ids[:4])) == 4
    )
    free = engine.generate([prompt], [[1]], greedy)[0][0].token_ids
    chat = Path(shutil.copytree(directory, tmp_path / "chat"))
    settings = {"eos_token_id": [END, 299, free[3]], "transformers_version": "5.19.0"}
    (chat / "generation_config.json").write_text(json.dumps(settings))
    model = open_language_model(chat)
    assert isinstance(model, TransformersLanguageModel)
    assert model.end_tokens.tolist() == sorted({END, 299, free[3]})
    ended = model.generate([prompt], [[1]], greedy)[0][0]
    assert ended.token_ids == free[:4]
    assert ended.finish_reason == "stop"


@pytest.mark.parametrize("wrong", [VOCABULARY, -1])
def test_a_token_that_the_model_does_not_have_is_a_model_error(
    engine: TransformersLanguageModel, wrong: int
) -> None:
    calls: list[Any] = [
        lambda: engine.generate([[5], [6, wrong]], [[1], [1]], SamplingParameters()),
        lambda: engine.generate([[5]], [[1]], SamplingParameters(banned=(wrong,))),
        lambda: engine.score([[5, wrong]], [[6]]),
        lambda: engine.score([[5]], [[6, wrong]]),
        lambda: engine.option_probabilities([[5]], [[6], [wrong]]),
        lambda: engine.option_probabilities([[wrong]], [[6], [7]]),
        lambda: engine.option_probabilities([[5]], [[6, wrong], [7]]),
        lambda: engine.next_token_probability([[5, wrong]], 6),
        lambda: engine.next_token_probability([[5]], wrong),
        lambda: engine.among_likeliest([[5]], [[6]], wrong, 3),
    ]
    for call in calls:
        with pytest.raises(ModelError, match=rf"token {wrong} is not one of the model's {VOCABULARY}"):
            call()


def test_closing_frees_the_weights_at_once(directory: Path) -> None:
    model = open_language_model(directory)
    assert isinstance(model, TransformersLanguageModel)
    model.generate([[5, 6]], [[1]], SamplingParameters(max_tokens=2))
    weights = weakref.ref(next(model._network.model.parameters()))
    gc.disable()
    try:
        model.close()
        assert weights() is None
    finally:
        gc.enable()


def test_encoding(engine: TransformersLanguageModel) -> None:
    assert engine.decode(engine.encode("an apple\n")) == "an apple\n"
    assert engine.encode_continuation("an") == [2 + 256]
    assert engine.end_token_id == END
    assert isinstance(engine, LanguageModel)
    assert engine.engine.startswith("transformers 5")


def test_the_hash_is_of_the_files_and_not_of_their_place(
    directory: Path, engine: TransformersLanguageModel, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(directory, tmp_path / "copied"))
    assert weights_hash(copy) == weights_hash(directory) == engine.model_id
    assert engine.model_id.startswith("b2:")
    assert len(engine.model_id) == 3 + 32
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert weights_hash(copy) != weights_hash(directory)


def test_errors_say_what_to_do(directory: Path, engine: TransformersLanguageModel, tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"unknown engine 'abacus': use one of chat, openai, transformers, vllm"
    ):
        open_language_model(directory, engine="abacus")
    with pytest.raises(ModelError, match=r"no model at .*/nowhere: there is no such directory"):
        open_language_model(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"no config\.json in "):
        open_language_model(tmp_path)
    with pytest.raises(ModelError, match=r"unknown dtype 'int3': use one of"):
        open_language_model(directory, dtype="int3")
    with pytest.raises(ModelError, match=r"attention 'abacus'"):
        open_language_model(directory, attention="abacus")
    with pytest.raises(ModelError, match=r"seeds for 2"):
        engine.generate([[5]], [[1], [2]], SamplingParameters())
    with pytest.raises(ModelError, match=r"temperature is -1"):
        engine.generate([[5]], [[1]], SamplingParameters(temperature=-1))
    with pytest.raises(ModelError, match=r"one continuation per context"):
        engine.score([[5]], [])
    with pytest.raises(ModelError, match=r"none of them empty"):
        engine.option_probabilities([[5]], [[]])


def test_the_package_loads_without_torch() -> None:
    code = "import sys, selfimprove_dagster.language_model; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Lanes


def test_lanes_yield_everything_and_hand_on_errors() -> None:
    threads = torch.get_num_threads()

    def count(start: int) -> Iterator[int]:
        yield from range(start, start + 50)

    def fail() -> Iterator[int]:
        yield 1
        raise ModelError("broken")

    assert sorted(merged([lambda: count(0), lambda: count(50)])) == list(range(100))
    with pytest.raises(ModelError, match="broken"):
        list(merged([lambda: count(0), fail]))
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("lanes", [1, 2])
def test_lanes_flush_denormal_numbers_and_others_do_not(lanes: int) -> None:
    def halved() -> Iterator[bool]:
        yield bool(torch.full((64,), 1.5e-38).mul(0.5).any())

    assert list(merged([halved] * lanes)) == [False] * lanes
    assert next(halved())
