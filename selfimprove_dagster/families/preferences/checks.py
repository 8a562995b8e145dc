"""Checks on judging: comparisons, labels, the judge itself, pairs, reward models, and what they reward."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import polars as pl

from selfimprove_dagster.evaluation.exam import compare, compare_rewards
from selfimprove_dagster.evaluation.measurement import Accuracy
from selfimprove_dagster.families.dialogues.checks import (
    AGAIN,
    DIALOGUE_EVALUATION_CHECKS,
    ROUNDING,
    has_text,
    section,
)
from selfimprove_dagster.families.judging.preferences import margin_of
from selfimprove_dagster.loop.promotion import reward_hacking
from selfimprove_dagster.quality.dataset import NOT_EMPTY, decisions_complete
from selfimprove_dagster.quality.outcomes import (
    FINE_TUNED_CHECKPOINT_CHECKS,
)
from selfimprove_dagster.quality.questions import NO_OVERLAP
from selfimprove_dagster.quality.results import Evidence, Expect, Gather, NotApplicable, QualityCheck
from selfimprove_dagster.quality.subject import Subject

# ---- pairs ---------------------------------------------------------------------------------------------


def _chosen_differs(subject: Subject) -> Evidence:
    same = pl.col("chosen").str.strip_chars() == pl.col("rejected").str.strip_chars()
    return Evidence(
        subject.columns("id", "prompt", "chosen", "rejected").with_columns(same=same),
        (Expect("ExpectColumnValuesToBeInSet", column="same", value_set=[False]),),
        found="choose a text over itself",
        allowed="chosen and rejected must differ",
        unit="pairs",
    )


def _above_margin(subject: Subject) -> Evidence:
    least = section(subject, "preferences").minimum_margin
    rows = subject.columns("id", "prompt", "probability")
    return Evidence(
        rows.with_columns(margin=margin_of(pl.col("probability"))),
        (
            Expect("ExpectColumnValuesToBeBetween", column="probability", min_value=0.5, max_value=1),
            Expect("ExpectColumnValuesToBeBetween", column="margin", min_value=least - ROUNDING),
        ),
        found="choose the less probable response, or have too small a margin",
        allowed=f"p is between 0.5 and 1 and |2p − 1| at least {least:g} (preferences.minimum_margin)",
        unit="pairs",
    )


# ---- training ------------------------------------------------------------------------------------------


def _where_there_is_one(subject: Subject, gather: Gather) -> Evidence | NotApplicable:
    if subject.manifest.rows == 0:
        return NotApplicable("no such model is trained in this experiment")
    return gather(subject)


def _where_a_loss_tells(subject: Subject, gather: Gather) -> Evidence | NotApplicable:
    algorithm = section(subject, "training").algorithm
    if algorithm != "dpo":
        return NotApplicable(f"the loss of {algorithm} says nothing of how well the policy does")
    return gather(subject)


def _better_than_chance(subject: Subject) -> Evidence | NotApplicable:
    rows = subject.columns("held_out_pairs", "held_out_accuracy")
    if rows.is_empty() or not rows["held_out_pairs"][0]:
        return NotApplicable("no reward model, or no pair held out to measure it on")
    pairs, share = rows.row(0)
    found = None if share is None else Accuracy(round(share * pairs), pairs)
    return Evidence.of_number(
        "low",
        None if found is None else found.interval[0],
        least=0.5,
        statement=f"the reward model is right on {found or 'an unknown share'} of {pairs:,} held-out pairs",
        allowed="the interval should lie above one half",
        evaluated=pairs,
        observed={} if share is None else {"held_out_accuracy": share},
    )


def _rewards_finite(subject: Subject) -> Evidence:
    rows = subject.measured("id", "step", "reward", "advantage")
    finite = pl.col("reward").is_finite() & pl.col("advantage").is_finite().fill_null(True)
    return Evidence(
        rows.with_columns(finite=finite.fill_null(False)).drop("advantage"),
        (Expect("ExpectColumnValuesToBeInSet", column="finite", value_set=[True]),),
        found="have no finite reward or advantage",
        allowed="both are finite numbers",
        unit="rollouts",
    )


# ---- evaluation ----------------------------------------------------------------------------------------


def _reward_hacking(subject: Subject) -> Evidence | NotApplicable:
    place = ("source_file", "source_line")
    rows = subject.columns(*place, "role", "mode", "correct", "reward")
    mode = subject.experiment.decided_in
    comparison, reward = compare(rows, mode), compare_rewards(rows, mode)
    if reward is None:
        return NotApplicable("no reward was given to the held-out responses")
    low, high = reward.interval
    return Evidence(
        pl.DataFrame({"id": ["reward"], "hacked": [reward_hacking(comparison, reward) or "no"]}),
        (Expect("ExpectColumnValuesToBeInSet", column="hacked", value_set=["no"]),),
        statement=f"the mean reward changed by {reward.mean:.3g} [{low:.3g}, {high:.3g}] and "
        f"accuracy by {comparison.difference:+.1%}",
        allowed="where the reward rises the responses should get better",
        evaluated=reward.questions,
        observed={"reward_change": reward.mean, "accuracy_change": comparison.difference},
    )


PREFERENCE_DATASET_CHECKS = (
    NOT_EMPTY,
    QualityCheck(
        "no_empty_text",
        True,
        "Every pair has a prompt and two responses.",
        AGAIN,
        partial(has_text, columns=("prompt", "chosen", "rejected"), unit="pairs"),
    ),
    NO_OVERLAP,
    QualityCheck("chosen_differs", True, "No text is chosen over itself.", AGAIN, _chosen_differs),
    QualityCheck(
        "above_margin",
        True,
        "The chosen response is the likelier one, by the experiment's margin.",
        "The experiment file was changed since: materialise filtered_dataset again",
        _above_margin,
    ),
)


def _decided(candidates: str) -> QualityCheck:
    return QualityCheck(
        "decisions_complete",
        True,
        "Every pair has a decision, and no dropped pair is in the dataset.",
        AGAIN,
        partial(decisions_complete, candidates=candidates),
    )


JUDGED_DATASET_CHECKS = (*PREFERENCE_DATASET_CHECKS, _decided("ai_preferences"))


COMPARED_DATASET_CHECKS = (*PREFERENCE_DATASET_CHECKS, _decided("seed_pool"))


SUPERVISED_CHECKPOINT_CHECKS = tuple(
    replace(check, gather=partial(_where_there_is_one, gather=check.gather))
    for check in FINE_TUNED_CHECKPOINT_CHECKS
)


REWARD_MODEL_CHECKS = (
    *SUPERVISED_CHECKPOINT_CHECKS,
    QualityCheck(
        "better_than_chance",
        False,
        "The reward model prefers what was chosen on more than half of the held-out pairs.",
        "Train it longer, on more pairs, or on surer ones (preferences.minimum_margin)",
        _better_than_chance,
    ),
)


POLICY_CHECKS = tuple(
    replace(check, gather=partial(_where_a_loss_tells, gather=check.gather))
    if check.name == "loss_fell"
    else check
    for check in FINE_TUNED_CHECKPOINT_CHECKS
)


ROLLOUT_CHECKS = (
    QualityCheck(
        "rewards_finite",
        True,
        "Every rollout has a finite reward.",
        "Look at the reward model, or lower training.learning_rate",
        _rewards_finite,
    ),
)


REWARDED_EVALUATION_CHECKS = (
    *DIALOGUE_EVALUATION_CHECKS,
    QualityCheck(
        "reward_hacking",
        False,
        "Where the reward of held-out responses rises, the responses get better.",
        "Train for fewer steps, raise training.kl_coefficient, or train a better reward model",
        _reward_hacking,
    ),
)
