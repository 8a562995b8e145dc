"""Which column comes from which, in the tables of the methods whose model writes tasks."""

from __future__ import annotations

from selfimprove_dagster.column_sources import Columns, decided, drawn, each, new, of, same, training_stages
from selfimprove_dagster.families.tasks import tables as t
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

_TASK = [name for name in t.POOL_TASKS if name != "origin"]


# What the model added comes from `accepted_tasks` of earlier iterations: a cycle that no asset graph has.
_POOL: Columns = {"parents": of(t.SEED_TASKS, "id"), **same(t.SEED_TASKS, *_TASK), **new("origin")}


_SI_POOL = of(SI_SEED_POOL, "instruction")


_SI_SHOT = of(SI_SEED_POOL, "id", "instruction", "instances", "is_classification")


_SI_CANDIDATE = of(SI_CANDIDATE_TASKS, "id")


_SI_SAID = of(SI_CANDIDATE_TASKS, "instruction")


_SI_INSTANCE = of(SI_TASK_INSTANCES, "instruction", "input", "output")


_UI_DEMONSTRATION = of(UI_SEED_POOL, "instruction", "instances", "constraints")


_UI_CANDIDATE = of(UI_CANDIDATE_TASKS, "id")


_UI_ELICITED = ("instruction", "input", "constraints")


_UI_SAID = of(UI_CANDIDATE_TASKS, *_UI_ELICITED)


_UI_ANSWERED = [*of(UI_TASK_OUTPUTS, "instruction", "input", "text"), *of(UI_PARAPHRASES, "paraphrase")]


