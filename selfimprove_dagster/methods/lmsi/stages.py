"""LMSI: from unlabelled questions, by self-consistency, to a dataset. Group `lmsi`.

seed_pool → raw_generations → perplexity_scores ─┐
                           └→ voted_answers ─────┴→ filtered_dataset → (shared stages)
"""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.answers.answers import extract_answers
from selfimprove_dagster.evaluation.diversity import distinct_ngram_share
from selfimprove_dagster.families.questions.prompts import build_prompt
from selfimprove_dagster.families.trained.stages import drawn_pool, training_stages
from selfimprove_dagster.filters.rules import perplexity_of
from selfimprove_dagster.lake.records import Draft, Parent
from selfimprove_dagster.methods.lmsi import lmsi
from selfimprove_dagster.methods.lmsi.sampling import demonstrations as seeds_demonstrations
from selfimprove_dagster.methods.lmsi.sampling import draw_paths, sampling_parameters
from selfimprove_dagster.methods.lmsi.settings import LmsiExperiment
from selfimprove_dagster.methods.lmsi.tables import (
    DECISIONS,
    FILTERED_DATASET,
    PERPLEXITY_SCORES,
    RAW_GENERATIONS,
    SEED_POOL,
    TABLES,
    VOTED_ANSWERS,
)
from selfimprove_dagster.methods.lmsi.voting import vote
from selfimprove_dagster.stage import Result, StageContext, number, stage
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
    "ids, their log-probabilities, text, and the seed that draws the same path again.",
    kinds=["parquet", "pytorch"],
    uses=["language_model"],
)
def raw_generations(context: StageContext[LmsiExperiment]) -> Result:
    champion, section = context.champion, context.experiment.sampling
    pool_manifest, pool = context.read(SEED_POOL)
    demonstrations, shown_manifests = seeds_demonstrations(
        context.lake, context.experiment, section.prompt_format
    )
    parameters = sampling_parameters(section, improved=champion.iteration is not None)
    manifest, shown = context.work(
        [pool_manifest, *shown_manifests],
        {"sampling": section.model_dump(), "temperature": parameters.temperature},
        pool.select("id", "question").rows(named=True),
        Spec.of(
            draw_paths,
            improved=champion.iteration is not None,
            demonstrations=[vars(one) for one in demonstrations],
        ),
        size=section.shard_questions,
        unit="paths",
        each=lambda question: section.paths,
    )
    paths = context.lake.read_ungated(manifest)
    lengths = paths["token_ids"].list.len()
    return context.result(
        manifest,
        preview=["prompt", "text", "finish_reason"],
        metadata={
            **shown,
            "questions": len(pool),
            "paths_per_question": section.paths,
            "mean_tokens": number(lengths.mean()),
            "cut_off_share": number((paths["finish_reason"] == "length").mean()),
        },
    )


@stage(
    PERPLEXITY_SCORES,
    after=["raw_generations"],
    description="How probable each path is to its own generator: mean log-probability and perplexity, read "
    "off the log-probabilities that were recorded as it was drawn.",
)
def perplexity_scores(context: StageContext[LmsiExperiment]) -> Result:
    paths_manifest, paths = context.read(RAW_GENERATIONS)
    scores = paths.select("id", **perplexity_of(pl.col("logprobs")))
    drafts = [
        Draft(
            content={"path_id": row["id"], "tokens": row["tokens"]},
            parents=[Parent(row["id"], "scored")],
            measures={"mean_logprob": row["mean_logprob"], "perplexity": row["perplexity"]},
        )
        for row in scores.iter_rows(named=True)
    ]
    activity = context.activity(
        inputs=[paths_manifest], parameters={}, model_id=paths_manifest.activity.model_id
    )
    manifest = context.store(activity, drafts)
    return context.result(
        manifest,
        preview=["path_id", "tokens", "mean_logprob", "perplexity"],
        metadata={
            "mean_perplexity": number(scores["perplexity"].mean()),
            "median_perplexity": number(scores["perplexity"].median()),
            "95th_percentile_perplexity": number(scores["perplexity"].quantile(0.95)),
        },
    )


