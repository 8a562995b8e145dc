"""Real vLLM on this machine, in process and as a server: the engines agree on the embedded model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from kit.adapters import make_adapter
from kit.homes import entered, make_home
from kit.small_lake import SMALL_EXPERIMENT, write_lines

from selfimprove_dagster import embedded
from selfimprove_dagster.conversation import Message, stored
from selfimprove_dagster.errors import ModelError, ModelUnavailable
from selfimprove_dagster.language_model import notices, open_language_model
from selfimprove_dagster.language_model.base import Generation, LanguageModel, SamplingParameters, positions
from selfimprove_dagster.language_model.prompting import Thinking
from selfimprove_dagster.language_model.structure import Structure
from selfimprove_dagster.language_model.vllm_server import VllmServerModel
from selfimprove_dagster.language_model.weights import model_id
from selfimprove_dagster.lineage.failures import failed_prompts
from selfimprove_dagster.runs import run_iteration

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("vllm") is None, reason="vLLM is not installed: `make test-vllm` installs it and runs these"
    ),
]

Engines = dict[str, LanguageModel]

QUESTIONS = [
    f"Tom has {first} pens. He buys {second} more, then loses {third}. How many pens does he have?"
    for first in range(10, 20)
    for second in range(3, 7)
    for third in range(1, 6)
]
LETTER = Structure(regex="[A-D]")
VERDICT = Structure.of_schema(
    {
        "type": "object",
        "properties": {
            "verdict": {"enum": ["good", "bad"]},
            "score": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["verdict", "score"],
        "additionalProperties": False,
    }
)
TEMPLATE = (
    "{% for one in messages %}{% if one.role == 'user' %}Q: {{ one.content }}\nA:"
    "{% else %} {{ one.content }}<|end|>{% endif %}{% endfor %}"
)
SHORT = 256
"""Positions of the engines of the chat model."""
LONG = "Nina has 37 plums. " * 200
"""More tokens than any engine here has positions."""
COPIES = 2
GREEDY = SamplingParameters(temperature=0.0, max_tokens=60, stop=("\n\nQ:",))


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """The default engine, vLLM in this process, and a server that is started here, also as any server is asked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SELFIMPROVE_HOME", str(tmp_path_factory.mktemp("home")))
        served = open_language_model(embedded.BASE_MODEL, engine="vllm", dtype="float32", serve={})
        assert isinstance(served, VllmServerModel)
        url = f"{served.server.url}/v1"
        found = {
            "transformers": open_language_model(embedded.BASE_MODEL, dtype="float32"),
            "vllm": open_language_model(embedded.BASE_MODEL, engine="vllm", dtype="float32"),
            "served": served,
            "openai": open_language_model(embedded.BASE_MODEL, engine="openai", url=url, send_seeds=False),
        }
        yield found
        for model in found.values():
            model.close()


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model as a chat model whose turns end with another token than its texts do.

    Its generation settings would change what is sampled.
    """
    folder = Path(shutil.copytree(embedded.BASE_MODEL, tmp_path_factory.mktemp("models") / "chat"))
    changed(folder / "config.json", eos_token_id=2)
    changed(
        folder / "generation_config.json", eos_token_id=2, repetition_penalty=1.5, top_k=1, temperature=0.1
    )
    changed(folder / "tokenizer_config.json", eos_token="<|reserved_0|>", chat_template=TEMPLATE)
    return folder


@pytest.fixture(scope="module")
def chat_engines(chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SELFIMPROVE_HOME", str(tmp_path_factory.mktemp("home")))
        options: dict[str, Any] = {"prompting": {"path": str(chat_model)}, "dtype": "float32"}
        short: dict[str, Any] = {**options, "engine": "vllm", "max_length": SHORT}
        found = {
            "transformers": open_language_model(chat_model, **options),
            "vllm": open_language_model(chat_model, **short),
            "served": open_language_model(chat_model, **short, serve={"data_parallel": COPIES}),
        }
        yield found
        for model in found.values():
            model.close()


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter over the embedded model, of layers with different ranks, which vLLM stacks into one."""
    return make_adapter(
        embedded.BASE_MODEL,
        tmp_path_factory.mktemp("models") / "adapter",
        lora_alpha=16,
        target_modules="all-linear",
        rank_pattern={"k_proj": 9},
        alpha_pattern={"k_proj": 27, "down_proj": 2},
    )


