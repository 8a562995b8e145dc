"""Stages that score the examples of a dataset before filters read the scores: perplexities, and ratings by a judge.

They are in the group of every method with such a dataset, and empty where no filter of the experiment reads them. The
dataset is chosen after them: the rules of the method make its examples once more, and filters read the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import isnan
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from selfimprove_dagster.families.judging.comparing import expected_ratings
from selfimprove_dagster.families.judging.prompts import PROMPTS as JUDGING
from selfimprove_dagster.families.scored.settings import ScoredExperiment
from selfimprove_dagster.families.trained.filtered import Candidates, examples_of
from selfimprove_dagster.filters.rules import perplexity_of
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.records import Draft, Parent, parents_of
from selfimprove_dagster.language_model.base import no_scores, placement
from selfimprove_dagster.language_model.options import Unscored
from selfimprove_dagster.method import Stage
from selfimprove_dagster.prompts import Prompts, load_prompts
from selfimprove_dagster.stage import Result, StageContext, stage
from selfimprove_dagster.table import Row, Table
from selfimprove_dagster.work.shards import Shard, recorded_options
from selfimprove_dagster.work.spec import Spec

CandidatesOf = Callable[[StageContext[Any]], Candidates]
"""Returns what a dataset is made of."""

_SCORED = 256
"""Examples per shard that are scored."""


def perplexity_stage(table: Table, candidates: CandidatesOf, after: Sequence[str]) -> Stage:
    """Return the stage that measures how probable the model finds each example after its prompt."""

    @stage(
        table,
        after=after,
        description="Mean log-probability and perplexity of the answer of each example after its prompt. Empty if no "
        "filter reads it.",
        kinds=["parquet", "pytorch"],
        uses=["language_model"],
    )
    def example_perplexities(context: StageContext[ScoredExperiment]) -> Result:
        preview = ["candidate_id", "tokens", "perplexity"]
        if not context.experiment.measures_perplexity:
            return _unused(context, preview)
        found = candidates(context)
        with _stored(context, found) as examples:
            manifest, about = context.work(
                found.inputs,
                {"used": True},
                examples,
                Spec.of(score_example),
                size=_SCORED,
                unit="examples",
                by=context.scorer,
            )
        median = pl.col("perplexity").median()
        measured = context.measure(manifest, median_perplexity=median)
        return context.result(manifest, preview=preview, metadata={**about, **measured})

    return example_perplexities


def rating_stage(table: Table, candidates: CandidatesOf, after: Sequence[str]) -> Stage:
    """Return the stage in which a judge rates the answer of each example."""

    @stage(
        table,
        after=after,
        description="The rating of the answer of each example from 1 to 10 by the judge, the expected one under its "
        "probabilities. Empty if no filter reads it.",
        kinds=["parquet", "pytorch"],
        uses=["language_model"],
    )
    def example_ratings(context: StageContext[ScoredExperiment]) -> Result:
        if not context.experiment.rates:
            return _unused(context, ["candidate_id", "rating"])
        found = candidates(context)
        with _stored(context, found) as examples:
            return rated(
                context, found.inputs, examples.select("question", id="candidate_id", response="text")
            )

    return example_ratings


def nothing(shard: Shard[Any, Row]) -> list[Draft]:
    """Return no rows: the stage is empty, since nothing asks for it."""
    return []


def _unused(context: StageContext[ScoredExperiment], preview: Sequence[str]) -> Result:
    activity = context.activity(inputs=[], parameters={"used": False})
    return context.result(context.map([], Spec.of(nothing), activity)[0], preview=preview)


@contextmanager
def _stored(context: StageContext[Any], found: Candidates) -> Iterator[pl.LazyFrame]:
    """Keep the examples that pass the rules of a method in a file, and give its rows."""
    import pyarrow.parquet as pq

    activity = context.activity(inputs=found.inputs, parameters={})
    with TemporaryDirectory() as folder:
        path = Path(folder) / "examples.parquet"
        writer = None
        for frame in examples_of(context, found, activity):
            part = frame.to_arrow()
            writer = writer or pq.ParquetWriter(path, part.schema)
            writer.write_table(part)
        if writer is None:
            yield pl.LazyFrame(
                schema={**dict.fromkeys(("candidate_id", "question", "prompt", "text"), pl.String)}
            )
            return
        writer.close()
        yield pl.scan_parquet(path)


def score_example(shard: Shard[Any, Row]) -> pl.DataFrame:
    """Return how probable the model finds each answer (`candidate_id`, `prompt`, `text`) after its prompt."""
    model, rows = shard.model, shard.frame
    contexts = model.encode_prompts(rows["prompt"].to_list())
    said = model.encode_completions(rows["text"].to_list())
    logprobs = model.score(contexts, said)
    shard.report.advance(len(said))
    problems = [
        no_scores(model, len(context) + len(ids)) if any(map(isnan, found)) else None
        for context, ids, found in zip(contexts, said, logprobs, strict=True)
    ]
    scores = rows.select("candidate_id").with_columns(
        pl.Series("logprobs", logprobs, dtype=pl.List(pl.Float64)),
        pl.Series("problem", problems, dtype=pl.String),
    )
    return scores.select(
        "candidate_id",
        **perplexity_of(pl.col("logprobs")),
        problem="problem",
        parents=parents_of(candidate_id="scored"),
    )


def rated(context: StageContext[Any], inputs: Sequence[Manifest], answers: pl.LazyFrame) -> Result:
    """Commit the ratings of answers (`id`, `question`, `response`) by the judge of the experiment."""
    section, generator = context.experiment.judge, context.generator
    judge = section.model or generator.section or context.experiment.model
    path = section.model.path if section.model else generator.path
    with context.language_model.open(judge, path, scores="options") as model:
        prompts = _judging(replace(context.prompts, prompting=model.prompting))
        activity = context.activity(
            inputs=inputs,
            parameters={
                **prompts.parameters,
                "judge": section.model_dump(exclude={"model", "shard"}),
                "engine": model.engine,
            },
            model_id=model.model_id,
            about={
                "model_path": context.lake.address_of(path),
                "champion": "the judge of judge.model" if section.model else generator.name,
                "engine_options": recorded_options(judge),
                **placement(model),
            },
        )
        manifest, spent = context.map(
            answers, Spec.of(rate), activity, size=section.shard, unit="answers", opened=model
        )
    return context.result(
        manifest,
        preview=["candidate_id", "rating"],
        metadata={
            **context.drawn_metadata(activity, spent),
            **context.measure(
                manifest,
                mean_rating=pl.col("rating").mean(),
                failed=pl.col("problem").is_not_null().sum(),
            ),
        },
    )


def rate(shard: Shard[ScoredExperiment, Row]) -> list[Draft]:
    """Return the rating of each answer (`id`, `question`, `response`), or why there is none."""
    asked = shard.experiment.judge.question
    found = expected_ratings(
        shard.model,
        _judging(shard.prompts),
        [row["question"] for row in shard.items],
        [asked] * len(shard.items),
        [row["response"] for row in shard.items],
    )
    shard.report.advance(len(found))
    return [
        Draft(
            content={"candidate_id": row["id"], "asked": asked},
            parents=[Parent(row["id"], "scored")],
            measures={"rating": None, "problem": one.problem}
            if isinstance(one, Unscored)
            else {"rating": one, "problem": None},
        )
        for row, one in zip(shard.items, found, strict=True)
    ]


def _judging(prompts: Prompts) -> Prompts:
    """Return a method's prompts, or those for judges if it has none."""
    return prompts if "rating" in prompts.forms else load_prompts([JUDGING], prompts.prompting)


def scores_of(
    context: StageContext[Any], perplexities: Table | None, ratings: Table
) -> tuple[list[Manifest], list[pl.LazyFrame]]:
    """Return the scores that the filters of an experiment read, and the partitions with them.

    The rows have `candidate_id` and the columns of `filtering.steps.Step.reads`.
    """
    inputs, frames = [], []
    if perplexities is not None and context.experiment.measures_perplexity:
        manifest, rows = context.scan(perplexities)
        inputs.append(manifest)
        frames.append(rows.select("candidate_id", "perplexity", unscored="problem"))
    if context.experiment.rates:
        manifest, rows = context.scan(ratings)
        inputs.append(manifest)
        frames.append(rows.select("candidate_id", "rating", unrated="problem"))
    return inputs, frames
