"""Whether a model can judge itself."""

from __future__ import annotations

from selfimprove_dagster.families.dialogues.prompts import PROMPTS as DIALOGUES
from selfimprove_dagster.families.judging.prompts import PROMPTS as JUDGING
from selfimprove_dagster.families.questions.prompts import PROMPTS as QUESTIONS
from selfimprove_dagster.method import Method, Paper, Yield
from selfimprove_dagster.methods.self_knowledge import exam, explain, pages, settings, stages

METHOD = Method(
    name="self_knowledge",
    title="Whether a model can judge itself",
    papers=[
        Paper("Self-[In]Correct: LLMs Struggle with Discriminating Self-Generated Responses", "2404.04298")
    ],
    experiment=settings.SelfKnowledgeExperiment,
    presets=settings.PRESETS,
    stages=stages.STAGES,
    prompts=[QUESTIONS, DIALOGUES, JUDGING],
    inputs=[],
    embedded=settings.EMBEDDED,
    counts={"questions": "questions", "candidates": "candidates"},
    yields=Yield("questions", "discrimination_score", ("questions", "picks")),
    exam=exam.EXAM,
    results=exam.RESULTS,
    explain=explain.EXPLAIN,
    what_if=explain.WHAT_IF,
    pages=pages.PAGES,
    card=pages.CARD,
)
