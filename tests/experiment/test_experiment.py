"""Experiment files: what they may say, and what is said of those that are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from selfimprove_dagster import embedded, registry
from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.experiment.naming import experiment_of_key
from selfimprove_dagster.experiment.sections import ModelSection
from selfimprove_dagster.home.files import describe_fields, load_chain, parse_experiment
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.methods.toolformer.settings import CallSamplingSection, ToolformerExperiment

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SMALLEST: dict[str, Any] = {
    "model": {"path": "embedded"},
    "seeds": {"file": "questions.jsonl"},
    "evaluation": {"file": "heldout.jsonl"},
}


def load(folder: Path, name: str = "mine", **changes: Any) -> Experiment:
    """What a file of that name is read as."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**SMALLEST, **changes}))
    (experiment,) = load_chain(path)
    return experiment


def complaint(folder: Path, text: str | bytes) -> str:
    path = folder / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ExperimentError) as raised:
        load_chain(path)
    return str(raised.value)


def test_a_short_file_is_filled_up_from_the_practical_preset(tmp_path: Path) -> None:
    experiment = load(tmp_path)
    assert experiment.name == "mine"
    assert experiment.method == "lmsi"
    assert experiment.sampling.paths == 16
    assert (
        experiment.training.formats
        == registry.method("lmsi").presets["practical"].values["training"]["formats"]
    )
    assert experiment.demonstrations.count == 2
    assert experiment.demonstrations.file == str(embedded.DEMONSTRATIONS)
    assert experiment.partition_key(7) == "mine-007"


def test_answers_and_weights_are_hashed_only_when_they_are_set(tmp_path: Path) -> None:
    plain = load(tmp_path)
    dumped = plain.model_dump(mode="json")
    assert "answers" not in dumped and "weights" not in dumped["voting"]
    comma = load(tmp_path, answers={"decimal": "comma", "phrases": ["vastus on"], "words": {"jah": "yes"}})
    weighted = load(tmp_path, voting={"weights": "probability"})
    assert len({plain.settings_hash, comma.settings_hash, weighted.settings_hash}) == 3
    assert plain.answers_read == {} and comma.answers_read["answers"]["decimal"] == "comma"
    assert comma.conventions.decimal == "comma" and comma.conventions.words == (("jah", "yes"),)
    marked = load(tmp_path, model={"path": "embedded", "thinking": {"open": "<muse>", "close": "</muse>"}})
    assert marked.conventions.thoughts == (("<muse>", "</muse>"),)
    with pytest.raises(ExperimentError, match="weights are of a majority"):
        load(tmp_path, voting={"rule": "random_path", "weights": "probability"})


def test_the_paper_preset_has_the_numbers_of_the_paper(tmp_path: Path) -> None:
    experiment = load(tmp_path, preset="paper")
    sampling, training = experiment.sampling, experiment.training
    assert (sampling.paths, sampling.temperature, sampling.temperature_improved) == (32, 0.7, 1.2)
    assert (training.steps, training.learning_rate, training.batch_size) == (10_000, 5e-5, 32)
    assert (experiment.filter.minimum_vote_share, experiment.filter.maximum_paths) == (0.0, None)
    assert set(training.formats.values()) == {1.0}


@pytest.mark.parametrize("method", registry.methods())
@pytest.mark.parametrize("name", ["paper", "practical"])
def test_a_preset_lists_its_deviations(method: str, name: str) -> None:
    assert all(registry.method(method).presets[name].deviations)


def test_one_field_of_a_section_leaves_the_others_to_the_preset(tmp_path: Path) -> None:
    experiment = load(tmp_path, sampling={"paths": 5}, training={"formats": {"zero_shot_cot": 1}})
    assert (experiment.sampling.paths, experiment.sampling.temperature) == (5, 0.8)
    assert experiment.training.formats == {"zero_shot_cot": 1.0}