@stage(
    VOTED_ANSWERS,
    after=["raw_generations"],
    description="One vote a question: the answer of each path, the voted answer, its share and margin. A "
    "path whose answer cannot be read casts no vote.",
    kinds=["parquet", "polars"],
)
def voted_answers(context: StageContext[LmsiExperiment]) -> Result:
    paths_manifest, paths = context.read(RAW_GENERATIONS)
    pool_manifest, pool = context.read(SEED_POOL)
    rule = context.experiment.voting.rule
    ballots = paths.select(
        "question_id", "sample_index", pl.col("id").alias("path_id"), pl.col("text").alias("text_key")
    ).with_columns(extract_answers(paths["text"]).alias("answer"))
    votes = vote(ballots, rule=rule, seed=context.experiment.seed + context.iteration).join(
        pool.select(pl.col("id").alias("question_id"), "question"), on="question_id", maintain_order="left"
    )
    drafts = [
        Draft(
            content={
                "question_id": row["question_id"],
                "question": row["question"],
                "rule": rule,
                "voted_answer": row["voted_answer"],
                "votes": row["votes"],
                "paths": [
                    {"id": path, "answer": answer}
                    for path, answer in zip(row["path_ids"], row["answers"], strict=True)
                ],
                "tie": row["tie"],
                "n_paths": row["n_paths"],
                "n_valid": row["n_valid"],
                "n_distinct_paths": row["n_distinct_paths"],
            },
            parents=[
                Parent(row["question_id"], "question"),
                *(Parent(path, "voted_from") for path in row["path_ids"]),
            ],
            measures={"vote_share": row["vote_share"], "margin": row["margin"]},
        )
        for row in votes.iter_rows(named=True)
    ]
    activity = context.activity(inputs=[paths_manifest, pool_manifest], parameters={"rule": rule})
    manifest = context.store(activity, drafts)
    return context.result(
        manifest,
        preview=["question", "voted_answer", "votes", "vote_share", "margin"],
        metadata={
            "rule": rule,
            "mean_vote_share": number(votes["vote_share"].mean()),
            "mean_margin": number(votes["margin"].mean()),
            "ties": int(votes["tie"].sum()),
            "extraction_rate": number(int(votes["n_valid"].sum()) / max(int(votes["n_paths"].sum()), 1)),
            "distinct_paths": number(votes["n_distinct_paths"].mean()),
        },
    )


@stage(
    DECISIONS,
    FILTERED_DATASET,
    after=["voted_answers", "perplexity_scores"],
    description="The training examples: paths that agree with the vote and pass every threshold, in the four "
    "formats of LMSI. Every candidate's decisions stand in lmsi/decisions.",
)
def filtered_dataset(context: StageContext[LmsiExperiment]) -> Result:
    experiment = context.experiment
    paths_manifest, paths = context.read(RAW_GENERATIONS)
    scores_manifest, scores = context.read(PERPLEXITY_SCORES)
    votes_manifest, votes = context.read(VOTED_ANSWERS)
    shares = experiment.training.format_shares
    shown, shown_manifests = seeds_demonstrations(context.lake, experiment, *shares)
    candidates = lmsi.candidates(paths, scores, votes)
    thresholds = lmsi.FilterThresholds(**experiment.filter.model_dump())
    kept, decisions = lmsi.filter_paths(candidates, thresholds, experiment.seed)
    activity = context.activity(
        inputs=[paths_manifest, scores_manifest, votes_manifest, *shown_manifests],
        parameters={"filter": experiment.filter.model_dump(), "formats": shares},
    )
    context.store_decisions(DECISIONS, decisions, [paths_manifest], activity.id)
    drafts = [
        Draft(
            content={
                "question_id": row["question_id"],
                "question": row["question"],
                "format": row["format"],
                "prompt": build_prompt(row["question"], row["format"], shown),
                "completion": lmsi.build_completion(row["format"], row["text"], row["voted_answer"]),
                "answer": row["voted_answer"],
            },
            parents=[
                Parent(row["vote_id"], "voted_answer"),
                Parent(row["candidate_id"], "path"),
                *(Parent(d.id, "demonstration") for d in shown if row["format"].startswith("few_shot")),
            ],
            measures={"vote_share": row["vote_share"], "perplexity": row["perplexity"]},
        )
        for row in lmsi.assign_formats(kept, shares, experiment.seed).iter_rows(named=True)
    ]
    manifest = context.store(activity, drafts)
    dropped = decisions.filter(~pl.col("kept"))["rule"].value_counts(sort=True)
    return context.result(
        manifest,
        preview=["format", "prompt", "completion", "vote_share"],
        metadata={
            "candidates": len(candidates),
            "kept_share": number(manifest.rows / max(len(candidates), 1)),
            "questions_kept": kept["question_id"].n_unique(),
            "distinct_4grams": round(distinct_ngram_share(kept["text"].to_list()), 4),
            **{f"dropped_by_{rule}": count for rule, count in dropped.iter_rows()},
            "lineage": context.lineage_page,
            "preview_records": context.preview_records(manifest),
        },
    )


STAGES = [
    seed_pool,
    raw_generations,
    perplexity_scores,
    voted_answers,
    filtered_dataset,
    *training_stages(TABLES),
]
