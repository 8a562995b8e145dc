"""Run the exam: two models answer held-out questions; compute their accuracy, also by difficulty.

True answers are read only here.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import polars as pl

from selfimprove_dagster.evaluation.judge import AnswerJudge
from selfimprove_dagster.evaluation.measurement import Accuracy, MeanChange, PairedComparison
from selfimprove_dagster.experiment.base import GREEDY, Experiment
from selfimprove_dagster.experiment.sections import ModelSection
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest, PartitionWriter, Spent
from selfimprove_dagster.lake.records import Draft, Parent, build_records
from selfimprove_dagster.language_model.base import LanguageModel, Progress
from selfimprove_dagster.language_model.paid import PAID
from selfimprove_dagster.rows import Rejected
from selfimprove_dagster.seeds.files import Question
from selfimprove_dagster.table import Row, Table
from selfimprove_dagster.work.at_once import in_any_order
from selfimprove_dagster.work.budget import UNLIMITED, Allowance
from selfimprove_dagster.work.progress import OwnReport, ProgressReport

E = TypeVar("E", bound=Experiment)


class OpenModel(Protocol):
    """Opens the model of a path or Hub name, as a section says, by default that of the experiment's model."""

    def __call__(
        self, path: str, section: ModelSection | None = None
    ) -> AbstractContextManager[LanguageModel]: ...


PART_PATHS = 1024
"""Maximum number of paths per shard, i.e. what a killed run loses. The answers do not depend on it."""


@dataclass(frozen=True)
class OpenedExam:
    """An exam, the partitions that it was made from, and the rejected lines of its file."""

    exam: Exam
    inputs: list[Manifest]
    rejected: list[Rejected]


@dataclass(frozen=True)
class Part:
    """Some questions of an exam in one mode, with all steps of the mode (`revision`: `revision_1`, …)."""

    mode: str
    questions: Sequence[Question]
    paths: int


@dataclass(frozen=True)
class Exams(Generic[E]):
    """The way in which a method evaluates a model.

    `open` takes the `home.home.Home`, the experiment, a function that opens the models behind tools, and the
    iteration of the evaluated models (None outside of iterations). `held_out` returns what an experiment
    holds out, and the rejected lines of its file, without reading the lake.
    """

    open: Callable[[Any, E, OpenModel, int | None], OpenedExam]
    held_out: Callable[[E], tuple[Sequence[Question], Sequence[Rejected]]]


NO_REWARD = "failed: no reward could be computed, as of a text that is too long"
"""The `problem` of a row whose text was generated, and which a reward model or a judge gave no reward."""


class Exam(ABC):
    """Held-out questions and how a model is asked."""

    experiment: Experiment

    judge: AnswerJudge | None = None
    """Judges the greedy answers where the file cannot tell right from wrong."""

    @property
    @abstractmethod
    def parts(self) -> list[Part]:
        """Return all parts of the exam, mode by mode, in the order in which they run."""

    @property
    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """Return everything that affects the answers, other than the model."""

    @abstractmethod
    def sit_part(
        self, model: LanguageModel, part: Part, progress: Progress | None = None
    ) -> list[dict[str, Any]]:
        """Return the rows of `sit` for one of the `parts`."""

    @property
    def determinants(self) -> dict[str, Any]:
        """Return `parameters` with those of the judge, if there is one."""
        return {**self.parameters, **({"judge": self.judge.parameters} if self.judge else {})}

    @property
    def paths(self) -> int:
        """Return the number of paths that one model has to generate."""
        return sum(part.paths for part in self.parts)

    def sit(self, model: LanguageModel, progress: Progress | None = None) -> list[dict[str, Any]]:
        """Return the model's answer to each question in each mode, compared with the true answer.

        Rows have `predicted` (None without an answer), `text` (the greedy path, None for a vote), `correct`, and
        `problem` (why the answer, or each one that is voted on, could not be generated; else None).
        """
        return [row for part in self.parts for row in self.sit_part(model, part, progress)]

    def remembered(
        self, lake: Lake, schema: Table, before: int, model_id: str
    ) -> list[dict[str, Any]] | None:
        """Return the rows of `sit` if the model took the same exam in an earlier iteration, else None."""
        for manifest in reversed(lake.manifests(schema.name, self.experiment.name)):
            same_exam = manifest.activity.parameters["exam"] == self.determinants
            if manifest.iteration < before and same_exam:
                rows = lake.read_ungated(manifest).filter(pl.col("model_id") == model_id)
                if not rows.is_empty():
                    known = [*schema.content, *schema.measures]
                    of_model = ("role", "model_id")
                    columns = [name for name in known if name in rows.columns and name not in of_model]
                    return rows.filter(role=rows["role"][0]).select(columns).to_dicts()
        return None


@dataclass(frozen=True)
class Examinee:
    """A model that takes the exam as champion, as challenger, or as the base model (`base`)."""

    role: str
    model_id: str
    path: str


