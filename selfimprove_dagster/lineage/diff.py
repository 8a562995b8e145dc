"""Compare two datasets: of two iterations of an experiment, or of two experiments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lineage.iteration import Iteration, dataset_table, holds_decisions, iteration_of_key
from selfimprove_dagster.lineage.story import declared
from selfimprove_dagster.table import COMMON_COLUMNS
from selfimprove_dagster.text import normalise_question


@dataclass(frozen=True)
class Side:
    """One of the two datasets in figures; `dropped` counts by rule, `means` averages its measures.

    `questions` counts what `noun` names: questions, the instructions of tasks, texts, or prompts. `model_id`
    is None if people made the judgements.
    """

    key: str
    model_id: str | None
    champion: str | None
    examples: int
    questions: int
    formats: Mapping[str, float]
    means: Mapping[str, float | None]
    dropped: Mapping[str, int]
    noun: str = "questions"


@dataclass(frozen=True)
class ChangedAnswer:
    """A question in both datasets whose answer changed, with the vote share of each answer.

    For a task, the question is the instruction with its input. For a text, it is the text, and the answer is
    the text with its calls. For a prompt, the answer is the response that is trained on. These have no votes.
    """

    question: str
    old: str
    new: str
    old_share: float | None
    new_share: float | None


@dataclass(frozen=True)
class Difference:
    """The comparison of dataset `a` with dataset `b`.

    `lost` and `gained` are the ids of examples in `a` only and in `b` only; `both` counts those with equal
    content in both. The fields of questions (or instructions) are analogous.
    `settings`: dotted name, `stage.parameter`, → (in a, in b).
    """

    a: Side
    b: Side
    both: int
    lost: tuple[str, ...]
    gained: tuple[str, ...]
    questions_both: int
    questions_lost: tuple[str, ...]
    questions_gained: tuple[str, ...]
    answers: tuple[ChangedAnswer, ...]
    settings: Mapping[str, tuple[Any, Any]]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def diff(lake: Lake, a: str, b: str) -> Difference:
    """Compare the datasets of two partition keys, e.g. `demo-000` and `demo-001`, without revoked rows.

    Two examples are equal if their question and completion are equal. Two questions are equal if they differ
    only in case and white space. Raises PartitionMissing if a dataset is not committed.
    """
    sides = [_Dataset.of(lake, key) for key in (a, b)]
    examples_a, examples_b = (_by_text(side.frame) for side in sides)
    questions_a, questions_b = (_by_question(side.frame, side.subject) for side in sides)
    asked_a, asked_b = (_by_question(side.frame, "question") for side in sides)
    settings_a, settings_b = (_settings(side) for side in sides)
    return Difference(
        a=_side(lake, a, sides[0]),
        b=_side(lake, b, sides[1]),
        both=len(examples_a.keys() & examples_b.keys()),
        lost=tuple(record for text, record in examples_a.items() if text not in examples_b),
        gained=tuple(record for text, record in examples_b.items() if text not in examples_a),
        questions_both=len(questions_a.keys() & questions_b.keys()),
        questions_lost=tuple(
            row[sides[0].subject] for question, row in questions_a.items() if question not in questions_b
        ),
        questions_gained=tuple(
            row[sides[1].subject] for question, row in questions_b.items() if question not in questions_a
        ),
        answers=tuple(
            ChangedAnswer(
                new["question"], _answer(old), _answer(new), old.get("vote_share"), new.get("vote_share")
            )
            for question, old in asked_a.items()
            if question in asked_b and _answer(old) != _answer(new := asked_b[question])
        ),
        settings={
            name: (settings_a.get(name), settings_b.get(name))
            for name in sorted(settings_a.keys() | settings_b.keys())
            if settings_a.get(name) != settings_b.get(name)
        },
    )


@dataclass(frozen=True)
class _Dataset:
    """The examples of one iteration; `subject` is the column with their question, instruction, text or
    prompt.

    `frame` has the columns `question` and `completion`, whatever the method calls them.
    """

    iteration: Iteration
    manifest: Manifest
    subject: str
    frame: pl.DataFrame

    @classmethod
    def of(cls, lake: Lake, key: str) -> _Dataset:
        iteration = iteration_of_key(lake, key)
        manifest = lake.manifest(dataset_table(iteration.method, iteration.manifests), iteration.partition)
        frame = lake.read_ungated(manifest)
        texts = [
            name
            for name, dtype in frame.schema.items()
            if dtype == pl.String and name not in COMMON_COLUMNS and not name.endswith("_id")
        ]
        subject = next(
            (name for name in ("instruction", "question") if name in texts), next(iter(texts), "id")
        )
        said = [pl.col(name).fill_null("") for name in texts if name != subject]
        if "chosen" in frame.columns:
            pair = [pl.col(name).str.strip_chars() for name in ("chosen", "rejected")]
            frame = frame.with_columns(completion=pl.format("{} rather than {}", *pair))
        elif "completion" not in frame.columns:
            frame = frame.with_columns(completion=pl.concat_str(said or [pl.lit("")], separator=" "))
        if "question" not in frame.columns:
            frame = frame.with_columns(question=pl.col(subject))
        return cls(iteration, manifest, subject, frame)

    @property
    def made_from(self) -> list[Manifest]:
        """Return the tables that the dataset was made from, and the dataset itself, in pipeline order."""
        by_activity = {one.activity.id: one for one in self.iteration.manifests.values()}
        found, ahead = {self.manifest.activity.id}, [self.manifest]
        while ahead:
            inputs = {source for one in ahead for source in one.activity.inputs} & by_activity.keys() - found
            found |= inputs
            ahead = [by_activity[one] for one in inputs]
        return [one for one in self.iteration.manifests.values() if one.activity.id in found]

    @property
    def noun(self) -> str:
        """Return the plural noun for what the examples are about."""
        return f"{declared(self.iteration.method).asked}s"


def _by_text(frame: pl.DataFrame) -> dict[tuple[str, str], str]:
    rows = frame.select("question", "completion", "id").iter_rows()
    return {(normalise_question(question), completion): record for question, completion, record in rows}


def _answer(row: Mapping[str, Any]) -> str:
    return str(row["answer"] if "answer" in row else row["completion"])


def _by_question(frame: pl.DataFrame, column: str) -> dict[str, dict[str, Any]]:
    answer = "answer" if "answer" in frame.columns else "completion"
    wanted = [
        name for name in dict.fromkeys((column, "question", answer, "vote_share")) if name in frame.columns
    ]
    rows = frame.select(wanted).iter_rows(named=True)
    return {normalise_question(row[column]): row for row in rows}


def _side(lake: Lake, key: str, dataset: _Dataset) -> Side:
    examples, manifests = dataset.frame, dataset.iteration.manifests.values()
    drawn = next((one.activity for one in dataset.made_from if one.activity.model_id), None)
    dropped = Counter[str]()
    for manifest in manifests:
        if holds_decisions(manifest):
            dropped.update(lake.read_columns(manifest, ["rule", "kept"]).filter(~pl.col("kept"))["rule"])
    formats = examples["format"].value_counts(sort=True).iter_rows() if "format" in examples.columns else ()
    table = registry.tables().get(dataset.manifest.table)
    return Side(
        key=key,
        model_id=drawn.model_id if drawn else None,
        champion=drawn.about.get("champion") if drawn else None,
        examples=len(examples),
        questions=len(_by_question(examples, dataset.subject)),
        formats={name: count / len(examples) for name, count in formats},
        means={
            name: examples[name].mean()  # type: ignore[misc]
            for name, dtype in (table.measures if table else {}).items()
            if dtype != pl.String
        },
        dropped=dict(dropped.most_common()),
        noun=dataset.noun,
    )


def _settings(dataset: _Dataset) -> dict[str, Any]:
    """Return the settings that determine the dataset, under dotted names, without inputs and model."""
    settings: dict[str, Any] = {}
    for manifest in dataset.made_from:
        method, stage = manifest.table.split("/")
        if method != dataset.iteration.method or holds_decisions(manifest):
            continue
        activity = manifest.activity
        given = {**activity.parameters, "seed": activity.seed, "code_version": activity.code_version}
        settings |= _dotted(stage, given)
    return settings


def _dotted(prefix: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {
        name: leaf for key, inner in value.items() for name, leaf in _dotted(f"{prefix}.{key}", inner).items()
    }
