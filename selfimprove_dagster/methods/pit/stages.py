"""PIT: a model learns to improve responses from preferences, without being told how. Group `pit`.

seed_pool → filtered_dataset ┬→ improver_dataset → improver_checkpoint ─┬→ curriculum_checkpoint
                             └→ gap_pairs → gap_reward_model ───────────┘
curriculum_checkpoint → policy_references → fine_tuned_checkpoint → improvement_rounds → win_rates
→ (shared stages)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import polars as pl

from selfimprove_dagster.families.dialogues.report import dialogue_evaluation_report
from selfimprove_dagster.families.preferences.filters import split_held_out
from selfimprove_dagster.families.preferences.policies import (
    fit_reward_model,
    optimise_policy,
    rewarded_by_model,
    without_reward,
)
from selfimprove_dagster.families.preferences.stages import compared_pairs
from selfimprove_dagster.families.trained.checkpoints import (
    TrainingStage,
    datasets,
    fine_tuned,
    rows_of,
    starting_model,
    trained_model,
)
from selfimprove_dagster.families.trained.forgetting import recorded
from selfimprove_dagster.families.trained.stages import drawn_pool, judging_stages
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.records import Draft, Parent, parents_of
from selfimprove_dagster.loop.champion import Champion
from selfimprove_dagster.methods.pit import pit
from selfimprove_dagster.methods.pit import tables as t
from selfimprove_dagster.methods.pit.improvement_stages import (
    improvement_rounds,
    win_rate_table,
    win_rates_asset,
)
from selfimprove_dagster.methods.pit.pit import measure_gaps
from selfimprove_dagster.methods.pit.settings import PitExperiment
from selfimprove_dagster.stage import Markdown, Result, StageContext, number, stage
from selfimprove_dagster.table import Row, Table
from selfimprove_dagster.text import markdown_table
from selfimprove_dagster.work.shards import Request, Shard
from selfimprove_dagster.work.spec import Spec

if TYPE_CHECKING:
    from selfimprove_dagster.training.comparisons import Comparison

seed_pool = drawn_pool(
    t.PIT_SEED_POOL,
    "The pairs of this iteration, of a file or of another experiment's dataset. Those that no earlier "
    "iteration used come first.",
    after=["rlaif/filtered_dataset", "rlhf/filtered_dataset"],
)


filtered_dataset = compared_pairs(
    t.PIT_FILTERED_DATASET,
    t.PIT_SEED_POOL,
    t.PIT_DECISIONS,
    "The pairs that pass every rule: the worse response of each can be improved to the better. The "
    "decision of each rule on each pair is in pit/decisions.",
)


@stage(
    t.PIT_IMPROVER_DATASET,
    after=["filtered_dataset"],
    description="The examples of the supervised step: the better response after the prompt and the worse "
    "one, and for a share of the pairs also after the prompt alone.",
)
def improver_dataset(context: StageContext[PitExperiment]) -> Result:
    pairs_manifest, pairs = context.scan(t.PIT_FILTERED_DATASET)
    share = context.experiment.improver.plain_share
    activity = context.activity(inputs=[pairs_manifest], parameters={"plain_share": share})
    manifest, _ = context.map(
        pairs.select("id", "prompt_id", "question", "chosen", "rejected"), Spec.of(show_better), activity
    )
    formats = {name: (pl.col("format") == name).sum() for name in (pit.IMPROVEMENT, pit.RESPONSE)}
    return context.result(
        manifest,
        preview=["format", "prompt", "completion"],
        metadata=context.measure(manifest, **formats),
    )


def show_better(shard: Shard[PitExperiment, Row]) -> pl.DataFrame:
    """The examples that are made of pairs."""
    experiment = shard.experiment
    share, seed = experiment.improver.plain_share, experiment.seed
    examples = pit.improver_examples(shard.frame, shard.prompts, share, seed)
    return examples.with_columns(parents_of(example_id="pair"))


@stage(
    t.PIT_IMPROVER_CHECKPOINT,
    after=["improver_dataset"],
    description="The supervised step: the model fine-tuned to improve, prompts masked.",
    kinds=["pytorch", "huggingface"],
    uses=["trainer"],
)
def improver_checkpoint(context: StageContext[PitExperiment]) -> Result:
    return fine_tuned(context, t.PIT_IMPROVER_DATASET, starting_model(context), name="improver")


@stage(
    t.PIT_GAP_PAIRS,
    after=["filtered_dataset"],
    description="Five comparisons per pair, r(w,l) ≥ r(w,w) ≈ r(l,l) ≥ r(l,w), where (w,l) is the better "
    "response against the worse. Those of some prompts are held out.",
)
def gap_pairs(context: StageContext[PitExperiment]) -> Result:
    pairs_manifest, pairs = context.scan(t.PIT_FILTERED_DATASET)
    share = context.experiment.preferences.held_out_share
    activity = context.activity(inputs=[pairs_manifest], parameters={"held_out_share": share})
    columns = ["id", "prompt_id", "question", "chosen", "rejected", "probability"]
    manifest, _ = context.map(pairs.select(columns), Spec.of(compare_gaps), activity)
    held_out = pl.col("example_id").filter("held_out").n_unique()
    return context.result(
        manifest,
        preview=["first_kind", "second_kind", "first_prompt", "first", "second_prompt", "second"],
        metadata=context.measure(manifest, pairs=pl.col("example_id").n_unique(), held_out_pairs=held_out),
    )


def compare_gaps(shard: Shard[PitExperiment, Row]) -> list[Draft]:
    """The five comparisons of each pair."""
    experiment = shard.experiment
    questions = shard.frame["question"].to_list()
    held_out = split_held_out(questions, experiment.preferences.held_out_share, experiment.seed)
    return [
        Draft(
            content={
                "example_id": row["id"],
                "prompt_id": row["prompt_id"],
                "question": row["question"],
                "held_out": out,
                **vars(term),
            },
            parents=[Parent(row["id"], "pair")],
            measures={"probability": row["probability"]},
        )
        for row, out in zip(shard.items, held_out, strict=True)
        for term in pit.gap_comparisons(shard.prompts, row["question"], row["chosen"], row["rejected"])
    ]


@stage(
    t.PIT_GAP_REWARD_MODEL,
    after=["gap_pairs"],
    description="The model of r_gap(x, y, y_ref), trained with TRL's RewardTrainer on the five comparisons "
    "of each pair, and measured on pairs that it never saw.",
    kinds=["pytorch", "huggingface"],
    uses=["trainer"],
)
def gap_reward_model(context: StageContext[Any]) -> Result:
    from selfimprove_dagster.training.comparisons import tokenise_sides
    from selfimprove_dagster.training.reward import agreement

    section = context.experiment.gap_reward_model
    manifest, *earlier = datasets(context, t.PIT_GAP_PAIRS, section)
    _, terms = context.scan(t.PIT_GAP_PAIRS)
    base = starting_model(context)
    training = TrainingStage.begin(
        context, manifest, base, {"gap_reward_model": recorded(section)}, earlier=earlier
    )
    columns = ("first_prompt", "first", "second_prompt", "second", "probability", "question", "held_out")

    def compared(held_out: bool, *partitions: Manifest) -> Iterator[Comparison]:
        rows = (
            row[:-1] for one in partitions for row in rows_of(context, one, *columns) if row[-1] is held_out
        )
        return tokenise_sides(base.path, rows, context.prompts.prompting)

    outcome, judge = fit_reward_model(training, section, compared(False, manifest, *earlier))
    kinds = terms.filter("held_out").select("example_id", "first_kind", "second_kind").collect()
    with closing(judge):
        judged = [*judge.compare(compared(True, manifest))]
    accuracy = agreement(judged) if judged else None
    measured = {"held_out_accuracy": accuracy, **measure_gaps(kinds, judged)}
    order = [
        {
            "": f"r({row['first']}) − r({row['second']})",
            "mean": f"{row['mean']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]",
            "above": f"{row['right']} of {row['pairs']}",
        }
        for row in measured["gap_order"]
    ]
    metadata = {
        "held_out_pairs": measured["held_out_pairs"],
        "held_out_accuracy": number(measured["held_out_accuracy"]),
        "held_out_loss": number(measured["held_out_loss"]),
        **{
            f"mean_reward_{one['kind'].replace(',', '')}": number(one["mean"])
            for one in measured["gap_means"]
        },
        "order": Markdown(markdown_table(order)),
    }

    def ids(held_out: bool, *partitions: Manifest) -> list[str]:
        return [
            id for one in partitions for id, out in rows_of(context, one, "id", "held_out") if out is held_out
        ]

    stored = training.store(
        outcome,
        measures=measured,
        ids=lambda: ids(False, manifest, *earlier),
        unmeasured=without_reward(judged, lambda: ids(True, manifest)),
    )
    return training.result(stored, outcome, metadata)


@stage(
    t.PIT_CURRICULUM_ROLLOUTS,
    t.PIT_CURRICULUM_CHECKPOINT,
    after=["improver_checkpoint", "gap_reward_model"],
    description="The first phase of the curriculum: the improver optimised against the gap reward with a KL "
    "term, on references from the data. Everything that it wrote during training is in curriculum_rollouts.",
    version="2",
    kinds=["pytorch", "huggingface"],
    uses=["trainer"],
)
def curriculum_checkpoint(context: StageContext[PitExperiment]) -> Result:
    manifest, pairs = context.scan(t.PIT_FILTERED_DATASET)
    section = context.experiment.curriculum
    columns = ["id", "prompt_id", "question", "chosen", "rejected"]
    prompts = pit.first_references(pairs.select(columns).collect(), context.prompts, section.references)
    return _phase(
        context,
        manifest,
        prompts,
        t.PIT_IMPROVER_CHECKPOINT,
        t.PIT_CURRICULUM_ROLLOUTS,
        {"steps": section.steps, "epochs": None},
        {"references": section.references},
    )


@stage(
    t.PIT_POLICY_REFERENCES,
    after=["filtered_dataset", "curriculum_checkpoint"],
    description="The improvement of each worse response by the policy of the first phase: references of the "
    "second.",
    kinds=["parquet", "pytorch"],
    uses=["language_model"],
)
def policy_references(context: StageContext[PitExperiment]) -> Result:
    section = context.experiment.references
    manifest, pairs = context.scan(t.PIT_FILTERED_DATASET)
    policy_manifest, _ = context.small(t.PIT_CURRICULUM_CHECKPOINT)
    pool_manifest, _ = context.scan(t.PIT_SEED_POOL)
    stored, shown = context.complete(
        [pool_manifest, manifest, policy_manifest],
        {"references": section.model_dump()},
        pairs.select("id", "prompt_id", "question", "rejected"),
        Spec.of(ask_for_better),
        size=section.shard,
        each=section.samples,
        by=_trained(context, t.PIT_CURRICULUM_CHECKPOINT),
    )
    return context.result(stored, preview=["prompt", "text"], metadata=shown)


def ask_for_better(shard: Shard[PitExperiment, Row]) -> Iterator[Request]:
    """What the policy improves: the worse response of each pair."""
    for row in shard.items:
        yield Request(
            f"{row['question']}\0{row['rejected'].strip()}",
            pit.better_asked(shard.prompts, row["question"], row["rejected"]),
            {"prompt_id": row["prompt_id"], "example_id": row["id"]},
            [Parent(row["prompt_id"], "prompt"), Parent(row["id"], "improvement_of")],
            samples=shard.experiment.references.samples,
        )


@stage(
    t.PIT_ROLLOUTS,
    t.PIT_CHECKPOINT,
    after=["policy_references", "curriculum_checkpoint", "gap_reward_model"],
    description="The second phase of the curriculum: the policy optimised further, on its own samples as "
    "references. Everything that it wrote during training is in rollouts.",
    version="2",
    kinds=["pytorch", "huggingface"],
    uses=["trainer"],
)
def fine_tuned_checkpoint(context: StageContext[PitExperiment]) -> Result:
    manifest, samples = context.scan(t.PIT_POLICY_REFERENCES)
    pairs_manifest, _ = context.scan(t.PIT_FILTERED_DATASET)
    questions = dict(rows_of(context, pairs_manifest, "prompt_id", "question"))
    said = samples.select("id", "prompt_id", "text").collect()
    prompts = pit.own_references(said, context.prompts, questions)
    return _phase(context, manifest, prompts, t.PIT_CURRICULUM_CHECKPOINT, t.PIT_ROLLOUTS)


def _phase(
    context: StageContext[PitExperiment],
    dataset: Manifest,
    prompts: pl.DataFrame,
    start: Table,
    rollouts_table: Table,
    changed: dict[str, Any] | None = None,
    parameters: dict[str, Any] | None = None,
) -> Result:
    """One phase of the curriculum: from the model of `start`, against the gap reward, on these references.

    `training` says how, but for what is `changed`. References are held whole, since no text may come twice.
    """
    section = context.experiment.training.model_copy(update=changed or {})
    rewarding, start_manifest = (context.small(table)[0] for table in (t.PIT_GAP_REWARD_MODEL, start))
    # The prompt holds the reference, so that the reward of a completion after it is the gap.
    rewarded = rewarded_by_model(context, t.PIT_GAP_REWARD_MODEL)
    training = TrainingStage.begin(
        context,
        dataset,
        _trained(context, start),
        {"training": recorded(section), "rewarded_by": rewarded.model_id, **(parameters or {})},
        inputs=[rewarding, start_manifest],
    )
    return optimise_policy(training, section, prompts, rewarded, rollouts_table, pit.IMPROVEMENT)


def _trained(context: StageContext[PitExperiment], table: Table) -> Champion:
    model = trained_model(context, table)
    assert model is not None, table.name
    return model


def _report(context: StageContext[Any], manifest: Manifest) -> dict[str, Any]:
    """What an evaluation of dialogues shows, and who won."""
    _, met = context.scan(t.PIT_WIN_RATES)
    return {**dialogue_evaluation_report(context, manifest), **win_rate_table(met)}


STAGES = [
    seed_pool,
    filtered_dataset,
    improver_dataset,
    improver_checkpoint,
    gap_pairs,
    gap_reward_model,
    curriculum_checkpoint,
    policy_references,
    fine_tuned_checkpoint,
    improvement_rounds,
    win_rates_asset,
    # The rounds of improvement that the exam compares are made by the champion and by the checkpoint alone.
    *judging_stages(t.TABLES, _report, after=["win_rates"], with_base=False),
]
