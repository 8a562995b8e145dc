"""RLAIF: a model says which of its two responses is better, and learns from it. Group `rlaif`.

seed_pool → response_pairs → comparisons → ai_preferences → judge_checks → filtered_dataset → reward_model
→ fine_tuned_checkpoint → (shared stages)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.experiment.opening import identity_of
from selfimprove_dagster.families.dialogues.report import dialogue_evaluation_report
from selfimprove_dagster.families.dialogues.stages import drawn_responses
from selfimprove_dagster.families.judging.comparing import Pair, compare_pairs
from selfimprove_dagster.families.judging.integrity import JudgeBounds, measure_judge
from selfimprove_dagster.families.judging.preferences import aggregate, margin_of
from selfimprove_dagster.families.judging.trust import heed_measured_gap
from selfimprove_dagster.families.preferences import filters as preferences
from selfimprove_dagster.families.preferences.policies import Rewarded
from selfimprove_dagster.families.preferences.stages import preference_stages, store_pairs
from selfimprove_dagster.families.trained.checkpoints import starting_model
from selfimprove_dagster.families.trained.stages import drawn_pool, judging_stages
from selfimprove_dagster.lake.records import Draft, Parent, content_hash
from selfimprove_dagster.language_model.base import placement
from selfimprove_dagster.loop.champion import Champion
from selfimprove_dagster.methods.rlaif.reviewing import least_certain_of, preferred_by_people
from selfimprove_dagster.methods.rlaif.rewarding import reward_by_judge
from selfimprove_dagster.methods.rlaif.settings import RlaifExperiment
from selfimprove_dagster.methods.rlaif.tables import (
    RLAIF_AI_PREFERENCES,
    RLAIF_COMPARISONS,
    RLAIF_DECISIONS,
    RLAIF_FILTERED_DATASET,
    RLAIF_JUDGE_CHECKS,
    RLAIF_RESPONSE_PAIRS,
    RLAIF_REVIEW_QUEUE,
    RLAIF_SEED_POOL,
    TABLES,
)
from selfimprove_dagster.stage import Markdown, Result, StageContext, number, stage
from selfimprove_dagster.table import Row
from selfimprove_dagster.text import markdown_table
from selfimprove_dagster.work.progress import per_second
from selfimprove_dagster.work.shards import Shard, recorded_options
from selfimprove_dagster.work.spec import Spec

SUMMED_UP = ("id", "prompt_id", "response_ids", "principle", "order", "repeat", "probability_a", "problem")
"""The columns of comparisons that `aggregate` reads."""


@stage(
    RLAIF_REVIEW_QUEUE,
    after=["ai_preferences"],
    description="The pairs of which the judge is least certain, for people to label: near one half, or with "
    "different answers in the two orders. `selfimprove review` and the page /review/<experiment> show them.",
)
def review_queue(context: StageContext[RlaifExperiment]) -> Result:
    manifest, preferences = context.scan(RLAIF_AI_PREFERENCES)
    count = context.experiment.review.count
    queue = least_certain_of(preferences, count)
    queue = queue.with_columns(pl.lit(RLAIF_AI_PREFERENCES.name).alias("table"))
    drafts = [
        Draft(
            {name: row[name] for name in RLAIF_REVIEW_QUEUE.content},
            [Parent(row["item_id"], "reviewed")],
            {name: row[name] for name in RLAIF_REVIEW_QUEUE.measures},
        )
        for row in queue.iter_rows(named=True)
    ]
    activity = context.activity(inputs=[manifest], parameters={"count": count})
    return context.result(
        context.store(activity, drafts),
        preview=["prompt", "option_a", "option_b", "uncertainty"],
        metadata={
            "least_uncertainty": number(queue["uncertainty"].min()),
            "mean_uncertainty": number(queue["uncertainty"].mean()),
        },
    )


seed_pool = drawn_pool(
    RLAIF_SEED_POOL,
    "The prompts of this iteration, red-team and helpful. Those that no earlier iteration used come first.",
)


response_pairs = drawn_responses(
    RLAIF_RESPONSE_PAIRS,
    RLAIF_SEED_POOL,
    "Two responses to each prompt, drawn from the champion.",
    samples=2,
)


@stage(
    RLAIF_COMPARISONS,
    after=["response_pairs"],
    description="The judge's comparison of each pair, by each principle sampled for it, in both orders.",
    version="2",
    kinds=["parquet", "pytorch"],
    uses=["language_model"],
)
def comparisons(context: StageContext[RlaifExperiment]) -> Result:
    experiment, section = context.experiment, context.experiment.judge
    constitution = experiment.constitution.load()
    pool_manifest, pool = context.scan(RLAIF_SEED_POOL)
    drawn_manifest, drawn = context.scan(RLAIF_RESPONSE_PAIRS)
    judge = section.model or experiment.model
    path = judge.path if section.model else context.generator.path
    with context.language_model.open(judge, path, scores="options") as model:
        verdict = heed_measured_gap(context, experiment.self_knowledge, model.model_id, "probability")
        activity = context.activity(
            inputs=[pool_manifest, drawn_manifest],
            parameters={
                **replace(context.prompts, prompting=model.prompting).parameters,
                "judge": section.model_dump(exclude={"model"}),
                "constitution": {"hash": constitution.hash, "name": constitution.name},
                "engine": model.engine,
            },
            model_id=model.model_id,
            about={
                "model_path": context.lake.address_of(path),
                "champion": "the judge of judge.model" if section.model else context.generator.name,
                "engine_options": recorded_options(judge),
                **placement(model),
                **verdict,
            },
        )
        manifest, spent = context.map(
            _responses(pool, drawn),
            Spec.of(compare),
            activity,
            size=2 * section.shard,
            unit="responses",
            together="prompt_id",
            opened=model,
        )
    rate = per_second(manifest.rows, spent.model_seconds)
    return context.result(
        manifest,
        preview=["principle", "order", "probability_a", "question"],
        metadata={
            **context.drawn_metadata(activity, spent),
            **({} if rate is None else {"comparisons_per_second": rate}),
            **verdict,
        },
    )


def compare(shard: Shard[RlaifExperiment, Row]) -> list[Draft]:
    """What the judge says of the pairs of some responses (`id`, `prompt_id`, `prompt`, `text`)."""
    section, constitution = shard.experiment.judge, shard.experiment.constitution.load()
    pairs = [
        Pair(
            first["prompt_id"], first["prompt"], (first["id"], second["id"]), (first["text"], second["text"])
        )
        for first, second in _pairs(shard.items)
    ]
    return compare_pairs(
        shard.model,
        shard.prompts,
        pairs,
        constitution,
        section,
        shard.seeds_from,
        lambda pairs, tokens: shard.report.advance(2 * pairs, tokens),
    )


def _responses(pool: pl.LazyFrame, drawn: pl.LazyFrame) -> pl.LazyFrame:
    """The responses with their prompts, both to a prompt in a row; where one was revoked, neither."""
    both = drawn.group_by("prompt_id").len().filter(len=2)
    prompts = pool.select("prompt", prompt_id="id").join(both, on="prompt_id", how="semi")
    return drawn.select("id", "prompt_id", "text").join(prompts, on="prompt_id", maintain_order="left")


def _pairs(responses: Iterable[Row]) -> Iterator[tuple[Row, Row]]:
    """Both responses to each prompt, from `_responses`."""
    rows = iter(responses)
    return zip(rows, rows, strict=True)


def label(shard: Shard[RlaifExperiment, Row]) -> list[Draft]:
    """The label of each pair, from its responses with what was aggregated of its comparisons."""
    return [
        Draft(
            content={
                "prompt_id": row["prompt_id"],
                "prompt": row["prompt"],
                "response_ids": row["response_ids"],
                "first": row["text"],
                "second": other["text"],
                "principles": row["principles"],
            },
            parents=[
                Parent(row["id"], "first"),
                Parent(other["id"], "second"),
                *(Parent(id, "judged_by") for id in row["comparison_ids"]),
            ],
            measures={name: row[name] for name in RLAIF_AI_PREFERENCES.measures},
        )
        for row, other in _pairs(shard.items)
    ]


@stage(
    RLAIF_AI_PREFERENCES,
    after=["comparisons"],
    description="The label of each pair: how probable it is that its first response is the better, averaged "
    "over both orders and over principles.",
)
def ai_preferences(context: StageContext[RlaifExperiment]) -> Result:
    pool_manifest, pool = context.scan(RLAIF_SEED_POOL)
    drawn_manifest, drawn = context.scan(RLAIF_RESPONSE_PAIRS)
    compared_manifest, compared = context.scan(RLAIF_COMPARISONS)
    # Probabilities and ids alone are held.
    clamp = context.experiment.judge.label_clamp
    labels = aggregate(compared.select(SUMMED_UP).collect(), clamp).lazy()
    activity = context.activity(
        inputs=[pool_manifest, drawn_manifest, compared_manifest],
        parameters={"clamp": clamp} if clamp else {},
    )
    manifest, _ = context.map(
        _responses(pool, drawn).join(labels, on="prompt_id", maintain_order="left"),
        Spec.of(label),
        activity,
        together="prompt_id",
    )
    return context.result(
        manifest,
        preview=["prompt", "first", "second", "probability", "as_first", "as_second"],
        metadata=context.measure(
            manifest,
            mean_margin=margin_of(pl.col("probability")).mean(),
            mean_difference_of_orders=(pl.col("as_first") - pl.col("as_second")).abs().mean(),
        ),
    )


@stage(
    RLAIF_JUDGE_CHECKS,
    after=["ai_preferences"],
    description="Whether the judge can be trusted: whether it decides the same in the other order and with "
    "another seed, whether it favours a position or the longer response, and whether its labels are "
    "informative.",
    version="2",
)
def judge_checks(context: StageContext[RlaifExperiment]) -> Result:
    compared_manifest, compared = context.scan(RLAIF_COMPARISONS)
    labels_manifest, labels = context.scan(RLAIF_AI_PREFERENCES)
    bounds = JudgeBounds(**context.experiment.judge_checks.model_dump(exclude={"on_failure"}))
    judged, differ = _judged(compared, labels)
    reviews = preferred_by_people(context.lake, context.experiment.name, differ)
    margin, clamp = context.experiment.preferences.minimum_margin, context.experiment.judge.label_clamp
    measures = measure_judge(judged, differ, bounds, reviews, margin, clamp)
    activity = context.activity(
        inputs=[compared_manifest, labels_manifest],
        parameters={
            "bounds": vars(bounds),
            "minimum_margin": margin,
            **({"clamp": clamp} if clamp else {}),
            "reviews": content_hash({"rows": reviews.rows()}),
        },
    )
    drafts = [
        Draft(
            content={"measure": one.name, "allowed": one.allowed},
            parents=[Parent(labels_manifest.activity.id, "measured_on")],
            measures={name: getattr(one, name) for name in RLAIF_JUDGE_CHECKS.measures},
        )
        for one in measures
    ]
    manifest = context.store(activity, drafts)
    table = [{"measure": one.name, "found": one.statement, "passed": str(one.passed)} for one in measures]
    return context.result(
        manifest,
        preview=["measure", "value", "statement"],
        metadata={
            **{one.name: number(one.value) for one in measures},
            "judge": Markdown(markdown_table(table)),
        },
    )


def _judged(compared: pl.LazyFrame, labels: pl.LazyFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The comparisons and labels by which a judge is measured.

    Of two equal responses neither is the better, and an empty one is no response: what is said of such pairs says
    nothing of the judge, and neither do pairs that could not be judged. Its measures are taken over all pairs, so
    that these rows are held in memory, without texts: of the prompts there are hashes, and of two responses the
    longer one is `longer`, any other one empty.
    """
    first, second = (pl.col(which).str.len_chars() for which in ("first", "second"))
    one, other = (pl.col(which).str.strip_chars() for which in ("first", "second"))
    differ = (
        labels.filter(one != other, one != "", other != "", pl.col("probability").is_not_null())
        .select(
            *("id", "prompt_id", "response_ids", "probability"),
            first=pl.when(first > second).then(pl.lit("longer")).otherwise(pl.lit("")),
            second=pl.when(second > first).then(pl.lit("longer")).otherwise(pl.lit("")),
        )
        .collect(engine="streaming")
    )
    judged = (
        compared.drop_nulls("probability_a")
        .join(differ.lazy(), on="prompt_id", how="semi", maintain_order="left")
        .select(*SUMMED_UP, pl.col("question").hash())
        .collect(engine="streaming")
    )
    return judged, differ


