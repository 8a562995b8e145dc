"""LMSI: from unlabelled questions, by self-consistency, to a dataset. Group `lmsi`.

seed_pool → raw_generations → perplexity_scores ─┐
                           └→ voted_answers ─────┴→ filtered_dataset → (shared stages)
"""

from __future__ import annotations

import dagster as dg
import polars as pl

from selfimprove_dagster.answers.answers import extract_answers
from selfimprove_dagster.assets.factory import number, preview_records, stage_asset
from selfimprove_dagster.families.trained.stages import drawn_pool, training_stages
from selfimprove_dagster.filters.rules import perplexity_of
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.records import Draft, Parent
from selfimprove_dagster.methods.lmsi import lmsi
from selfimprove_dagster.methods.lmsi.sampling import demonstrations as seeds_demonstrations
from selfimprove_dagster.methods.lmsi.sampling import generate_paths, sampling_parameters
from selfimprove_dagster.methods.lmsi.settings import LmsiExperiment
from selfimprove_dagster.methods.lmsi.tables import (
    DECISIONS,
    FILTERED_DATASET,
    PERPLEXITY_SCORES,
    RAW_GENERATIONS,
    SEED_POOL,
    VOTED_ANSWERS,
)
from selfimprove_dagster.methods.lmsi.voting import vote
from selfimprove_dagster.resources.language_model import LanguageModelResource
from selfimprove_dagster.stage import Stage, store_decisions

seed_pool = drawn_pool(
    SEED_POOL,
    LmsiExperiment,
    "The unlabelled questions of this iteration, each with the file and line that it came from. Questions "
    "that no earlier iteration used come first.",
)


@stage_asset(
    RAW_GENERATIONS,
    deps=[SEED_POOL],
    description="m reasoning paths for each question, sampled from the champion: prompt and sampled token "
    "ids, their log-probabilities, text, and the seed that draws the same path again.",
    kinds={"parquet", "pytorch"},
    holds_model=True,
)
def raw_generations(
    context: dg.AssetExecutionContext,
    home: dg.ResourceParam[Home],
    language_model: LanguageModelResource,
) -> dg.MaterializeResult:
    stage = Stage.begin(context, home, RAW_GENERATIONS, LmsiExperiment)
    champion, section = stage.champion, stage.experiment.sampling
    pool_manifest, pool = stage.read(SEED_POOL)
    demonstrations, shown_manifests = seeds_demonstrations(
        stage.lake, stage.experiment, section.prompt_format
    )
    parameters = sampling_parameters(section, improved=champion.iteration is not None)
    with language_model.open(stage.experiment.model, champion.path) as model:
        activity = stage.drawing(
            model,
            [pool_manifest, *shown_manifests],
            {"sampling": section.model_dump(), "temperature": parameters.temperature},
        )
        with stage.lake.writer(RAW_GENERATIONS, activity) as writer:
            spent = generate_paths(
                writer,
                model,
                pool,
                section,
                parameters,
                demonstrations,
                seeds_from=(stage.experiment.seed, stage.iteration),
                log=stage.log,
                allowance=stage.allowance,
            )
            manifest = writer.commit({"seconds": stage.seconds, **vars(spent)})
    paths = stage.lake.read_ungated(manifest)
    lengths = paths["token_ids"].list.len()
    return stage.result(
        manifest,
        preview=["prompt", "text", "finish_reason"],
        metadata={
            **stage.drawn_metadata(activity, spent),
            "questions": len(pool),
            "paths_per_question": section.paths,
            "mean_tokens": number(lengths.mean()),
            "cut_off_share": number((paths["finish_reason"] == "length").mean()),
        },
    )


@stage_asset(
    PERPLEXITY_SCORES,
    deps=[RAW_GENERATIONS],
    description="How probable each path is to its own generator: mean log-probability and perplexity, read "
    "off the log-probabilities that were recorded as it was drawn.",
)
def perplexity_scores(
    context: dg.AssetExecutionContext, home: dg.ResourceParam[Home]
) -> dg.MaterializeResult:
    stage = Stage.begin(context, home, PERPLEXITY_SCORES, LmsiExperiment)
    paths_manifest, paths = stage.read(RAW_GENERATIONS)
    scores = paths.select("id", **perplexity_of(pl.col("logprobs")))
    drafts = [
        Draft(
            content={"path_id": row["id"], "tokens": row["tokens"]},
            parents=[Parent(row["id"], "scored")],
            measures={"mean_logprob": row["mean_logprob"], "perplexity": row["perplexity"]},
        )
        for row in scores.iter_rows(named=True)
    ]
    activity = stage.activity(
        inputs=[paths_manifest], parameters={}, model_id=paths_manifest.activity.model_id
    )
    manifest = stage.store(activity, drafts)
    return stage.result(
        manifest,
        preview=["path_id", "tokens", "mean_logprob", "perplexity"],
        metadata={
            "mean_perplexity": number(scores["perplexity"].mean()),
            "median_perplexity": number(scores["perplexity"].median()),
            "95th_percentile_perplexity": number(scores["perplexity"].quantile(0.95)),
        },
    )