def examine(
    writer: PartitionWriter,
    exam: Exam,
    examinees: Sequence[Examinee],
    *,
    remembered: Callable[[str], list[dict[str, Any]] | None],
    open_model: OpenModel,
    log: Callable[[str], None],
    allowance: Allowance = UNLIMITED,
) -> Spent:
    """Write the answers of every model, one shard per part of the exam, and return the use of all shards.

    Shards of an earlier attempt are reused, and so are rows that `remembered` returns for a model id. Raises
    BudgetSpent before a shard that exceeds `allowance`.
    """
    parts, done, spent = exam.parts, writer.committed_shards, writer.spent
    finished = sum(parts[shard % len(parts)].paths for shard in done)
    total = len(examinees) * exam.paths
    with ProgressReport(writer.schema.name, total, "answers", log, finished) as report:
        report.kept = finished
        for number, examinee in enumerate(examinees):
            first = number * len(parts)
            if done.issuperset(range(first, first + len(parts))):
                continue
            left = {first + at: part for at, part in enumerate(parts) if first + at not in done}
            rows = remembered(examinee.model_id)
            if rows is not None:
                for shard, part in left.items():
                    write_answers(writer, shard, examinee, rows_of_part(rows, part), Spent())
                    report.found(part.paths)
                    report.kept = report.done
                continue
            with open_model(examinee.path) as model:
                spent += _sit(writer, exam, examinee, model, left, report, allowance, spent)
    if exam.judge is not None:
        spent += judge_answers(writer, exam.judge, examinees, parts, log)
    return spent


def _sit(
    writer: PartitionWriter,
    exam: Exam,
    examinee: Examinee,
    model: LanguageModel,
    left: Mapping[int, Part],
    report: ProgressReport,
    allowance: Allowance,
    before: Spent,
) -> Spent:
    """Write a model's answers to the parts of an exam, by the shard of each, and return their use."""
    spent, kept = Spent(), report.done

    def affordable() -> Iterator[int]:
        for shard in left:
            allowance.check(before + spent, report.so_far)
            yield shard

    def sit(shard: int) -> tuple[Sequence[Row], Spent, int]:
        own = OwnReport(report)
        PAID.begin()
        started, paid = time.monotonic(), PAID.money
        answers = exam.sit_part(model, left[shard], own.advance)
        return answers, _took(own.tokens, started, paid), own.done

    for shard, (answers, took, counted) in in_any_order(sit, affordable(), getattr(model, "at_once", 1)):
        write_answers(writer, shard, examinee, answers, took)
        PAID.settle()
        kept += counted
        report.kept = kept
        spent += took
    return spent


def write_answers(
    writer: PartitionWriter, shard: int, examinee: Examinee, answers: Sequence[Row], spent: Spent
) -> None:
    """Write the rows of `Exam.sit_part` as the answers of a model, with what they took."""
    about = {"role": examinee.role, "model_id": examinee.model_id}
    by = Parent(examinee.model_id, "answered_by")
    drafts = [_draft({**answer, **about}, [by], writer.schema) for answer in answers]
    writer.write_shard(shard, build_records(writer.schema, drafts, writer.activity), spent=spent)


def judge_answers(
    writer: PartitionWriter,
    judge: AnswerJudge,
    examinees: Sequence[Examinee],
    parts: Sequence[Part],
    log: Callable[[str], None],
) -> Spent:
    """Write the verdicts on the greedy answers of all examinees, one shard per part, and return their use."""
    answered = [at for at, part in enumerate(parts) if part.mode == GREEDY]
    first, done, spent = len(examinees) * len(parts), writer.committed_shards, Spent()
    left = {shard: at for shard, at in enumerate(answered, start=first) if shard not in done}
    if not left:
        return spent
    total = sum(len(parts[at].questions) for at in answered)
    finished = total - sum(len(parts[at].questions) for at in left.values())
    with (
        judge.open() as model,
        ProgressReport(writer.schema.name, total, "judged answers", log, finished) as report,
    ):

        def judged(shard: int) -> tuple[Sequence[Row], Spent]:
            own = OwnReport(report)
            PAID.begin()
            started, paid = time.monotonic(), PAID.money
            answers = {
                examinee.role: writer.read_shard(number * len(parts) + left[shard]).to_dicts()
                for number, examinee in enumerate(examinees)
            }
            rows = judge.verdicts(model, answers, own.advance)
            return rows, _took(own.tokens, started, paid)

        for shard, (rows, took) in in_any_order(judged, left, getattr(model, "at_once", 1)):
            drafts = [
                _draft(row, [*_judged(row["answers"]), Parent(judge.model_id, "judged_by")], writer.schema)
                for row in rows
            ]
            writer.write_shard(shard, build_records(writer.schema, drafts, writer.activity), spent=took)
            PAID.settle()
            spent += took
    return spent


