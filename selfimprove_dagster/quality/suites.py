"""What is checked of each table, and the run of all its checks on one partition."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from selfimprove_dagster.errors import SelfImproveError
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.families.dialogues.checks import FIRST_RESPONSE_CHECKS, PROMPT_POOL_CHECKS
from selfimprove_dagster.families.preferences.checks import (
    COMPARED_DATASET_CHECKS,
    DIALOGUE_EVALUATION_CHECKS,
    JUDGED_DATASET_CHECKS,
    POLICY_CHECKS,
    REWARD_MODEL_CHECKS,
    REWARDED_EVALUATION_CHECKS,
    ROLLOUT_CHECKS,
    SUPERVISED_CHECKPOINT_CHECKS,
)
from selfimprove_dagster.families.tasks.checks import (
    ACCEPTED_CHECKS,
    CLASSIFIED_CHECKS,
    COMPLETION_CHECKS,
    ELICITED_CHECKS,
    INSTRUCTION_SCORE_CHECKS,
    PARSED_CHECKS,
    POOL_CHECKS,
    SIMILARITY_CHECKS,
    TASK_DATASET_CHECKS,
)
from selfimprove_dagster.lake.lake import CheckOutcome, Lake
from selfimprove_dagster.methods.constitutional.checks import (
    CRITIQUE_CHECKS,
    REVISION_CHECKS,
    REVISION_DATASET_CHECKS,
)
from selfimprove_dagster.methods.lmsi.checks import (
    PERPLEXITY_SCORES_CHECKS,
    RAW_GENERATIONS_CHECKS,
    VOTED_ANSWERS_CHECKS,
)
from selfimprove_dagster.methods.pit.checks import (
    GAP_PAIR_CHECKS,
    GAP_REWARD_MODEL_CHECKS,
    IMPROVEMENT_ROUND_CHECKS,
    IMPROVER_DATASET_CHECKS,
    WIN_RATE_CHECKS,
)
from selfimprove_dagster.methods.refinement.checks import REFINEMENT_CHECKS, REFINEMENT_EVALUATION_CHECKS
from selfimprove_dagster.methods.rlaif.checks import (
    COMPARISON_CHECKS,
    JUDGE_CHECKS,
    PREFERENCE_CHECKS,
    RESPONSE_PAIR_CHECKS,
)
from selfimprove_dagster.methods.self_knowledge.checks import (
    CANDIDATE_CHECKS,
    DISCRIMINATION_GAP_CHECKS,
    DISCRIMINATION_SCORE_CHECKS,
    GENERATION_SCORE_CHECKS,
    SK_QUESTION_CHECKS,
)
from selfimprove_dagster.methods.toolformer.checks import (
    CALL_DATASET_CHECKS,
    LOSS_CHECKS,
    POSITION_CHECKS,
    SAMPLED_CALL_CHECKS,
    TEXT_POOL_CHECKS,
    TOOL_EVALUATION_CHECKS,
    TOOL_RESULT_CHECKS,
)
from selfimprove_dagster.quality.common import COMMON_CHECKS
from selfimprove_dagster.quality.dataset import FILTERED_DATASET_CHECKS
from selfimprove_dagster.quality.outcomes import (
    EVALUATION_CHECKS,
    FINE_TUNED_CHECKPOINT_CHECKS,
    PROMOTION_CHECKS,
)
from selfimprove_dagster.quality.questions import SEED_POOL_CHECKS
from selfimprove_dagster.quality.results import NotApplicable, QualityCheck, QualityResult
from selfimprove_dagster.quality.subject import Subject

if TYPE_CHECKING:
    from selfimprove_dagster.quality.expectations import Validator

SUITES: dict[str, tuple[QualityCheck, ...]] = {
    "lmsi/seed_pool": (*COMMON_CHECKS, *SEED_POOL_CHECKS),
    "lmsi/raw_generations": (*COMMON_CHECKS, *RAW_GENERATIONS_CHECKS),
    "lmsi/perplexity_scores": (*COMMON_CHECKS, *PERPLEXITY_SCORES_CHECKS),
    "lmsi/voted_answers": (*COMMON_CHECKS, *VOTED_ANSWERS_CHECKS),
    "lmsi/decisions": COMMON_CHECKS,
    "lmsi/filtered_dataset": (*COMMON_CHECKS, *FILTERED_DATASET_CHECKS),
    "lmsi/fine_tuned_checkpoint": (*COMMON_CHECKS, *FINE_TUNED_CHECKPOINT_CHECKS),
    "lmsi/evaluation": (*COMMON_CHECKS, *EVALUATION_CHECKS),
    "lmsi/promotion": (*COMMON_CHECKS, *PROMOTION_CHECKS),
    "self_instruct/seed_pool": (*COMMON_CHECKS, *POOL_CHECKS),
    "self_instruct/pool_decisions": COMMON_CHECKS,
    "self_instruct/raw_generations": (*COMMON_CHECKS, *COMPLETION_CHECKS),
    "self_instruct/candidate_tasks": (*COMMON_CHECKS, *PARSED_CHECKS),
    "self_instruct/perplexity_scores": (*COMMON_CHECKS, *INSTRUCTION_SCORE_CHECKS),
    "self_instruct/similarity_scores": (*COMMON_CHECKS, *SIMILARITY_CHECKS),
    "self_instruct/task_decisions": COMMON_CHECKS,
    "self_instruct/accepted_tasks": (*COMMON_CHECKS, *ACCEPTED_CHECKS),
    "self_instruct/classified_tasks": (*COMMON_CHECKS, *CLASSIFIED_CHECKS),
    "self_instruct/instance_generations": (*COMMON_CHECKS, *COMPLETION_CHECKS),
    "self_instruct/task_instances": (*COMMON_CHECKS, *PARSED_CHECKS),
    "self_instruct/decisions": COMMON_CHECKS,
    "self_instruct/filtered_dataset": (*COMMON_CHECKS, *TASK_DATASET_CHECKS),
    "self_instruct/fine_tuned_checkpoint": (*COMMON_CHECKS, *FINE_TUNED_CHECKPOINT_CHECKS),
    "self_instruct/evaluation": (*COMMON_CHECKS, *EVALUATION_CHECKS),
    "self_instruct/promotion": (*COMMON_CHECKS, *PROMOTION_CHECKS),
    "unnatural_instructions/seed_pool": (*COMMON_CHECKS, *POOL_CHECKS),
    "unnatural_instructions/pool_decisions": COMMON_CHECKS,
    "unnatural_instructions/raw_generations": (*COMMON_CHECKS, *COMPLETION_CHECKS),
    "unnatural_instructions/candidate_tasks": (*COMMON_CHECKS, *PARSED_CHECKS),
    "unnatural_instructions/task_decisions": COMMON_CHECKS,
    "unnatural_instructions/accepted_tasks": (*COMMON_CHECKS, *ELICITED_CHECKS),
    "unnatural_instructions/task_outputs": (*COMMON_CHECKS, *COMPLETION_CHECKS),
    "unnatural_instructions/paraphrases": (*COMMON_CHECKS, *COMPLETION_CHECKS, *PARSED_CHECKS),
    "unnatural_instructions/decisions": COMMON_CHECKS,
    "unnatural_instructions/filtered_dataset": (*COMMON_CHECKS, *TASK_DATASET_CHECKS),
    "unnatural_instructions/fine_tuned_checkpoint": (*COMMON_CHECKS, *FINE_TUNED_CHECKPOINT_CHECKS),
    "unnatural_instructions/evaluation": (*COMMON_CHECKS, *EVALUATION_CHECKS),
    "unnatural_instructions/promotion": (*COMMON_CHECKS, *PROMOTION_CHECKS),
    "toolformer/seed_pool": (*COMMON_CHECKS, *TEXT_POOL_CHECKS),
    "toolformer/search_index": COMMON_CHECKS,
    "toolformer/call_positions": (*COMMON_CHECKS, *POSITION_CHECKS),
    "toolformer/raw_generations": (*COMMON_CHECKS, *SAMPLED_CALL_CHECKS),
    "toolformer/tool_results": (*COMMON_CHECKS, *TOOL_RESULT_CHECKS),
    "toolformer/perplexity_scores": (*COMMON_CHECKS, *LOSS_CHECKS),
    "toolformer/decisions": COMMON_CHECKS,
    "toolformer/filtered_dataset": (*COMMON_CHECKS, *CALL_DATASET_CHECKS),
    "toolformer/fine_tuned_checkpoint": (*COMMON_CHECKS, *FINE_TUNED_CHECKPOINT_CHECKS),
    "toolformer/evaluation": (*COMMON_CHECKS, *TOOL_EVALUATION_CHECKS),
    "toolformer/promotion": (*COMMON_CHECKS, *PROMOTION_CHECKS),
    "constitutional/seed_pool": (*COMMON_CHECKS, *PROMPT_POOL_CHECKS),
    "constitutional/raw_generations": (*COMMON_CHECKS, *FIRST_RESPONSE_CHECKS),
    "constitutional/critiques": (*COMMON_CHECKS, *CRITIQUE_CHECKS),
    "constitutional/revisions": (*COMMON_CHECKS, *REVISION_CHECKS),
    "constitutional/decisions": COMMON_CHECKS,
    "constitutional/filtered_dataset": (*COMMON_CHECKS, *REVISION_DATASET_CHECKS),
    "constitutional/fine_tuned_checkpoint": (*COMMON_CHECKS, *FINE_TUNED_CHECKPOINT_CHECKS),
    "constitutional/evaluation": (*COMMON_CHECKS, *DIALOGUE_EVALUATION_CHECKS),
    "constitutional/promotion": (*COMMON_CHECKS, *PROMOTION_CHECKS),
    "rlaif/seed_pool": (*COMMON_CHECKS, *PROMPT_POOL_CHECKS),
    "rlaif/response_pairs": (*COMMON_CHECKS, *RESPONSE_PAIR_CHECKS),
    "rlaif/comparisons": (*COMMON_CHECKS, *COMPARISON_CHECKS),
    "rlaif/ai_preferences": (*COMMON_CHECKS, *PREFERENCE_CHECKS),
    "rlaif/judge_checks": (*COMMON_CHECKS, *JUDGE_CHECKS),
    "rlaif/decisions": COMMON_CHECKS,
    "rlaif/filtered_dataset": (*COMMON_CHECKS, *JUDGED_DATASET_CHECKS),
    "rlaif/reward_model": (*COMMON_CHECKS, *REWARD_MODEL_CHECKS),
    "rlaif/rollouts": (*COMMON_CHECKS, *ROLLOUT_CHECKS),
    "rlaif/fine_tuned_checkpoint": (*COMMON_CHECKS, *POLICY_CHECKS),
    "rlaif/evaluation": (*COMMON_CHECKS, *REWARDED_EVALUATION_CHECKS),
    "rlaif/promotion": (*COMMON_CHECKS, *PROMOTION_CHECKS),
    "rlhf/seed_pool": (*COMMON_CHECKS, *PROMPT_POOL_CHECKS),
    "rlhf/decisions": COMMON_CHECKS,
    "rlhf/filtered_dataset": (*COMMON_CHECKS, *COMPARED_DATASET_CHECKS),
    "rlhf/supervised_checkpoint": (*COMMON_CHECKS, *SUPERVISED_CHECKPOINT_CHECKS),
    "rlhf/reward_model": (*COMMON_CHECKS, *REWARD_MODEL_CHECKS),
    "rlhf/rollouts": (*COMMON_CHECKS, *ROLLOUT_CHECKS),
    "rlhf/fine_tuned_checkpoint": (*COMMON_CHECKS, *POLICY_CHECKS),
    "rlhf/evaluation": (*COMMON_CHECKS, *REWARDED_EVALUATION_CHECKS),
    "rlhf/promotion": (*COMMON_CHECKS, *PROMOTION_CHECKS),
    "rlaif/review_queue": COMMON_CHECKS,
    "refinement/seed_pool": (*COMMON_CHECKS, *PROMPT_POOL_CHECKS),
    "refinement/raw_generations": (*COMMON_CHECKS, *FIRST_RESPONSE_CHECKS),
    "refinement/refinements": (*COMMON_CHECKS, *REFINEMENT_CHECKS),
    "refinement/evaluation": (*COMMON_CHECKS, *REFINEMENT_EVALUATION_CHECKS),
    "self_knowledge/questions": (*COMMON_CHECKS, *SK_QUESTION_CHECKS),
    "self_knowledge/candidates": (*COMMON_CHECKS, *CANDIDATE_CHECKS),
    "self_knowledge/generation_score": (*COMMON_CHECKS, *GENERATION_SCORE_CHECKS),
    "self_knowledge/discrimination_score": (*COMMON_CHECKS, *DISCRIMINATION_SCORE_CHECKS),
    "self_knowledge/discrimination_gap": (*COMMON_CHECKS, *DISCRIMINATION_GAP_CHECKS),
    "pit/seed_pool": (*COMMON_CHECKS, *PROMPT_POOL_CHECKS),
    "pit/decisions": COMMON_CHECKS,
    "pit/filtered_dataset": (*COMMON_CHECKS, *COMPARED_DATASET_CHECKS),
    "pit/improver_dataset": (*COMMON_CHECKS, *IMPROVER_DATASET_CHECKS),
    "pit/improver_checkpoint": (*COMMON_CHECKS, *FINE_TUNED_CHECKPOINT_CHECKS),
    "pit/gap_pairs": (*COMMON_CHECKS, *GAP_PAIR_CHECKS),
    "pit/gap_reward_model": (*COMMON_CHECKS, *GAP_REWARD_MODEL_CHECKS),
    "pit/curriculum_rollouts": (*COMMON_CHECKS, *ROLLOUT_CHECKS),
    "pit/curriculum_checkpoint": (*COMMON_CHECKS, *POLICY_CHECKS),
    "pit/policy_references": (*COMMON_CHECKS, *COMPLETION_CHECKS),
    "pit/rollouts": (*COMMON_CHECKS, *ROLLOUT_CHECKS),
    "pit/fine_tuned_checkpoint": (*COMMON_CHECKS, *POLICY_CHECKS),
    "pit/improvement_rounds": (*COMMON_CHECKS, *IMPROVEMENT_ROUND_CHECKS),
    "pit/win_rates": (*COMMON_CHECKS, *WIN_RATE_CHECKS),
    "pit/evaluation": (*COMMON_CHECKS, *REWARDED_EVALUATION_CHECKS),
    "pit/promotion": (*COMMON_CHECKS, *PROMOTION_CHECKS),
}
"""The checks of each table, in the order in which they run."""


def run_suite(
    table: str, lake: Lake, experiment: Experiment, iteration: int, only: Collection[str] | None = None
) -> list[QualityResult]:
    """Run the checks of a table on one iteration and record what they found in the lake.

    `only` names some of them; those on which all others rest are run in any case. From then on `Lake.read`
    refuses the partition while a blocking check of it has failed. A check that cannot be made, since what it
    compares with is missing, counts as failed. Raises PartitionMissing when there is no partition.
    """
    from selfimprove_dagster.quality.expectations import Validator

    subject = Subject(table, lake, experiment, iteration)
    validator = Validator()
    results: list[QualityResult] = []
    broken: str | None = None
    for check in SUITES[table]:
        if only is not None and check.name not in only and not check.foundation:
            continue
        if broken:
            result = _failed(check, f"not looked at, since {broken} failed. Mend that first")
        else:
            result = _run(check, subject, validator)
        if check.foundation and not result.passed:
            broken = broken or check.name
        results.append(result)
    outcomes = [
        CheckOutcome(result.name, result.passed, result.blocking, result.reason) for result in results
    ]
    lake.record_checks(subject.manifest, outcomes, known={check.name for check in SUITES[table]})
    return results


def _run(check: QualityCheck, subject: Subject, validator: Validator) -> QualityResult:
    try:
        evidence = check.gather(subject)
    except SelfImproveError as error:
        return _failed(check, f"cannot be checked: {error}")
    if isinstance(evidence, NotApplicable):
        return QualityResult(check.name, True, check.blocking, evidence.reason)
    return validator.judge(check, evidence)


def _failed(check: QualityCheck, reason: str) -> QualityResult:
    return QualityResult(check.name, False, check.blocking, reason)