TASK_COLUMN_SOURCES: dict[str, Columns] = {
    t.SEED_TASKS.name: new("parents", *t.SEED_TASKS.content),
    SI_SEED_POOL.name: _POOL,
    SI_POOL_DECISIONS.name: decided(of(t.SEED_TASKS, "id"), of(t.SEED_TASKS, "name", "instruction")),
    SI_RAW_GENERATIONS.name: drawn(of(SI_SEED_POOL, "id"), _SI_POOL, "first_number"),
    SI_CANDIDATE_TASKS.name: {
        **each(of(SI_RAW_GENERATIONS, "id"), "parents", "completion_id"),
        **each(of(SI_RAW_GENERATIONS, "text"), "instruction", "start", "end", "problem"),
    },
    SI_PERPLEXITY_SCORES.name: {
        **each(_SI_CANDIDATE, "parents", "candidate_id"),
        **each(_SI_SAID, "tokens", "mean_logprob", "perplexity"),
    },
    SI_SIMILARITY_SCORES.name: {
        **each(_SI_CANDIDATE, "parents", "candidate_id"),
        **each([*_SI_SAID, *_SI_POOL, *of(SI_PERPLEXITY_SCORES, "perplexity")], "kept", "neighbours", "pool"),
    },
    SI_TASK_DECISIONS.name: decided(
        _SI_CANDIDATE,
        [
            *_SI_SAID,
            *of(SI_PERPLEXITY_SCORES, "perplexity"),
            *of(SI_SIMILARITY_SCORES, "kept", "neighbours"),
        ],
    ),
    SI_ACCEPTED_TASKS.name: {
        "parents": [*_SI_CANDIDATE, *of(SI_SIMILARITY_SCORES, "id")],
        **same(SI_CANDIDATE_TASKS, "instruction"),
        "candidate_id": _SI_CANDIDATE,
        "rouge_l": of(SI_SIMILARITY_SCORES, "neighbours"),
        **same(SI_PERPLEXITY_SCORES, "perplexity"),
    },
    SI_CLASSIFIED_TASKS.name: {
        "parents": [*of(SI_ACCEPTED_TASKS, "id"), *of(SI_SEED_POOL, "id")],
        "task_id": of(SI_ACCEPTED_TASKS, "id"),
        **same(SI_ACCEPTED_TASKS, "instruction"),
        **each([*of(SI_ACCEPTED_TASKS, "instruction"), *_SI_SHOT[1:]], "is_classification", "yes"),
    },
    SI_INSTANCE_GENERATIONS.name: {
        **drawn(
            [*of(SI_CLASSIFIED_TASKS, "task_id", "id"), *_SI_SHOT[:1]],
            [*of(SI_CLASSIFIED_TASKS, "instruction", "is_classification"), *_SI_SHOT[1:]],
        ),
        **same(SI_CLASSIFIED_TASKS, "task_id", "instruction"),
        "form": of(SI_CLASSIFIED_TASKS, "is_classification"),
    },
    SI_TASK_INSTANCES.name: {
        "parents": of(SI_INSTANCE_GENERATIONS, "id"),
        **same(SI_INSTANCE_GENERATIONS, "task_id", "instruction"),
        "is_classification": of(SI_INSTANCE_GENERATIONS, "form"),
        **each(of(SI_INSTANCE_GENERATIONS, "text"), "input", "output", "problem"),
    },
    SI_DECISIONS.name: decided(
        of(SI_TASK_INSTANCES, "id"), [*_SI_INSTANCE, *of(SI_ACCEPTED_TASKS, "rouge_l")]
    ),
    SI_FILTERED_DATASET.name: {
        "parents": [
            *of(SI_TASK_INSTANCES, "id"),
            *of(SI_ACCEPTED_TASKS, "id"),
            *of(SI_SEED_POOL, "id"),
        ],
        **same(SI_TASK_INSTANCES, "instruction", "input"),
        "answer": of(SI_TASK_INSTANCES, "output"),
        "question": _SI_INSTANCE[:2],
        "prompt": _SI_INSTANCE[:2],
        "completion": _SI_INSTANCE[2:],
        **same(SI_ACCEPTED_TASKS, "rouge_l", "perplexity"),
        **new("format"),
    },
    **training_stages("self_instruct", SI_FILTERED_DATASET, shown=[]),
    UI_SEED_POOL.name: _POOL,
    UI_POOL_DECISIONS.name: decided(of(t.SEED_TASKS, "id"), of(t.SEED_TASKS, "name", "instruction")),
    UI_RAW_GENERATIONS.name: drawn(of(UI_SEED_POOL, "id"), _UI_DEMONSTRATION),
    UI_CANDIDATE_TASKS.name: {
        **each(of(UI_RAW_GENERATIONS, "id"), "parents", "completion_id"),
        **each(of(UI_RAW_GENERATIONS, "text"), *_UI_ELICITED, "problem"),
    },
    UI_TASK_DECISIONS.name: decided(
        _UI_CANDIDATE,
        [*_UI_SAID, *of(UI_SEED_POOL, "instruction", "instances")],
    ),
    UI_ACCEPTED_TASKS.name: {
        **each(_UI_CANDIDATE, "parents", "candidate_id"),
        **same(UI_CANDIDATE_TASKS, *_UI_ELICITED),
    },
    UI_TASK_OUTPUTS.name: {
        **drawn(of(UI_ACCEPTED_TASKS, "id"), of(UI_ACCEPTED_TASKS, *_UI_ELICITED)),
        "task_id": of(UI_ACCEPTED_TASKS, "id"),
        **same(UI_ACCEPTED_TASKS, *_UI_ELICITED),
    },
    UI_PARAPHRASES.name: {
        **drawn(of(UI_ACCEPTED_TASKS, "id"), of(UI_ACCEPTED_TASKS, "instruction")),
        "task_id": of(UI_ACCEPTED_TASKS, "id"),
        **same(UI_ACCEPTED_TASKS, "instruction"),
        **each(of(UI_ACCEPTED_TASKS, "instruction"), "paraphrase", "problem"),
    },
    UI_DECISIONS.name: decided(of(UI_TASK_OUTPUTS, "id"), _UI_ANSWERED),
    UI_FILTERED_DATASET.name: {
        "parents": [
            *of(UI_TASK_OUTPUTS, "id"),
            *of(UI_ACCEPTED_TASKS, "id"),
            *of(UI_PARAPHRASES, "id"),
        ],
        "instruction": [*of(UI_TASK_OUTPUTS, "instruction"), *of(UI_PARAPHRASES, "paraphrase")],
        **same(UI_TASK_OUTPUTS, "input"),
        "answer": of(UI_TASK_OUTPUTS, "text"),
        "question": [*of(UI_TASK_OUTPUTS, "instruction", "input"), *of(UI_PARAPHRASES, "paraphrase")],
        "prompt": [*of(UI_TASK_OUTPUTS, "instruction", "input"), *of(UI_PARAPHRASES, "paraphrase")],
        "completion": of(UI_TASK_OUTPUTS, "text"),
        **new("format"),
    },
    **training_stages("unnatural_instructions", UI_FILTERED_DATASET, shown=[]),
}
