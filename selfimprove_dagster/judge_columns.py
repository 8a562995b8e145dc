"""Which column comes from which, in the tables of Constitutional AI, RLAIF and RLHF."""

from __future__ import annotations

from collections.abc import Sequence

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
from selfimprove_dagster.families.dialogues.tables import SEED_COMPARISONS, SEED_PROMPTS, dialogue_evaluation
from selfimprove_dagster.families.preferences import tables as t
from selfimprove_dagster.methods.constitutional.tables import (
    CAI_CRITIQUES,
    CAI_DECISIONS,
    CAI_FILTERED_DATASET,
    CAI_RAW_GENERATIONS,
    CAI_REVISIONS,
    CAI_SEED_POOL,
)
from selfimprove_dagster.methods.rlaif.tables import (
    RLAIF_AI_PREFERENCES,
    RLAIF_COMPARISONS,
    RLAIF_DECISIONS,
    RLAIF_JUDGE_CHECKS,
    RLAIF_RESPONSE_PAIRS,
    RLAIF_SEED_POOL,
)
from selfimprove_dagster.methods.rlhf.tables import RLHF_DECISIONS, RLHF_SEED_POOL, RLHF_SUPERVISED_CHECKPOINT
from selfimprove_dagster.table import Table, fine_tuned_checkpoint

_PAIR = ("prompt", "chosen", "rejected")


TRAINED = ("model_id", "tokens", "first_loss", "final_loss", "log")


def _in_pool(pool: Table, seeds: Table) -> Columns:
    return {"parents": of(seeds, "id"), **same(seeds, *pool.content)}


def model_columns(table: Table, dataset: Table, trained_on: list[Source]) -> Columns:
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
    pairs, exam = of(dataset, *_PAIR, "probability"), dialogue_evaluation(method)
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


_SAID = of(CAI_RAW_GENERATIONS, "text")


_FIRST = of(CAI_SEED_POOL, "prompt")


_HANDED_ON = ("prompt_id", "revises_id", "round", "principle")


_CONSTITUTIONAL: dict[str, Columns] = {
    CAI_SEED_POOL.name: _in_pool(CAI_SEED_POOL, SEED_PROMPTS),
    CAI_RAW_GENERATIONS.name: {
        **drawn(of(CAI_SEED_POOL, "id"), _FIRST),
        "prompt_id": of(CAI_SEED_POOL, "id"),
    },
    # A later round's critique is of a revision, which is made of critiques: the first round is told.
    CAI_CRITIQUES.name: {
        **drawn([*of(CAI_SEED_POOL, "id"), *of(CAI_RAW_GENERATIONS, "id")], [*_FIRST, *_SAID]),
        **same(CAI_RAW_GENERATIONS, "prompt_id"),
        "revises_id": of(CAI_RAW_GENERATIONS, "id"),
        **new("round", "principle"),
    },
    CAI_REVISIONS.name: {
        **drawn(
            [*of(CAI_SEED_POOL, "id"), *of(CAI_RAW_GENERATIONS, "id"), *of(CAI_CRITIQUES, "id")],
            [*_FIRST, *_SAID, *of(CAI_CRITIQUES, "text")],
        ),
        **same(CAI_CRITIQUES, *_HANDED_ON),
        "critique_id": of(CAI_CRITIQUES, "id"),
    },
    CAI_DECISIONS.name: decided(
        [*of(CAI_RAW_GENERATIONS, "id"), *of(CAI_REVISIONS, "id")],
        [
            *of(CAI_SEED_POOL, "kind", "response"),
            *_SAID,
            *of(CAI_REVISIONS, "prompt_id", "round", "text"),
        ],
    ),
    CAI_FILTERED_DATASET.name: {
        "parents": [
            *of(CAI_SEED_POOL, "id"),
            *of(CAI_RAW_GENERATIONS, "id"),
            *of(CAI_REVISIONS, "id"),
        ],
        **each(_FIRST, "question", "prompt"),
        "prompt_id": of(CAI_SEED_POOL, "id"),
        "format": of(CAI_SEED_POOL, "kind"),
        "completion": [*of(CAI_SEED_POOL, "response"), *_SAID, *of(CAI_REVISIONS, "text")],
        **same(CAI_REVISIONS, "round"),
    },
    **training_stages(
        "constitutional", CAI_FILTERED_DATASET, shown=[], exam=dialogue_evaluation("constitutional")
    ),
}


