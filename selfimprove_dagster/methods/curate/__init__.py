"""Your own prompts or examples, judged by filters."""

from __future__ import annotations

from selfimprove_dagster.families.judging.prompts import PROMPTS as JUDGING
from selfimprove_dagster.families.tasks.prompts import PROMPTS as TASK_PROMPTS
from selfimprove_dagster.method import Method, Paper, Yield
from selfimprove_dagster.methods.curate import exam, explain, pages, settings, stages
from selfimprove_dagster.methods.curate.files import EXAMPLES
from selfimprove_dagster.methods.curate.tables import SEED_EXAMPLES, SEED_POOL
from selfimprove_dagster.seeds.kind import Seeds

METHOD = Method(
    name="curate",
    title="Your own prompts or examples, judged by filters",
    papers=[Paper("AlpaGasus: Training a Better Alpaca with Fewer Data", "2307.08701")],
    experiment=settings.CurateExperiment,
    presets=settings.PRESETS,
    stages=stages.STAGES,
    prompts=[TASK_PROMPTS, JUDGING],
    inputs=[SEED_EXAMPLES],
    embedded=settings.EMBEDDED,
    counts={"lines": "seed_pool", "answers": "candidate_answers", "kept": "filtered_dataset"},
    yields=Yield("candidate_answers", "filtered_dataset", ("answers", "examples")),
    seeds=Seeds(EXAMPLES, SEED_POOL, lambda experiment: experiment.pool.examples),
    exam=exam.EXAM,
    explain=explain.EXPLAIN,
    what_if=explain.WHAT_IF,
    pages=pages.PAGES,
    card=pages.CARD,
)
