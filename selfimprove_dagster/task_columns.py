"""Which column comes from which, in the tables of the methods whose model writes tasks."""

from __future__ import annotations

from selfimprove_dagster import task_tables as t
from selfimprove_dagster.column_sources import Columns, decided, drawn, each, new, of, same, training_stages

_TASK = [name for name in t.POOL_TASKS if name != "origin"]


# What the model added comes from `accepted_tasks` of earlier iterations: a cycle that no asset graph has.
_POOL: Columns = {"parents": of(t.SEED_TASKS, "id"), **same(t.SEED_TASKS, *_TASK), **new("origin")}


_SI_POOL = of(t.SI_SEED_POOL, "instruction")
_SI_SHOT = of(t.SI_SEED_POOL, "id", "instruction", "instances", "is_classification")
_SI_CANDIDATE = of(t.SI_CANDIDATE_TASKS, "id")
_SI_SAID = of(t.SI_CANDIDATE_TASKS, "instruction")
_SI_INSTANCE = of(t.SI_TASK_INSTANCES, "instruction", "input", "output")
_UI_DEMONSTRATION = of(t.UI_SEED_POOL, "instruction", "instances", "constraints")
_UI_CANDIDATE = of(t.UI_CANDIDATE_TASKS, "id")
_UI_ELICITED = ("instruction", "input", "constraints")
_UI_SAID = of(t.UI_CANDIDATE_TASKS, *_UI_ELICITED)
_UI_ANSWERED = [*of(t.UI_TASK_OUTPUTS, "instruction", "input", "text"), *of(t.UI_PARAPHRASES, "paraphrase")]

