"""Self-consistency as a teacher."""

from __future__ import annotations

from selfimprove_dagster.families.questions.prompts import PROMPTS
from selfimprove_dagster.method import Method, Paper, Yield
from selfimprove_dagster.methods.lmsi import exam, explain, pages, settings, stages
from selfimprove_dagster.methods.lmsi.sampling import asks
from selfimprove_dagster.methods.lmsi.tables import DEMONSTRATIONS, SEED_POOL
from selfimprove_dagster.seeds.kind import QUESTIONS, Seeds
from selfimprove_dagster.shared_tables import SEEDS

METHOD = Method(
    name="lmsi",
    title="Self-consistency as a teacher",
    papers=[
        Paper("Large Language Models Can Self-Improve", "2210.11610"),
        Paper("Self-Consistency Improves Chain of Thought Reasoning in Language Models", "2203.11171"),
    ],
    experiment=settings.LmsiExperiment,
    presets=settings.PRESETS,
    stages=stages.STAGES,
    prompts=[PROMPTS],
    inputs=[SEEDS, DEMONSTRATIONS],
    embedded=settings.EMBEDDED,
    counts={"questions": "seed_pool", "samples": "raw_generations", "kept": "filtered_dataset"},
    yields=Yield("raw_generations", "filtered_dataset", ("paths", "examples")),
    is_default=True,
    seeds=Seeds(QUESTIONS, SEED_POOL, lambda experiment: experiment.sampling.questions),
    exam=exam.EXAM,
    results=exam.RESULTS,
    asks=asks,
    explain=explain.EXPLAIN,
    what_if=explain.WHAT_IF,
    pages=pages.PAGES,
    card=pages.CARD,
)
