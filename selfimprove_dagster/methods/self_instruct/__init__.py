"""A pool of tasks that the model itself extends."""

from __future__ import annotations

from selfimprove_dagster.families.judging.prompts import PROMPTS as JUDGING
from selfimprove_dagster.families.tasks.prompts import PROMPTS as TASK_PROMPTS
from selfimprove_dagster.families.tasks.seeds import TASKS
from selfimprove_dagster.families.tasks.tables import SEED_TASKS
from selfimprove_dagster.method import Method, Paper, Yield
from selfimprove_dagster.methods.self_instruct import exam, explain, pages, settings, stages
from selfimprove_dagster.methods.self_instruct.instance_stages import asks
from selfimprove_dagster.methods.self_instruct.prompts import PROMPTS
from selfimprove_dagster.seeds.kind import Seeds

METHOD = Method(
    name="self_instruct",
    title="A pool of tasks that the model itself extends",
    papers=[Paper("Self-Instruct: Aligning Language Models with Self-Generated Instructions", "2212.10560")],
    experiment=settings.SelfInstructExperiment,
    presets=settings.PRESETS,
    stages=stages.STAGES,
    prompts=[TASK_PROMPTS, PROMPTS, JUDGING],
    inputs=[SEED_TASKS],
    embedded=settings.EMBEDDED,
    counts={
        "tasks in pool": "seed_pool",
        "candidates": "candidate_tasks",
        "accepted": "accepted_tasks",
        "examples": "filtered_dataset",
    },
    yields=Yield("candidate_tasks", "accepted_tasks", ("candidates", "accepted tasks")),
    seeds=Seeds(TASKS),
    exam=exam.EXAM,
    asks=asks,
    explain=explain.EXPLAIN,
    what_if=explain.WHAT_IF,
    pages=pages.PAGES,
    card=pages.CARD,
)
