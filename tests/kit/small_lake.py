"""What several tests start from: an experiment, rows for a table, a fake model, a known ancestry."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.homes import make_home
from selfimprove_dagster import registry
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.home.files import parse_experiment
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest, partition_of
from selfimprove_dagster.lake.records import Activity, Draft, Parent, build_records
from selfimprove_dagster.methods.lmsi.tables import (
    DECISIONS,
    DEMONSTRATIONS,
    FILTERED_DATASET,
    PROMOTION,
    RAW_GENERATIONS,
    SEED_POOL,
    VOTED_ANSWERS,
)
from selfimprove_dagster.shared_tables import SEEDS
from selfimprove_dagster.table import Table

LMSI = [table for table in registry.tables() if table.startswith("lmsi/")]
"""The tables of the method `lmsi`."""
SMALL_EXPERIMENT = {
    "name": "small",
    "model": {"path": "embedded"},
    "seeds": {"file": "embedded", "licence": "Apache-2.0"},
    "evaluation": {
        "file": "embedded",
        "rows": "0:40",
        "difficulty_field": "difficulty",
        "majority_questions": 8,
        "majority_paths": 4,
    },
    "sampling": {"questions": 24, "paths": 8, "shard_questions": 6},
    "training": {"steps": 4, "batch_size": 8},
    "promotion": {"rule": "not_worse", "margin": 1.0},
    "budget": {"iterations": 2},
}
"""An experiment of seconds on the embedded model."""


def make_experiment(folder: Path, **changes: Any) -> Experiment:
    """The experiment `demo` over files in `folder`; `changes` replace whole sections."""
    data: dict[str, Any] = {
        "name": "demo",
        "model": {"path": "embedded"},
        "seeds": {"file": "seeds.jsonl", "licence": "MIT"},
        "evaluation": {"file": "heldout.jsonl"},
        "sampling": {"questions": 4, "paths": 3, "shard_questions": 2},
    }
    return parse_experiment({**data, **changes}, folder=folder)


def demo_home(folder: Path) -> Home:
    """A home that knows the small experiment under the name `demo`."""
    return make_home(folder, {**SMALL_EXPERIMENT, "name": "demo"})


def write_lines(path: Path, rows: Iterable[Any]) -> Path:
    """Rows as JSON Lines; text and bytes stand as they are."""
    with path.open("wb") as stream:
        for row in rows:
            if isinstance(row, bytes):
                stream.write(row + b"\n")
            else:
                stream.write((row if isinstance(row, str) else json.dumps(row)).encode() + b"\n")
    return path


def activity_of(schema: Table, iteration: int = 0, **changes: Any) -> Activity:
    """An activity of the experiment `demo` that differs by what `changes` says."""
    given: dict[str, Any] = {"code_version": "1", "parameters": {}, "seed": 0}
    partition = changes.pop("partition", partition_of("demo", iteration))
    return Activity(schema.name, partition, **{**given, **changes})


def store(lake: Lake, schema: Table, drafts: Iterable[Draft], **changes: Any) -> tuple[Manifest, list[str]]:
    """Commit the drafts as a whole partition; returns its manifest and the ids."""
    activity = activity_of(schema, **changes)
    frame = build_records(schema, drafts, activity)
    return lake.write(schema, activity, frame), frame["id"].to_list()


AGAINST_NO_BASE: dict[str, Any] = dict.fromkeys(
    name for name in PROMOTION.measures if name.startswith("base_")
)
"""The measures of a decision whose champion is the base model."""


def promotion_draft(challenger: str, promoted: bool) -> Draft:
    """A decision on a challenger, which lies under this name."""
    content = {
        "promoted": promoted,
        "reason": "because",
        "challenger_model_id": f"b2:{challenger}",
        "champion_model_id": "b2:base",
        "questions": 10,
        "gained": 2,
        "lost": 1,
    }
    measures: dict[str, Any] = dict.fromkeys(PROMOTION.measures, 0.5)
    measures |= {"challenger_path": f"/checkpoints/{challenger}", "champion_path": "/base"}
    measures |= {"rule": "better", "bound": 0.0, "base_model_id": None}
    return Draft(content, measures=measures)


def seed_draft(question: str = "What is 1 + 1?", line: int = 1) -> Draft:
    """A row of the table of seeds."""
    return Draft({"question": question, "source_file": "seeds.jsonl", "source_line": line, "licence": "MIT"})


@dataclass(frozen=True)
class KnownAncestry:
    """The ids of a lake in which one example descends from one seed by four paths and a vote."""

    seed: str
    question: str
    demonstrations: list[str]
    paths: list[str]
    vote: str
    example: str


def known_ancestry(lake: Lake, text: str = "1 + 1 = 2. The answer is 2.", **columns: str) -> KnownAncestry:
    """Seed ← question ← 4 paths (2 demonstrations each) ← vote ← example; `text` is what the paths say."""
    batch = {"partition": {"experiment": "demo", "batch": "b"}}
    question = {"question": "What is 1 + 1?", "source_file": "s.jsonl", "source_line": 7, "licence": "MIT"}
    question |= {key: value for key, value in columns.items() if key in question}
    _, (seed,) = store(lake, SEEDS, [Draft(question)], **batch)
    worked = [Draft({**question, "reasoning": "So.", "answer": str(n), "source_line": n}) for n in (1, 2)]
    _, shown = store(lake, DEMONSTRATIONS, worked, **batch)
    _, (asked,) = store(lake, SEED_POOL, [Draft(question, [Parent(seed, "seed")])])
    paths = [
        Draft(
            {
                "question_id": asked,
                "prompt_format": "few_shot_cot",
                "prompt": "Q: What is 1 + 1?\nA:",
                "prompt_token_ids": [1, 2],
                "token_ids": [3, index],
                "text": text,
                "finish_reason": "stop",
                "seed": 11 * index,
            },
            [Parent(asked, "prompt"), *(Parent(example, "demonstration") for example in shown)],
            {"logprobs": [-0.5, -0.25]},
            sample_index=index,
        )
        for index in range(4)
    ]
    sampling = {"paths": 4, "top_p": 1.0, "top_k": 0}
    _, drawn = store(
        lake,
        RAW_GENERATIONS,
        paths,
        parameters={"sampling": sampling, "engine": "fake 1", "temperature": 0.7},
        model_id="b2:fake",
        about={"champion": "the base model", "tokens": 8, "seconds": 1.5},
    )
    answer = columns.get("voted_answer", "2")
    ballot = Draft(
        {
            "question_id": asked,
            "question": question["question"],
            "rule": "majority",
            "voted_answer": answer,
            "votes": [{"answer": answer, "count": 4}],
            "paths": [{"id": path, "answer": answer} for path in drawn],
            "tie": False,
            "n_paths": 4,
            "n_valid": 4,
            "n_distinct_paths": 1,
        },
        [Parent(asked, "question"), *(Parent(path, "voted_from") for path in drawn)],
        {"vote_share": 1.0, "margin": 1.0},
    )
    _, (vote,) = store(lake, VOTED_ANSWERS, [ballot])
    decided = {"stage": "lmsi/filtered_dataset", "rule": "duplicate", "nearest_id": None}
    store(
        lake,
        DECISIONS,
        [
            Draft(
                {**decided, "candidate_id": path, "kept": path == drawn[0], "reason": "the same text"},
                [Parent(path, "decided")],
                {"score": None, "threshold": None},
            )
            for path in drawn
        ],
    )
    example = Draft(
        {
            "question_id": asked,
            "question": question["question"],
            "format": "few_shot_cot",
            "prompt": "Q: What is 1 + 1?\nA:",
            "completion": " " + text,
            "answer": answer,
        },
        [
            Parent(vote, "voted_answer"),
            Parent(drawn[0], "path"),
            *(Parent(demonstration, "demonstration") for demonstration in shown),
        ],
        {"vote_share": 1.0, "perplexity": 1.45},
    )
    _, (kept,) = store(lake, FILTERED_DATASET, [example])
    return KnownAncestry(seed, asked, shown, drawn, vote, kept)


def parents_of(tree: Mapping[str, Any]) -> dict[str, set[tuple[str, str]]]:
    """Each record of a traced tree (as JSON) with its parents and their roles."""
    found = {tree["id"]: {(parent["id"], parent["role"]) for parent in tree["parents"]}}
    for parent in tree["parents"]:
        for record, edges in parents_of(parent).items():
            found[record] = found.get(record, set()) | edges
    return found