def test_paths_start_at_the_files_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    (tmp_path / "local-model").mkdir()
    experiment = load(tmp_path, seeds={"file": "../data/q.csv"}, evaluation={"file": "~/heldout.jsonl"})
    assert experiment.seeds.file == str(tmp_path.parent / "data" / "q.csv")
    assert experiment.evaluation.file == "/home/ada/heldout.jsonl"
    assert load(tmp_path, model={"path": "local-model"}).model.path == str(tmp_path / "local-model")
    assert load(tmp_path, model={"path": "meta-llama/Llama-3.2-1B"}).model.path == "meta-llama/Llama-3.2-1B"
    assert load(tmp_path).model.path == str(embedded.BASE_MODEL)


def test_variables_are_replaced_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "/data")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("UNSET", raising=False)

    def seeds(file: str) -> str:
        return load(tmp_path, seeds={"file": file}).seeds.file

    assert seeds("${DATA}/q.jsonl") == "/data/q.jsonl"
    assert seeds("${UNSET:-/fallback}/q.jsonl") == "/fallback/q.jsonl"
    assert seeds("${EMPTY:-/fallback}/q.jsonl") == "/fallback/q.jsonl"
    with pytest.raises(ExperimentError, match="the environment variable UNSET is used but not set"):
        seeds("${UNSET}/q.jsonl")


def test_a_value_of_the_wrong_form_is_answered_with_what_the_field_means(tmp_path: Path) -> None:
    seeds = {**SMALLEST["seeds"], "rows": 40}
    said = complaint(tmp_path, yaml.safe_dump({**SMALLEST, "seeds": seeds}))
    assert "seeds.rows: Input should be a valid string, not 40 (rows to read, as `from:to`" in said
    said = complaint(tmp_path, yaml.safe_dump({**SMALLEST, "seeds": {**seeds, "rows": "first 40"}}))
    assert "'first 40' (rows to read, as `from:to`" in said


@pytest.mark.parametrize(
    ("written", "read"), [("last 2", 2), (3, 3), ("all", "all"), ("champion", "champion")]
)
def test_how_many_checkpoints_are_kept(tmp_path: Path, written: object, read: object) -> None:
    kept: Any = load(tmp_path, checkpoints={"keep": written})
    assert kept.checkpoints.keep == read


@pytest.mark.parametrize("wrong", ["last", "last 0", 0, "none"])
def test_a_field_of_several_forms_is_answered_once(tmp_path: Path, wrong: object) -> None:
    (line,) = complaint(tmp_path, yaml.safe_dump({**SMALLEST, "checkpoints": {"keep": wrong}})).splitlines()[
        1:
    ]
    assert line.startswith("  checkpoints.keep: wrong value") and "a number, or `last 2`" in line


def test_an_unknown_field_is_answered_with_those_that_exist(tmp_path: Path) -> None:
    said = complaint(tmp_path, yaml.safe_dump({**SMALLEST, "sampling": {"temprature": 1}, "sede": 4}))
    assert (
        "sampling.temprature: there is no such field; allowed here: adaptive, max_tokens, model, paths"
        in said
    )
    assert "sede: there is no such field; allowed here: answers, budget, checkpoints" in said
    said = complaint(tmp_path, yaml.safe_dump({**SMALLEST, "sampling": {"adaptive": {"stop": 1}}}))
    assert "sampling.adaptive.stop: there is no such field; allowed here: confidence, least_gain," in said


