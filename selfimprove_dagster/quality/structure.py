"""Define the check that completions match the structure that their activity asked for."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.drawing import drawn_with
from selfimprove_dagster.language_model.structure import Structure
from selfimprove_dagster.quality.results import Evidence, Expect, NotApplicable, QualityCheck
from selfimprove_dagster.quality.subject import Subject
from selfimprove_dagster.table import Row


def _matches_structure(subject: Subject) -> Evidence | NotApplicable:
    activity, draw = subject.manifest.activity, subject.schema.draw
    if not activity.parameters.get("prompting", {}).get("structure"):
        return NotApplicable("no structure was asked for")
    common = drawn_with(activity).structure if draw is None or draw.prompt_of is None else None
    rows = subject.columns("id", *subject.schema.content)

    def problem(row: Row) -> str:
        asked: Structure | None = common
        if draw is not None and draw.prompt_of is not None:
            asked = drawn_with(activity, row).structure
        return (asked.mismatch(row["text"] or "") if asked else None) or "none"

    problems = pl.Series("problem", [problem(row) for row in rows.iter_rows(named=True)], dtype=pl.String)
    found = rows.select("id", "finish_reason", "text").with_columns(problems)
    wrong = found.filter(pl.col("problem") != "none")
    finished = wrong.filter(pl.col("finish_reason") == "stop").height
    return Evidence(
        found,
        (Expect("ExpectColumnValuesToBeInSet", column="problem", value_set=["none"]),),
        found="do not match the structure that was asked for",
        allowed="every completion must match it, and only those that were truncated at the token limit may not",
        unit="completions",
        observed={"unmatched": wrong.height, "unmatched_though_finished": finished},
        blocking=finished > 0,
    )


MATCHES_STRUCTURE = QualityCheck(
    "matches_structure",
    False,
    "Every completion matches the regular expression or JSON schema of prompts.structure, if one is set. Completions "
    "that ended by themselves and do not match block later stages.",
    "Raise max_tokens, remove stop strings that the structure can contain, or use an engine that supports it",
    _matches_structure,
)
