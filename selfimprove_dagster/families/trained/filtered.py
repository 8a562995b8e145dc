"""Examples that pass through the filters of an experiment after the rules of their method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.filtering.running import decisions_on, located, recorded
from selfimprove_dagster.filtering.settings import FilteringExperiment
from selfimprove_dagster.filtering.steps import COLUMNS
from selfimprove_dagster.filters.contamination import not_contaminated
from selfimprove_dagster.filters.rules import DECISION_COLUMNS, Filter
from selfimprove_dagster.filters.whole import in_parts
from selfimprove_dagster.home import contamination as comparison
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.records import Activity, Draft
from selfimprove_dagster.stage import StageContext, decision_drafts
from selfimprove_dagster.table import Row, Table
from selfimprove_dagster.work.shards import Rows, Shard
from selfimprove_dagster.work.spec import Spec

Decided = Literal["last", "each"]
"""Which of the parents of an example with decisions the filters decide on: the last one, or each of them."""

_TEXTS = ("completion", "chosen")
"""The content of an example that is its answer."""

_READ: dict[str, Any] = {
    **dict.fromkeys(COLUMNS, pl.String),
    "perplexity": pl.Float64,
    "unscored": pl.String,
}


@dataclass(frozen=True)
class Candidates:
    """What a dataset is made of: items, and the function that decides on them and makes examples of them.

    `inputs` are the partitions that the items are from. Items that are equal in the column `together` come together.
    """

    inputs: Sequence[Manifest]
    items: pl.LazyFrame
    choose: Spec
    together: str = ""


class _Silent:
    """Counts nothing."""

    def advance(self, units: int, tokens: int = 0) -> None:
        pass


def filter_parameters(experiment: FilteringExperiment) -> dict[str, Any]:
    """Return the arguments of `StageContext.activity` that record the filters; nothing without any.

    They are `parameters` and `about`, to be merged with others.
    """
    steps = experiment.steps
    compared = comparison.recorded(comparison.held_out_of(experiment))
    if not steps:
        return {"parameters": compared, "about": {}}
    return {"parameters": {**recorded(steps), **compared}, "about": located(steps)}


def decontamination(experiment: FilteringExperiment) -> tuple[list[Filter], dict[str, Any]]:
    """Return the filter that drops examples that are, or quote, a text held out for evaluation, and its parameters.

    Both are empty for an experiment without `decontamination`.
    """
    held_out = comparison.held_out_of(experiment)
    if held_out is None:
        return [], {}
    drops = not_contaminated(held_out.texts, held_out.names, ("question", "text"))
    return [drops], comparison.recorded(held_out)


def map_filtered(
    context: StageContext[Any],
    items: pl.LazyFrame,
    choose: Spec,
    activity: Activity,
    beside: tuple[Table, Activity],
    together: str = "",
    decided: Decided = "last",
    scores: Sequence[pl.LazyFrame] = (),
) -> tuple[Manifest, Manifest]:
    """Commit the decisions on items and the examples that are made of them: those that every filter keeps.

    `choose` returns, for a shard of the items, the decisions of the method's own rules as drafts, and the examples that
    pass them as a list of drafts. Before the filters, `decontamination` drops examples. Without both this is
    `StageContext.map_together`. Otherwise the examples are made twice: once in their order for the filters, which
    compare them with each other, and once to be stored. Filters read `scores` by `candidate_id`.
    """
    steps, before = context.experiment.steps, decontamination(context.experiment)[0]
    if not steps and not before:
        decisions, manifest, _ = context.map_together(items, choose, activity, beside, together=together)
        return decisions, manifest
    read = [one.unique("candidate_id", keep="first").collect() for one in scores]
    examples = (
        _scored(as_candidates(*choose.call(shard)), read)
        for shard in _shards(context, items, activity, together)
    )
    with TemporaryDirectory() as folder:
        path = Path(folder) / "decisions.parquet"
        decisions_on(examples, steps, before).write_parquet(path)
        function = Spec.of(choose_filtered, choose=choose.to_json(), decisions=str(path), decided=decided)
        decisions, manifest, _ = context.map_together(items, function, activity, beside, together=together)
        return decisions, manifest


def _shards(
    context: StageContext[Any], items: pl.LazyFrame, activity: Activity, together: str
) -> Iterator[Shard[Any, Row]]:
    """Yield all items in their order, as `map_together` hands them to a function."""
    batches = in_parts(items, together) if together else items.collect_batches(maintain_order=True)
    for rows in batches:
        yield Shard(
            Rows(rows), context.experiment, context.iteration, activity, _Silent(), prompts=context.prompts
        )


def examples_of(context: StageContext[Any], found: Candidates, activity: Activity) -> Iterator[pl.DataFrame]:
    """Yield the examples that pass the rules of a method, part by part: `candidate_id`, `question`, `prompt`, `text`.

    An example that filters do not judge is left out, and of those of one candidate the first is taken.
    """
    seen: set[str] = set()
    for shard in _shards(context, found.items, activity, found.together):
        decisions, examples = found.choose.call(shard)
        known, rows = set(decisions["candidate_id"]), []
        for example in examples:
            for candidate in _decided_parents(example, known)[-1:]:
                if candidate not in seen:
                    seen.add(candidate)
                    asked = (example.content["question"], example.content["prompt"])
                    rows.append((candidate, *asked, _text_of(example)))
        yield pl.DataFrame(
            rows,
            schema=dict.fromkeys(("candidate_id", "question", "prompt", "text"), pl.String),
            orient="row",
        )


def _scored(candidates: pl.DataFrame, scores: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return candidates with the scores of stages, which replace those of the same name."""
    for one in scores:
        own = candidates.drop(set(one.columns) - {"candidate_id"}, strict=False)
        candidates = own.join(one, on="candidate_id", how="left", maintain_order="left")
    return candidates


