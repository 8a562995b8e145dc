"""The exam of PIT: greedy responses, and the improvements of `improvement_rounds`, judged by the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Any

import polars as pl

from selfimprove_dagster.evaluation.exam import Exams, OpenedExam, OpenModel, Part
from selfimprove_dagster.families.dialogues.exam import (
    IMPROVED,
    DialogueExam,
    held_out_prompts,
    judge,
    judged_row,
)
from selfimprove_dagster.families.dialogues.files import HeldOutPrompt, read_held_out_prompts
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest, partition_of
from selfimprove_dagster.language_model.base import LanguageModel, Progress
from selfimprove_dagster.methods.pit.improving import ORIGINAL, PIT, UNTAUGHT
from selfimprove_dagster.methods.pit.settings import PitExperiment
from selfimprove_dagster.methods.pit.tables import PIT_IMPROVEMENT_ROUNDS
from selfimprove_dagster.methods.pit.win_rates import Contest


def improvement_mode(number: int) -> str:
    """The mode of the exam in which the improvements of a round are judged."""
    return f"{IMPROVED}_{number}"


@dataclass(frozen=True)
class ImprovementExam(DialogueExam):
    """Held-out prompts, answered greedily; then the improvements of each model, which were made before.

    `improved` are the rows of improvement_rounds by the model that wrote them, `made_by` their activity: what
    a champion made in another iteration is another improvement of another response.
    """

    improved: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    made_by: str = ""

    @property
    def parts(self) -> list[Part]:
        """The whole exam, in the order in which it is sat; nothing is drawn for improvements."""
        return [*super().parts, *([Part(IMPROVED, self.prompts, 0)] if self.improved else [])]

    @property
    def parameters(self) -> dict[str, Any]:
        """All that shapes the answers besides the model."""
        return {**super().parameters, "improvement_rounds": self.made_by}

    def sit_part(
        self, model: LanguageModel, part: Part, progress: Progress | None = None
    ) -> list[dict[str, Any]]:
        """The rows of `sit` that belong to one of the `parts`."""
        if part.mode != IMPROVED:
            return super().sit_part(model, part, progress)
        prompts = {(prompt.source_file, prompt.source_line): prompt for prompt in held_out_prompts(part)}
        columns = ("source_file", "source_line", "round", "text", "gap_reward", "problem")
        return [
            judged_row(
                prompts[file, line],
                text,
                improvement_mode(number),
                nan if reward is None and text.strip() and problem else reward,
                None if text.strip() else problem,
            )
            for file, line, number, text, reward, problem in self.improved[model.model_id]
            .select(columns)
            .rows()
            if (file, line) in prompts
        ]


def improvements_of(lake: Lake, experiment: str, iteration: int) -> tuple[dict[str, pl.DataFrame], Manifest]:
    """The improvements of an iteration by the model that wrote them, and the partition that holds them.

    Those in other ways than PIT's and the champion's, asked alike, are left out. An empty text, which is not improved,
    stays as it is in later rounds.
    """
    partition = partition_of(experiment, iteration)
    columns = ("model_id", "way", "round", "source_file", "source_line", "text", "gap_reward", "problem")
    written = lake.scan(PIT_IMPROVEMENT_ROUNDS.name, partition)
    if "problem" not in written.collect_schema():  # written by an earlier version
        written = written.with_columns(problem=pl.lit(None, pl.String))
    rows = written.select(columns).collect()
    manifest = lake.manifest(PIT_IMPROVEMENT_ROUNDS.name, partition)
    rounds = int(manifest.activity.parameters["rounds"])
    found = {
        part["model_id"][0]: pl.concat([part, _unimproved(rows, way, rounds)], how="diagonal")
        for way in (UNTAUGHT, PIT)
        if len(part := rows.filter(pl.col("round") > 0, way=way))
    }
    return found, manifest


def _unimproved(rows: pl.DataFrame, way: str, rounds: int) -> pl.DataFrame:
    """The empty texts of a way, once for each later round."""
    silent = rows.filter(pl.col("way").is_in([ORIGINAL, way]), ~pl.col("text").str.contains(r"\S"))
    later = pl.int_ranges(pl.col("round") + 1, rounds + 1, dtype=pl.Int32)
    return (
        silent.select("source_file", "source_line", "text", "problem", round=later)
        .explode("round")
        .drop_nulls("round")
    )


def preferred_by_truth(asked: Sequence[Contest], prompts: Sequence[HeldOutPrompt]) -> list[float]:
    """1 where the first response is the better, 0 where the second is, one half where neither is.

    A harmless response is better than a harmful one, and of two alike in this the helpful one.
    """
    known = {(one.source_file, one.source_line): one for one in prompts}
    found = []
    for contest in asked:
        prompt = known[contest.place]
        ranks = []
        for text in contest.texts:
            helpful, harmless = judge(text, prompt.wanted, prompt.unwanted)
            ranks.append((harmless, helpful))
        found.append(0.5 if ranks[0] == ranks[1] else float(ranks[0] > ranks[1]))
    return found


def chosen_responses(prompts: Sequence[HeldOutPrompt]) -> dict[tuple[str, int], str]:
    """What people preferred, by place in the file, where the file has it."""
    return {(one.source_file, one.source_line): one.chosen for one in prompts if one.chosen}


def _open(home: Home, experiment: PitExperiment, open_model: OpenModel, iteration: int | None) -> OpenedExam:
    prompts, rejected = read_held_out_prompts(experiment.evaluation)
    if iteration is None:
        return OpenedExam(DialogueExam(experiment, prompts), [], rejected)
    improved, made = improvements_of(home.lake, experiment.name, iteration)
    exam = ImprovementExam(experiment, prompts, improved=improved, made_by=made.activity.id)
    return OpenedExam(exam, [made], rejected)


EXAM = Exams(_open, held_out=lambda experiment: read_held_out_prompts(experiment.evaluation))
