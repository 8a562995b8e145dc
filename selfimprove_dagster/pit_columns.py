"""Which column comes from which, in the tables of PIT."""

from __future__ import annotations

from selfimprove_dagster import judge_tables
from selfimprove_dagster import pit_tables as t
from selfimprove_dagster.column_sources import (
    Columns,
    decided,
    drawn,
    each,
    new,
    of,
    same,
    training_stages,
)
from selfimprove_dagster.judge_columns import TRAINED, model_columns, rollout_columns

_PAIR = ("prompt", "chosen", "rejected")
_GIVERS = [judge_tables.preference_dataset(method) for method in ("rlaif", "rlhf")]
_EXAMPLE = of(t.PIT_FILTERED_DATASET, "id")
_POOLED = of(t.PIT_SEED_POOL, "id", "prompt")
_BETTER_AND_WORSE = of(t.PIT_FILTERED_DATASET, "question", "chosen", "rejected")
_WORSE = of(t.PIT_FILTERED_DATASET, "question", "rejected")
_GAP = of(t.PIT_GAP_REWARD_MODEL, "model_id")
_IMPROVER = of(t.PIT_IMPROVER_CHECKPOINT, "model_id")
_FIRST_PHASE = of(t.PIT_CURRICULUM_CHECKPOINT, "model_id")
_OWN = of(t.PIT_POLICY_REFERENCES, "text")
_POLICY = of(t.PIT_CHECKPOINT, "model_id")
_IMPROVED = of(t.PIT_IMPROVEMENT_ROUNDS, "text")

_stages = training_stages(
    "pit", t.PIT_POLICY_REFERENCES, shown=[], exam=t.PIT_EVALUATION, trained_on=("text",)
)
_stages[t.PIT_CHECKPOINT.name] |= {
    "parents": [*of(t.PIT_POLICY_REFERENCES, "activity_id"), *_GAP, *_FIRST_PHASE],
    "base_model_id": _FIRST_PHASE,
    **each([*_OWN, *_GAP, *_FIRST_PHASE], *TRAINED),
}
_stages[t.PIT_EVALUATION.name] |= {
    **each([*_POLICY, *_IMPROVED], "text", "predicted", "correct", "helpful", "harmless"),
    "reward": of(t.PIT_IMPROVEMENT_ROUNDS, "gap_reward"),
}

PIT_COLUMN_SOURCES: dict[str, Columns] = {
    t.PIT_SEED_POOL.name: {
        "parents": [
            *of(judge_tables.SEED_COMPARISONS, "id"),
            *(source for giver in _GIVERS for source in of(giver, "id")),
        ],
        **{
            name: [
                *of(judge_tables.SEED_COMPARISONS, name),
                *(
                    source
                    for giver in _GIVERS
                    for source in of(giver, "question" if name == "prompt" else name)
                ),
            ]
            for name in _PAIR
        },
        **{
            name: [
                *of(judge_tables.SEED_COMPARISONS, name),
                *of(judge_tables.RLAIF_SEED_POOL, name),
                *of(judge_tables.RLHF_SEED_POOL, name),
            ]
            for name in ("source_file", "source_line", "licence")
        },
        "probability": [source for giver in _GIVERS for source in of(giver, "probability")],
    },
    t.PIT_DECISIONS.name: decided(of(t.PIT_SEED_POOL, "id"), of(t.PIT_SEED_POOL, *_PAIR, "probability")),
    t.PIT_FILTERED_DATASET.name: {
        **each(of(t.PIT_SEED_POOL, "id"), "parents", "prompt_id"),
        **same(t.PIT_SEED_POOL, *_PAIR, "probability"),
        "question": of(t.PIT_SEED_POOL, "prompt"),
        **new("format", "labelled_by"),
    },
    t.PIT_IMPROVER_DATASET.name: {
        **each(_EXAMPLE, "parents", "example_id"),
        **same(t.PIT_FILTERED_DATASET, "prompt_id", "question"),
        "prompt": _WORSE,
        "completion": of(t.PIT_FILTERED_DATASET, "chosen"),
        **new("format"),
    },
    t.PIT_IMPROVER_CHECKPOINT.name: model_columns(
        t.PIT_IMPROVER_CHECKPOINT, t.PIT_IMPROVER_DATASET, of(t.PIT_IMPROVER_DATASET, "prompt", "completion")
    ),
    t.PIT_GAP_PAIRS.name: {
        **each(_EXAMPLE, "parents", "example_id"),
        **same(t.PIT_FILTERED_DATASET, "prompt_id", "question", "probability"),
        **each(_BETTER_AND_WORSE, "first_prompt", "first", "second_prompt", "second"),
        "held_out": of(t.PIT_FILTERED_DATASET, "question"),
        **new("first_kind", "second_kind"),
    },
    t.PIT_GAP_REWARD_MODEL.name: {
        **model_columns(
            t.PIT_GAP_REWARD_MODEL,
            t.PIT_GAP_PAIRS,
            of(t.PIT_GAP_PAIRS, "first_prompt", "first", "second_prompt", "second", "probability"),
        ),
        **each(of(t.PIT_GAP_PAIRS, "first_kind", "second_kind", "held_out"), "gap_means", "gap_order"),
    },
    t.PIT_CURRICULUM_CHECKPOINT.name: {
        **model_columns(t.PIT_CURRICULUM_CHECKPOINT, t.PIT_FILTERED_DATASET, [*_BETTER_AND_WORSE, *_GAP]),
        "parents": [*of(t.PIT_FILTERED_DATASET, "activity_id"), *_GAP, *_IMPROVER],
        "base_model_id": _IMPROVER,
    },
    t.PIT_CURRICULUM_ROLLOUTS.name: rollout_columns(
        [*of(t.PIT_SEED_POOL, "id"), *_BETTER_AND_WORSE], [*_GAP, *_IMPROVER], _EXAMPLE
    ),
    t.PIT_POLICY_REFERENCES.name: {
        **drawn([*of(t.PIT_SEED_POOL, "id"), *_EXAMPLE], [*_WORSE, *_FIRST_PHASE]),
        "prompt_id": of(t.PIT_SEED_POOL, "id"),
        "example_id": _EXAMPLE,
    },
    t.PIT_ROLLOUTS.name: rollout_columns(
        [*_POOLED, *_OWN], [*_GAP, *_FIRST_PHASE], of(t.PIT_POLICY_REFERENCES, "id")
    ),
    **_stages,
    t.PIT_IMPROVEMENT_ROUNDS.name: {
        **each(_POLICY, "parents", "model_id", "prompt", "text", "finish_reason", "prompt_tokens", "tokens"),
        **each([*_POLICY, *_GAP], "gap_reward", "tie_reward"),
        **new("way", "round", "question", "source_file", "source_line", "improves_id"),
    },
    t.PIT_WIN_RATES.name: {
        **each(of(t.PIT_IMPROVEMENT_ROUNDS, "id"), "parents", "first_id", "second_id"),
        **each(_IMPROVED, "first_text", "second_text", "outcome", "preferred"),
        **same(t.PIT_IMPROVEMENT_ROUNDS, "question", "source_file", "source_line"),
        **new("first", "second", "judge"),
    },
}
