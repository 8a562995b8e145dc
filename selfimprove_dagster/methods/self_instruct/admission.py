"""Which of the model's tasks join the pool: the rules as an experiment sets them, over an iteration's tables.

The asset that decides and the question what other thresholds would keep both ask here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import polars as pl

from selfimprove_dagster.families.tasks.rules import Ban
from selfimprove_dagster.filters.novelty import NoveltyPool, Verdict
from selfimprove_dagster.filters.rules import apply_filters, could_be_read
from selfimprove_dagster.filters.tokenisers import TOKENISERS
from selfimprove_dagster.methods.self_instruct import rules
from selfimprove_dagster.methods.self_instruct.settings import TaskFilterSection

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)


def scored_candidates(candidates: Frame, scores: Frame) -> Frame:
    """What the rules read of `candidate_tasks` and `perplexity_scores`.

    Columns: `candidate_id, instruction, problem, perplexity, unscored`; the last says why there is no perplexity.
    """
    told = "problem" in scores.collect_schema()
    found = scores.select(
        "candidate_id", "perplexity", unscored=pl.col("problem") if told else pl.lit(None, pl.String)
    )
    return candidates.select("instruction", "problem", candidate_id="id").join(
        found, on="candidate_id", how="left", maintain_order="left"
    )


def apply_rules(
    candidates: pl.DataFrame, section: TaskFilterSection, bans: Mapping[str, Ban]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The candidates (of `scored_candidates`) that pass all rules but novelty, and the decisions on all."""
    readable, unread = apply_filters(candidates, [could_be_read])
    if section.switched_off:
        return readable, unread
    thresholds = rules.InstructionThresholds(
        **section.model_dump(include={"least_words", "most_words", "maximum_perplexity", "tokeniser"})
    )
    kept, decisions = rules.filter_instructions(readable, thresholds, bans)
    return kept, pl.concat([unread, decisions])


def novelty_threshold(section: TaskFilterSection) -> float:
    """The highest ROUGE-L F1 to the pool."""
    return 1.0 if section.switched_off else section.maximum_rouge_l


def novelty_parameters(section: TaskFilterSection) -> dict[str, Any]:
    """What determines the verdicts besides the texts."""
    return {
        "maximum_rouge_l": novelty_threshold(section),
        **section.model_dump(include={"tokeniser"}),
    }


@dataclass(frozen=True)
class Admission:
    """A verdict a candidate, by its id, and the ids of the pool as it then is, by index."""

    verdicts: Mapping[str, Verdict]
    ids: list[str]


def admit(
    pool: pl.DataFrame,
    candidates: pl.DataFrame,
    section: TaskFilterSection,
    progress: Callable[[int], None] | None = None,
) -> Admission:
    """Let candidates (`candidate_id, instruction`) join the pool (`id, instruction`), each that is new."""
    members = NoveltyPool(pool["instruction"].to_list(), tokeniser=TOKENISERS[section.tokeniser])
    verdicts = members.admit(candidates["instruction"].to_list(), novelty_threshold(section), progress)
    judged = dict(zip(candidates["candidate_id"], verdicts, strict=True))
    joined = [candidate for candidate, verdict in judged.items() if verdict.kept]
    return Admission(judged, [*pool["id"], *joined])


def similarities(admission: Admission, members: int) -> pl.DataFrame:
    """The verdicts in order, as `similarity_scores` keeps them; the pool had so many `members` before."""
    near = pl.List(pl.Struct({"id": pl.String, "rouge_l": pl.Float64}))
    return pl.DataFrame(
        [
            {
                "candidate_id": candidate,
                "kept": verdict.kept,
                "neighbours": [
                    {"id": admission.ids[index], "rouge_l": score} for index, score in verdict.neighbours
                ],
            }
            for candidate, verdict in admission.verdicts.items()
        ],
        schema={"candidate_id": pl.String, "kept": pl.Boolean, "neighbours": near},
    ).with_columns(pool=members + pl.col("kept").cast(pl.Int64).cum_sum().shift(fill_value=0))


def apply_novelty(
    candidates: pl.DataFrame, admission: Admission, section: TaskFilterSection
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The candidates that were new, and the decision on each."""
    rule = rules.novel(admission.verdicts, admission.ids, novelty_threshold(section))
    return apply_filters(candidates, [rule])