@stage_asset(
    VOTED_ANSWERS,
    deps=[RAW_GENERATIONS],
    description="One vote a question: the answer of each path, the voted answer, its share and margin. A "
    "path whose answer cannot be read casts no vote.",
    kinds={"parquet", "polars"},
)
def voted_answers(context: dg.AssetExecutionContext, home: dg.ResourceParam[Home]) -> dg.MaterializeResult:
    stage = Stage.begin(context, home, VOTED_ANSWERS, LmsiExperiment)
    paths_manifest, paths = stage.read(RAW_GENERATIONS)
    pool_manifest, pool = stage.read(SEED_POOL)
    rule = stage.experiment.voting.rule
    ballots = paths.select(
        "question_id", "sample_index", pl.col("id").alias("path_id"), pl.col("text").alias("text_key")
    ).with_columns(extract_answers(paths["text"]).alias("answer"))
    votes = vote(ballots, rule=rule, seed=stage.experiment.seed + stage.iteration).join(
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
    activity = stage.activity(inputs=[paths_manifest, pool_manifest], parameters={"rule": rule})
    manifest = stage.store(activity, drafts)
    return stage.result(
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


@stage_asset(
    FILTERED_DATASET,
    deps=[VOTED_ANSWERS, PERPLEXITY_SCORES],
    description="The training examples: paths that agree with the vote and pass every threshold, in the four "
    "formats of LMSI. Every candidate's decisions stand in lmsi/decisions.",
)
def filtered_dataset(context: dg.AssetExecutionContext, home: dg.ResourceParam[Home]) -> dg.MaterializeResult:
    stage = Stage.begin(context, home, FILTERED_DATASET, LmsiExperiment)
    experiment = stage.experiment
    paths_manifest, paths = stage.read(RAW_GENERATIONS)
    scores_manifest, scores = stage.read(PERPLEXITY_SCORES)
    votes_manifest, votes = stage.read(VOTED_ANSWERS)
    shares = experiment.training.format_shares
    shown, shown_manifests = seeds_demonstrations(stage.lake, experiment, *shares)
    candidates = lmsi.candidates(paths, scores, votes)
    thresholds = lmsi.FilterThresholds(**experiment.filter.model_dump())
    kept, decisions = lmsi.filter_paths(candidates, thresholds, experiment.seed)
    activity = stage.activity(
        inputs=[paths_manifest, scores_manifest, votes_manifest, *shown_manifests],
        parameters={"filter": experiment.filter.model_dump(), "formats": shares},
    )
    store_decisions(stage, DECISIONS, decisions, [paths_manifest], activity.id)
    drafts = [
        Draft(
            content={
                "question_id": row["question_id"],
                "question": row["question"],
                "format": row["format"],
                "prompt": lmsi.build_prompt(row["question"], row["format"], shown),
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
    manifest = stage.store(activity, drafts)
    dropped = decisions.filter(~pl.col("kept"))["rule"].value_counts(sort=True)
    return stage.result(
        manifest,
        preview=["format", "prompt", "completion", "vote_share"],
        metadata={
            "candidates": len(candidates),
            "kept_share": number(manifest.rows / max(len(candidates), 1)),
            "questions_kept": kept["question_id"].n_unique(),
            "distinct_4grams": round(lmsi.distinct_ngram_share(kept["text"].to_list()), 4),
            **{f"dropped_by_{rule}": count for rule, count in dropped.iter_rows()},
            "lineage": stage.lineage_page,
            "preview_records": dg.MetadataValue.md(preview_records(stage.lake, manifest)),
        },
    )


lmsi_assets = [
    seed_pool,
    raw_generations,
    perplexity_scores,
    voted_answers,
    filtered_dataset,
    *training_stages("lmsi", FILTERED_DATASET),
]