def _took(tokens: int, started: float, paid: float) -> Spent:
    """Return the use of work that began at the monotonic time `started`, when `paid` dollars were paid."""
    return Spent(tokens, round(time.monotonic() - started, 3), round(PAID.money - paid, 9))


def _judged(answers: Sequence[Mapping[str, Any]]) -> list[Parent]:
    """Return the parents of a verdict: its own answer, and the one that it was compared with."""
    own, *others = answers
    found = [Parent(own["model_id"], "answered_by"), Parent(own["id"], "judged")]
    return found + [Parent(one["id"], "compared_with") for one in others]


def _draft(answer: Mapping[str, Any], parents: Sequence[Parent], schema: Table) -> Draft:
    measures = {name: answer.get(name) for name in schema.measures}
    return Draft({name: answer[name] for name in schema.content}, parents, measures)


def rows_of_part(rows: Sequence[dict[str, Any]], part: Part) -> list[dict[str, Any]]:
    """Return the rows of a part of the exam."""
    places = {(question.source_file, question.source_line) for question in part.questions}
    return [
        row
        for row in rows
        if (row["mode"] == part.mode or row["mode"].startswith(f"{part.mode}_"))
        and (row["source_file"], row["source_line"]) in places
    ]


def accuracy(rows: pl.DataFrame, role: str, mode: str = "greedy") -> Accuracy:
    """Return the accuracy of the model in a role over the rows of an evaluation table."""
    correct = rows.filter(role=role, mode=mode)["correct"].drop_nulls()
    return Accuracy(int(correct.sum()), len(correct))


def accuracy_by_difficulty(rows: pl.DataFrame, role: str, mode: str = "greedy") -> dict[str, Accuracy]:
    """Return the accuracy by difficulty, in order."""
    chosen = rows.filter(role=role, mode=mode).drop_nulls(["difficulty", "correct"])
    counts = chosen.group_by("difficulty").agg(pl.col("correct").sum(), pl.len()).sort("difficulty")
    return {row["difficulty"]: Accuracy(row["correct"], row["len"]) for row in counts.iter_rows(named=True)}


def compare(rows: pl.DataFrame, mode: str = "greedy", against: str = "champion") -> PairedComparison:
    """Compare the challenger with the model in another role on the same questions."""
    keys = ["source_file", "source_line"]
    before = rows.filter(role=against, mode=mode).select(*keys, "correct")
    after = rows.filter(role="challenger", mode=mode).select(*keys, pl.col("correct").alias("then"))
    both = before.join(after, on=keys, how="inner").drop_nulls()
    return PairedComparison.of(both["correct"].to_list(), both["then"].to_list())


def compare_rewards(rows: pl.DataFrame, mode: str = "greedy") -> MeanChange | None:
    """Return the change of the reward of the responses; None if the exam has no reward."""
    if "reward" not in rows.columns:
        return None
    keys = ["source_file", "source_line"]
    chosen = rows.filter(mode=mode).drop_nulls("reward")
    before = chosen.filter(role="champion").select(*keys, "reward")
    after = chosen.filter(role="challenger").select(*keys, then="reward")
    both = before.join(after, on=keys, how="inner")
    return MeanChange.of(both["reward"].to_list(), both["then"].to_list())


def failed_answers(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows whose answers could not be generated, which count as wrong, without the verdicts on them."""
    if "problem" not in rows.columns:
        return rows.clear()
    return rows.filter(_FAILED, ~_JUDGED)


def failed_rewards(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of answers that were generated and have no reward, which are left out of its mean."""
    if "problem" not in rows.columns:
        return rows.clear()
    return rows.filter(pl.col("problem") == NO_REWARD, ~_JUDGED)


def failed_verdicts(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of verdicts that a judge could not make, which count as wrong, but not those on failed
    answers."""
    if "problem" not in rows.columns:
        return rows.clear()
    verdicts = rows.filter(_FAILED, _JUDGED)
    return verdicts.join(failed_answers(rows), on=["role", "source_file", "source_line"], how="anti")


_FAILED = pl.col("problem").is_not_null() & (pl.col("problem") != NO_REWARD)
_JUDGED = pl.col("mode").str.starts_with("judge")


def accuracy_of_rows(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, Accuracy]]:
    """Yield mode, difficulty (or `all`) and accuracy of the rows of `Exam.sit`."""
    if not rows:
        return
    schema = {"mode": pl.String, "difficulty": pl.String, "correct": pl.Boolean}
    frame = pl.DataFrame([{name: row[name] for name in schema} for row in rows], schema)
    frame = frame.with_columns(role=pl.lit("model")).drop_nulls("correct")
    for mode in frame["mode"].unique(maintain_order=True):
        yield mode, "all", accuracy(frame, "model", mode)
        for difficulty, part in accuracy_by_difficulty(frame, "model", mode).items():
            yield mode, difficulty, part
