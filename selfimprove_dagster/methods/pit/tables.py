"""The tables of PIT."""

from __future__ import annotations

from typing import Any

import polars as pl

from selfimprove_dagster.column_sources import Columns, decided, drawn, each, new, of, same, training_stages
from selfimprove_dagster.families.dialogues.tables import COMPARED, SEED_COMPARISONS, dialogue_evaluation
from selfimprove_dagster.families.preferences import tables as judge_tables
from selfimprove_dagster.families.preferences.tables import preference_dataset, reward_model, rollouts
from selfimprove_dagster.judge_columns import TRAINED, model_columns, rollout_columns
from selfimprove_dagster.methods.pit import tables as t
from selfimprove_dagster.methods.rlaif.tables import RLAIF_SEED_POOL
from selfimprove_dagster.methods.rlhf.tables import RLHF_SEED_POOL
from selfimprove_dagster.table import (
    TEXT,
    Table,
    completions,
    decisions,
    fine_tuned_checkpoint,
    promotion,
)

PIT_SEED_POOL = Table(
    "pit/seed_pool", "comp", noun="comparison", content=COMPARED, measures={"probability": pl.Float64}
)
"""The pairs of one iteration; parent: the comparison of a file, or the example of another experiment.
`probability` is that of the chosen response being the better one, 1 where a person chose."""


PIT_DECISIONS = decisions("pit/decisions")
"""What each rule said of each pair."""


PIT_FILTERED_DATASET = preference_dataset("pit")


PIT_IMPROVER_DATASET = Table(
    "pit/improver_dataset",
    "imp",
    noun="improvement example",
    content={
        "example_id": TEXT,
        "prompt_id": TEXT,
        "question": TEXT,
        "format": TEXT,
        "prompt": TEXT,
        "completion": TEXT,
    },
)
"""What the supervised step learns: y_w after x and y_l (format `improvement`), or after x alone (`response`);
parent: the pair (`example_id`)."""


def _model(stage: str, tag: str, noun: str, **measures: Any) -> Table:
    plain = fine_tuned_checkpoint("pit")
    return Table(
        f"pit/{stage}", tag, noun=noun, content=plain.content, measures={**plain.measures, **measures}
    )


PIT_IMPROVER_CHECKPOINT = _model("improver_checkpoint", "sft", noun="improver")
"""One row: the model fine-tuned to improve y_l to y_w."""


PIT_GAP_PAIRS = Table(
    "pit/gap_pairs",
    "gap",
    noun="gap comparison",
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
)
"""Five comparisons a pair, a term of the gap loss each: `first_kind` "w,l" is y_w against the reference y_l.
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


PIT_GAP_REWARD_MODEL = Table(
    "pit/gap_reward_model",
    "grm",
    noun="gap reward model",
    content=reward_model("pit").content,
    measures={
        **reward_model("pit").measures,
        "held_out_loss": pl.Float64,
        "gap_means": pl.List(GAP_MEAN),
        "gap_order": pl.List(ORDERED),
    },
)
"""One row: the model of r_gap. Of pairs that it never saw: the share of the comparisons ordered right, the
loss a pair in nats, the mean reward of each kind with its 95% interval, and how the kinds compare."""


PIT_CURRICULUM_ROLLOUTS = rollouts("pit", "curriculum_rollouts", noun="first-phase rollout")


PIT_CURRICULUM_CHECKPOINT = _model("curriculum_checkpoint", "cur", noun="first-phase policy")
"""One row: the policy after the first phase, whose references were the responses of the data."""


PIT_POLICY_REFERENCES = completions(
    "pit/policy_references", "ref", noun="policy reference", prompt_id=TEXT, example_id=TEXT
)
"""What the policy of the first phase made of each y_l: the references of the second. Parents: the prompt, and
the pair (`example_id`)."""


PIT_ROLLOUTS = rollouts("pit")


PIT_CHECKPOINT = fine_tuned_checkpoint("pit")


PIT_IMPROVEMENT_ROUNDS = Table(
    "pit/improvement_rounds",
    "round",
    noun="held-out improvement",
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
    measures={"gap_reward": pl.Float64, "tie_reward": pl.Float64},
)
"""Held-out prompts, and what was made of the first response to each, round by round. `way`: `original` (round
0, the champion's greedy response), `pit` (improved by the new checkpoint), `untaught` (by the champion, asked
alike), `self_refine` and `reflexion` (by the champion, told how: a row an answer, whose tokens are those of
all that its round said). `gap_reward` is r_gap of the text against the one that it improves (`improves_id`),
`tie_reward` that of the improved text against itself. Parents: the model that wrote it, and the row that it
improves."""


PIT_WIN_RATES = Table(
    "pit/win_rates",
    "win",
    noun="contest",
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
    measures={"preferred": pl.Float64},
)
"""One row a held-out prompt, pair of ways (`first` against `second`) and judge: whether the first wins, loses
or ties, and how probably it is the better. Parents: the two responses (y_w, `chosen`, is no record), and the
model that judged."""


PIT_EVALUATION = dialogue_evaluation("pit")


PIT_TABLES = (
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
    promotion("pit"),
)
"""All of them, in the order in which the stages run."""


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
            *of(SEED_COMPARISONS, "id"),
            *(source for giver in _GIVERS for source in of(giver, "id")),
        ],
        **{
            name: [
                *of(SEED_COMPARISONS, name),
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
                *of(SEED_COMPARISONS, name),
                *of(RLAIF_SEED_POOL, name),
                *of(RLHF_SEED_POOL, name),
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
