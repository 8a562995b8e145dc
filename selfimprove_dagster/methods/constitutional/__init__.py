"""A model that criticises and revises itself by principles."""

from __future__ import annotations

from selfimprove_dagster.families.dialogues.prompts import PROMPTS as DIALOGUE_PROMPTS
from selfimprove_dagster.families.dialogues.seeds import PROMPTS
from selfimprove_dagster.families.dialogues.tables import SEED_PROMPTS
from selfimprove_dagster.families.judging.prompts import PROMPTS as JUDGING
from selfimprove_dagster.method import Method, Paper, Yield
from selfimprove_dagster.methods.constitutional import exam, explain, pages, settings, stages
from selfimprove_dagster.methods.constitutional.tables import CAI_SEED_POOL
from selfimprove_dagster.seeds.kind import Seeds

METHOD = Method(
    name="constitutional",
    title="A model that criticises and revises itself by principles",
    papers=[Paper("Constitutional AI: Harmlessness from AI Feedback", "2212.08073")],
    experiment=settings.ConstitutionalExperiment,
    presets=settings.PRESETS,
    stages=stages.STAGES,
    prompts=[DIALOGUE_PROMPTS, JUDGING],
    inputs=[SEED_PROMPTS],
    embedded=settings.EMBEDDED,
    counts={"prompts": "seed_pool", "responses": "raw_generations", "examples": "filtered_dataset"},
    yields=Yield("raw_generations", "filtered_dataset", ("responses", "examples")),
    seeds=Seeds(PROMPTS, CAI_SEED_POOL, lambda experiment: experiment.responses.prompts),
    exam=exam.EXAM,
    explain=explain.EXPLAIN,
    what_if=explain.WHAT_IF,
    pages=pages.PAGES,
    card=pages.CARD,
)
