"""Generation in shards, and the exam: a killed run, gone on with, gives what an undisturbed one gives."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kit.models import FakeLanguageModel
from kit.small_lake import activity_of, make_experiment, seed_draft, store

from selfimprove_dagster import registry
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.records import Draft, Parent, build_records, recompute_ids
from selfimprove_dagster.lots import lots, seed_of
from selfimprove_dagster.methods.lmsi.exam import QuestionExam
from selfimprove_dagster.methods.lmsi.sampling import DemonstrationRecord, generate_paths, sampling_parameters
from selfimprove_dagster.methods.lmsi.tables import EVALUATION, RAW_GENERATIONS, SEED_POOL
from selfimprove_dagster.seeds.files import Question
from selfimprove_dagster.shared_tables import SEEDS

RAW = RAW_GENERATIONS
SHOWN = [DemonstrationRecord("demo:1", "1 + 1?", "One and one.", "2")]


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return make_experiment(tmp_path)


def questions(*texts: str) -> pl.DataFrame:
    return pl.DataFrame({"id": [f"q:{text}" for text in texts], "question": texts})


def generate(
    lake: Lake, experiment: Experiment, model: FakeLanguageModel, asked: pl.DataFrame, **changes: Any
) -> pl.DataFrame:
    """One run of the stage; returns its rows."""
    section = experiment.sampling.model_copy(update=changes)
    activity = activity_of(RAW, parameters=section.model_dump())
    changed = experiment.model_copy(update={"sampling": section})
    with lake.writer(RAW, activity) as writer:
        generate_paths(writer, model, asked, changed, demonstrations=SHOWN)  # type: ignore[arg-type]
        manifest = writer.commit()
    return lake.read_ungated(manifest)


FIVE = questions("a?", "b?", "c?", "d?", "e?")


def test_every_question_gets_its_paths_shard_by_shard(tmp_path: Path, experiment: Experiment) -> None:
    model = FakeLanguageModel()
    rows = generate(Lake(tmp_path), experiment, model, FIVE)
    assert model.calls == [2, 2, 1], "questions a shard"
    assert rows["question_id"].to_list() == [asked for asked in FIVE["id"] for _ in range(3)]
    assert rows["sample_index"].to_list() == [0, 1, 2] * 5
    assert recompute_ids(RAW, rows)["id"].equals(rows["id"])
    assert rows["id"].n_unique() == 15
    first = rows.row(0, named=True)
    assert first["prompt"] == "Q: a?\nA: Let's think step by step."
    assert first["parents"] == [{"id": "q:a?", "role": "prompt"}]
    assert first["logprobs"] == [-0.5, -0.25]


def test_a_killed_run_goes_on_and_ends_as_if_nothing_had_happened(
    tmp_path: Path, experiment: Experiment
) -> None:
    undisturbed = generate(Lake(tmp_path / "one"), experiment, FakeLanguageModel(), FIVE)
    lake, second = Lake(tmp_path / "two"), FakeLanguageModel()
    with pytest.raises(KeyboardInterrupt):
        generate(lake, experiment, FakeLanguageModel(fails_at=1), FIVE)
    assert not lake.manifests()
    resumed = generate(lake, experiment, second, FIVE)
    assert second.calls == [2, 1], "the first shard is not drawn again"
    assert resumed.equals(undisturbed)
    idle = FakeLanguageModel(fails_at=0)
    assert generate(lake, experiment, idle, FIVE).equals(undisturbed), "and a third run draws nothing"


def test_a_resumed_run_says_what_was_done_before(tmp_path: Path, experiment: Experiment) -> None:
    lake = Lake(tmp_path)
    lines: list[str] = []
    for model in (FakeLanguageModel(fails_at=2), FakeLanguageModel()):
        with lake.writer(RAW, activity_of(RAW)) as writer:
            try:
                generate_paths(writer, model, FIVE, experiment, log=lines.append)  # type: ignore[arg-type]
            except KeyboardInterrupt:
                continue
    assert lines[0].startswith("stopped: lmsi/raw_generations: 12 of 15 paths")
    assert lines[1] == "lmsi/raw_generations: 12 of 15 paths were finished before; resuming"
    assert lines[-1].startswith("lmsi/raw_generations: 15 of 15 paths")


def test_seeds_follow_from_the_question_and_the_sample_index(tmp_path: Path, experiment: Experiment) -> None:
    """Not from its place in the pool, its id, or the size of a shard: a path can be replayed from its row."""
    columns = ["question_id", "seed", "token_ids", "text"]
    one = generate(Lake(tmp_path / "one"), experiment, FakeLanguageModel(), FIVE)
    other = generate(Lake(tmp_path / "two"), experiment, FakeLanguageModel(), FIVE[::-1], shard_questions=1)
    assert sorted(one.select(columns).rows()) == sorted(other.select(columns).rows())
    assert one["seed"].to_list()[:3] == [seed_of(0, 0, "a?", sample) for sample in range(3)]
    assert one["seed"].n_unique() == 15
    fewer = generate(Lake(tmp_path / "three"), experiment, FakeLanguageModel(), FIVE, paths=2)
    assert set(fewer["seed"]) < set(one["seed"]), "more paths are the same ones and then more"


def test_few_shot_prompts_name_their_demonstrations_as_parents(
    tmp_path: Path, experiment: Experiment
) -> None:
    rows = generate(Lake(tmp_path), experiment, FakeLanguageModel(), FIVE, prompt_format="few_shot_cot")
    assert rows["prompt"][0].startswith("Q: 1 + 1?\nA: One and one. The answer is 2.\n\nQ: a?\nA:")
    assert rows["parents"][0].to_list() == [
        {"id": "q:a?", "role": "prompt"},
        {"id": "demo:1", "role": "demonstration"},
    ]


def test_an_improved_model_is_sampled_at_its_own_temperature(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, preset="paper")
    section, prompts = experiment.sampling, registry.prompts(experiment)
    assert sampling_parameters(section, prompts, improved=False).temperature == 0.7
    assert sampling_parameters(section, prompts, improved=True).temperature == 1.2


def test_stops_of_the_prompt_come_after_those_of_the_section(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, prompts={"stop": {"zero_shot_cot": ["END"]}})
    found = sampling_parameters(experiment.sampling, registry.prompts(experiment), improved=False)
    assert found.stop == ("\n\nQ:", "END")


def test_lots_are_uniform_and_follow_from_names() -> None:
    frame = pl.DataFrame({"name": [f"{n}" for n in range(4_000)]})
    drawn = lots(frame, ["name"], seed=1)
    assert drawn.is_between(0, 1, closed="left").all()
    assert drawn.mean() == pytest.approx(0.5, abs=0.02)
    assert lots(frame[::-1], ["name"], seed=1).to_list() == drawn.to_list()[::-1]
    assert seed_of("a", 1) != seed_of("a1") != seed_of("a", 2)
    assert 0 <= seed_of("\ud83d") < 2**63


# ---- the exam -------------------------------------------------------------------------------------------


def held_out(*answers: str) -> list[Question]:
    return [
        Question(f"{line}?", "h.jsonl", line, "MIT", answer, difficulty="easy" if line < 3 else "hard")
        for line, answer in enumerate(answers, start=1)
    ]


def exam_of(experiment: Experiment, asked: list[Question]) -> Any:
    return QuestionExam(experiment, asked, [], registry.prompts(experiment))


def test_an_exam_asks_greedily_and_by_majority(tmp_path: Path) -> None:
    section = {"file": "h.jsonl", "majority_questions": 2, "majority_paths": 5}
    exam = exam_of(make_experiment(tmp_path, evaluation=section), held_out("0", "0", "7"))
    counted: list[int] = []
    rows = exam.sit(FakeLanguageModel(), lambda done, tokens: counted.append(done))
    assert sum(counted) == exam.paths == 3 + 2 * 5
    greedy = [row for row in rows if row["mode"] == "greedy"]
    assert [(row["predicted"], row["correct"]) for row in greedy] == [("0", True), ("0", True), ("0", False)]
    majority = [row for row in rows if row["mode"] == "majority"]
    assert [(row["source_line"], row["text"]) for row in majority] == [(1, None), (2, None)]


def test_an_exam_is_cut_into_parts_of_so_many_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = {"file": "h.jsonl", "majority_questions": 3, "majority_paths": 5}
    exam = exam_of(make_experiment(tmp_path, evaluation=section), held_out("0", "0", "7"))
    whole = exam.sit(FakeLanguageModel())
    monkeypatch.setattr("selfimprove_dagster.methods.lmsi.exam.PART_PATHS", 10)
    parts = [(part.mode, len(part.questions), part.paths) for part in exam.parts]
    assert parts == [("greedy", 3, 3), ("majority", 2, 10), ("majority", 1, 5)]
    assert exam.sit(FakeLanguageModel()) == whole


def test_an_exam_without_questions_gives_no_rows(tmp_path: Path) -> None:
    from selfimprove_dagster.evaluation.exam import accuracy_of_rows

    exam = exam_of(make_experiment(tmp_path), [])
    assert exam.sit(FakeLanguageModel()) == []
    assert list(accuracy_of_rows([])) == []


def commit_exam(lake: Lake, exam: Any, iteration: int, *sat: tuple[str, str]) -> list[dict[str, Any]]:
    """An evaluation in which each (role, model) sat the exam; returns the answers of the last."""
    answers: list[dict[str, Any]] = []
    drafts = []
    for role, model_id in sat:
        answers = exam.sit(FakeLanguageModel(model_id))
        drafts += [
            Draft(
                {name: row[name] for name in EVALUATION.content if name in row}
                | {"role": role, "model_id": model_id},
                [Parent(model_id, "answered_by")],
                {"problem": row["problem"]},
            )
            for row in answers
        ]
    store(lake, EVALUATION, drafts, iteration=iteration, parameters={"exam": exam.parameters})
    return answers


def test_a_model_that_sat_this_very_exam_does_not_sit_it_again(
    tmp_path: Path, experiment: Experiment
) -> None:
    lake, exam = Lake(tmp_path / "lake"), exam_of(experiment, held_out("0", "1", "2"))
    answers = commit_exam(lake, exam, 0, ("champion", "b2:base"), ("challenger", "b2:new"))
    remembered = exam.remembered(lake, EVALUATION, 1, "b2:new")
    by_place = [(row["mode"], row["source_line"]) for row in remembered]
    assert by_place == [(row["mode"], row["source_line"]) for row in answers]
    assert remembered == answers
    assert exam.remembered(lake, EVALUATION, 1, "b2:other") is None
    assert exam.remembered(lake, EVALUATION, 0, "b2:new") is None, "only earlier iterations count"


def test_a_model_that_is_its_own_challenger_is_remembered_once(
    tmp_path: Path, experiment: Experiment
) -> None:
    lake, exam = Lake(tmp_path / "lake"), exam_of(experiment, held_out("0", "1"))
    answers = commit_exam(lake, exam, 0, ("champion", "b2:same"), ("challenger", "b2:same"))
    assert exam.remembered(lake, EVALUATION, 1, "b2:same") == answers


def test_an_exam_that_differs_in_anything_is_another_one(tmp_path: Path, experiment: Experiment) -> None:
    asked = held_out("0", "1")
    lake, exam = Lake(tmp_path / "lake"), exam_of(experiment, asked)
    commit_exam(lake, exam, 0, ("champion", "b2:base"))
    moved = [dataclasses.replace(question, source_line=question.source_line + 1) for question in asked]
    others = [
        exam_of(experiment, held_out("0", "2")),
        exam_of(experiment, moved),
        exam_of(make_experiment(tmp_path, seed=5), asked),
        exam_of(make_experiment(tmp_path, sampling={"max_tokens": 7}), asked),
        dataclasses.replace(exam, demonstrations=SHOWN),
    ]
    for other in others:
        assert other.remembered(lake, EVALUATION, 1, "b2:base") is None
    assert exam.remembered(lake, EVALUATION, 1, "b2:base") is not None


def test_two_models_are_compared_on_the_same_questions() -> None:
    evaluation = pytest.importorskip("selfimprove_dagster.evaluation.exam")

    def row(role: str, line: int, correct: bool, mode: str = "greedy") -> Draft:
        said = {
            "question": "?",
            "source_file": "h.jsonl",
            "source_line": line,
            "difficulty": "easy" if line < 3 else None,
            "expected": "1",
            "role": role,
            "model_id": role,
            "mode": mode,
            "predicted": None,
            "text": None,
            "correct": correct,
        }
        return Draft(said)

    drafts = [
        *(row("champion", line, correct) for line, correct in enumerate([True, False, False], start=1)),
        *(row("challenger", line, correct) for line, correct in ((3, True), (2, True), (1, False))),
        row("challenger", 1, True, "majority"),
    ]
    rows = build_records(EVALUATION, drafts, activity_of(EVALUATION))
    comparison = evaluation.compare(rows)
    assert (comparison.questions, comparison.gained, comparison.lost) == (3, 2, 1)
    assert str(evaluation.accuracy(rows, "challenger", "majority")).startswith("100.0%")
    measured = evaluation.accuracy_by_difficulty(rows, "champion")
    assert {name: (part.correct, part.total) for name, part in measured.items()} == {"easy": (1, 2)}
    assert evaluation.accuracy(rows, "nobody").total == 0


def test_seed_rows_are_not_asked_for_their_answers() -> None:
    """What training reads has no column for a true answer."""
    assert seed_draft().content.keys() == SEEDS.content.keys()
    assert not {"answer", "expected"} & (SEEDS.content.keys() | SEED_POOL.content.keys())
