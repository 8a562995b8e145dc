"""Every table of the lake: its columns, and the tag that opens the ids of its records."""

from __future__ import annotations

from selfimprove_dagster.errors import PartitionMissing
from selfimprove_dagster.families.dialogues.tables import SEED_COMPARISONS, SEED_PROMPTS, dialogue_evaluation
from selfimprove_dagster.families.preferences.tables import preference_dataset, reward_model, rollouts
from selfimprove_dagster.families.tasks.tables import SEED_TASKS
from selfimprove_dagster.methods.constitutional.tables import (
    CAI_CRITIQUES,
    CAI_DECISIONS,
    CAI_FILTERED_DATASET,
    CAI_RAW_GENERATIONS,
    CAI_REVISIONS,
    CAI_SEED_POOL,
)
from selfimprove_dagster.methods.lmsi.tables import (
    DECISIONS,
    DEMONSTRATIONS,
    EVALUATION,
    FILTERED_DATASET,
    FINE_TUNED_CHECKPOINT,
    PERPLEXITY_SCORES,
    PROMOTION,
    RAW_GENERATIONS,
    SEED_POOL,
    VOTED_ANSWERS,
)
from selfimprove_dagster.methods.pit.tables import PIT_TABLES
from selfimprove_dagster.methods.refinement.tables import REFINEMENT_TABLES
from selfimprove_dagster.methods.rlaif.tables import (
    RLAIF_AI_PREFERENCES,
    RLAIF_COMPARISONS,
    RLAIF_DECISIONS,
    RLAIF_JUDGE_CHECKS,
    RLAIF_RESPONSE_PAIRS,
    RLAIF_REVIEW_QUEUE,
    RLAIF_SEED_POOL,
)
from selfimprove_dagster.methods.rlhf.tables import RLHF_DECISIONS, RLHF_SEED_POOL, RLHF_SUPERVISED_CHECKPOINT
from selfimprove_dagster.methods.self_instruct.tables import (
    SI_ACCEPTED_TASKS,
    SI_CANDIDATE_TASKS,
    SI_CLASSIFIED_TASKS,
    SI_DECISIONS,
    SI_FILTERED_DATASET,
    SI_INSTANCE_GENERATIONS,
    SI_PERPLEXITY_SCORES,
    SI_POOL_DECISIONS,
    SI_RAW_GENERATIONS,
    SI_SEED_POOL,
    SI_SIMILARITY_SCORES,
    SI_TASK_DECISIONS,
    SI_TASK_INSTANCES,
)
from selfimprove_dagster.methods.self_knowledge.tables import SELF_KNOWLEDGE_TABLES
from selfimprove_dagster.methods.toolformer.tables import SEED_TEXTS, TOOL_TABLES
from selfimprove_dagster.methods.unnatural_instructions.tables import (
    UI_ACCEPTED_TASKS,
    UI_CANDIDATE_TASKS,
    UI_DECISIONS,
    UI_FILTERED_DATASET,
    UI_PARAPHRASES,
    UI_POOL_DECISIONS,
    UI_RAW_GENERATIONS,
    UI_SEED_POOL,
    UI_TASK_DECISIONS,
    UI_TASK_OUTPUTS,
)
from selfimprove_dagster.review.tables import REVIEW_LABELS
from selfimprove_dagster.seeds.tables import REJECTED_SEEDS, SEEDS
from selfimprove_dagster.table import (
    Table,
    evaluation,
    fine_tuned_checkpoint,
    promotion,
)

JUDGE_METHODS = ("constitutional", "rlaif", "rlhf", "pit")