@pytest.fixture(scope="module")
def prompts(engines: Engines) -> list[list[int]]:
    texts = [f"Q: {question}\nA: Let's think step by step." for question in QUESTIONS]
    encoded = {name: [model.encode(text) for text in texts] for name, model in engines.items()}
    assert all(one == encoded["transformers"] for one in encoded.values())
    return encoded["transformers"]


@pytest.fixture(scope="module")
def greedy(engines: Engines, prompts: list[list[int]]) -> dict[str, list[Generation]]:
    seeds = [[0] for _ in prompts]
    return {
        name: [row[0] for row in model.generate(prompts, seeds, GREEDY)] for name, model in engines.items()
    }


OTHERS = ["vllm", "served", "openai"]
PAIRS = list(combinations(("transformers", *OTHERS), 2))


def changed(file: Path, **entries: Any) -> None:
    """Write entries into a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


def engine_processes() -> set[psutil.Process]:
    """This process's vLLM engines that live, those of the other tests' fixtures among them.

    An engine has a process for its scheduler (EngineCore) and one for each worker; a server has more.
    One that has ended holds no memory, though nobody may have asked yet how it ended.
    """
    children = psutil.Process().children(recursive=True)
    live = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    return {child for child in live if "EngineCore" in child.name() or "VLLM" in child.name()}


def furthest(one: list[list[float]], other: list[list[float]]) -> float:
    return max(
        float(np.abs(np.array(a) - np.array(b)).max()) for a, b in zip(one, other, strict=True) if len(a)
    )


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_greedy_paths_are_the_same_token_for_token(
    greedy: dict[str, list[Generation]], pair: tuple[str, str]
) -> None:
    one, other = greedy[pair[0]], greedy[pair[1]]
    assert len(one) == 200
    assert [path.token_ids for path in one] == [path.token_ids for path in other]
    assert [(path.text, path.finish_reason) for path in one] == [
        (path.text, path.finish_reason) for path in other
    ]
    assert furthest([path.logprobs for path in one], [path.logprobs for path in other]) < 1e-3


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_scores_agree(
    engines: Engines, prompts: list[list[int]], greedy: dict[str, list[Generation]], pair: tuple[str, str]
) -> None:
    paths = [path.token_ids for path in greedy["transformers"]]
    one, other = (engines[name].score(prompts, paths) for name in pair)
    assert furthest(one, other) < 1e-3


@pytest.mark.parametrize("name", OTHERS)
def test_scores_do_not_depend_on_what_was_asked_before(
    engines: Engines, prompts: list[list[int]], greedy: dict[str, list[Generation]], name: str
) -> None:
    paths = [path.token_ids for path in greedy["transformers"]]
    forward = engines[name].score(prompts, paths)
    backward = engines[name].score(prompts[::-1], paths[::-1])[::-1]
    assert furthest(forward, backward) < 1e-5


@pytest.mark.parametrize("name", OTHERS)
def test_options_and_next_tokens_have_the_same_probabilities(
    engines: Engines, prompts: list[list[int]], name: str
) -> None:
    reference, model, some = engines["transformers"], engines[name], prompts[:12]
    for options in ([[10], [11], [12]], [[10, 11], [11], [12, 13]]):
        expected = reference.option_probabilities(some, options)
        found = model.option_probabilities(some, options)
        assert furthest(expected, found) < 1e-3
        assert all(sum(row) == pytest.approx(1) for row in found)
    token = reference.encode_continuation(" 1")[0]
    expected = reference.next_token_probability(some, token)
    assert furthest(expected, model.next_token_probability(some, token)) < 1e-3


@pytest.mark.parametrize("name", OTHERS)
def test_the_likeliest_tokens_are_the_same(
    engines: Engines, prompts: list[list[int]], greedy: dict[str, list[Generation]], name: str
) -> None:
    """Up to the order of tokens that are about equally likely."""
    reference, model, some = engines["transformers"], engines[name], prompts[:40]
    paths = [path.token_ids for path in greedy["transformers"][:40]]
    for text in (" 1", "\n", "."):
        token = reference.encode_continuation(text)[0]
        for most in (1, 10, 20):
            expected = list(chain(*reference.among_likeliest(some, paths, token, most)))
            found = list(chain(*model.among_likeliest(some, paths, token, most)))
            differing = sum(a != b for a, b in zip(expected, found, strict=True))
            assert differing <= len(expected) / 200
    with pytest.raises(ModelError, match="request 1 to 20"):
        model.among_likeliest(some, paths, token, 21)


@pytest.mark.parametrize("name", OTHERS)
def test_samples_share_their_prompt_and_differ(engines: Engines, prompts: list[list[int]], name: str) -> None:
    sampled = SamplingParameters(temperature=1.0, max_tokens=60, stop=("\n\nQ:",))
    counted: list[tuple[int, int]] = []
    drawn = engines[name].generate(
        prompts[:4], [list(range(8))] * 4, sampled, lambda rows, tokens: counted.append((rows, tokens))
    )
    assert [len(row) for row in drawn] == [8] * 4
    assert len({tuple(path.token_ids) for row in drawn for path in row}) > 8
    assert sum(rows for rows, _ in counted) == 32
    assert sum(tokens for _, tokens in counted) == sum(len(path.token_ids) for row in drawn for path in row)
    scored = engines["transformers"].score([prompts[0]] * 8, [path.token_ids for path in drawn[0]])
    assert furthest(scored, [path.logprobs for path in drawn[0]]) < 1e-3


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("most", [60, 12], ids=["whole", "cut_off"])
def test_a_text_goes_on_after_a_stop_string_within_its_thoughts(
    engines: Engines, prompts: list[list[int]], name: str, most: int
) -> None:
    """Solutions begin with " Go in order." and end with " The answer is 11.": here the last sentence is the answer."""
    model, reference, some = engines[name], engines["transformers"], prompts[:20]
    parameters = SamplingParameters(temperature=0.0, max_tokens=most, stop=(".",))
    sampled = replace(parameters, temperature=1.0)
    counted: list[tuple[int, int]] = []
    before = model.prompting
    try:
        for one in (model, reference):
            one.prompting = replace(before, thinking=Thinking(open=" Go", close=" The"))
        theirs, ours = (
            [path for (path,) in one.generate(some, [[0]] * len(some), parameters)]
            for one in (model, reference)
        )
        drawn = model.generate(
            some[:2], [[1, 2, 3]] * 2, sampled, lambda rows, tokens: counted.append((rows, tokens))
        )
    finally:
        model.prompting = reference.prompting = before
    assert [(path.text, path.token_ids, path.finish_reason) for path in ours] == [
        (path.text, path.token_ids, path.finish_reason) for path in theirs
    ]
    assert furthest([path.logprobs for path in ours], [path.logprobs for path in theirs]) < 1e-3
    texts = [model.decode(path.token_ids) for path in theirs]
    if most == 60:
        assert sum(path.text.startswith(" answer is ") and "." not in path.text for path in theirs) > 15
        assert all(text.count(".") > 2 for text in texts if " The" in text)
    else:
        assert {path.finish_reason for path in theirs} == {"length"}
        assert all("." in text for text in texts)
    assert sum(rows for rows, _ in counted) == 6
    assert sum(tokens for _, tokens in counted) == sum(len(path.token_ids) for row in drawn for path in row)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("structure", [LETTER, VERDICT], ids=["regex", "schema"])
def test_texts_match_the_structure_that_was_asked_for(
    engines: Engines, prompts: list[list[int]], name: str, structure: Structure
) -> None:
    for temperature in (0.0, 1.0):
        parameters = SamplingParameters(temperature=temperature, max_tokens=60, structure=structure)
        drawn = engines[name].generate(prompts[:4], [list(range(8))] * 4, parameters)
        finished = [path for row in drawn for path in row if path.finish_reason == "stop"]
        assert all(structure.mismatch(path.text) is None for path in finished)
        assert len(finished) == 32


@pytest.mark.parametrize("name", OTHERS)
def test_greedy_structured_texts_are_those_of_the_default_engine(
    engines: Engines, prompts: list[list[int]], name: str
) -> None:
    """Of the distribution among the allowed tokens, vLLM reports the log-probabilities."""
    parameters = SamplingParameters(temperature=0.0, max_tokens=8, structure=LETTER)
    ours, theirs = (
        [path for (path,) in engines[one].generate(prompts[:8], [[0]] * 8, parameters)]
        for one in ("transformers", name)
    )
    assert [path.text for path in ours] == [path.text for path in theirs]
    assert all(sum(b.logprobs) > sum(a.logprobs) for a, b in zip(ours, theirs, strict=True))


def check_adapter(
    model: LanguageModel, adapter: Path, prompts: list[list[int]], base: list[Generation]
) -> None:
    """Its greedy paths and scores are those of the default engine, which merges it, and not those of its `base`."""
    reference = open_language_model(adapter, dtype="float32")
    ours, theirs = (
        [path for (path,) in one.generate(prompts, [[0]] * len(prompts), GREEDY)]
        for one in (reference, model)
    )
    assert [(path.token_ids, path.text) for path in ours] == [(path.token_ids, path.text) for path in theirs]
    assert furthest([path.logprobs for path in ours], [path.logprobs for path in theirs]) < 1e-3
    paths = [path.token_ids for path in base]
    assert sum(path.token_ids != other for path, other in zip(theirs, paths, strict=True)) > len(paths) / 2
    own = [path.token_ids for path in ours]
    assert furthest(reference.score(prompts, own), model.score(prompts, own)) < 1e-3
    assert model.model_id == reference.model_id == model_id(adapter) != model_id(embedded.BASE_MODEL)


def test_an_adapter_on_a_server_is_laid_over_its_base(
    adapter: Path,
    prompts: list[list[int]],
    greedy: dict[str, list[Generation]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the server is asked as any other is, which has the base besides."""
    monkeypatch.setenv("SELFIMPROVE_HOME", str(tmp_path))
    served = open_language_model(adapter, engine="vllm", dtype="float32", serve={})
    assert isinstance(served, VllmServerModel)
    url = f"{served.server.url}/v1"
    try:
        for model in (served, open_language_model(adapter, engine="openai", url=url, send_seeds=False)):
            check_adapter(model, adapter, prompts[:40], greedy["transformers"][:40])
        base = open_language_model(embedded.BASE_MODEL, engine="openai", url=url, send_seeds=False)
        (found,) = base.generate(prompts[:1], [[0]], GREEDY)
        assert found[0].token_ids == greedy["transformers"][0].token_ids
    finally:
        served.close()


