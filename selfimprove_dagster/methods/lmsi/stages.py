"""LMSI: from unlabelled questions, by self-consistency, to a dataset. Group `lmsi`.

seed_pool → raw_generations → perplexity_scores ─┐
                           └→ voted_answers ─────┴→ example_ratings → filtered_dataset → (shared stages)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from selfimprove_dagster.answers.answers import read_answers
from selfimprove_dagster.evaluation.diversity import distinct_ngram_share
from selfimprove_dagster.families.scored.stages import rating_stage, scores_of
from selfimprove_dagster.families.trained.filtered import Candidates, filter_parameters, map_filtered
from selfimprove_dagster.families.trained.stages import drawn_pool, training_stages
from selfimprove_dagster.families.voting.verifying import open_verifier, weighed_by, weighing
from selfimprove_dagster.families.voting.voting import vote
from selfimprove_dagster.filters.rules import perplexity_of
from selfimprove_dagster.lake.records import Draft, Parent, parents_of
from selfimprove_dagster.methods.lmsi import lmsi
from selfimprove_dagster.methods.lmsi.sampling import DemonstrationRecord, draw_paths, sampling_parameters
from selfimprove_dagster.methods.lmsi.sampling import demonstrations as seeds_demonstrations
from selfimprove_dagster.methods.lmsi.settings import LmsiExperiment
from selfimprove_dagster.methods.lmsi.tables import (
    DECISIONS,
    EXAMPLE_RATINGS,
    FILTERED_DATASET,
    PERPLEXITY_SCORES,
    RAW_GENERATIONS,
    SEED_POOL,
    TABLES,
    VOTED_ANSWERS,
)
from selfimprove_dagster.stage import Result, StageContext, decision_drafts, number, stage
from selfimprove_dagster.table import Row
from selfimprove_dagster.work.shards import Shard
from selfimprove_dagster.work.spec import Spec

seed_pool = drawn_pool(
    SEED_POOL,
    "The unlabelled questions of this iteration, each with the file and line that it came from. Questions "
    "that no earlier iteration used come first.",
)


@stage(
    RAW_GENERATIONS,
    after=["seed_pool"],
    description="m reasoning paths for each question, sampled from the champion: prompt and sampled token "
    "ids, their log-probabilities, text, and the seed that reproduces the path.",
    kinds=["parquet", "pytorch"],
    uses=["language_model"],
)
def raw_generations(context: StageContext[LmsiExperiment]) -> Result:
    section, improved = context.experiment.sampling, context.generator.iteration is not None
    pool_manifest, pool = context.scan(SEED_POOL)
    demonstrations, shown_manifests = seeds_demonstrations(
        context.lake, context.experiment, section.prompt_format
    )
    parameters = sampling_parameters(section, context.prompts, improved=improved)
    manifest, shown = context.work(
        [pool_manifest, *shown_manifests],
        {
            "sampling": section.determinants,
            "temperature": parameters.temperature,
            **(context.experiment.answers_read if section.adaptive else {}),
        },
        pool.select("id", "question"),
        Spec.of(
            draw_paths,
            improved=improved,
            demonstrations=[vars(one) for one in demonstrations],
        ),
        size=section.shard_questions,
        unit="paths",
        each=section.paths,
    )
    cut_off = pl.col("finish_reason") == "length"
    drawn = context.measure(
        manifest, mean_tokens=pl.col("token_ids").list.len().mean(), cut_off_share=cut_off.mean()
    )
    return context.result(
        manifest,
        preview=["prompt", "text", "finish_reason"],
        metadata={
            **shown,
            "questions": pool_manifest.rows,
            "paths_per_question": section.paths,
            **drawn,
        },
    )


def score(shard: Shard[LmsiExperiment, Row]) -> pl.DataFrame:
    """The perplexity of each path (`id`, `logprobs`)."""
    scores = shard.frame.select(pl.col("id").alias("path_id"), **perplexity_of(pl.col("logprobs")))
    if shard.experiment.teacher is not None:  # a provider may give no log-probabilities
        given = pl.when(pl.col("tokens") > 0)
        scores = scores.with_columns(given.then(pl.col(name)) for name in ("mean_logprob", "perplexity"))
    return scores.with_columns(parents_of(path_id="scored"))


@stage(
    PERPLEXITY_SCORES,
    after=["raw_generations"],
    description="Mean log-probability and perplexity of each path under the model that generated it, from "
    "the log-probabilities that were recorded during sampling.",
)
def perplexity_scores(context: StageContext[LmsiExperiment]) -> Result:
    paths_manifest, paths = context.scan(RAW_GENERATIONS)
    activity = context.activity(
        inputs=[paths_manifest], parameters={}, model_id=paths_manifest.activity.model_id
    )
    manifest, _ = context.map(paths.select("id", "logprobs"), Spec.of(score), activity)
    perplexity = pl.col("perplexity")
    measured = context.measure(
        manifest,
        mean_perplexity=perplexity.mean(),
        median_perplexity=perplexity.median(),
        **{"95th_percentile_perplexity": perplexity.quantile(0.95)},
    )
    return context.result(
        manifest, preview=["path_id", "tokens", "mean_logprob", "perplexity"], metadata=measured
    )


def count_votes(shard: Shard[LmsiExperiment, Row]) -> pl.DataFrame:
    """One vote a question, from its paths (`id`, `question_id`, `question`, `sample_index`, `text`).

    Votes weighted by probability need `logprobs` too; those weighted by a verifier need it open.
    """
    paths, experiment = shard.frame, shard.experiment
    weights = experiment.voting.weights
    rule = experiment.voting.rule
    readings = read_answers(paths["text"], experiment.conventions)
    weight: pl.Expr | pl.Series = pl.lit(None, pl.Float64)
    if weights == "probability":
        weight = perplexity_of(pl.col("logprobs"))["mean_logprob"].exp()
    elif weights == "verifier":
        scores = shard.opened.scores(paths["question"].to_list(), paths["text"].to_list())
        weight = pl.Series("weight", scores, dtype=pl.Float64)
        shard.report.advance(len(scores))
    read = paths.select(
        *("question_id", "question", "sample_index"),
        pl.col("id").alias("path_id"),
        pl.col("text").alias("text_key"),
        pl.Series("answer", [one and one.answer for one in readings], dtype=pl.String),
        pl.Series("read_by", [one and one.rule for one in readings], dtype=pl.String),
        weight.alias("weight"),
    )
    ballots = read if weights else read.drop("weight")
    votes = vote(ballots, rule=rule, seed=experiment.seed + shard.iteration, drawn_by="question")
    voters = (
        votes.select("question_id", id="path_ids", answer="answers")
        .explode("id", "answer")
        .join(read.select("read_by", "weight", id="path_id"), on="id", how="left", maintain_order="left")
    )
    return (
        votes.join(
            paths.group_by("question_id").agg(pl.col("question").first()),
            on="question_id",
            maintain_order="left",
        )
        .join(
            voters.group_by("question_id").agg(
                "read_by",
                paths=pl.struct("id", "answer"),
                voted_from=pl.struct("id", role=pl.lit("voted_from")),
                weights=pl.col("weight"),
            ),
            on="question_id",
            maintain_order="left",
        )
        .with_columns(
            parents=pl.concat_list(parents_of(question_id="question"), "voted_from"),
            rule=pl.lit(rule),
            **({} if weights else {"weights": pl.lit(None, pl.List(pl.Float64))}),
        )
        .select(*VOTED_ANSWERS.content, *VOTED_ANSWERS.measures, "parents")
    )


@stage(
    VOTED_ANSWERS,
    after=["raw_generations"],
    description="One vote per question: the answer of each path, the voted answer, its share and margin. A "
    "path whose answer cannot be read casts no vote, but counts among all paths.",
    kinds=["parquet", "polars"],
    version="3",
)
def voted_answers(context: StageContext[LmsiExperiment]) -> Result:
    paths_manifest, paths = context.scan(RAW_GENERATIONS)
    pool_manifest, pool = context.scan(SEED_POOL)
    rule = context.experiment.voting.rule
    questions = pool.select(pl.col("id").alias("question_id"), "question")
    section = context.experiment.voting
    needed = ["id", "question_id", "sample_index", "text"]
    needed += ["logprobs"] if section.weights == "probability" else []
    with open_verifier(section.verifier) as verifier:
        activity = context.activity(
            inputs=[paths_manifest, pool_manifest],
            parameters={"rule": rule, **weighing(section, verifier), **context.experiment.answers_read},
            about=weighed_by(verifier),
        )
        manifest, _ = context.map(
            paths.select(needed).join(questions, on="question_id", maintain_order="left"),
            Spec.of(count_votes),
            activity,
            unit="paths",
            together="question_id",
            opened=verifier,
        )
    valid, drawn = pl.col("n_valid").sum(), pl.col("n_paths").sum()
    measured = context.measure(
        manifest,
        mean_vote_share=pl.col("vote_share").mean(),
        mean_margin=pl.col("margin").mean(),
        ties=pl.col("tie").sum(),
        extraction_rate=valid / pl.max_horizontal(drawn, 1),
        distinct_paths=pl.col("n_distinct_paths").mean(),
    )
    return context.result(
        manifest,
        preview=["question", "voted_answer", "votes", "vote_share", "margin", "readable_share"],
        metadata={"rule": rule, **measured},
    )


def choose(
    shard: Shard[LmsiExperiment, Row], *, demonstrations: Sequence[Mapping[str, str]]
) -> tuple[pl.DataFrame, list[Draft]]:
    """The decisions on candidates, and the examples that are made of those which every rule keeps."""
    experiment, prompts = shard.experiment, shard.prompts
    shown = [DemonstrationRecord(**one) for one in demonstrations]
    thresholds = lmsi.FilterThresholds(**experiment.filter.model_dump())
    kept, decisions = lmsi.filter_paths(shard.frame, thresholds, experiment.seed, experiment.conventions)
    drafts = [
        Draft(
            content={
                "question_id": row["question_id"],
                "question": row["question"],
                "format": row["format"],
                "prompt": prompts.ask(row["format"], question=row["question"], demonstrations=shown),
                "completion": prompts.completion(row["format"], row["text_key"], answer=row["voted_answer"]),
                "answer": row["voted_answer"],
            },
            parents=[
                Parent(row["vote_id"], "voted_answer"),
                Parent(row["candidate_id"], "path"),
                *(Parent(d.id, "demonstration") for d in shown if row["format"].startswith("few_shot")),
            ],
            measures={"vote_share": row["vote_share"], "perplexity": row["perplexity"]},
        )
        for row in lmsi.assign_formats(kept, experiment.training.format_shares, experiment.seed).iter_rows(
            named=True
        )
    ]
    return decision_drafts(decisions, FILTERED_DATASET), drafts


def candidates(context: StageContext[LmsiExperiment]) -> Candidates:
    """Return the paths that the dataset is made of, with their scores and votes."""
    paths_manifest, paths = context.scan(RAW_GENERATIONS)
    scores_manifest, scores = context.scan(PERPLEXITY_SCORES)
    votes_manifest, votes = context.scan(VOTED_ANSWERS)
    shares = context.experiment.training.format_shares
    shown, shown_manifests = seeds_demonstrations(context.lake, context.experiment, *shares)
    return Candidates(
        [paths_manifest, scores_manifest, votes_manifest, *shown_manifests],
        lmsi.candidates(paths, scores, votes),
        Spec.of(choose, demonstrations=[vars(one) for one in shown]),
        together="question_id",
    )


_AFTER = ["voted_answers", "perplexity_scores"]

example_ratings = rating_stage(EXAMPLE_RATINGS, candidates, _AFTER)


@stage(
    DECISIONS,
    FILTERED_DATASET,
    after=[*_AFTER, "example_ratings"],
    description="The training examples: paths that agree with the vote, ended by themselves and pass every "
    "threshold, up to their answer, in the four formats of LMSI. The decisions on every candidate are in "
    "lmsi/decisions.",
    version="3",
)
def filtered_dataset(context: StageContext[LmsiExperiment]) -> Result:
    experiment, found = context.experiment, candidates(context)
    paths_manifest = found.inputs[0]
    scored, scores = scores_of(context, None, EXAMPLE_RATINGS)
    filters = filter_parameters(experiment)
    activity = context.activity(
        inputs=[*found.inputs, *scored],
        parameters={
            "filter": experiment.filter.model_dump(),
            "formats": experiment.training.format_shares,
            **experiment.answers_read,
            **filters["parameters"],
        },
        about=filters["about"],
    )
    decisions, manifest = map_filtered(
        context,
        found.items,
        found.choose,
        activity,
        (DECISIONS, context.deciding(DECISIONS, [paths_manifest], activity.id)),
        together=found.together,
        scores=scores,
    )
    drawn = context.lake.live_rows(paths_manifest)
    completions = (text for rows in context.batches(manifest, "completion") for text in rows["completion"])
    return context.result(
        manifest,
        preview=["format", "prompt", "completion", "vote_share"],
        metadata={
            "candidates": drawn,
            "kept_share": number(manifest.rows / max(drawn, 1)),
            **context.measure(manifest, questions_kept=pl.col("question_id").n_unique()),
            "distinct_4grams": round(distinct_ngram_share(completions), 4),
            **context.dropped(decisions),
            "lineage": context.lineage_page,
            "preview_records": context.preview_records(manifest),
        },
    )


STAGES = [
    seed_pool,
    raw_generations,
    perplexity_scores,
    voted_answers,
    example_ratings,
    filtered_dataset,
    *training_stages(TABLES),
]
