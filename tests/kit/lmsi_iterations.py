"""Two sound iterations of LMSI, written row by row, to plant faults in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors.numpy import save_file

from kit.small_lake import AGAINST_NO_BASE
from selfimprove_dagster import registry
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.home.files import parse_experiment
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest, partition_of
from selfimprove_dagster.lake.records import Activity, Draft, Parent, build_records
from selfimprove_dagster.language_model.weights import weights_hash
from selfimprove_dagster.methods.lmsi.tables import (
    SEED_POOL,
)
from selfimprove_dagster.quality.results import QualityResult
from selfimprove_dagster.quality.suites import run_suite
from selfimprove_dagster.shared_tables import SEEDS

QUESTIONS = [
    "Tom has 3 pens. He buys 4. How many pens does he have now?",
    "Mia has 9 cups. She drops 2. How many cups are left after that?",
    "A box has 5 coins. 6 coins are put in. How many coins are in it?",
    "Sam has 8 keys and loses 1 on the way. How many keys has he got?",
]


HELD_OUT = [
    "Eva wins 7 shells and gives away 5 of them. How many does she keep?",
    "There are 12 plums in a bag. 3 plums are taken out. How many are left?",
]


PATHS = 4


TRUE_ANSWERS = ["7", "7", "11", "7"]


@dataclass
class Iterations:
    """Two sound iterations of one experiment, small enough to read; `lake` may be changed at will."""

    folder: Path
    experiment: Experiment

    @property
    def lake(self) -> Lake:
        return Lake(self.folder / "lake")

    def write(self, table: str, drafts: list[Draft], iteration: int, **activity: Any) -> Manifest:
        schema = registry.tables()[table]
        made = Activity(table, partition_of(self.experiment.name, iteration), "1", {}, 0, **activity)
        return self.lake.write(schema, made, build_records(schema, drafts, made))

    def rows(self, table: str, iteration: int = 1) -> pl.DataFrame:
        return self.lake.read_ungated(
            self.lake.manifest(table, partition_of(self.experiment.name, iteration))
        )

    def replace(self, table: str, frame: pl.DataFrame, iteration: int = 1) -> None:
        """Commit other rows under the same activity."""
        manifest = self.lake.manifest(table, partition_of(self.experiment.name, iteration))
        self.lake.write(registry.tables()[table], manifest.activity, frame)

    def change(self, table: str, **columns: Any) -> None:
        """Set columns of all rows of iteration 1."""
        self.replace(table, self.rows(table).with_columns(**columns))

    def change_first(self, table: str, rows: int = 1, **columns: Any) -> None:
        """Set columns of the first rows of iteration 1."""
        frame = self.rows(table)
        head = frame.head(rows).with_columns(
            **{
                name: value if isinstance(value, pl.Expr) else pl.lit(value)
                for name, value in columns.items()
            }
        )
        self.replace(table, pl.concat([head.cast(frame.schema), frame.slice(rows)]))

    def set(self, section: str, **values: Any) -> None:
        """Change the experiment itself."""
        changed = getattr(self.experiment, section).model_copy(update=values)
        self.experiment = self.experiment.model_copy(update={section: changed})

    def run(self, table: str, iteration: int = 1) -> dict[str, QualityResult]:
        """All results of iteration 1."""
        return {result.name: result for result in run_suite(table, self.lake, self.experiment, iteration)}

    def check(self, table: str, name: str, iteration: int = 1) -> QualityResult:
        """The result of one check."""
        results = run_suite(table, self.lake, self.experiment, iteration, only=[name])
        return next(result for result in results if result.name == name)


def build_iterations(folder: Path) -> Iterations:
    """Four questions with four paths each, voted on, filtered, trained on, evaluated and promoted; twice."""
    held_out = folder / "heldout.jsonl"
    answers = ("2", "9")
    lines = (json.dumps({"question": q, "answer": a}) for q, a in zip(HELD_OUT, answers, strict=True))
    held_out.write_text("\n".join(lines))
    experiment = parse_experiment(
        {
            "name": "tiny",
            "model": {"path": str(folder / "base")},
            "seeds": {"file": str(folder / "seeds.jsonl")},
            "evaluation": {"file": str(held_out), "majority_questions": 1},
            "sampling": {"questions": 4, "paths": PATHS},
            "filter": {"maximum_perplexity": 3.0},
        },
        folder=folder,
    )
    made = Iterations(folder, experiment)
    batch = Activity(SEEDS.name, {"experiment": "tiny", "batch": "b"}, "1", {}, 0)
    source = {"source_file": "seeds.jsonl", "source_line": 1, "licence": "CC0-1.0"}
    seeds = build_records(SEEDS, [Draft({"question": q, **source}) for q in QUESTIONS], batch)
    made.lake.write(SEEDS, batch, seeds)
    for iteration in range(2):
        _build_one(made, seeds, iteration)
    return made


def _build_one(made: Iterations, seeds: pl.DataFrame, iteration: int) -> None:
    def drafts_to(table: str, drafts: list[Draft], **activity: Any) -> pl.DataFrame:
        return made.lake.read_ungated(made.write(table, drafts, iteration, **activity))

    pool = drafts_to(
        "lmsi/seed_pool",
        [
            Draft({name: seed[name] for name in SEED_POOL.content}, [Parent(seed["id"], "seed")])
            for seed in seeds.iter_rows(named=True)
        ],
    )
    # Three paths of each question reach the true answer, the last says something else.
    answers = [a if sample < PATHS - 1 else "1" for a in TRUE_ANSWERS for sample in range(PATHS)]
    paths = drafts_to(
        "lmsi/raw_generations",
        [
            Draft(
                {
                    "question_id": question["id"],
                    "prompt_format": "zero_shot_cot",
                    "prompt": f"Q: {question['question']}\nA:",
                    "prompt_token_ids": [1, 2],
                    "token_ids": [3, 4, 5],
                    "text": f" Let me count {'again ' * sample}{iteration}. "
                    f"The answer is {answers[at * PATHS + sample]}.",
                    "finish_reason": "stop",
                    "seed": sample,
                },
                [Parent(question["id"], "prompt")],
                {"logprobs": [-0.5, -0.25, 0.0]},
                sample,
            )
            for at, question in enumerate(pool.iter_rows(named=True))
            for sample in range(PATHS)
        ],
        model_id="b2:base",
    )
    drafts_to(
        "lmsi/perplexity_scores",
        [
            Draft(
                {"path_id": path, "tokens": 3},
                [Parent(path, "scored")],
                {"mean_logprob": -0.25, "perplexity": exp(0.25)},
            )
            for path in paths["id"]
        ],
    )
    votes = drafts_to(
        "lmsi/voted_answers",
        [
            Draft(
                {
                    "question_id": question["id"],
                    "question": question["question"],
                    "rule": "majority",
                    "voted_answer": answer,
                    "votes": [{"answer": answer, "count": 3}, {"answer": "1", "count": 1}],
                    "paths": [
                        {"id": paths["id"][at * PATHS + sample], "answer": answers[at * PATHS + sample]}
                        for sample in range(PATHS)
                    ],
                    "tie": False,
                    "n_paths": 4,
                    "n_valid": 4,
                    "n_distinct_paths": 4,
                },
                [Parent(question["id"], "question")],
                {"vote_share": 0.75, "margin": 0.5},
            )
            for at, (question, answer) in enumerate(
                zip(pool.iter_rows(named=True), TRUE_ANSWERS, strict=True)
            )
        ],
    )
    agree = [answer != "1" for answer in answers]
    drafts_to(
        "lmsi/decisions",
        [
            Draft(
                {
                    "stage": "lmsi/filtered_dataset",
                    "candidate_id": path,
                    "rule": "agrees_with_vote",
                    "kept": kept,
                    "reason": "",
                    "nearest_id": None,
                },
                [Parent(path, "decided")],
                {"score": None, "threshold": None},
            )
            for path, kept in zip(paths["id"], agree, strict=True)
        ],
    )
    dataset = made.write(
        "lmsi/filtered_dataset",
        [
            Draft(
                {
                    "question_id": path["question_id"],
                    "question": vote["question"],
                    "format": "zero_shot_cot",
                    "prompt": path["prompt"],
                    "completion": path["text"],
                    "answer": vote["voted_answer"],
                },
                [Parent(vote["id"], "voted_answer"), Parent(path["id"], "path")],
                {"vote_share": 0.75, "perplexity": exp(0.25)},
            )
            for at, path in enumerate(paths.iter_rows(named=True))
            if agree[at]
            for vote in [votes.row(at // PATHS, named=True)]
        ],
        iteration,
    )
    checkpoint = make_model(made.folder / f"checkpoint-{iteration}", value=1.0 + iteration)
    model_id = weights_hash(checkpoint)
    drafts_to(
        "lmsi/fine_tuned_checkpoint",
        [
            Draft(
                {
                    "model_id": model_id,
                    "base_model_id": "b2:base",
                    "dataset_activity_id": dataset.activity.id,
                    "examples": dataset.rows,
                    "steps": 2,
                },
                [Parent(dataset.activity.id, "trained_on"), Parent("b2:base", "initialised_from")],
                {
                    "path": str(checkpoint),
                    "tokens": 100,
                    "seconds": 1.0,
                    "first_loss": 2.0,
                    "final_loss": 1.0,
                    "log": [{"step": step, "loss": 3.0 - step, "learning_rate": 0.1} for step in (1.0, 2.0)],
                },
            )
        ],
    )
    drafts_to(
        "lmsi/evaluation",
        [
            Draft(
                {
                    "question": question,
                    "source_file": "heldout.jsonl",
                    "source_line": line,
                    "difficulty": None,
                    "expected": "2",
                    "role": role,
                    "model_id": model,
                    "mode": mode,
                    "predicted": "2" if role == "challenger" else "3",
                    "text": "The answer is 2.",
                    "correct": role == "challenger",
                },
                [Parent(model, "answered_by")],
            )
            for role, model in (("champion", "b2:base"), ("challenger", model_id))
            for mode, asked in (("greedy", HELD_OUT), ("majority", HELD_OUT[:1]))
            for line, question in enumerate(asked, start=1)
        ],
    )
    drafts_to(
        "lmsi/promotion",
        [
            Draft(
                {
                    "promoted": True,
                    "reason": "better",
                    "challenger_model_id": model_id,
                    "champion_model_id": "b2:base",
                    "questions": 2,
                    "gained": 2,
                    "lost": 0,
                },
                [Parent(model_id, "decided")],
                {
                    "champion_path": str(made.folder / "base"),
                    "challenger_path": str(checkpoint),
                    "champion_accuracy": 0.0,
                    "challenger_accuracy": 1.0,
                    "difference": 1.0,
                    "difference_low": 0.1,
                    "difference_high": 1.0,
                    "p_worse": 1.0,
                    "rule": "better",
                    "bound": 0.0,
                    **AGAINST_NO_BASE,
                },
            )
        ],
    )


def make_model(folder: Path, value: float) -> Path:
    """A directory that has the form of a model."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    weight = np.ones((2, 2), dtype=np.float32)
    weight[0, 0] = value
    save_file({"weight": weight, "half": weight.astype(np.float16)}, folder / "model.safetensors")
    return folder
