"""Feedback of a model in place of people."""

from __future__ import annotations

from selfimprove_dagster.families.dialogues.prompts import PROMPTS as DIALOGUES
from selfimprove_dagster.families.dialogues.seeds import PROMPTS
from selfimprove_dagster.families.dialogues.tables import SEED_PROMPTS
from selfimprove_dagster.families.judging.prompts import PROMPTS as JUDGING
from selfimprove_dagster.method import Method, Paper, Yield
from selfimprove_dagster.methods.rlaif import exam, explain, pages, settings, stages
from selfimprove_dagster.methods.rlaif.tables import RLAIF_SEED_POOL
from selfimprove_dagster.seeds.kind import Seeds

METHOD = Method(
    name="rlaif",
    title="Feedback of a model in place of people",
    papers=[
        Paper(
            "RLAIF vs. RLHF: Scaling Reinforcement Learning from Human Feedback with AI Feedback",
            "2309.00267",
        ),
        Paper("Constitutional AI: Harmlessness from AI Feedback", "2212.08073"),
    ],
    experiment=settings.RlaifExperiment,
    presets=settings.PRESETS,
    stages=stages.STAGES,
    prompts=[DIALOGUES, JUDGING],
    inputs=[SEED_PROMPTS],
    embedded=settings.EMBEDDED,
    counts={"prompts": "seed_pool", "responses": "response_pairs", "examples": "filtered_dataset"},
    yields=Yield("ai_preferences", "filtered_dataset", ("pairs", "pairs kept")),
    seeds=Seeds(PROMPTS, RLAIF_SEED_POOL, lambda experiment: experiment.responses.prompts),
    exam=exam.EXAM,
    explain=explain.EXPLAIN,
    what_if=explain.WHAT_IF,
    pages=pages.PAGES,
    card=pages.CARD,
)
