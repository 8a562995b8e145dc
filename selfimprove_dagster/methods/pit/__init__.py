"""Improvement learnt from preferences."""

from __future__ import annotations

from selfimprove_dagster.families.dialogues.prompts import PROMPTS as DIALOGUES
from selfimprove_dagster.families.dialogues.seeds import COMPARISONS
from selfimprove_dagster.families.dialogues.tables import SEED_COMPARISONS
from selfimprove_dagster.families.judging.prompts import PROMPTS as JUDGING
from selfimprove_dagster.method import Method, Paper, Yield
from selfimprove_dagster.methods.pit import exam, explain, pages, settings, stages
from selfimprove_dagster.methods.pit.seeds import TEACHER
from selfimprove_dagster.methods.pit.tables import PIT_SEED_POOL
from selfimprove_dagster.seeds.kind import Seeds

METHOD = Method(
    name="pit",
    title="Improvement learnt from preferences",
    papers=[Paper("Enabling Language Models to Implicitly Learn Self-Improvement", "2310.00898")],
    experiment=settings.PitExperiment,
    presets=settings.PRESETS,
    stages=stages.STAGES,
    prompts=[DIALOGUES, JUDGING],
    inputs=[SEED_COMPARISONS],
    embedded=settings.EMBEDDED,
    counts={"comparisons": "seed_pool", "examples": "filtered_dataset"},
    yields=Yield("seed_pool", "filtered_dataset", ("comparisons", "pairs kept")),
    seeds=Seeds(COMPARISONS, PIT_SEED_POOL, lambda experiment: experiment.pool.comparisons, TEACHER),
    exam=exam.EXAM,
    explain=explain.EXPLAIN,
    what_if=explain.WHAT_IF,
    pages=pages.PAGES,
    card=pages.CARD,
)