def test_a_section_that_may_be_left_out_is_described_with_its_fields() -> None:
    described = {field.name: field.practical for field in describe_fields()}
    assert described["sampling.adaptive"] == "none"
    assert described["sampling.adaptive.step"] == "4"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sampling": {"temperature": 0}}, "sampling.temperature: Input should be greater than 0, not 0"),
        (
            {"sampling": {"temperature": float("nan")}},
            "sampling.temperature: Input should be a finite number",
        ),
        ({"sampling": {"top_p": 1.5}}, "sampling.top_p: Input should be less than or equal to 1, not 1.5"),
        ({"sampling": {"paths": "many"}}, "sampling.paths: Input should be a valid integer"),
        (
            {"sampling": {"prompt_format": "zero_shot"}},
            "should be 'few_shot_cot' or 'zero_shot_cot', not 'zero_",
        ),
        ({"training": {"formats": {"cot": 1}}}, "training.formats.cot: Input should be 'few_shot_cot', "),
        (
            {"training": {"formats": {"zero_shot_cot": 0}}},
            "training.formats: at least one format needs a share",
        ),
        ({"training": {"formats": {"zero_shot_cot": float("inf")}}}, "Input should be a finite number"),
        (
            {"training": {"learning_rate": -1}},
            "training.learning_rate: Input should be greater than 0, not -1",
        ),
        ({"budget": {"hours": float("inf")}}, "budget.hours: Input should be a finite number"),
        ({"seeds": {"file": "q.jsonl", "rows": "5"}}, "seeds.rows: String should match pattern"),
        ({"seeds": None}, "seeds: Input should be a valid dictionary"),
        ({"seeds": {}}, "seeds.file: Field required"),
        ({"demonstrations": None}, "demonstrations: Input should be a valid dictionary"),
        ({"demonstrations": 3}, "demonstrations: Input should be a valid dictionary"),
        ({"demonstrations": {"count": 0}}, "few-shot formats are used, so demonstrations.count must be at"),
        ({"preset": "papers"}, "preset: 'papers' is not one of 'paper', 'practical'"),
        ({"preset": ["paper"]}, "preset: ['paper'] is not one of 'paper', 'practical'"),
        ({"model": {"path": "embedded", "engine": "vlm"}}, "model.engine: Input should be"),
        ({"seed": 2**31}, "seed: Input should be less than"),
        ({1: 2}, "1"),
    ],
)
def test_a_wrong_value_is_named_with_its_field_and_what_is_allowed(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    assert said in complaint(tmp_path, yaml.safe_dump({**SMALLEST, **changes}))


def test_all_wrong_values_are_told_at_once(tmp_path: Path) -> None:
    said = complaint(tmp_path, "name: mine\nsampling: {paths: 0, top_k: -1}\n")
    for field in ("model", "seeds", "evaluation", "sampling.paths", "sampling.top_k"):
        assert f"\n  {field}: " in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: {path: embedded", "is not YAML"),
        ("when: 2001-99-99", "is not YAML: month must be in 1..12"),
        ("[" * 5000, "is not YAML"),
        ("- a\n- b\n", "must contain fields and values, such as `name: mine`"),
        ("", "must contain fields and values"),
        ("name: yours\n", "name is 'yours' but must equal the file name, 'mine'"),
        ("name: 5\n", "name is 5 but must equal the file name, 'mine'"),
        (b"description: gr\xfc\xdfe\n", "is not UTF-8 text (byte 15); save it as UTF-8"),
        ("model: !!python/object/apply:os.system ['true']\n", "is not YAML"),
    ],
)
def test_a_file_that_is_no_experiment_is_refused_by_name(
    tmp_path: Path, text: str | bytes, said: str
) -> None:
    message = complaint(tmp_path, text)
    assert said in message
    assert str(tmp_path / "mine.yaml") in message


def test_a_name_that_makes_no_partition_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="name: String should match pattern"):
        load(tmp_path, name="My-Experiment")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"there is no experiment file .*gone\.yaml"):
        load_chain(tmp_path / "gone.yaml")
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ExperimentError, match=r"folder\.yaml cannot be read: Is a directory"):
        load_chain(tmp_path / "folder.yaml")


def test_home_names_the_experiments_that_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(tmp_path, "one")
    load(tmp_path, "two")
    monkeypatch.setenv("SELFIMPROVE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SELFIMPROVE_EXPERIMENTS", str(tmp_path))
    home = Home.from_environment()
    assert home.experiment("one").name == "one"
    with pytest.raises(ExperimentError, match=r"no experiment 'three' in .*; available there: one, two"):
        home.experiment("three")
    assert home.lake.root == tmp_path / "home" / "lake"
    assert home.checkpoint("one", 2, "lmsi", "act:" + "a" * 32).name == "002-lmsi-aaaaaaaaaaaa"


