"""Can the model judge itself: generation against discrimination. Group `self_knowledge`; trains nothing.

questions → candidates → generation_score → discrimination_score → discrimination_gap
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import polars as pl

from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.families.dialogues.prompts import spoken
from selfimprove_dagster.families.judging.gate import MeasuredGap
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.records import Draft, Parent
from selfimprove_dagster.methods.self_knowledge import tables as t
from selfimprove_dagster.methods.self_knowledge.choosing import Choice, pick_all
from selfimprove_dagster.methods.self_knowledge.exam import is_right, read_task, recorded_task, truth
from selfimprove_dagster.methods.self_knowledge.self_knowledge import measure_gap
from selfimprove_dagster.methods.self_knowledge.settings import SelfKnowledgeExperiment
from selfimprove_dagster.stage import Markdown, Picture, Result, StageContext, number, stage
from selfimprove_dagster.table import Row
from selfimprove_dagster.text import markdown_table, percent
from selfimprove_dagster.work.shards import Request, Shard
from selfimprove_dagster.work.spec import Spec


@stage(
    t.SK_QUESTIONS,
    description="The held-out questions and prompts of all tasks, without the true answers.",
)
def questions(context: StageContext[SelfKnowledgeExperiment]) -> Result:
    drafts, rejected = [], 0
    for task in context.experiment.tasks:
        asked, bad = read_task(task, context.experiment.conventions)
        rejected += len(bad)
        place = ("question", "source_file", "source_line", "licence")
        drafts += [
            Draft({"task": task.name, "kind": task.kind, **{name: getattr(one, name) for name in place}})
            for one in asked
        ]
    tasks = [recorded_task(task) for task in context.experiment.tasks]
    manifest = context.store(context.activity(inputs=[], parameters={"tasks": tasks}), drafts)
    return context.result(
        manifest,
        preview=["task", "question", "source_file", "source_line"],
        metadata={"tasks": len(tasks), "rejected_lines": rejected},
    )


@stage(
    t.SK_CANDIDATES,
    after=["questions"],
    description="Several answers of the model to each question: the candidates among which it then picks.",
    kinds=["parquet", "pytorch"],
    uses=["language_model"],
)
def candidates(context: StageContext[SelfKnowledgeExperiment]) -> Result:
    section = context.experiment.candidates
    asked_manifest, asked = context.scan(t.SK_QUESTIONS)
    manifest, shown = context.complete(
        [asked_manifest],
        {"candidates": {**section.model_dump(), "stop": context.experiment.stops(context.prompts)}},
        asked.select("id", "task", "kind", "question"),
        Spec.of(ask_for_candidates),
        size=section.shard,
        each=section.count,
    )
    return context.result(manifest, preview=["task", "prompt", "sample_index", "text"], metadata=shown)


def ask_for_candidates(shard: Shard[SelfKnowledgeExperiment, Row]) -> Iterator[Request]:
    """Requests for the candidates of each question (`id`, `task`, `kind`, `question`)."""
    section = shard.experiment.candidates
    for row in shard.items:
        yield Request(
            f"{row['task']}\0{row['question']}",
            shard.prompts.ask("response", **spoken(row["question"]))
            if row["kind"] == "dialogues"
            else shard.prompts.ask(section.prompt_format, question=row["question"], demonstrations=()),
            {"question_id": row["id"], "task": row["task"]},
            [Parent(row["id"], "prompt")],
            samples=section.count,
        )


@stage(
    t.SK_GENERATION_SCORE,
    after=["candidates"],
    description="Which candidates are right, and how often one picked at random is. Reads true answers, to "
    "measure.",
    version="2",
)
def generation_score(context: StageContext[SelfKnowledgeExperiment]) -> Result:
    asked_manifest, asked = context.scan(t.SK_QUESTIONS)
    drawn_manifest, drawn = context.scan(t.SK_CANDIDATES)
    activity = context.activity(
        inputs=[asked_manifest, drawn_manifest],
        parameters=context.experiment.answers_read,
        model_id=drawn_manifest.activity.model_id,
    )
    manifest, _ = context.map(
        drawn.select("id", "question_id", "text").join(
            asked.select("task", "source_line", question_id="id"), on="question_id", maintain_order="left"
        ),
        Spec.of(score, recorded=asked_manifest.activity.parameters["tasks"]),
        activity,
        together="question_id",
    )
    means = {
        f"generation_score_{task.name}": pl.col("score").filter(pl.col("task") == task.name).mean()
        for task in context.experiment.tasks
    }
    return context.result(
        manifest, preview=["task", "right", "unread", "score"], metadata=context.measure(manifest, **means)
    )


def score(
    shard: Shard[SelfKnowledgeExperiment, Row], *, recorded: Sequence[Mapping[str, Any]]
) -> list[Draft]:
    """One score a question, from its candidates (`id`, `question_id`, `task`, `source_line`, `text`).

    `recorded` are the tasks as their questions were asked.
    """
    conventions = shard.experiment.conventions
    known = truth(shard.experiment.tasks, recorded, conventions)
    drafts = []
    for question_id, rows in groupby(shard.items, itemgetter("question_id")):
        answered = [*rows]
        task, line = answered[0]["task"], answered[0]["source_line"]
        judged = [is_right(known[task, line], one["text"], conventions) for one in answered]
        right = [correct for correct, _ in judged]
        drafts.append(
            Draft(
                content={
                    "question_id": question_id,
                    "task": task,
                    "candidate_ids": [one["id"] for one in answered],
                    "right": right,
                    "unread": sum(not read for _, read in judged),
                },
                parents=[
                    Parent(question_id, "question"),
                    *(Parent(one["id"], "scored") for one in answered),
                ],
                measures={"score": sum(right) / len(right)},
            )
        )
    return drafts


@stage(
    t.SK_DISCRIMINATION_SCORE,
    after=["generation_score"],
    description="Which of its candidates the model picks, in several orders, by the options' probabilities "
    "and by the text that it writes, and whether the picked one is right.",
    kinds=["parquet", "pytorch"],
    uses=["language_model"],
)
def discrimination_score(context: StageContext[SelfKnowledgeExperiment]) -> Result:
    experiment, section = context.experiment, context.experiment.discrimination
    constitution = experiment.constitution.load()
    asked_manifest, asked = context.scan(t.SK_QUESTIONS)
    drawn_manifest, drawn = context.scan(t.SK_CANDIDATES)
    scored_manifest, scored = context.scan(t.SK_GENERATION_SCORE)
    settings = {
        "discrimination": section.model_dump(),
        "constitution": {"hash": constitution.hash, "name": constitution.name},
    }
    manifest, worked = context.work(
        [asked_manifest, drawn_manifest, scored_manifest],
        settings,
        _options(asked, drawn, scored),
        Spec.of(pick, candidates_of=drawn_manifest.activity.model_id),
        size=section.shard * experiment.candidates.count,
        unit="candidates",
        together="question_id",
    )
    means = {
        f"discrimination_score_{task.name}_{by}": pl.col("score")
        .filter(pl.col("task") == task.name, pl.col("by") == by)
        .mean()
        for task in experiment.tasks
        for by in section.by
    }
    return context.result(
        manifest,
        preview=["task", "by", "choices", "picked_id", "right"],
        metadata={**worked, **context.measure(manifest, **means)},
    )


def _options(asked: pl.LazyFrame, drawn: pl.LazyFrame, scored: pl.LazyFrame) -> pl.LazyFrame:
    """The candidates of the questions among whose candidates there is something to pick, as `pick` takes them."""
    # Of what was scored before one of its candidates was revoked, nothing is left here.
    choices = scored.filter(pl.col("candidate_ids").list.len() > 1)
    return (
        drawn.select("id", "question_id", "text")
        .join(asked.select("kind", "question", question_id="id"), on="question_id", maintain_order="left")
        .join(
            choices.select("question_id", "task", "candidate_ids", "right", score_id="id"),
            on="question_id",
            maintain_order="left",
        )
    )


def pick(shard: Shard[SelfKnowledgeExperiment, Row], *, candidates_of: str) -> list[Draft]:
    """What the model picks in each choice, from rows of candidates: `id` and `text`, with the fields of `Choice`.

    Raises ModelError where another model wrote the candidates.
    """
    model, experiment = shard.model, shard.experiment
    if model.model_id != candidates_of:
        raise ModelError(
            f"the candidates are of the model {candidates_of}, and the champion is {model.model_id} by now: "
            "materialise candidates again"
        )
    drafts = pick_all(
        model,
        shard.prompts,
        [*_choices(shard.items)],
        experiment.constitution.load(),
        experiment.discrimination,
        shard.seeds_from,
        lambda choices, tokens: shard.report.advance(0, tokens),
    )
    shard.report.advance(len(shard.items))
    return drafts


def _choices(candidates: Iterable[Row]) -> Iterator[Choice]:
    """A choice for each question, from the rows of its candidates."""
    for question_id, rows in groupby(candidates, itemgetter("question_id")):
        options = [*rows]
        texts = {row["id"]: row["text"] for row in options}
        row = options[0]
        yield Choice(
            question_id,
            row["score_id"],
            row["task"],
            row["kind"],
            row["question"],
            row["candidate_ids"],
            [texts[id] for id in row["candidate_ids"]],
            row["right"],
        )


@stage(
    t.SK_DISCRIMINATION_GAP,
    after=["discrimination_score"],
    description="Discrimination minus generation score, per task and way of picking, with its 95% interval: "
    "whether the model can be trusted to judge itself. Stages in which a model judges itself read its newest "
    "gaps.",
)
def discrimination_gap(context: StageContext[SelfKnowledgeExperiment]) -> Result:
    scored_manifest, scored = context.scan(t.SK_GENERATION_SCORE)
    picked_manifest, picked = context.scan(t.SK_DISCRIMINATION_SCORE)
    model_id = str(picked_manifest.activity.model_id)
    activity = context.activity(inputs=[scored_manifest, picked_manifest], parameters={}, model_id=model_id)
    parents = [
        Parent(scored_manifest.activity.id, "measured_on"),
        Parent(picked_manifest.activity.id, "measured_on"),
        Parent(model_id, "measured"),
    ]
    drafts = [
        Draft(
            content={"task": task.name, "kind": task.kind, "by": by, "model_id": model_id},
            parents=parents,
            measures={
                "candidates": context.experiment.candidates.count,
                **_gap(
                    task.name,
                    by,
                    scored.filter(task=task.name)
                    .select("question_id", "score", best=pl.col("right").list.any())
                    .join(
                        picked.filter(by=by).select("question_id", "choices", picked_right="right"),
                        on="question_id",
                        maintain_order="left",
                    )
                    .collect(),
                ),
            },
        )
        for task in context.experiment.tasks
        for by in context.experiment.discrimination.by
    ]
    manifest = context.store(activity, drafts)
    return context.result(manifest, ["task", "by", "gap", "gap_low", "gap_high"], _report(context, manifest))


def _gap(task: str, by: str, rows: pl.DataFrame) -> dict[str, Any]:
    """The gap of a task and way of picking, from its questions: `score`, `best`, `choices` and `picked_right`."""
    found = measure_gap(rows["score"].to_list(), rows["picked_right"].to_list())
    told = MeasuredGap(task, by, found.gap, found.low, found.high, found.questions)
    choices = rows["choices"].explode()
    unread = choices.null_count() / max(len(choices), 1)
    not_read = f"; {unread:.1%} of its choices could not be read" if unread else ""
    return {
        "questions": found.questions,
        "generation": found.generation,
        "discrimination": found.discrimination,
        "best": rows["best"].mean(),
        "gap": found.gap,
        "gap_low": found.low,
        "gap_high": found.high,
        "unread_share": unread,
        "statement": f"{told}: {percent(found.discrimination)} of what it picks is right, "
        f"{percent(found.generation)} of what it says{not_read}",
    }


def _report(context: StageContext[SelfKnowledgeExperiment], manifest: Manifest) -> dict[str, Any]:
    """The gaps in numbers, as a table, and as a chart over the iterations up to this one."""
    from selfimprove_dagster.plots import interval_chart

    rows = context.lake.read_ungated(manifest)
    series: dict[str, list[tuple[float, float, float, float]]] = {}
    for measured in context.lake.manifests(context.table.name, context.experiment.name):
        if measured.iteration <= context.iteration:
            for row in context.lake.read_ungated(measured).iter_rows(named=True):
                point = (float(measured.iteration), row["gap"], row["gap_low"], row["gap_high"])
                series.setdefault(f"{row['task']}, by {row['by']}", []).append(point)
    chart = interval_chart(
        series, x="iteration", y="discrimination gap (0 is chance)", title=context.experiment.name
    )
    table = [
        {
            "task": row["task"],
            "by": row["by"],
            "questions": f"{row['questions']:,}",
            "generation": percent(row["generation"]),
            "discrimination": percent(row["discrimination"]),
            "best possible": percent(row["best"]),
            "gap": f"{row['gap']:+.1%} [{row['gap_low']:+.1%}, {row['gap_high']:+.1%}]",
            "not read": percent(row["unread_share"]),
        }
        for row in rows.iter_rows(named=True)
    ]
    return {
        **{f"gap_{row['task']}_{row['by']}": number(row["gap"]) for row in rows.iter_rows(named=True)},
        "model_id": manifest.activity.model_id,
        "gaps": Markdown(markdown_table(table)),
        "gap_by_iteration": Picture(chart),
        "lineage": context.lineage_page,
    }


STAGES = [
    questions,
    candidates,
    generation_score,
    discrimination_score,
    discrimination_gap,
]
