"""The tables of PIT."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.column_sources import decided, drawn, each, new, of, same
from selfimprove_dagster.families.dialogues.checks import PROMPT_POOL_CHECKS
from selfimprove_dagster.families.dialogues.tables import COMPARED, SEED_COMPARISONS, dialogue_evaluation
from selfimprove_dagster.families.dialogues.words import comparison
from selfimprove_dagster.families.preferences.checks import (
    COMPARED_DATASET_CHECKS,
    POLICY_CHECKS,
    REWARDED_EVALUATION_CHECKS,
)
from selfimprove_dagster.families.preferences.tables import PAIR, preference_dataset, rollouts
from selfimprove_dagster.families.trained.tables import (
    TRAINED,
    checkpoint,
    fine_tuned_checkpoint,
    promotion,
)
from selfimprove_dagster.methods.pit import words
from selfimprove_dagster.methods.pit.checks import (
    GAP_PAIR_CHECKS,
    GAP_REWARD_MODEL_CHECKS,
    IMPROVEMENT_ROUND_CHECKS,
    IMPROVER_DATASET_CHECKS,
    WIN_RATE_CHECKS,
)
from selfimprove_dagster.quality.completions import COMPLETION_CHECKS
from selfimprove_dagster.table import PROBLEM, SOURCE, TEXT, Draw, Source, Table, completions, decisions


def _given(stage: str, column: str) -> list[Source]:
    """A column of a stage of the methods whose examples are given; the methods need not be installed."""
    return [source for giver in ("rlaif", "rlhf") for source in of(f"{giver}/{stage}", column)]


PIT_SEED_POOL = Table(
    "pit/seed_pool",
    "comp",
    noun="comparison",
    sentence=comparison,
    content=COMPARED,
    measures={"probability": pl.Float64},
    sources={
        "parents": [*of(SEED_COMPARISONS, "id"), *_given("filtered_dataset", "id")],
        "prompt": [*of(SEED_COMPARISONS, "prompt"), *_given("filtered_dataset", "question")],
        **{
            name: [*of(SEED_COMPARISONS, name), *_given("filtered_dataset", name)]
            for name in ("chosen", "rejected")
        },
        **{name: [*of(SEED_COMPARISONS, name), *_given("seed_pool", name)] for name in SOURCE},
        "probability": _given("filtered_dataset", "probability"),
    },
    checks=PROMPT_POOL_CHECKS,
)
"""The pairs of one iteration; parent: the comparison of a file, or the example of another experiment.
`probability` is that of the chosen response being the better one, 1 where a person chose."""


PIT_DECISIONS = decisions(
    "pit/decisions",
    sources=decided(of(PIT_SEED_POOL, "id"), of(PIT_SEED_POOL, *PAIR, "probability")),
)
"""What each rule said of each pair."""


PIT_FILTERED_DATASET = preference_dataset(
    "pit",
    sources={
        **each(of(PIT_SEED_POOL, "id"), "parents", "prompt_id"),
        **same(PIT_SEED_POOL, *PAIR, "probability"),
        "question": of(PIT_SEED_POOL, "prompt"),
        **new("format", "labelled_by"),
    },
    checks=COMPARED_DATASET_CHECKS,
)


_EXAMPLE = of(PIT_FILTERED_DATASET, "id")


_BETTER_AND_WORSE = of(PIT_FILTERED_DATASET, "question", "chosen", "rejected")


_WORSE = of(PIT_FILTERED_DATASET, "question", "rejected")


PIT_IMPROVER_DATASET = Table(
    "pit/improver_dataset",
    "imp",
    noun="improvement example",
    sentence=words.improver_example,
    content={
        "example_id": TEXT,
        "prompt_id": TEXT,
        "question": TEXT,
        "format": TEXT,
        "prompt": TEXT,
        "completion": TEXT,
    },
    sources={
        **each(_EXAMPLE, "parents", "example_id"),
        **same(PIT_FILTERED_DATASET, "prompt_id", "question"),
        "prompt": _WORSE,
        "completion": of(PIT_FILTERED_DATASET, "chosen"),
        **new("format"),
    },
    checks=IMPROVER_DATASET_CHECKS,
)
"""What the supervised step learns: y_w after x and y_l (format `improvement`), or after x alone (`response`);
parent: the pair (`example_id`)."""


PIT_IMPROVER_CHECKPOINT = checkpoint(
    "pit/improver_checkpoint",
    "sft",
    noun="improver",
    sentence=words.improver,
    dataset=PIT_IMPROVER_DATASET,
    learnt_from=of(PIT_IMPROVER_DATASET, "prompt", "completion"),
)
"""One row: the model fine-tuned to improve y_l to y_w."""


_IMPROVER = of(PIT_IMPROVER_CHECKPOINT, "model_id")


PIT_GAP_PAIRS = Table(
    "pit/gap_pairs",
    "gap",
    noun="gap comparison",
    sentence=words.gap,
    said=words.gap,
    content={
        "example_id": TEXT,
        "prompt_id": TEXT,
        "question": TEXT,
        "first_kind": TEXT,
        "second_kind": TEXT,
        "first_prompt": TEXT,
        "first": TEXT,
        "second_prompt": TEXT,
        "second": TEXT,
        "held_out": pl.Boolean,
    },
    measures={"probability": pl.Float64},
    sources={
        **each(_EXAMPLE, "parents", "example_id"),
        **same(PIT_FILTERED_DATASET, "prompt_id", "question", "probability"),
        **each(_BETTER_AND_WORSE, "first_prompt", "first", "second_prompt", "second"),
        "held_out": of(PIT_FILTERED_DATASET, "question"),
        **new("first_kind", "second_kind"),
    },
    checks=GAP_PAIR_CHECKS,
)
"""Five comparisons per pair, a term of the gap loss each: `first_kind` "w,l" is y_w against the reference y_l.
`probability` is that of the first being above the second; parent: the pair (`example_id`)."""


ORDERED = pl.Struct(
    {
        "first": TEXT,
        "second": TEXT,
        "mean": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
        "right": pl.Int64,
        "pairs": pl.Int64,
    }
)


GAP_MEAN = pl.Struct({"kind": TEXT, "mean": pl.Float64, "low": pl.Float64, "high": pl.Float64})


PIT_GAP_REWARD_MODEL = checkpoint(
    "pit/gap_reward_model",
    "grm",
    noun="gap reward model",
    sentence=words.gap_reward_model,
    dataset=PIT_GAP_PAIRS,
    learnt_from=of(PIT_GAP_PAIRS, "first_prompt", "first", "second_prompt", "second", "probability"),
    measures={
        "held_out_pairs": pl.Int64,
        "held_out_accuracy": pl.Float64,
        "held_out_loss": pl.Float64,
        "gap_means": pl.List(GAP_MEAN),
        "gap_order": pl.List(ORDERED),
    },
    sources=each(of(PIT_GAP_PAIRS, "first_kind", "second_kind", "held_out"), "gap_means", "gap_order"),
    checks=GAP_REWARD_MODEL_CHECKS,
)
"""One row: the model of r_gap. Of pairs that it never saw: the share of the comparisons ordered right, the
loss a pair in nats, the mean reward of each kind with its 95% interval, and how the kinds compare."""


_GAP = of(PIT_GAP_REWARD_MODEL, "model_id")


PIT_CURRICULUM_ROLLOUTS = rollouts(
    "pit",
    [*of(PIT_SEED_POOL, "id"), *_BETTER_AND_WORSE],
    [*_GAP, *_IMPROVER],
    _EXAMPLE,
    stage="curriculum_rollouts",
    noun="first-phase rollout",
)


PIT_CURRICULUM_CHECKPOINT = checkpoint(
    "pit/curriculum_checkpoint",
    "cur",
    noun="first-phase policy",
    sentence=words.first_phase,
    dataset=PIT_FILTERED_DATASET,
    learnt_from=[*_BETTER_AND_WORSE, *_GAP],
    sources={
        "parents": [*of(PIT_FILTERED_DATASET, "activity_id"), *_GAP, *_IMPROVER],
        "base_model_id": _IMPROVER,
    },
    checks=POLICY_CHECKS,
)
"""One row: the policy after the first phase, whose references were the responses of the data."""


_FIRST_PHASE = of(PIT_CURRICULUM_CHECKPOINT, "model_id")


PIT_POLICY_REFERENCES = completions(
    "pit/policy_references",
    "ref",
    noun="policy reference",
    sentence=words.reference,
    content={"prompt_id": TEXT, "example_id": TEXT},
    sources={
        **drawn([*of(PIT_SEED_POOL, "id"), *_EXAMPLE], [*_WORSE, *_FIRST_PHASE]),
        "prompt_id": of(PIT_SEED_POOL, "id"),
        "example_id": _EXAMPLE,
    },
    checks=COMPLETION_CHECKS,
    draw=Draw("references", prompt="improvement"),
)
"""What the policy of the first phase made of each y_l: the references of the second. Parents: the prompt, and
the pair (`example_id`)."""


_OWN = of(PIT_POLICY_REFERENCES, "text")


PIT_ROLLOUTS = rollouts(
    "pit",
    [*of(PIT_SEED_POOL, "id", "prompt"), *_OWN],
    [*_GAP, *_FIRST_PHASE],
    of(PIT_POLICY_REFERENCES, "id"),
)


PIT_CHECKPOINT = fine_tuned_checkpoint(
    "pit",
    PIT_POLICY_REFERENCES,
    trained_on=("text",),
    sources={
        "parents": [*of(PIT_POLICY_REFERENCES, "activity_id"), *_GAP, *_FIRST_PHASE],
        "base_model_id": _FIRST_PHASE,
        **each([*_OWN, *_GAP, *_FIRST_PHASE], *TRAINED),
    },
    checks=POLICY_CHECKS,
)


_POLICY = of(PIT_CHECKPOINT, "model_id")


PIT_IMPROVEMENT_ROUNDS = Table(
    "pit/improvement_rounds",
    "round",
    noun="held-out improvement",
    sentence=words.improvement_round,
    content={
        "way": TEXT,
        "round": pl.Int32,
        "model_id": TEXT,
        "question": TEXT,
        "source_file": TEXT,
        "source_line": pl.Int64,
        "improves_id": TEXT,
        "prompt": TEXT,
        "text": TEXT,
        "finish_reason": TEXT,
        "prompt_tokens": pl.Int64,
        "tokens": pl.Int64,
    },
    measures={"gap_reward": pl.Float64, "tie_reward": pl.Float64, **PROBLEM},
    later=frozenset(PROBLEM),
    sources={
        **each(_POLICY, "parents", "model_id", "prompt", "text", "finish_reason", "prompt_tokens", "tokens"),
        **each([*_POLICY, *_GAP], "gap_reward", "tie_reward", "problem"),
        **new("way", "round", "question", "source_file", "source_line", "improves_id"),
    },
    checks=IMPROVEMENT_ROUND_CHECKS,
)
"""Held-out prompts, and what was made of the first response to each, round by round. `way`: `original` (round 0, the
champion's greedy response), `pit` (improved by the new checkpoint), `untaught` (by the champion, asked alike),
`self_refine` and `reflexion` (by the champion, told how: a row an answer, whose tokens are those of all that its
round said). `gap_reward` is r_gap of the text against the one that it improves (`improves_id`), `tie_reward` that of
the improved text against itself. `problem`: why there is no text, or no reward of it. Parents: the model that wrote
it, and the row that it improves."""


_IMPROVED = of(PIT_IMPROVEMENT_ROUNDS, "text")


PIT_WIN_RATES = Table(
    "pit/win_rates",
    "win",
    noun="contest",
    sentence=words.contest,
    said=words.contest,
    content={
        "first": TEXT,
        "second": TEXT,
        "judge": TEXT,
        "question": TEXT,
        "source_file": TEXT,
        "source_line": pl.Int64,
        "first_id": TEXT,
        "second_id": TEXT,
        "first_text": TEXT,
        "second_text": TEXT,
        "outcome": TEXT,
    },
    measures={"preferred": pl.Float64, **PROBLEM},
    later=frozenset(PROBLEM),
    sources={
        **each(of(PIT_IMPROVEMENT_ROUNDS, "id"), "parents", "first_id", "second_id"),
        **each(_IMPROVED, "first_text", "second_text", "outcome", "preferred", "problem"),
        **same(PIT_IMPROVEMENT_ROUNDS, "question", "source_file", "source_line"),
        **new("first", "second", "judge"),
    },
    checks=WIN_RATE_CHECKS,
)
"""One row a held-out prompt, pair of ways (`first` against `second`) and judge: whether the first wins, loses or
ties, and how probably it is the better: a tie with a `problem` could not be judged. Parents: the two responses (y_w,
`chosen`, is no record), and the model that judged."""


PIT_EVALUATION = dialogue_evaluation(
    "pit",
    PIT_CHECKPOINT,
    judged=False,
    sources={
        **each([*_POLICY, *_IMPROVED], "text", "predicted", "correct", "helpful", "harmless"),
        "reward": of(PIT_IMPROVEMENT_ROUNDS, "gap_reward"),
    },
    checks=REWARDED_EVALUATION_CHECKS,
)


PIT_PROMOTION = promotion("pit", PIT_CHECKPOINT, PIT_EVALUATION)


TABLES = (
    PIT_SEED_POOL,
    PIT_DECISIONS,
    PIT_FILTERED_DATASET,
    PIT_IMPROVER_DATASET,
    PIT_IMPROVER_CHECKPOINT,
    PIT_GAP_PAIRS,
    PIT_GAP_REWARD_MODEL,
    PIT_CURRICULUM_ROLLOUTS,
    PIT_CURRICULUM_CHECKPOINT,
    PIT_POLICY_REFERENCES,
    PIT_ROLLOUTS,
    PIT_CHECKPOINT,
    PIT_IMPROVEMENT_ROUNDS,
    PIT_WIN_RATES,
    PIT_EVALUATION,
    PIT_PROMOTION,
)
"""In the order of the pipeline."""