@stage(
    RLAIF_DECISIONS,
    RLAIF_FILTERED_DATASET,
    after=["judge_checks"],
    description="The pairs whose label is certain enough. The decision of each rule on each pair is in "
    "rlaif/decisions.",
    version="2",
)
def filtered_dataset(context: StageContext[RlaifExperiment]) -> Result:
    drawn_manifest, drawn = context.scan(RLAIF_RESPONSE_PAIRS)
    labels_manifest, labels = context.scan(RLAIF_AI_PREFERENCES)
    # Refused when a check of the judge failed.
    checks_manifest, _ = context.small(RLAIF_JUDGE_CHECKS)
    return store_pairs(
        context,
        preferences.judged_candidates(labels, drawn),
        [labels_manifest, drawn_manifest, checks_manifest],
        RLAIF_DECISIONS,
        labelled_by="model",
        roles={"candidate_id": "preference", "chosen_id": "chosen", "rejected_id": "rejected"},
    )


def judged(context: StageContext[RlaifExperiment], base: Champion) -> Rewarded:
    """Rewards of the judge itself, by a principle drawn for each prompt (direct RLAIF, 2309.00267, section 2.2)."""
    experiment = context.experiment
    constitution = experiment.constitution.load()
    section = experiment.judge.model or experiment.model
    path = section.path if experiment.judge.model else base.path
    asking = registry.prompts(experiment, section).parameters
    model_id = identity_of(section) if experiment.judge.model else base.identity_in(section)
    verdict = heed_measured_gap(context, experiment.self_knowledge, model_id, "probability")
    opens = Spec.of(
        reward_by_judge,
        path=path,
        options=context.language_model.options(section, path),
        written_by=base.path,
        constitution=experiment.constitution.file,
        seed=experiment.seed,
        prompts={
            "shipped": [str(path) for path in registry.method(experiment.method).prompts],
            **experiment.prompts.model_dump(include={"file", "stop"}),
        },
        thinking=experiment.model.thinking.model_dump(),
    )
    parameters = {"constitution": constitution.hash, **({"judged_by": asking} if asking else {})}
    return Rewarded(opens, model_id, parameters, verdict, is_paid=section.prices is not None)


STAGES = [
    seed_pool,
    response_pairs,
    comparisons,
    ai_preferences,
    judge_checks,
    review_queue,
    filtered_dataset,
    *preference_stages(TABLES, starting_model, judged=judged, policy_version="3"),
    *judging_stages(TABLES, report=dialogue_evaluation_report),
]
