"""Three demonstrations elicit a fourth."""

from __future__ import annotations

from selfimprove_dagster.families.judging.prompts import PROMPTS as JUDGING
from selfimprove_dagster.families.tasks.prompts import PROMPTS as TASK_PROMPTS
from selfimprove_dagster.families.tasks.tables import SEED_TASKS
from selfimprove_dagster.method import Method, Paper, Yield
from selfimprove_dagster.methods.unnatural_instructions import exam, explain, pages, settings, stages
from selfimprove_dagster.methods.unnatural_instructions.seeds import EXAMPLES
from selfimprove_dagster.seeds.kind import Seeds

METHOD = Method(
    name="unnatural_instructions",
    title="Three demonstrations elicit a fourth",
    papers=[
        Paper("Unnatural Instructions: Tuning Language Models with (Almost) No Human Labor", "2212.09689")
    ],
    experiment=settings.UnnaturalInstructionsExperiment,
    presets=settings.PRESETS,
    stages=stages.STAGES,
    prompts=[TASK_PROMPTS, settings.PROMPTS, JUDGING],
    inputs=[SEED_TASKS],
    embedded=settings.EMBEDDED,
    counts={
        "tasks in pool": "seed_pool",
        "candidates": "candidate_tasks",
        "accepted": "accepted_tasks",
        "examples": "filtered_dataset",
    },
    yields=Yield("candidate_tasks", "accepted_tasks", ("candidates", "accepted tasks")),
    seeds=Seeds(EXAMPLES),
    exam=exam.EXAM,
    explain=explain.EXPLAIN,
    what_if=explain.WHAT_IF,
    pages=pages.PAGES,
    card=pages.CARD,
)