def test_an_experiment_of_the_users_folder_comes_before_the_shipped_one(tmp_path: Path) -> None:
    own, shipped = tmp_path / "own", tmp_path / "shipped"
    own.mkdir()
    shipped.mkdir()
    load(shipped, "one", description="shipped")
    load(shipped, "two", description="shipped")
    load(own, "one", description="own")
    home = Home(root=tmp_path / "home", experiments=own, shipped=shipped)
    assert [home.experiment(name).description for name in ("one", "two")] == ["own", "shipped"]
    assert home.experiment_file("two") == shipped / "two.yaml"
    assert home.experiment_names() == ["one"], "the sensor starts what is listed"
    with pytest.raises(ExperimentError, match=r"available there: one\. In the package: one, two"):
        home.experiment("three")
    nowhere = Home(root=tmp_path / "home", experiments=tmp_path / "none")
    assert nowhere.experiment("demo").name == "demo"
    assert nowhere.experiment_names() == []


def test_partition_keys_and_experiments_are_inverse(tmp_path: Path) -> None:
    experiment = load(tmp_path, "one_2")
    for iteration in (0, 42, 998):
        assert experiment_of_key(experiment.partition_key(iteration)) == ("one_2", iteration)


@pytest.mark.parametrize(
    "key", ["", "demo", "demo-1", "demo-0001", "Demo-001", "demo-001\n", "a-b-001", "../x-001"]
)
def test_other_texts_are_no_partition_keys(key: str) -> None:
    with pytest.raises(ExperimentError, match="is not of the form <experiment>-<NNN>"):
        experiment_of_key(key)


def test_an_experiment_is_settled(tmp_path: Path) -> None:
    experiment = parse_experiment({"name": "demo", **SMALLEST}, folder=tmp_path)
    with pytest.raises(ValueError, match="frozen"):
        experiment.__setattr__("seed", 3)


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "experiments").glob("*.yaml")), ids=str)
def test_the_experiments_that_are_shipped_are_valid(path: Path) -> None:
    assert {experiment.name for experiment in load_chain(path)} == {path.stem}


def test_a_toolformer_experiment_reads_tools_and_thresholds(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "method: toolformer\nmodel: {path: embedded}\nseeds: {file: texts.jsonl}\n"
        "evaluation: {file: exam.jsonl, plain_file: plain.jsonl}\n"
        "tools: {names: [Calculator, 'tools/mine.py:Weather'], corpus: passages.jsonl}\n"
        "annotation: {texts: 7, tools: {Calculator: {positions: 3}}}\n"
        "filter: {loss_reduction: {Calculator: 0.25}}\n",
        encoding="utf-8",
    )
    (experiment,) = load_chain(file)
    assert isinstance(experiment, ToolformerExperiment)
    assert experiment.tools.names == ["Calculator", f"{tmp_path}/tools/mine.py:Weather"]
    assert experiment.tools.corpus_file == tmp_path / "passages.jsonl"
    assert experiment.evaluation.plain_file == str(tmp_path / "plain.jsonl")
    assert experiment.annotation.of("Calculator").positions == 3
    assert experiment.annotation.of("Calculator").calls == 10, "the preset's"
    assert experiment.annotation.of("Weather") == CallSamplingSection(positions=5, calls=5, threshold=0.05)
    assert experiment.filter.lowest == 0.25
    assert experiment.answering_model is None, "neither QA nor MT is asked"
    assert experiment.decided_in == "with_tools"


def test_every_field_that_names_a_file_starts_at_the_experiments_folder(tmp_path: Path) -> None:
    tasks = {"model": {"path": "embedded", "vllm": {"lora": "./adapter"}}, "method": "self_instruct"}
    assert load(tmp_path, **tasks).model.vllm.lora == f"{tmp_path}/adapter"
    banned = {"file": "embedded", "banned": "bans.txt"}
    assert load(tmp_path, **tasks, seeds=banned).seeds.banned == f"{tmp_path}/bans.txt"


def test_a_wrong_field_of_a_tool_is_answered_with_those_that_exist(tmp_path: Path) -> None:
    said = complaint(
        tmp_path,
        yaml.safe_dump(
            {**SMALLEST, "method": "toolformer", "annotation": {"tools": {"Calculator": {"position": 3}}}}
        ),
    )
    assert "annotation.tools.Calculator.position: there is no such field; allowed here: calls, " in said