def _text_of(example: Draft) -> str:
    return next(example.content[name] for name in _TEXTS if name in example.content)


def as_candidates(decisions: pl.DataFrame, examples: Sequence[Draft]) -> pl.DataFrame:
    """Return what filters read of examples: the columns of `_READ`, and those of their measures that are scores.

    The candidate of an example is its last parent that the rules decided on; without one it is not judged.
    """
    known = set(decisions["candidate_id"])
    rows = [
        {
            "candidate_id": candidate,
            "question_id": example.content.get("question_id", example.parents[0].id),
            "question": example.content["question"],
            "text": _text_of(example),
            "perplexity": example.measures.get("perplexity"),
            "unscored": None,
        }
        for example in examples
        for candidate in _decided_parents(example, known)[-1:]
    ]
    return pl.DataFrame(rows, schema=_READ, orient="row")


def _decided_parents(example: Draft, known: set[str]) -> list[str]:
    return [parent.id for parent in example.parents if parent.id in known]


def choose_filtered(
    shard: Shard[Any, Row], *, choose: Mapping[str, Any], decisions: str, decided: Decided
) -> tuple[pl.DataFrame, list[Draft]]:
    """Return the decisions of the method's rules and of the filters on items, and the examples that are left.

    `decisions` is the file of the filters' decisions on all examples.
    """
    on_rules, examples = Spec(**choose).call(shard)
    known = set(on_rules["candidate_id"])
    judged = {  # by candidate, the one that the filters decided on in its place
        one: parents[-1]
        for example in examples
        if (parents := _decided_parents(example, known))
        for one in (parents if decided == "each" else parents[-1:])
    }
    on_these = pl.scan_parquet(decisions).filter(pl.col("candidate_id").is_in([*judged.values()])).collect()
    stands_for = pl.DataFrame(
        {"one": [*judged], "candidate_id": [*judged.values()]},
        schema={"one": pl.String, "candidate_id": pl.String},
    )
    further = (
        stands_for.join(on_these, on="candidate_id", maintain_order="left_right")
        .with_columns(candidate_id="one")
        .select(DECISION_COLUMNS.keys())
    )
    dropped = set(further.filter(~pl.col("kept"))["candidate_id"])
    kept = [one for one in examples if dropped.isdisjoint(parent.id for parent in one.parents)]
    return pl.concat([on_rules, decision_drafts(further, registry.table(shard.activity.table))]), kept