def test_two_adapters_together_are_refused(adapter: Path) -> None:
    for serve in (None, {}):
        with pytest.raises(ModelError, match=r"leave out model\.vllm\.lora"):
            open_language_model(adapter, engine="vllm", lora=str(adapter), serve=serve)


def test_an_adapter_in_process_is_laid_over_its_base(
    adapter: Path,
    prompts: list[list[int]],
    greedy: dict[str, list[Generation]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the CPU cannot do is said at the start. Memory is free after `close`: the engine's process has ended."""
    monkeypatch.setattr(notices, "_SAID", set())  # other engines of this process may have said it
    before = engine_processes()
    model = open_language_model(adapter, engine="vllm", max_length=SHORT)
    assert "vLLM on a CPU does not support seeds per request" in caplog.text
    engine = engine_processes() - before
    assert engine
    check_adapter(model, adapter, prompts[:40], greedy["transformers"][:40])
    model.close()
    _, alive = psutil.wait_procs(list(engine), timeout=60)
    assert not alive


@pytest.mark.parametrize("name", ["vllm", "served"])
def test_conversations_end_with_their_turn(chat_engines: Engines, name: str) -> None:
    """Prompts are asked as the template renders them, and the model's own sampling settings change nothing."""
    model, reference = chat_engines[name], chat_engines["transformers"]
    asked = [stored([Message("user", question)]) for question in QUESTIONS[:20]]
    prompts = model.encode_prompts(asked)
    assert prompts == reference.encode_prompts(asked)
    assert model.turn_end_id != model.end_token_id
    expected, found = (
        [
            path
            for (path,) in one.generate(
                prompts, [[0]] * 20, SamplingParameters(temperature=0.0, max_tokens=90)
            )
        ]
        for one in (reference, model)
    )
    assert [path.token_ids for path in found] == [path.token_ids for path in expected]
    assert [(path.text, path.finish_reason) for path in found] == [
        (path.text, path.finish_reason) for path in expected
    ]
    assert sum(path.token_ids[-1] == model.turn_end_id for path in found) > 10
    drawn = model.generate(prompts[:1], [[*range(8)]], SamplingParameters(temperature=1.0, max_tokens=90))
    assert len({path.text for path in drawn[0]}) > 1


@pytest.mark.parametrize("name", ["vllm", "served"])
@pytest.mark.parametrize("opened", [" Let's", "So"], ids=["thoughts", "no_thoughts"])
def test_a_conversation_ends_at_a_stop_string_after_its_thoughts(
    chat_engines: Engines, name: str, opened: str
) -> None:
    """Answers begin with "Let's think step by step." Where that opens thoughts, a later " is" closes them.

    Where nothing opens them, the answer ends there: the default engine cannot know that " is" would follow.
    """
    model, reference = chat_engines[name], chat_engines["transformers"]
    prompts = model.encode_prompts([stored([Message("user", question)]) for question in QUESTIONS[:8]])
    before = model.prompting
    parameters = SamplingParameters(temperature=0.0, max_tokens=90, stop=(".",))
    found = {}
    try:
        for one in (model, reference):
            one.prompting = replace(before, thinking=Thinking(open=opened, close=" is"))
            found[one.engine] = [path for (path,) in one.generate(prompts, [[0]] * 8, parameters)]
    finally:
        model.prompting = reference.prompting = before
    ours, theirs = found.values()
    assert [(path.text, path.token_ids, path.finish_reason) for path in ours] == [
        (path.text, path.token_ids, path.finish_reason) for path in theirs
    ]
    if opened == "So":
        assert {path.text for path in ours} == {" Let's think step by step"}
    else:
        assert any(path.text and model.decode(path.token_ids).count(".") > 1 for path in ours)


@pytest.mark.parametrize("name", ["vllm", "served"])
def test_rows_that_do_not_fit_are_named_and_the_others_go_on(chat_engines: Engines, name: str) -> None:
    model = chat_engines[name]
    fits, full = model.encode(f"Q: {QUESTIONS[0]}\nA:"), [10] * SHORT
    assert positions(model) == SHORT
    counted: list[int] = []
    rows = model.generate(
        [full, fits, full[:-3]],
        [[0, 1]] * 3,
        SamplingParameters(max_tokens=20),
        lambda rows, _: counted.append(rows),
    )
    assert [path.finish_reason for path in rows[0]] == ["too_long"] * 2
    assert rows[0][0].problem == "too_long: the prompt has 256 tokens, and the model has 256 positions"
    assert [path.problem for path in (*rows[1], *rows[2])] == [None] * 4
    assert all(len(path.token_ids) <= 3 for path in rows[2])
    assert sum(counted) == 6
    scores = model.score([full, fits, fits], [[11, 12], [11, 12], full])
    assert [[bool(np.isnan(one)) for one in row] for row in scores] == [
        [True] * 2,
        [False] * 2,
        [True] * SHORT,
    ]
    unscored, scored = model.option_probabilities([full, fits], [[11], [12]])
    assert np.isnan(unscored).all()
    assert sum(scored) == pytest.approx(1)


def test_a_server_that_ends_in_the_middle_is_reported_with_its_log(chat_engines: Engines) -> None:
    """The last test of these engines: one of the server's copies of the model is killed."""
    served = chat_engines["served"]
    assert isinstance(served, VllmServerModel)
    processes = [
        one
        for one in psutil.Process(served.server.process.pid).children(recursive=True)
        if one in engine_processes()
    ]
    copies = [one for one in processes if "EngineCore" in one.name()]
    assert len(copies) == COPIES, [one.name() for one in processes]
    copies[0].kill()
    with pytest.raises(
        ModelUnavailable, match=r"the vLLM server of .*chat ended with code .* The end of its log"
    ):
        served.generate([[10, 11]] * 4, [[0]] * 4, SamplingParameters(max_tokens=20))
    served.close()
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert not alive


def test_a_server_that_cannot_start_says_why(
    chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFIMPROVE_HOME", str(tmp_path))
    with pytest.raises(
        ModelError, match=r"(?s)vLLM server of .* ended with code 2.*unrecognized arguments: --no-such"
    ):
        open_language_model(chat_model, engine="vllm", serve={"arguments": {"no_such": 1}})
    assert [file.suffix for file in (tmp_path / "logs").iterdir()] == [".log"]


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json in"):
        open_language_model(tmp_path, engine="vllm")


@pytest.mark.parametrize("serve", [None, {}], ids=["in_process", "served"])
def test_a_whole_iteration_runs_on_it_with_a_fresh_engine_a_step(
    tmp_path: Path, serve: dict[str, Any] | None
) -> None:
    """The paths are the base model's, the challenger's answers those of the checkpoint that was just made.

    Lines that are too long or empty are named, and no others.
    """
    rows = [json.loads(line) for line in embedded.SEEDS.read_text().splitlines()[:8]]
    rows[1]["question"], rows[3]["question"] = " ", LONG + rows[3]["question"]
    asked = [json.loads(line) for line in embedded.EVALUATION.read_text().splitlines()[:10]]
    asked[2]["question"], asked[4]["question"] = LONG + asked[2]["question"], ""
    settings = {
        **SMALL_EXPERIMENT,
        "model": {"path": "embedded", "engine": "vllm", "vllm": {"max_length": 512, "serve": serve}},
        "seeds": {"file": str(write_lines(tmp_path / "mine.jsonl", rows)), "licence": "MIT"},
        "evaluation": {
            "file": str(write_lines(tmp_path / "asked.jsonl", asked)),
            "majority_questions": 4,
            "majority_paths": 2,
        },
        "sampling": {"questions": 7, "paths": 4, "shard_questions": 3, "adaptive": {"step": 2}},
        "filter": {"minimum_vote_share": 0.0, "minimum_votes": 1},
        "tolerance": {"failed_share": 0.2},
    }
    home = make_home(tmp_path / "installation", settings)
    before = engine_processes()
    with entered(home):
        assert run_iteration(home, home.experiment("small"), 0) == []
    (generations,) = home.lake.manifests("lmsi/raw_generations")
    (evaluation,) = home.lake.manifests("lmsi/evaluation")
    (checkpoint,) = home.lake.manifests("lmsi/fine_tuned_checkpoint")
    assert generations.activity.parameters["engine"].startswith("vllm ")
    assert generations.activity.model_id == model_id(embedded.BASE_MODEL)
    trained = home.lake.read(checkpoint.table, checkpoint.partition)["model_id"][0]
    models = home.lake.read(evaluation.table, evaluation.partition)["model_id"].unique().to_list()
    assert sorted(models) == sorted([generations.activity.model_id, trained])
    assert engine_processes() == before
    named = [*failed_prompts(home.lake, "small")]
    assert {one.place for one in named} == {"mine.jsonl, line 4", "asked.jsonl, line 3"}, [*map(str, named)]
    assert all(one.problem.startswith("too_long: the prompt has ") for one in named)
    (imported,) = home.lake.manifests("seeds/rejected")
    rejected = home.lake.read(imported.table, imported.partition)
    assert rejected.select("source_file", "source_line", "reason").rows() == [
        ("mine.jsonl", 2, "the question is empty")
    ]
