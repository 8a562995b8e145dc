"""The tables of RLHF."""

from __future__ import annotations

from selfimprove_dagster.column_sources import decided, each, new, of, pooled, same
from selfimprove_dagster.families.dialogues.checks import PROMPT_POOL_CHECKS
from selfimprove_dagster.families.dialogues.tables import COMPARED, SEED_COMPARISONS
from selfimprove_dagster.families.dialogues.words import comparison
from selfimprove_dagster.families.preferences.checks import (
    COMPARED_DATASET_CHECKS,
    SUPERVISED_CHECKPOINT_CHECKS,
)
from selfimprove_dagster.families.preferences.tables import (
    PAIR,
    policy,
    preference_dataset,
    reviewed_rollouts,
    reward_model,
    rewarded_evaluation,
    rollouts,
)
from selfimprove_dagster.families.trained.tables import checkpoint, promotion
from selfimprove_dagster.table import Table, decisions
from selfimprove_dagster.words import trained

RLHF_SEED_POOL = Table(
    "rlhf/seed_pool",
    "comp",
    noun="comparison",
    sentence=comparison,
    content=COMPARED,
    sources=pooled(SEED_COMPARISONS, COMPARED),
    checks=PROMPT_POOL_CHECKS,
)
"""The comparisons of one iteration; parent: the seed."""


RLHF_DECISIONS = decisions(
    "rlhf/decisions", sources=decided(of(RLHF_SEED_POOL, "id"), of(RLHF_SEED_POOL, *PAIR))
)
"""What each rule said of each comparison."""


RLHF_FILTERED_DATASET = preference_dataset(
    "rlhf",
    sources={
        **each(of(RLHF_SEED_POOL, "id"), "parents", "prompt_id"),
        **same(RLHF_SEED_POOL, *PAIR),
        "question": of(RLHF_SEED_POOL, "prompt"),
        **new("format", "labelled_by", "probability"),
    },
    checks=COMPARED_DATASET_CHECKS,
)


RLHF_SUPERVISED_CHECKPOINT = checkpoint(
    "rlhf/supervised_checkpoint",
    "sft",
    noun="supervised model",
    sentence=lambda row: trained(row, "supervised model"),
    dataset=RLHF_FILTERED_DATASET,
    learnt_from=of(RLHF_FILTERED_DATASET, "prompt", "chosen"),
    checks=SUPERVISED_CHECKPOINT_CHECKS,
)
"""One row: the model fine-tuned on what people chose; none where there is no such step."""


_STARTED = of(RLHF_SUPERVISED_CHECKPOINT, "model_id")


RLHF_REWARD_MODEL = reward_model("rlhf", RLHF_FILTERED_DATASET)


RLHF_ROLLOUTS = rollouts(
    "rlhf",
    of(RLHF_SEED_POOL, "id", "prompt"),
    [*of(RLHF_REWARD_MODEL, "model_id"), *_STARTED],
    reviewed=reviewed_rollouts("rlhf"),
)


RLHF_CHECKPOINT = policy("rlhf", RLHF_FILTERED_DATASET, RLHF_REWARD_MODEL, _STARTED)


RLHF_EVALUATION = rewarded_evaluation("rlhf", RLHF_CHECKPOINT, RLHF_REWARD_MODEL)


RLHF_PROMOTION = promotion("rlhf", RLHF_CHECKPOINT, RLHF_EVALUATION)


TABLES = (
    RLHF_SEED_POOL,
    RLHF_DECISIONS,
    RLHF_FILTERED_DATASET,
    RLHF_SUPERVISED_CHECKPOINT,
    RLHF_REWARD_MODEL,
    RLHF_ROLLOUTS,
    RLHF_CHECKPOINT,
    RLHF_EVALUATION,
    RLHF_PROMOTION,
)
"""In the order of the pipeline."""
