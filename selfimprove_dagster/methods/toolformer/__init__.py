"""A model that teaches itself to call tools."""

from __future__ import annotations

from selfimprove_dagster.method import Method, Paper, Yield
from selfimprove_dagster.methods.toolformer import exam, explain, pages, settings, stages
from selfimprove_dagster.methods.toolformer.seeds import TEXTS
from selfimprove_dagster.methods.toolformer.tables import SEED_TEXTS, TF_SEED_POOL
from selfimprove_dagster.seeds.kind import Seeds
from selfimprove_dagster.tools.prompts import PROMPTS

METHOD = Method(
    name="toolformer",
    title="A model that teaches itself to call tools",
    papers=[Paper("Toolformer: Language Models Can Teach Themselves to Use Tools", "2302.04761")],
    experiment=settings.ToolformerExperiment,
    presets=settings.PRESETS,
    stages=stages.STAGES,
    prompts=[PROMPTS],
    inputs=[SEED_TEXTS],
    embedded=settings.EMBEDDED,
    counts={"texts": "seed_pool", "calls": "raw_generations", "texts with calls": "filtered_dataset"},
    yields=Yield("seed_pool", "filtered_dataset", ("texts", "texts with calls")),
    seeds=Seeds(TEXTS, TF_SEED_POOL, lambda experiment: experiment.annotation.texts),
    exam=exam.EXAM,
    explain=explain.EXPLAIN,
    what_if=explain.WHAT_IF,
    pages=pages.PAGES,
    card=pages.CARD,
)