JUDGE_TABLES = (
    SEED_PROMPTS,
    SEED_COMPARISONS,
    CAI_SEED_POOL,
    CAI_RAW_GENERATIONS,
    CAI_CRITIQUES,
    CAI_REVISIONS,
    CAI_DECISIONS,
    CAI_FILTERED_DATASET,
    fine_tuned_checkpoint("constitutional"),
    dialogue_evaluation("constitutional"),
    promotion("constitutional"),
    RLAIF_SEED_POOL,
    RLAIF_RESPONSE_PAIRS,
    RLAIF_COMPARISONS,
    RLAIF_AI_PREFERENCES,
    RLAIF_REVIEW_QUEUE,
    RLAIF_JUDGE_CHECKS,
    RLAIF_DECISIONS,
    preference_dataset("rlaif"),
    reward_model("rlaif"),
    rollouts("rlaif"),
    fine_tuned_checkpoint("rlaif"),
    dialogue_evaluation("rlaif"),
    promotion("rlaif"),
    RLHF_SEED_POOL,
    RLHF_DECISIONS,
    preference_dataset("rlhf"),
    RLHF_SUPERVISED_CHECKPOINT,
    reward_model("rlhf"),
    rollouts("rlhf"),
    fine_tuned_checkpoint("rlhf"),
    dialogue_evaluation("rlhf"),
    promotion("rlhf"),
)
"""All of them, in the order in which the stages run."""


TASK_TABLES = (
    SEED_TASKS,
    SI_SEED_POOL,
    SI_POOL_DECISIONS,
    SI_RAW_GENERATIONS,
    SI_CANDIDATE_TASKS,
    SI_PERPLEXITY_SCORES,
    SI_SIMILARITY_SCORES,
    SI_TASK_DECISIONS,
    SI_ACCEPTED_TASKS,
    SI_CLASSIFIED_TASKS,
    SI_INSTANCE_GENERATIONS,
    SI_TASK_INSTANCES,
    SI_DECISIONS,
    SI_FILTERED_DATASET,
    fine_tuned_checkpoint("self_instruct"),
    evaluation("self_instruct"),
    promotion("self_instruct"),
    UI_SEED_POOL,
    UI_POOL_DECISIONS,
    UI_RAW_GENERATIONS,
    UI_CANDIDATE_TASKS,
    UI_TASK_DECISIONS,
    UI_ACCEPTED_TASKS,
    UI_TASK_OUTPUTS,
    UI_PARAPHRASES,
    UI_DECISIONS,
    UI_FILTERED_DATASET,
    fine_tuned_checkpoint("unnatural_instructions"),
    evaluation("unnatural_instructions"),
    promotion("unnatural_instructions"),
)
"""All of them, in the order in which the stages run."""


TABLES = {
    schema.name: schema
    for schema in (
        SEEDS,
        REJECTED_SEEDS,
        DEMONSTRATIONS,
        SEED_POOL,
        RAW_GENERATIONS,
        PERPLEXITY_SCORES,
        VOTED_ANSWERS,
        DECISIONS,
        FILTERED_DATASET,
        FINE_TUNED_CHECKPOINT,
        EVALUATION,
        PROMOTION,
        *TASK_TABLES,
        *TOOL_TABLES,
        *JUDGE_TABLES,
        *REFINEMENT_TABLES,
        *SELF_KNOWLEDGE_TABLES,
        *PIT_TABLES,
        REVIEW_LABELS,
    )
}


MADE_TOGETHER = {CAI_CRITIQUES.name: CAI_REVISIONS.name, CAI_REVISIONS.name: CAI_CRITIQUES.name}
"""Tables whose rows have parents in each other, so that no activity of one can be an input of the other's."""


MODELS = (
    *("fine_tuned_checkpoint", "supervised_checkpoint", "reward_model"),
    *("improver_checkpoint", "gap_reward_model", "curriculum_checkpoint"),
)
"""The stages whose rows are models that were trained."""


def holds_models(table: str) -> bool:
    """Whether the rows of a table are models that were trained."""
    return table.split("/")[1] in MODELS


SEEDS_OF = {
    "lmsi": SEEDS,
    "self_instruct": SEED_TASKS,
    "unnatural_instructions": SEED_TASKS,
    "toolformer": SEED_TEXTS,
    "constitutional": SEED_PROMPTS,
    "rlaif": SEED_PROMPTS,
    "rlhf": SEED_COMPARISONS,
    "refinement": SEED_PROMPTS,
    "pit": SEED_COMPARISONS,
}
"""The table of what people gave to the experiments of a method; one without seeds has none."""


def of(method: str, stage: str) -> Table:
    """The table of a stage. Raises PartitionMissing for a method that has no such stage."""
    if f"{method}/{stage}" not in TABLES:
        raise PartitionMissing(f"the method {method} has no stage {stage}: there is nothing to look for")
    return TABLES[f"{method}/{stage}"]
