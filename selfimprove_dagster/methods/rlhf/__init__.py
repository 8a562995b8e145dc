"""Feedback of people, the baseline."""

from __future__ import annotations

from selfimprove_dagster.families.dialogues.prompts import PROMPTS as DIALOGUES
from selfimprove_dagster.families.dialogues.seeds import COMPARISONS
from selfimprove_dagster.families.dialogues.tables import SEED_COMPARISONS
from selfimprove_dagster.families.judging.prompts import PROMPTS as JUDGING
from selfimprove_dagster.method import Method, Paper, Yield
from selfimprove_dagster.methods.rlhf import exam, explain, pages, settings, stages
from selfimprove_dagster.methods.rlhf.tables import RLHF_SEED_POOL
from selfimprove_dagster.seeds.kind import Seeds

METHOD = Method(
    name="rlhf",
    title="Feedback of people, the baseline",
    papers=[Paper("Training language models to follow instructions with human feedback", "2203.02155")],
    experiment=settings.RlhfExperiment,
    presets=settings.PRESETS,
    stages=stages.STAGES,
    prompts=[DIALOGUES, JUDGING],
    inputs=[SEED_COMPARISONS],
    embedded=settings.EMBEDDED,
    counts={"comparisons": "seed_pool", "examples": "filtered_dataset"},
    yields=Yield("seed_pool", "filtered_dataset", ("comparisons", "pairs kept")),
    seeds=Seeds(COMPARISONS, RLHF_SEED_POOL, lambda experiment: experiment.pool.comparisons),
    exam=exam.EXAM,
    explain=explain.EXPLAIN,
    what_if=explain.WHAT_IF,
    pages=pages.PAGES,
    card=pages.CARD,
)