PROVIDED = {"path": "gpt-4o-mini", "engine": "chat", "server": {"url": "https://api.openai.com/v1"}}


def test_a_provider_s_model_can_judge_and_answer_tools_but_not_be_trained(tmp_path: Path) -> None:
    assert "model.engine is chat, and lmsi trains the model" in complaint(
        tmp_path, yaml.safe_dump({**SMALLEST, "model": PROVIDED})
    )
    judged = load(tmp_path, method="rlaif", judge={"model": PROVIDED})
    assert judged.judge.model.path == "gpt-4o-mini" and judged.judge.model.is_provided
    tools = {"names": ["QA"], "answered_by": PROVIDED}
    experiment = load(tmp_path, method="toolformer", tools=tools)
    assert isinstance(experiment, ToolformerExperiment) and experiment.answering_model is not None
    assert experiment.answering_model.path == "gpt-4o-mini" and experiment.answering_model.is_provided
    other = load(tmp_path, method="toolformer", tools={"names": ["QA"], "answered_by": "./other"})
    assert isinstance(other, ToolformerExperiment) and other.answering_model is not None
    assert other.answering_model == other.model.model_copy(update={"path": f"{tmp_path}/other"})
    assert load(tmp_path, method="refinement", model=PROVIDED).model.path == "gpt-4o-mini"


