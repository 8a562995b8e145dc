"""Curation: the user's prompts or examples, judged by filters. Group `curate`.

seed_pool → raw_generations → candidate_answers → perplexity_scores, ratings and voted_answers → filtered_dataset →
(shared stages)

Scores, ratings and votes are made only if a filter of the experiment reads them; their stages are empty otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import isnan
from typing import Literal

import polars as pl

from selfimprove_dagster.families.judging.comparing import expected_ratings
from selfimprove_dagster.families.tasks.pool import bans
from selfimprove_dagster.families.tasks.prompts import TEMPLATES
from selfimprove_dagster.families.tasks.rules import not_banned, not_held_out, output_not_empty
from selfimprove_dagster.families.tasks.stages import example_draft
from selfimprove_dagster.families.trained.filtered import decontamination
from selfimprove_dagster.families.trained.stages import drawn_pool, training_stages
from selfimprove_dagster.filtering.running import decisions_on, located, recorded
from selfimprove_dagster.filters.rules import could_be_read, perplexity_of
from selfimprove_dagster.filters.whole import apply_verdicts, in_parts, with_verdicts
from selfimprove_dagster.home.exams import held_out_keys
from selfimprove_dagster.lake.records import Draft, Parent, content_hash, parents_of
from selfimprove_dagster.language_model.base import no_scores, placement
from selfimprove_dagster.language_model.options import Unscored
from selfimprove_dagster.methods.curate import curate
from selfimprove_dagster.methods.curate.settings import CurateExperiment
from selfimprove_dagster.methods.curate.tables import (
    CANDIDATE_ANSWERS,
    DECISIONS,
    FILTERED_DATASET,
    PERPLEXITY_SCORES,
    RATINGS,
    RAW_GENERATIONS,
    SEED_POOL,
    TABLES,
    VOTED_ANSWERS,
)
from selfimprove_dagster.stage import Result, StageContext, decision_drafts, number, stage
from selfimprove_dagster.table import Row
from selfimprove_dagster.work.shards import Request, Shard, recorded_options
from selfimprove_dagster.work.spec import Spec

_SCORED = 256
"""Answers per shard that are scored."""

seed_pool = drawn_pool(
    SEED_POOL,
    "The prompts and finished examples of this iteration, each with the file and line that it came from. Lines that "
    "no earlier iteration used come first.",
)


def _numbered(pool: pl.LazyFrame) -> pl.LazyFrame:
    """Return the lines of a pool with `question_id`, the first line with their question, and its `place`."""
    asked = ("instruction", "input")
    return pool.with_row_index("place").with_columns(
        question_id=pl.col("id").first().over(asked), place=pl.col("place").first().over(asked)
    )


@stage(
    RAW_GENERATIONS,
    after=["seed_pool"],
    description="Answers that the model generates to the prompts, and to finished examples if the experiment says so. "
    "Empty if it asks for none.",
    kinds=["parquet", "pytorch"],
    uses=["language_model"],
)
def raw_generations(context: StageContext[CurateExperiment]) -> Result:
    section = context.experiment.generation
    pool_manifest, pool = context.scan(SEED_POOL)
    lines = _numbered(pool)
    if section.questions == "unanswered":
        lines = lines.filter(pl.col("output").is_null().all().over("question_id"))
    questions = lines.unique("question_id", keep="first", maintain_order=True)
    settings = {"generation": section.model_dump()}
    if section.samples == 0:
        manifest, _ = context.map(
            [], Spec.of(nothing), context.activity(inputs=[pool_manifest], parameters=settings)
        )
        return context.result(manifest, preview=["question_id"], metadata={"generated": 0})
    manifest, about = context.complete(
        [pool_manifest],
        settings,
        questions.select("question_id", "instruction", "input"),
        Spec.of(ask_for_answers),
        size=max(section.shard // section.samples, 1),
        each=section.samples,
    )
    cut_off = (pl.col("finish_reason") == "length").mean()
    return context.result(
        manifest,
        preview=["prompt", "text", "finish_reason"],
        metadata={**about, **context.measure(manifest, cut_off_share=cut_off)},
    )


def nothing(shard: Shard[CurateExperiment, Row]) -> list[Draft]:
    """Return no rows: the stage is empty, since nothing asks for it."""
    return []


def ask_for_answers(shard: Shard[CurateExperiment, Row]) -> Iterator[Request]:
    """Yield a request for all answers to each question (`question_id`, `instruction`, `input`)."""
    for row in shard.items:
        yield Request(
            key=_question(row),
            prompt=shard.prompts.ask(TEMPLATES[0], instruction=row["instruction"], input=row["input"]),
            content={"question_id": row["question_id"]},
            parents=[Parent(row["question_id"], "question")],
            samples=shard.experiment.generation.samples,
        )


def _question(row: Row) -> str:
    return f"{row['instruction']}\n{row['input']}".strip()


@stage(
    CANDIDATE_ANSWERS,
    after=["seed_pool", "raw_generations"],
    description="Every answer that filters judge: the given ones of finished examples, and those that were generated.",
)
def candidate_answers(context: StageContext[CurateExperiment]) -> Result:
    pool_manifest, pool = context.scan(SEED_POOL)
    drawn_manifest, drawn = context.scan(RAW_GENERATIONS)
    lines = _numbered(pool)
    given = lines.drop_nulls("output").select(
        *("place", "question_id", "instruction", "input", "id"),
        text="output",
        finish_reason=pl.lit(None, pl.String),
        problem=pl.lit(None, pl.String),
        given=pl.lit(True),
        sample_index=pl.lit(0, pl.Int32),
    )
    asked = lines.unique("question_id", keep="first").select("question_id", "place", "instruction", "input")
    generated = drawn.join(asked, on="question_id").select(
        *("place", "question_id", "instruction", "input", "id", "text", "finish_reason", "problem"),
        given=pl.lit(False),
        sample_index="sample_index",
    )
    rows = pl.concat([given, generated]).sort(
        "place", "given", "sample_index", "id", descending=[False, True, False, False]
    )
    manifest, _ = context.map(
        rows,
        Spec.of(as_candidates),
        context.activity(inputs=[pool_manifest, drawn_manifest], parameters={}),
    )
    measured = context.measure(
        manifest,
        given=pl.col("given").sum(),
        generated=(~pl.col("given")).sum(),
        unusable=pl.col("problem").is_not_null().sum(),
    )
    return context.result(manifest, preview=["instruction", "input", "output"], metadata=measured)


def as_candidates(shard: Shard[CurateExperiment, Row]) -> pl.DataFrame:
    """Return given and generated answers (`id`, `text`, `problem`, `finish_reason`, …) as candidates."""
    cut_off = pl.when(pl.col("finish_reason") == "length").then(pl.lit("cut off at the token limit"))
    text = pl.col("text").str.strip_chars()
    rows = shard.frame.with_columns(problem=pl.coalesce("problem", cut_off))
    return rows.select(
        *("question_id", "instruction", "input", "given", "problem"),
        output=pl.when(pl.col("problem").is_null()).then(text),
        parents=parents_of(id="answer"),
    )


def _usable(candidates: pl.LazyFrame, used: bool) -> pl.LazyFrame:
    """Return the answers that can be scored; none where nothing is to be scored."""
    rows = candidates.filter(pl.col("problem").is_null()).select("id", "instruction", "input", "output")
    return rows if used else rows.head(0)


@stage(
    PERPLEXITY_SCORES,
    after=["candidate_answers"],
    description="Mean log-probability and perplexity of each answer after its question, under the model that "
    "generates. Empty if no filter reads it.",
    kinds=["parquet", "pytorch"],
    uses=["language_model"],
)
def perplexity_scores(context: StageContext[CurateExperiment]) -> Result:
    candidates_manifest, candidates = context.scan(CANDIDATE_ANSWERS)
    used = context.experiment.measures_perplexity
    rows = _usable(candidates, used)
    preview = ["candidate_id", "tokens", "perplexity"]
    if not used:
        activity = context.activity(inputs=[candidates_manifest], parameters={"used": False})
        return context.result(context.map(rows, Spec.of(nothing), activity)[0], preview=preview)
    manifest, about = context.work(
        [candidates_manifest], {"used": True}, rows, Spec.of(score_answer), size=_SCORED, unit="answers"
    )
    measured = context.measure(
        manifest,
        median_perplexity=pl.col("perplexity").median(),
        **{"95th_percentile_perplexity": pl.col("perplexity").quantile(0.95)},
    )
    return context.result(manifest, preview=preview, metadata={**about, **measured})


def score_answer(shard: Shard[CurateExperiment, Row]) -> pl.DataFrame:
    """Return how probable the model finds each answer (`id`, `instruction`, `input`, `output`) after its question."""
    model, rows, prompts = shard.model, shard.frame, shard.prompts
    asked = [
        prompts.ask(TEMPLATES[0], instruction=instruction, input=given)
        for instruction, given in rows.select("instruction", "input").iter_rows()
    ]
    contexts = model.encode_prompts(asked)
    said = model.encode_continuations([prompts.completion(TEMPLATES[0], one) for one in rows["output"]])
    logprobs = model.score(contexts, said)
    shard.report.advance(len(said))
    problems = [
        no_scores(model, len(context) + len(ids)) if any(map(isnan, found)) else None
        for context, ids, found in zip(contexts, said, logprobs, strict=True)
    ]
    scores = rows.select(candidate_id="id").with_columns(
        pl.Series("logprobs", logprobs, dtype=pl.List(pl.Float64)),
        pl.Series("problem", problems, dtype=pl.String),
    )
    return scores.select(
        "candidate_id",
        **perplexity_of(pl.col("logprobs")),
        problem="problem",
        parents=parents_of(candidate_id="scored"),
    )


@stage(
    RATINGS,
    after=["candidate_answers"],
    description="The rating of each answer from 1 to 10 by the judge, the expected one under its probabilities. Empty "
    "if no filter reads it.",
    kinds=["parquet", "pytorch"],
    uses=["language_model"],
)
def ratings(context: StageContext[CurateExperiment]) -> Result:
    experiment, section = context.experiment, context.experiment.judge
    candidates_manifest, candidates = context.scan(CANDIDATE_ANSWERS)
    rows = _usable(candidates, experiment.rates)
    if not experiment.rates:
        activity = context.activity(inputs=[candidates_manifest], parameters={"used": False})
        return context.result(context.map(rows, Spec.of(nothing), activity)[0], preview=["rating"])
    judge = section.model or experiment.model
    path = judge.path if section.model else context.generator.path
    with context.language_model.open(judge, path, scores="options") as model:
        activity = context.activity(
            inputs=[candidates_manifest],
            parameters={
                **replace(context.prompts, prompting=model.prompting).parameters,
                "judge": section.model_dump(exclude={"model", "shard"}),
                "engine": model.engine,
            },
            model_id=model.model_id,
            about={
                "model_path": context.lake.address_of(path),
                "champion": "the judge of judge.model" if section.model else context.generator.name,
                "engine_options": recorded_options(judge),
                **placement(model),
            },
        )
        manifest, spent = context.map(
            rows, Spec.of(rate), activity, size=section.shard, unit="answers", opened=model
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


def rate(shard: Shard[CurateExperiment, Row]) -> list[Draft]:
    """Return the rating of each answer (`id`, `instruction`, `input`, `output`), or why there is none."""
    asked = shard.experiment.judge.question
    found = expected_ratings(
        shard.model,
        shard.prompts,
        [_question(row) for row in shard.items],
        [asked] * len(shard.items),
        [row["output"] for row in shard.items],
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


@stage(
    VOTED_ANSWERS,
    after=["seed_pool", "candidate_answers"],
    description="One vote per question over all its answers. Empty if no filter reads it.",
)
def voted_answers(context: StageContext[CurateExperiment]) -> Result:
    candidates_manifest, candidates = context.scan(CANDIDATE_ANSWERS)
    pool_manifest, _ = context.scan(SEED_POOL)
    how = context.experiment.votes_by
    rows = candidates.select("id", "question_id", "output")
    activity = context.activity(inputs=[candidates_manifest, pool_manifest], parameters={"answer": how})
    manifest, _ = context.map(
        rows if how else rows.head(0), Spec.of(count_votes, how=how), activity, together="question_id"
    )
    measured = context.measure(
        manifest, mean_vote_share=pl.col("vote_share").mean(), ties=pl.col("tie").sum()
    )
    return context.result(
        manifest, preview=["voted_answer", "votes", "vote_share"], metadata=measured if how else {}
    )


def count_votes(shard: Shard[CurateExperiment, Row], *, how: Literal["stated", "text"]) -> pl.DataFrame:
    """Return the vote on each question, from its answers (`id`, `question_id`, `output`)."""
    rows = shard.frame
    answers = rows.select("question_id", candidate_id="id", answer=curate.short_answers(rows["output"], how))
    voters = pl.col("paths").list.eval(
        pl.struct(id=pl.element().struct.field("id"), role=pl.lit("voted_from"))
    )
    return curate.votes(answers).with_columns(
        parents=pl.concat_list(parents_of(question_id="question"), voters)
    )


@stage(
    DECISIONS,
    FILTERED_DATASET,
    after=["candidate_answers", "perplexity_scores", "ratings", "voted_answers"],
    description="The answers that every filter of the experiment keeps, in the order in which it lists them, as "
    "training examples. The decisions on every answer are in curate/decisions.",
)
def filtered_dataset(context: StageContext[CurateExperiment]) -> Result:
    """Filters may compare an answer with all before it, so decisions on all are made before shards record them."""
    experiment, steps = context.experiment, context.experiment.steps
    inputs, frames = zip(
        *map(context.scan, (CANDIDATE_ANSWERS, PERPLEXITY_SCORES, RATINGS, VOTED_ANSWERS)), strict=True
    )
    keys, banned = held_out_keys(experiment), bans(experiment)
    rows = curate.judged(*frames)
    quoted, compared = decontamination(experiment)
    activity = context.activity(
        inputs=inputs,
        parameters={
            **recorded(steps),
            **compared,
            "held_out": content_hash({"keys": sorted(keys)}),
            "banned": sorted(banned),
        },
        about=located(steps),
    )
    before = [could_be_read, not_held_out(keys), not_banned(banned), *quoted, output_not_empty]
    decided = decisions_on(in_parts(rows, "question_id"), steps, before)
    decisions, manifest, _ = context.map_together(
        with_verdicts(rows, decided),
        Spec.of(choose),
        activity,
        (DECISIONS, context.deciding(DECISIONS, inputs, activity.id)),
        together="question_id",
    )
    candidates = context.lake.live_rows(inputs[0])
    return context.result(
        manifest,
        preview=["prompt", "completion"],
        metadata={
            "candidates": candidates,
            "kept_share": number(manifest.rows / max(candidates, 1)),
            **context.measure(manifest, questions_kept=pl.col("question").n_unique()),
            **context.dropped(decisions),
            "lineage": context.lineage_page,
            "preview_records": context.preview_records(manifest),
        },
    )


def choose(shard: Shard[CurateExperiment, Row]) -> tuple[pl.DataFrame, list[Draft]]:
    """Return the decisions that candidates come with, and the examples that those make which every filter keeps."""
    kept, decisions = apply_verdicts(shard.frame)
    return decision_drafts(decisions, FILTERED_DATASET), [
        example_draft(
            shard.prompts,
            row,
            [Parent(row["candidate_id"], "answer")],
            shard.experiment.seed,
            ("perplexity", "rating", "vote_share"),
        )
        for row in kept.iter_rows(named=True)
    ]


STAGES = [
    seed_pool,
    raw_generations,
    candidate_answers,
    perplexity_scores,
    ratings,
    voted_answers,
    filtered_dataset,
    *training_stages(TABLES),
]