TASK_COLUMN_SOURCES: dict[str, Columns] = {
    t.SEED_TASKS.name: new("parents", *t.SEED_TASKS.content),
    t.SI_SEED_POOL.name: _POOL,
    t.SI_POOL_DECISIONS.name: decided(of(t.SEED_TASKS, "id"), of(t.SEED_TASKS, "name", "instruction")),
    t.SI_RAW_GENERATIONS.name: drawn(of(t.SI_SEED_POOL, "id"), _SI_POOL, "first_number"),
    t.SI_CANDIDATE_TASKS.name: {
        **each(of(t.SI_RAW_GENERATIONS, "id"), "parents", "completion_id"),
        **each(of(t.SI_RAW_GENERATIONS, "text"), "instruction", "start", "end", "problem"),
    },
    t.SI_PERPLEXITY_SCORES.name: {
        **each(_SI_CANDIDATE, "parents", "candidate_id"),
        **each(_SI_SAID, "tokens", "mean_logprob", "perplexity"),
    },
    t.SI_SIMILARITY_SCORES.name: {
        **each(_SI_CANDIDATE, "parents", "candidate_id"),
        **each(
            [*_SI_SAID, *_SI_POOL, *of(t.SI_PERPLEXITY_SCORES, "perplexity")], "kept", "neighbours", "pool"
        ),
    },
    t.SI_TASK_DECISIONS.name: decided(
        _SI_CANDIDATE,
        [
            *_SI_SAID,
            *of(t.SI_PERPLEXITY_SCORES, "perplexity"),
            *of(t.SI_SIMILARITY_SCORES, "kept", "neighbours"),
        ],
    ),
    t.SI_ACCEPTED_TASKS.name: {
        "parents": [*_SI_CANDIDATE, *of(t.SI_SIMILARITY_SCORES, "id")],
        **same(t.SI_CANDIDATE_TASKS, "instruction"),
        "candidate_id": _SI_CANDIDATE,
        "rouge_l": of(t.SI_SIMILARITY_SCORES, "neighbours"),
        **same(t.SI_PERPLEXITY_SCORES, "perplexity"),
    },
    t.SI_CLASSIFIED_TASKS.name: {
        "parents": [*of(t.SI_ACCEPTED_TASKS, "id"), *of(t.SI_SEED_POOL, "id")],
        "task_id": of(t.SI_ACCEPTED_TASKS, "id"),
        **same(t.SI_ACCEPTED_TASKS, "instruction"),
        **each([*of(t.SI_ACCEPTED_TASKS, "instruction"), *_SI_SHOT[1:]], "is_classification", "yes"),
    },
    t.SI_INSTANCE_GENERATIONS.name: {
        **drawn(
            [*of(t.SI_CLASSIFIED_TASKS, "task_id", "id"), *_SI_SHOT[:1]],
            [*of(t.SI_CLASSIFIED_TASKS, "instruction", "is_classification"), *_SI_SHOT[1:]],
        ),
        **same(t.SI_CLASSIFIED_TASKS, "task_id", "instruction"),
        "form": of(t.SI_CLASSIFIED_TASKS, "is_classification"),
    },
    t.SI_TASK_INSTANCES.name: {
        "parents": of(t.SI_INSTANCE_GENERATIONS, "id"),
        **same(t.SI_INSTANCE_GENERATIONS, "task_id", "instruction"),
        "is_classification": of(t.SI_INSTANCE_GENERATIONS, "form"),
        **each(of(t.SI_INSTANCE_GENERATIONS, "text"), "input", "output", "problem"),
    },
    t.SI_DECISIONS.name: decided(
        of(t.SI_TASK_INSTANCES, "id"), [*_SI_INSTANCE, *of(t.SI_ACCEPTED_TASKS, "rouge_l")]
    ),
    t.SI_FILTERED_DATASET.name: {
        "parents": [
            *of(t.SI_TASK_INSTANCES, "id"),
            *of(t.SI_ACCEPTED_TASKS, "id"),
            *of(t.SI_SEED_POOL, "id"),
        ],
        **same(t.SI_TASK_INSTANCES, "instruction", "input"),
        "answer": of(t.SI_TASK_INSTANCES, "output"),
        "question": _SI_INSTANCE[:2],
        "prompt": _SI_INSTANCE[:2],
        "completion": _SI_INSTANCE[2:],
        **same(t.SI_ACCEPTED_TASKS, "rouge_l", "perplexity"),
        **new("format"),
    },
    **training_stages("self_instruct", t.SI_FILTERED_DATASET, shown=[]),
    t.UI_SEED_POOL.name: _POOL,
    t.UI_POOL_DECISIONS.name: decided(of(t.SEED_TASKS, "id"), of(t.SEED_TASKS, "name", "instruction")),
    t.UI_RAW_GENERATIONS.name: drawn(of(t.UI_SEED_POOL, "id"), _UI_DEMONSTRATION),
    t.UI_CANDIDATE_TASKS.name: {
        **each(of(t.UI_RAW_GENERATIONS, "id"), "parents", "completion_id"),
        **each(of(t.UI_RAW_GENERATIONS, "text"), *_UI_ELICITED, "problem"),
    },
    t.UI_TASK_DECISIONS.name: decided(
        _UI_CANDIDATE,
        [*_UI_SAID, *of(t.UI_SEED_POOL, "instruction", "instances")],
    ),
    t.UI_ACCEPTED_TASKS.name: {
        **each(_UI_CANDIDATE, "parents", "candidate_id"),
        **same(t.UI_CANDIDATE_TASKS, *_UI_ELICITED),
    },
    t.UI_TASK_OUTPUTS.name: {
        **drawn(of(t.UI_ACCEPTED_TASKS, "id"), of(t.UI_ACCEPTED_TASKS, *_UI_ELICITED)),
        "task_id": of(t.UI_ACCEPTED_TASKS, "id"),
        **same(t.UI_ACCEPTED_TASKS, *_UI_ELICITED),
    },
    t.UI_PARAPHRASES.name: {
        **drawn(of(t.UI_ACCEPTED_TASKS, "id"), of(t.UI_ACCEPTED_TASKS, "instruction")),
        "task_id": of(t.UI_ACCEPTED_TASKS, "id"),
        **same(t.UI_ACCEPTED_TASKS, "instruction"),
        **each(of(t.UI_ACCEPTED_TASKS, "instruction"), "paraphrase", "problem"),
    },
    t.UI_DECISIONS.name: decided(of(t.UI_TASK_OUTPUTS, "id"), _UI_ANSWERED),
    t.UI_FILTERED_DATASET.name: {
        "parents": [
            *of(t.UI_TASK_OUTPUTS, "id"),
            *of(t.UI_ACCEPTED_TASKS, "id"),
            *of(t.UI_PARAPHRASES, "id"),
        ],
        "instruction": [*of(t.UI_TASK_OUTPUTS, "instruction"), *of(t.UI_PARAPHRASES, "paraphrase")],
        **same(t.UI_TASK_OUTPUTS, "input"),
        "answer": of(t.UI_TASK_OUTPUTS, "text"),
        "question": [*of(t.UI_TASK_OUTPUTS, "instruction", "input"), *of(t.UI_PARAPHRASES, "paraphrase")],
        "prompt": [*of(t.UI_TASK_OUTPUTS, "instruction", "input"), *of(t.UI_PARAPHRASES, "paraphrase")],
        "completion": of(t.UI_TASK_OUTPUTS, "text"),
        **new("format"),
    },
    **training_stages("unnatural_instructions", t.UI_FILTERED_DATASET, shown=[]),
}