@pytest.mark.parametrize(
    ("method", "section"),
    [("self_instruct", "generation"), ("unnatural_instructions", "generation"), ("lmsi", "sampling")],
)
def test_another_model_can_generate_what_a_model_is_trained_on(
    method: str, section: str, tmp_path: Path
) -> None:
    alone = load(tmp_path, method=method)
    taught = load(tmp_path, method=method, **{section: {"model": PROVIDED}})
    assert alone.teacher is None and taught.teacher is not None
    assert taught.teacher.path == "gpt-4o-mini" and taught.settings_hash != alone.settings_hash
    assert "model" not in getattr(alone, section).model_dump(), "hashed only if it is set"
    assert getattr(taught, section).determinants == getattr(alone, section).determinants
    said = complaint(tmp_path, yaml.safe_dump({**SMALLEST, "method": method, "model": PROVIDED}))
    assert f"can generate ({section}.model), judge" in said


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"method": "toolformer", "annotation": {"model": PROVIDED}},
            "no other model can generate here: `model` ",
        ),
        (
            {"method": "rlaif", "responses": {"model": PROVIDED}},
            "no other model can generate here: what is judged",
        ),
        ({"method": "constitutional", "responses": {"model": PROVIDED}}, "another model can judge them"),
        (
            {"method": "self_instruct", "generation": {"model": PROVIDED, "drawn_by": "champion"}},
            "drawn_by is champion, but model names another generator",
        ),
        (
            {"method": "lmsi", "sampling": {"model": PROVIDED}, "filter": {"maximum_perplexity": 3.0}},
            "filter.maximum_perplexity needs the probabilities of all paths",
        ),
    ],
)
def test_another_model_is_refused_where_it_cannot_generate(
    settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    assert said in complaint(tmp_path, yaml.safe_dump({**SMALLEST, **settings}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"template": "training"}, "the engine chat sends messages, which the provider renders"),
        ({"prompting": "text", "system": "Be brief."}, "a prompt in plain text has no system text"),
        ({"prices": {"input": 1.0}}, "model.prices.output"),
        ({"server": {"url": []}}, "model.server.url"),
    ],
)
def test_what_a_provider_s_model_does_not_have_is_refused(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    assert said in complaint(
        tmp_path, yaml.safe_dump({**SMALLEST, "method": "refinement", "model": {**PROVIDED, **changes}})
    )


def test_a_limit_of_money_needs_prices(tmp_path: Path) -> None:
    budget = {"budget": {"money": 5.0}}
    assert "budget.money limits what models cost, and none has prices" in complaint(
        tmp_path, yaml.safe_dump({**SMALLEST, **budget})
    )
    priced = {**PROVIDED, "prices": {"input": 0.15, "output": 0.6}}
    assert load(tmp_path, method="rlaif", judge={"model": priced}, **budget).budget.money == 5.0


def test_a_structure_is_in_the_file_or_in_one_next_to_it(tmp_path: Path) -> None:
    schema = {"type": "array", "items": {"$ref": "#/$defs/n"}, "$defs": {"n": {"type": "integer"}}}
    given = {"zero_shot_cot": {"json_schema": schema}, "few_shot_cot": {"json_schema": "schema.json"}}
    found = load(tmp_path, prompts={"structure": given}).prompts.structure
    assert found["zero_shot_cot"].json_schema == schema
    assert found["few_shot_cot"].json_schema == str(tmp_path / "schema.json")
    assert load(tmp_path).prompts.structure == {}


@pytest.mark.parametrize("given", [{}, {"regex": "a", "json_schema": {}}])
def test_a_structure_is_one_of_two(tmp_path: Path, given: dict[str, Any]) -> None:
    text = yaml.safe_dump({**SMALLEST, "prompts": {"structure": {"few_shot_cot": given}}})
    assert "prompts.structure.few_shot_cot: give either regex or json_schema" in complaint(tmp_path, text)


FREE = "a policy that is optimised on its own texts must write them freely"


@pytest.mark.parametrize(
    ("method", "name", "why"),
    [
        ("self_knowledge", "response", "candidates are sampled freely"),
        ("self_knowledge", "zero_shot_cot", "candidates are sampled freely"),
        ("rlaif", "response", FREE),
        ("pit", "improvement", FREE),
    ],
)
def test_a_structure_is_refused_where_it_cannot_hold(method: str, name: str, why: str) -> None:
    file = EXPERIMENTS / f"{method}.yaml"
    given = {**yaml.safe_load(file.read_text()), "prompts": {"structure": {name: {"regex": "a+"}}}}
    with pytest.raises(ExperimentError, match=rf"prompts\.structure\.{name}: {why}"):
        parse_experiment(given, folder=file.parent)


def test_responses_of_a_policy_that_learns_from_pairs_may_have_a_structure() -> None:
    file = EXPERIMENTS / "rlaif.yaml"
    given = {**yaml.safe_load(file.read_text()), "prompts": {"structure": {"response": {"regex": "a+"}}}}
    found = parse_experiment({**given, "training": {"algorithm": "dpo"}}, folder=file.parent)
    assert found.prompts.structure["response"].regex == "a+"


def test_settings_that_change_no_text_are_not_recorded_of_a_judge() -> None:
    """The ids of rows that a judge made hang on what is recorded of its model: later settings must stay out."""
    recorded = ModelSection(path="x").determinants
    assert " ".join(recorded) == (
        "path engine device dtype trust_remote_code prompting system template template_arguments thinking "
        "token_budget vllm server"
    )
    assert " ".join(recorded["vllm"]) == "tensor_parallel memory_share max_length quantisation lora"
    assert " ".join(recorded["server"]) == "url key_variable concurrency deadline attempts send_seeds"


def test_memory_settings_are_hashed_only_when_they_are_set(tmp_path: Path) -> None:
    plain = load(tmp_path, method="rlhf")
    for section in ("training", "reward_model", "supervised"):
        assert "memory" not in plain.model_dump(mode="json")[section]
        changed = load(tmp_path, method="rlhf", **{section: {"memory": {"checkpointing": True}}})
        assert changed.settings_hash != plain.settings_hash
        assert changed.model_dump()[section]["memory"]["logits"] == 256


@pytest.mark.parametrize(
    ("method", "section", "refused"),
    [
        ("lmsi", "training", False),
        ("rlhf", "supervised", False),
        ("rlhf", "training", True),
        ("rlhf", "reward_model", True),
        ("pit", "training", True),
        ("pit", "gap_reward_model", True),
    ],
)
def test_only_examples_are_packed(tmp_path: Path, method: str, section: str, refused: bool) -> None:
    values = {section: {"memory": {"packing": True}}}
    if not refused:
        load(tmp_path, method=method, **values)
        return
    text = yaml.safe_dump({**SMALLEST, "method": method, **values})
    assert "memory.packing is for supervised training on examples only: leave it out" in complaint(
        tmp_path, text
    )
