"""Which column comes from which, in the tables of Constitutional AI, RLAIF and RLHF."""

from __future__ import annotations

from collections.abc import Sequence

from selfimprove_dagster import judge_tables as t
from selfimprove_dagster.column_sources import (
    Columns,
    Source,
    decided,
    drawn,
    each,
    new,
    of,
    same,
    training_stages,
)
from selfimprove_dagster.records import TableSchema
from selfimprove_dagster.shared_tables import fine_tuned_checkpoint

_PAIR = ("prompt", "chosen", "rejected")
TRAINED = ("model_id", "tokens", "first_loss", "final_loss", "log")


def _in_pool(pool: TableSchema, seeds: TableSchema) -> Columns:
    return {"parents": of(seeds, "id"), **same(seeds, *pool.content)}


def model_columns(table: TableSchema, dataset: TableSchema, trained_on: list[Source]) -> Columns:
    """Of a model that is trained before the policy is; `trained_on` are the columns that it learns from."""
    measured = [name for name in table.measures if name.startswith("held_out")]
    return {
        **each(of(dataset, "activity_id"), "parents", "dataset_activity_id"),
        **each(trained_on, *TRAINED, *measured),
        "examples": of(dataset, "id"),
        **new("base_model_id", "steps", "path", "seconds"),
    }


def _preference_stages(method: str, prompts: list[Source], started: list[Source]) -> dict[str, Columns]:
    """Of what follows a dataset of pairs; `started` is what the policy may start from besides a champion."""
    dataset, rewarding, written = t.preference_dataset(method), t.reward_model(method), t.rollouts(method)
    pairs, exam = of(dataset, *_PAIR, "probability"), t.dialogue_evaluation(method)
    stages = training_stages(method, dataset, shown=[], exam=exam, trained_on=(*_PAIR, "probability"))
    checkpoint, reward = fine_tuned_checkpoint(method), of(rewarding, "model_id")
    policy = [*pairs, *reward, *started]
    stages[checkpoint.name] |= {
        "parents": [*of(dataset, "activity_id"), *reward, *started],
        "base_model_id": started,
        **each(policy, *TRAINED),
    }
    stages[exam.name]["reward"] = [*of(checkpoint, "model_id"), *reward]
    return {
        rewarding.name: model_columns(rewarding, dataset, pairs),
        written.name: rollout_columns(prompts, [*reward, *started]),
        **stages,
    }


def rollout_columns(
    prompts: list[Source], models: list[Source], references: Sequence[Source] = ()
) -> Columns:
    """Of rollouts: the ids of prompts and then what these show, the models that wrote and rewarded, and the
    ids of what was improved, if anything was."""
    return {
        "parents": [prompts[0], *references, *models],
        "prompt_id": prompts[:1],
        **each(prompts[1:], "prompt", "prompt_token_ids"),
        **each([*prompts[1:], *models], "token_ids", "text", "reward", "advantage"),
        **new("step"),
    }


_SAID = of(t.CAI_RAW_GENERATIONS, "text")
_FIRST = of(t.CAI_SEED_POOL, "prompt")
_HANDED_ON = ("prompt_id", "revises_id", "round", "principle")

_CONSTITUTIONAL: dict[str, Columns] = {
    t.CAI_SEED_POOL.name: _in_pool(t.CAI_SEED_POOL, t.SEED_PROMPTS),
    t.CAI_RAW_GENERATIONS.name: {
        **drawn(of(t.CAI_SEED_POOL, "id"), _FIRST),
        "prompt_id": of(t.CAI_SEED_POOL, "id"),
    },
    # A later round's critique is of a revision, which is made of critiques: the first round is told.
    t.CAI_CRITIQUES.name: {
        **drawn([*of(t.CAI_SEED_POOL, "id"), *of(t.CAI_RAW_GENERATIONS, "id")], [*_FIRST, *_SAID]),
        **same(t.CAI_RAW_GENERATIONS, "prompt_id"),
        "revises_id": of(t.CAI_RAW_GENERATIONS, "id"),
        **new("round", "principle"),
    },
    t.CAI_REVISIONS.name: {
        **drawn(
            [*of(t.CAI_SEED_POOL, "id"), *of(t.CAI_RAW_GENERATIONS, "id"), *of(t.CAI_CRITIQUES, "id")],
            [*_FIRST, *_SAID, *of(t.CAI_CRITIQUES, "text")],
        ),
        **same(t.CAI_CRITIQUES, *_HANDED_ON),
        "critique_id": of(t.CAI_CRITIQUES, "id"),
    },
    t.CAI_DECISIONS.name: decided(
        [*of(t.CAI_RAW_GENERATIONS, "id"), *of(t.CAI_REVISIONS, "id")],
        [
            *of(t.CAI_SEED_POOL, "kind", "response"),
            *_SAID,
            *of(t.CAI_REVISIONS, "prompt_id", "round", "text"),
        ],
    ),
    t.CAI_FILTERED_DATASET.name: {
        "parents": [
            *of(t.CAI_SEED_POOL, "id"),
            *of(t.CAI_RAW_GENERATIONS, "id"),
            *of(t.CAI_REVISIONS, "id"),
        ],
        **each(_FIRST, "question", "prompt"),
        "prompt_id": of(t.CAI_SEED_POOL, "id"),
        "format": of(t.CAI_SEED_POOL, "kind"),
        "completion": [*of(t.CAI_SEED_POOL, "response"), *_SAID, *of(t.CAI_REVISIONS, "text")],
        **same(t.CAI_REVISIONS, "round"),
    },
    **training_stages(
        "constitutional", t.CAI_FILTERED_DATASET, shown=[], exam=t.dialogue_evaluation("constitutional")
    ),
}