_PAIRED = of(RLAIF_RESPONSE_PAIRS, "text")


_ASKED = [*of(RLAIF_SEED_POOL, "prompt"), *_PAIRED]


_JUDGED = of(RLAIF_COMPARISONS, "probability_a", "order")


_RLAIF: dict[str, Columns] = {
    RLAIF_SEED_POOL.name: _in_pool(RLAIF_SEED_POOL, SEED_PROMPTS),
    RLAIF_RESPONSE_PAIRS.name: {
        **drawn(of(RLAIF_SEED_POOL, "id"), of(RLAIF_SEED_POOL, "prompt")),
        "prompt_id": of(RLAIF_SEED_POOL, "id"),
    },
    RLAIF_COMPARISONS.name: {
        **each(of(RLAIF_RESPONSE_PAIRS, "id"), "parents", "response_ids"),
        **same(RLAIF_RESPONSE_PAIRS, "prompt_id"),
        **each(_ASKED, "question", "reasoning_prompt", "reasoning", "probability_a"),
        "seed": of(RLAIF_RESPONSE_PAIRS, "id"),
        **new("principle", "order", "repeat"),
    },
    RLAIF_AI_PREFERENCES.name: {
        "parents": [*of(RLAIF_RESPONSE_PAIRS, "id"), *of(RLAIF_COMPARISONS, "id")],
        **same(RLAIF_COMPARISONS, "prompt_id", "response_ids"),
        **same(RLAIF_SEED_POOL, "prompt"),
        **each(_PAIRED, "first", "second"),
        "principles": of(RLAIF_COMPARISONS, "principle"),
        **each(_JUDGED, "probability", "as_first", "as_second"),
    },
    RLAIF_JUDGE_CHECKS.name: {
        "parents": of(RLAIF_AI_PREFERENCES, "activity_id"),
        **each(
            [*of(RLAIF_AI_PREFERENCES, "probability", "first", "second"), *_JUDGED],
            *("value", "low", "high", "pairs", "passed", "statement"),
        ),
        **new("measure", "allowed", "least", "most"),
    },
    RLAIF_DECISIONS.name: decided(of(RLAIF_AI_PREFERENCES, "id"), of(RLAIF_AI_PREFERENCES, "probability")),
    t.preference_dataset("rlaif").name: {
        "parents": [*of(RLAIF_AI_PREFERENCES, "id"), *of(RLAIF_RESPONSE_PAIRS, "id")],
        **same(RLAIF_AI_PREFERENCES, "prompt_id", "prompt", "probability"),
        "question": of(RLAIF_AI_PREFERENCES, "prompt"),
        **each(of(RLAIF_AI_PREFERENCES, "first", "second", "probability"), "chosen", "rejected"),
        **new("format", "labelled_by"),
    },
    **_preference_stages("rlaif", of(RLAIF_SEED_POOL, "id", "prompt"), []),
}


_PEOPLE, _SUPERVISED = t.preference_dataset("rlhf"), RLHF_SUPERVISED_CHECKPOINT


_RLHF: dict[str, Columns] = {
    RLHF_SEED_POOL.name: _in_pool(RLHF_SEED_POOL, SEED_COMPARISONS),
    RLHF_DECISIONS.name: decided(of(RLHF_SEED_POOL, "id"), of(RLHF_SEED_POOL, *_PAIR)),
    _PEOPLE.name: {
        **each(of(RLHF_SEED_POOL, "id"), "parents", "prompt_id"),
        **same(RLHF_SEED_POOL, *_PAIR),
        "question": of(RLHF_SEED_POOL, "prompt"),
        **new("format", "labelled_by", "probability"),
    },
    _SUPERVISED.name: model_columns(_SUPERVISED, _PEOPLE, of(_PEOPLE, "prompt", "chosen")),
    **_preference_stages("rlhf", of(RLHF_SEED_POOL, "id", "prompt"), of(_SUPERVISED, "model_id")),
}


JUDGE_COLUMN_SOURCES: dict[str, Columns] = {
    SEED_PROMPTS.name: new("parents", *SEED_PROMPTS.content),
    SEED_COMPARISONS.name: new("parents", *SEED_COMPARISONS.content),
    **_CONSTITUTIONAL,
    **_RLAIF,
    **_RLHF,
}
