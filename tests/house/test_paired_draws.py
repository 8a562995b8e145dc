"""Two experiments that differ in name only draw the same: random choices hang on content, not on ids of records."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.homes import entered, make_home
from kit.small_lake import SMALL_EXPERIMENT, write_lines

from selfimprove_dagster.families.voting.voting import vote
from selfimprove_dagster.filters.rules import at_most_per_question
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.home.imports import import_file, pool
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.language_model.prompting import TEXT
from selfimprove_dagster.methods.lmsi import lmsi
from selfimprove_dagster.methods.lmsi.reviewing import of_votes
from selfimprove_dagster.methods.self_instruct import rules as instance_rules
from selfimprove_dagster.methods.toolformer import rules as call_rules
from selfimprove_dagster.methods.toolformer.toolboxes import call_candidates
from selfimprove_dagster.methods.unnatural_instructions.settings import PROMPTS
from selfimprove_dagster.methods.unnatural_instructions.stages import ask_for_paraphrases
from selfimprove_dagster.prompts import load_prompts

NAMES = st.text("abcdefgh", min_size=1, max_size=6)


def paths(name: str, questions: int = 6, each: int = 5) -> pl.DataFrame:
    """Paths of several questions, with ids as those of the experiment of that name."""
    return pl.DataFrame(
        [
            {
                "candidate_id": f"gen:{name}.{q}.{p}",
                "path_id": f"gen:{name}.{q}.{p}",
                "question_id": f"q:{name}.{q}",
                "question": f"{q} + {q}?",
                "sample_index": p,
                "text_key": f"path {p}",
                "answer": str(p % 3),
            }
            for q in range(questions)
            for p in range(each)
        ]
    )


@given(NAMES, NAMES, st.integers(0, 50))
def test_lmsi_keeps_the_same_paths_in_the_same_formats(one: str, other: str, seed: int) -> None:
    shares = {"few_shot_cot": 0.4, "zero_shot_cot": 0.3, "zero_shot_direct": 0.3}

    def chosen(name: str) -> list[Any]:
        frame = paths(name)
        decided = at_most_per_question(2, seed)(frame)
        kept = frame.join(decided.filter("kept"), on="candidate_id", how="semi", maintain_order="left")
        return lmsi.assign_formats(kept, shares, seed).select("question", "text_key", "format").rows()

    assert chosen(one) == chosen(other)


@given(NAMES, NAMES, st.integers(0, 50))
def test_a_random_path_is_the_same_path(one: str, other: str, seed: int) -> None:
    first, second = (
        vote(paths(name), rule="random_path", seed=seed, drawn_by="question") for name in (one, other)
    )
    assert first["voted_answer"].to_list() == second["voted_answer"].to_list()


def test_the_paths_that_stand_for_answers_are_the_same() -> None:
    def places(name: str) -> list[tuple[str, str]]:
        votes = vote(paths(name)).with_columns(
            id=pl.format("vote:{}", "question_id"),
            activity_id=pl.lit(f"act:{name}"),
            question=pl.Series([f"{q} + {q}?" for q in range(6)]),
        )
        rows = votes.with_columns(
            paths=pl.struct("path_ids", "answers").map_elements(
                lambda row: [
                    {"id": path, "answer": answer}
                    for path, answer in zip(row["path_ids"], row["answers"], strict=True)
                ],
                return_dtype=pl.List(pl.Struct({"id": pl.String, "answer": pl.String})),
            )
        )
        items = of_votes(rows).sort("prompt")
        return [
            (first.split(".")[-1], second.split(".")[-1])
            for first, second in items.select("first", "second").rows()
        ]

    assert places("one") == places("another") and len(places("one")) == 6


@given(NAMES, NAMES, st.integers(0, 50))
def test_self_instruct_keeps_the_same_instances(one: str, other: str, seed: int) -> None:
    def chosen(name: str) -> list[Any]:
        rows = pl.DataFrame(
            [
                {
                    "candidate_id": f"in:{name}.{task}.{n}",
                    "task_id": f"task:{name}.{task}",
                    "instruction": f"Do {task}.",
                    "input": str(n),
                    "output": "x",
                }
                for task in range(3)
                for n in range(6)
            ]
        )
        of_task = instance_rules.at_most_per_task(3, seed)(rows)["kept"].to_list()
        lots = rows.with_columns(instance_rules.lots_in_all(rows, seed))
        return [of_task, instance_rules.at_most(7)(lots)["kept"].to_list()]

    assert chosen(one) == chosen(other)


@given(NAMES, NAMES, st.integers(0, 50))
def test_toolformer_draws_the_same_calls_and_texts(one: str, other: str, seed: int) -> None:
    def chosen(name: str) -> list[Any]:
        places = [(text, n) for text in range(6) for n in range(4)]
        results = pl.DataFrame(
            {
                "id": [f"call:{name}.{text}.{n}" for text, n in places],
                "text_id": [f"text:{name}.{text}" for text, _ in places],
                "position": pl.Series([n // 2 for _, n in places], dtype=pl.Int32),
                "tool": ["QA"] * len(places),
                "arguments": [str(n) for _, n in places],
                "result": ["r"] * len(places),
                "problem": pl.Series([None] * len(places), dtype=pl.String),
            }
        )
        losses = dict.fromkeys(("loss_no_call", "loss_call"), 3.0) | {"loss_call_with_result": 1.0}
        scores = results.select(candidate_id="id").with_columns(**{k: pl.lit(v) for k, v in losses.items()})
        texts = pl.DataFrame(
            {
                "id": [f"text:{name}.{text}" for text in range(6)],
                "text": [f"Text {text}." for text in range(6)],
            }
        )
        thresholds = call_rules.CallThresholds(by_lot=True, most_texts=3)
        _, decisions = call_rules.filter_calls(call_candidates(results, scores, texts), thresholds, seed)
        return decisions.select("rule", "kept").rows()

    assert chosen(one) == chosen(other)


def test_seeds_of_one_text_are_drawn_in_one_order(tmp_path: Path) -> None:
    """Several comparisons of a prompt have one lot; which comes first must not depend on their ids."""
    rows = [
        {"prompt": "Hello?", "chosen": f"Yes, {n}.", "rejected": f"No, {n}.", "probability": 1.0}
        for n in range(12)
    ]
    write_lines(tmp_path / "pairs.jsonl", rows)
    held_out = write_lines(tmp_path / "held_out.jsonl", [{"prompt": "Bye?"}])
    shared = {
        "method": "rlhf",
        "model": {"path": "embedded"},
        "seeds": {"file": str(tmp_path / "pairs.jsonl")},
        "evaluation": {"file": str(held_out)},
        "pool": {"comparisons": 5},
    }
    home = make_home(tmp_path, *({**shared, "name": name} for name in ("one", "two", "three")))
    drawn = []
    for name in ("one", "two", "three"):
        experiment = home.experiment(name)
        import_file(home.lake, experiment)
        drawn.append(pool(home.lake, experiment, 0).chosen["chosen"].to_list())
    assert drawn[0] == drawn[1] == drawn[2]


@pytest.mark.slow
def test_lmsi_experiments_of_two_names_draw_the_same(tmp_path: Path) -> None:
    from selfimprove_dagster.runs import run_iteration

    tiny = {
        **SMALL_EXPERIMENT,
        "evaluation": {"file": "embedded", "rows": "0:8", "majority_questions": 4, "majority_paths": 4},
        "sampling": {"questions": 16, "paths": 6},
        "filter": {
            "minimum_vote_share": 0.0,
            "minimum_winning_votes": 1,
            "drop_ties": False,
            "maximum_paths": 2,
        },
        "training": {"steps": 2, "batch_size": 4},
    }
    home = make_home(tmp_path, {**tiny, "name": "one"}, {**tiny, "name": "another"})
    with entered(home):
        for name in ("one", "another"):
            assert run_iteration(home, home.experiment(name), 0) == []
    for stage, columns in DRAWN.items():
        first, second = (content(home, name, stage, columns) for name in ("one", "another"))
        assert first.height and first.equals(second), stage


DRAWN = {
    "seed_pool": ["question", "source_line"],
    "raw_generations": ["prompt", "token_ids", "text", "seed", "sample_index"],
    "voted_answers": ["question", "voted_answer", "votes", "tie"],
    "filtered_dataset": ["question", "format", "prompt", "completion"],
    "fine_tuned_checkpoint": ["model_id"],
    "evaluation": ["role", "mode", "question", "predicted", "text"],
    "promotion": ["promoted", "reason"],
}


def content(home: Home, name: str, stage: str, columns: list[str]) -> pl.DataFrame:
    return home.lake.read_ungated(home.lake.manifest(f"lmsi/{stage}", partition_of(name, 0))).select(columns)


def test_unnatural_instructions_rephrases_a_task_with_the_same_seeds() -> None:
    def keys(name: str) -> list[str]:
        tasks = [
            {"id": f"acc:{name}.{n}", "instruction": "Name a fruit.", "input": f"colour {n}"}
            for n in range(3)
        ]
        shard: Any = SimpleNamespace(
            items=tasks,
            experiment=SimpleNamespace(paraphrases=SimpleNamespace(most=2)),
            prompts=load_prompts([PROMPTS], TEXT),
        )
        return [one.key for one in ask_for_paraphrases(shard)]

    assert keys("one") == keys("another")
    assert len(set(keys("one"))) == 6