_PAIRED = of(t.RLAIF_RESPONSE_PAIRS, "text")
_ASKED = [*of(t.RLAIF_SEED_POOL, "prompt"), *_PAIRED]
_JUDGED = of(t.RLAIF_COMPARISONS, "probability_a", "order")

_RLAIF: dict[str, Columns] = {
    t.RLAIF_SEED_POOL.name: _in_pool(t.RLAIF_SEED_POOL, t.SEED_PROMPTS),
    t.RLAIF_RESPONSE_PAIRS.name: {
        **drawn(of(t.RLAIF_SEED_POOL, "id"), of(t.RLAIF_SEED_POOL, "prompt")),
        "prompt_id": of(t.RLAIF_SEED_POOL, "id"),
    },
    t.RLAIF_COMPARISONS.name: {
        **each(of(t.RLAIF_RESPONSE_PAIRS, "id"), "parents", "response_ids"),
        **same(t.RLAIF_RESPONSE_PAIRS, "prompt_id"),
        **each(_ASKED, "question", "reasoning_prompt", "reasoning", "probability_a"),
        "seed": of(t.RLAIF_RESPONSE_PAIRS, "id"),
        **new("principle", "order", "repeat"),
    },
    t.RLAIF_AI_PREFERENCES.name: {
        "parents": [*of(t.RLAIF_RESPONSE_PAIRS, "id"), *of(t.RLAIF_COMPARISONS, "id")],
        **same(t.RLAIF_COMPARISONS, "prompt_id", "response_ids"),
        **same(t.RLAIF_SEED_POOL, "prompt"),
        **each(_PAIRED, "first", "second"),
        "principles": of(t.RLAIF_COMPARISONS, "principle"),
        **each(_JUDGED, "probability", "as_first", "as_second"),
    },
    t.RLAIF_JUDGE_CHECKS.name: {
        "parents": of(t.RLAIF_AI_PREFERENCES, "activity_id"),
        **each(
            [*of(t.RLAIF_AI_PREFERENCES, "probability", "first", "second"), *_JUDGED],
            *("value", "low", "high", "pairs", "passed", "statement"),
        ),
        **new("measure", "allowed", "least", "most"),
    },
    t.RLAIF_DECISIONS.name: decided(
        of(t.RLAIF_AI_PREFERENCES, "id"), of(t.RLAIF_AI_PREFERENCES, "probability")
    ),
    t.preference_dataset("rlaif").name: {
        "parents": [*of(t.RLAIF_AI_PREFERENCES, "id"), *of(t.RLAIF_RESPONSE_PAIRS, "id")],
        **same(t.RLAIF_AI_PREFERENCES, "prompt_id", "prompt", "probability"),
        "question": of(t.RLAIF_AI_PREFERENCES, "prompt"),
        **each(of(t.RLAIF_AI_PREFERENCES, "first", "second", "probability"), "chosen", "rejected"),
        **new("format", "labelled_by"),
    },
    **_preference_stages("rlaif", of(t.RLAIF_SEED_POOL, "id", "prompt"), []),
}

_PEOPLE, _SUPERVISED = t.preference_dataset("rlhf"), t.RLHF_SUPERVISED_CHECKPOINT

_RLHF: dict[str, Columns] = {
    t.RLHF_SEED_POOL.name: _in_pool(t.RLHF_SEED_POOL, t.SEED_COMPARISONS),
    t.RLHF_DECISIONS.name: decided(of(t.RLHF_SEED_POOL, "id"), of(t.RLHF_SEED_POOL, *_PAIR)),
    _PEOPLE.name: {
        **each(of(t.RLHF_SEED_POOL, "id"), "parents", "prompt_id"),
        **same(t.RLHF_SEED_POOL, *_PAIR),
        "question": of(t.RLHF_SEED_POOL, "prompt"),
        **new("format", "labelled_by", "probability"),
    },
    _SUPERVISED.name: model_columns(_SUPERVISED, _PEOPLE, of(_PEOPLE, "prompt", "chosen")),
    **_preference_stages("rlhf", of(t.RLHF_SEED_POOL, "id", "prompt"), of(_SUPERVISED, "model_id")),
}

JUDGE_COLUMN_SOURCES: dict[str, Columns] = {
    t.SEED_PROMPTS.name: new("parents", *t.SEED_PROMPTS.content),
    t.SEED_COMPARISONS.name: new("parents", *t.SEED_COMPARISONS.content),
    **_CONSTITUTIONAL,
    **_RLAIF,
    **_RLHF,
}
