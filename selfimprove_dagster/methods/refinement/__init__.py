"""Answers that get better while they are given."""

from __future__ import annotations

from selfimprove_dagster.families.dialogues.prompts import PROMPTS as DIALOGUE_PROMPTS
from selfimprove_dagster.families.dialogues.seeds import PROMPTS
from selfimprove_dagster.families.dialogues.tables import SEED_PROMPTS
from selfimprove_dagster.method import Method, Paper, Yield
from selfimprove_dagster.methods.refinement import exam, explain, pages, settings, stages
from selfimprove_dagster.methods.refinement.tables import RF_SEED_POOL
from selfimprove_dagster.seeds.kind import Seeds

METHOD = Method(
    name="refinement",
    title="Answers that get better while they are given",
    papers=[
        Paper("Self-Refine: Iterative Refinement with Self-Feedback", "2303.17651"),
        Paper("Reflexion: Language Agents with Verbal Reinforcement Learning", "2303.11366"),
    ],
    experiment=settings.RefinementExperiment,
    presets=settings.PRESETS,
    stages=stages.STAGES,
    prompts=[DIALOGUE_PROMPTS],
    inputs=[SEED_PROMPTS],
    embedded=settings.EMBEDDED,
    counts={"prompts": "seed_pool", "first answers": "raw_generations"},
    yields=Yield("raw_generations", "refinements", ("first answers", "steps")),
    seeds=Seeds(PROMPTS, RF_SEED_POOL, lambda experiment: experiment.responses.prompts),
    exam=exam.EXAM,
    results=exam.RESULTS,
    explain=explain.EXPLAIN,
    what_if=explain.WHAT_IF,
    pages=pages.PAGES,
    card=pages.CARD,
)
