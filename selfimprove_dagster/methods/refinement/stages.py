"""Refinement of answers without training: Self-Refine, Reflexion, PIT's rounds. Group `refinement`.

seed_pool → raw_generations → refinements → evaluation

Nothing is trained: an iteration ends with its evaluation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import polars as pl

from selfimprove_dagster.evaluation.exam import Examinee
from selfimprove_dagster.families.dialogues.stages import drawn_responses
from selfimprove_dagster.families.judging.trust import heed_measured_gap
from selfimprove_dagster.families.refining.refining import improve
from selfimprove_dagster.families.refining.trajectories import Refining, Step, Task, Trajectory
from selfimprove_dagster.families.refining.ways import (
    ANSWER,
    EVALUATION,
    FAILED,
    FEEDBACK,
    OUTCOME,
    REFLECTION,
    REFLEXION,
    SELF_REFINE,
    STOPS,
    remembered,
)
from selfimprove_dagster.families.trained.stages import drawn_pool
from selfimprove_dagster.home.exams import open_exam
from selfimprove_dagster.lake.records import Draft, Parent, content_hash, record_id
from selfimprove_dagster.methods.refinement import tables as t
from selfimprove_dagster.methods.refinement.exam import MEASURED, after_rounds, curves, stops
from selfimprove_dagster.methods.refinement.settings import RefinementExperiment
from selfimprove_dagster.methods.refinement.tables import REFINEMENTS
from selfimprove_dagster.stage import Markdown, Picture, Result, StageContext, number, stage
from selfimprove_dagster.table import Row
from selfimprove_dagster.text import markdown_table, percent
from selfimprove_dagster.work.shards import Shard
from selfimprove_dagster.work.spec import Spec

seed_pool = drawn_pool(
    t.RF_SEED_POOL,
    "The prompts of this iteration, which nobody trains on. Those that no earlier iteration used come first.",
)


raw_generations = drawn_responses(t.RF_RAW_GENERATIONS, t.RF_SEED_POOL, "The model's first answers.")


@stage(
    t.REFINEMENTS,
    after=["raw_generations"],
    description="Every answer, feedback, evaluation and reflection by which the model refined its first "
    "answers, in each way that the experiment names, and why it stopped. A failed task keeps its error and "
    "its last good answer.",
    version="2",
    kinds=["parquet", "pytorch"],
    uses=["language_model"],
)
def refinements(context: StageContext[RefinementExperiment]) -> Result:
    section = context.experiment.refining
    pool_manifest, pool = context.scan(t.RF_SEED_POOL)
    first_manifest, first = context.scan(t.RF_RAW_GENERATIONS)
    prompts = pool.select("prompt", prompt_id="id")
    inputs, settings = [pool_manifest, first_manifest], {"refining": section.model_dump()}

    generator, measured = context.generator, {}
    with context.language_model.open(context.experiment.model, generator.path) as model:
        if {*section.ways} & {SELF_REFINE, REFLEXION}:  # the model judges its answers by what it writes
            measured = heed_measured_gap(context, context.experiment.self_knowledge, model.model_id, "text")
        activity = context.drawing(model, inputs, settings)
        manifest, spent = context.map(
            first.select("prompt_id", "text", first_id="id").join(
                prompts, on="prompt_id", maintain_order="left"
            ),
            Spec.of(refine),
            activity,
            size=section.shard,
            unit="refined answers",
            each=len(section.ways),
            opened=model,
        )
    counted = Counter(
        outcome
        for steps in context.batches(manifest, "kind", "way", "stopped")
        for outcome in steps.filter(kind=OUTCOME).select("way", "stopped").iter_rows()
    )
    return context.result(
        manifest,
        ["way", "kind", "round", "text", "is_fine", "stopped"],
        {
            **context.drawn_metadata(activity, spent),
            **measured,
            "failed": sum(counted[way, FAILED] for way in section.ways),
            **{f"{way}_{stopped}": count for (way, stopped), count in counted.items()},
            "lineage": context.lineage_page,
        },
    )


def refine(shard: Shard[RefinementExperiment, Row]) -> list[Draft]:
    """The steps by which each first answer (`first_id`, `prompt_id`, `prompt`, `text`) is refined, in each way."""
    section = shard.experiment.refining
    tasks = [Task(row["prompt"], row["prompt"], row["text"]) for row in shard.items]
    return [
        draft
        for way in section.ways
        for row, refined in zip(
            shard.items,
            improve(
                shard.model,
                tasks,
                way,
                section.settings,
                shard.seeds_from,
                shard.report.advance,
                prompts=shard.prompts,
            ),
            strict=True,
        )
        for draft in drafts_of(
            refined,
            section.settings,
            row["prompt_id"],
            row["first_id"],
            shard.activity.id,
            reflects_on_memory=shard.prompts.prompting.chat,
        )
    ]


@stage(
    t.RF_EVALUATION,
    after=["refinements"],
    description="Held-out accuracy of the first answers and, round by round, of each way to refine them, "
    "against the tokens that it takes. The only stage that reads true answers.",
    version="2",
    kinds=["parquet", "pytorch"],
    uses=["language_model"],
)
def evaluation(context: StageContext[RefinementExperiment]) -> Result:
    experiment, generator = context.experiment, context.generator
    # Read for what its gate says; the exam's answers are its own.
    refined, _ = context.scan(t.REFINEMENTS)
    model_id = generator.identity_in(experiment.model)
    opened = open_exam(context.home, experiment, context.open_model, context.iteration)
    activity = context.activity(
        inputs=[refined, *opened.inputs],
        parameters={"exam": opened.exam.parameters, "champion": model_id},
        model_id=model_id,
    )
    examinee = Examinee("champion", model_id, generator.path)
    manifest, _ = context.examine(opened.exam, [examinee], activity)
    shown = {"rejected_evaluation_lines": len(opened.rejected), "champion": generator.name}
    rows = context.lake.read_columns(manifest, MEASURED)
    return context.result(
        manifest,
        ["mode", "question", "expected", "predicted", "correct", "stopped"],
        {**shown, **refinement_report(rows, experiment.name)},
    )


def refinement_report(rows: pl.DataFrame, title: str) -> dict[str, Any]:
    """Accuracy after each round against tokens: numbers, a table and a plot; and why tasks stopped."""
    from selfimprove_dagster.plots import line_chart

    measured = after_rounds(rows)
    ways = curves(measured)
    table = []
    for one in measured:
        low, high = one.against_original.interval
        change = f"{one.against_original.difference:+.1%} [{low:+.1%}, {high:+.1%}]" if one.round else "–"
        table.append(
            {
                "answers": one.way.replace("_", "-"),
                "round": one.round,
                "correct": str(one.correct),
                "helpful": percent(one.helpful.value),
                "harmless": percent(one.harmless.value),
                "tokens a prompt": f"{one.tokens:.1f}",
                "won, lost": f"{one.against_original.gained}, {one.against_original.lost}"
                if one.round
                else "",
                "against original": change,
            }
        )
    series = {
        way.replace("_", "-"): [(one.tokens, one.correct.value) for one in rounds]
        for way, rounds in ways.items()
    }
    stopped = [
        {"way": way.replace("_", "-"), **{STOPS[reason]: count for reason, count in found.items()}}
        for way, found in stops(rows).items()
    ]
    told = {key: None for row in stopped for key in row}
    chart = line_chart(series, x="tokens a prompt, read and drawn", y="held-out accuracy", title=title)
    return {
        **{
            f"{one.way}_{one.round}_accuracy" if one.round else "original_accuracy": number(one.correct.value)
            for one in measured
        },
        **{
            f"{way}_difference": number(rounds[-1].against_original.difference)
            for way, rounds in ways.items()
        },
        "accuracy_by_round": Markdown(markdown_table(table)),
        "why_they_stopped": Markdown(
            markdown_table([{key: row.get(key, 0) for key in told} for row in stopped])
        ),
        "accuracy_against_tokens": Picture(chart),
    }


STAGES = [seed_pool, raw_generations, refinements, evaluation]


NOTHING_DRAWN = {
    **dict.fromkeys(("prompt", "prompt_token_ids", "token_ids", "finish_reason", "seed")),
    **dict.fromkeys(("is_fine", "stopped", "error")),
}


def drafts_of(
    trajectory: Trajectory,
    settings: Refining,
    prompt_id: str,
    first_id: str,
    activity_id: str,
    *,
    reflects_on_memory: bool = False,
) -> Iterator[Draft]:
    """The records of a task whose first answer is the record `first_id`: its steps, then its outcome.

    They are each other's parents, so they are of the activity whose id is given. `reflects_on_memory`: the prompt of
    a reflection shows earlier ones.
    """
    about = {"prompt_id": prompt_id, "first_id": first_id, "way": trajectory.way}
    made: dict[str, list[str]] = {ANSWER: [first_id], FEEDBACK: [], EVALUATION: [], REFLECTION: []}
    for step in trajectory.steps:
        content = {**NOTHING_DRAWN, **about, **_content(step)}
        parents = [Parent(prompt_id, "prompt"), *_made_from(step.kind, made, settings, reflects_on_memory)]
        yield Draft(content, parents, _measured(step))
        if step.error is None:
            made[step.kind].append(record_id(REFINEMENTS.tag, content_hash(content), parents, activity_id))
    read, drawn = trajectory.tokens_after(trajectory.last_round)
    outcome = {
        **NOTHING_DRAWN,
        **about,
        "kind": OUTCOME,
        "round": trajectory.last_round,
        "text": trajectory.answer,
        "tokens_in": read,
        "tokens_out": drawn,
        "stopped": trajectory.stopped,
        "error": trajectory.error,
    }
    parents = [Parent(prompt_id, "prompt"), Parent(made[ANSWER][-1], "answer")]
    yield Draft(outcome, parents, dict.fromkeys(REFINEMENTS.measures))


def _measured(step: Step) -> dict[str, Any]:
    return {"logprobs": list(step.logprobs) or None, "score": step.score, "problem": step.problem}


def _content(step: Step) -> dict[str, Any]:
    told = ("kind", "round", "text", "tokens_in", "tokens_out", "is_fine", "error")
    content = {name: getattr(step, name) for name in told}
    if step.prompt:
        content |= {"prompt": step.prompt, "prompt_token_ids": list(step.prompt_token_ids)}
    if step.seed is not None:
        drawn = {"token_ids": list(step.token_ids), "finish_reason": step.finish_reason, "seed": step.seed}
        content |= drawn
    return content


def _made_from(
    kind: str, made: dict[str, list[str]], settings: Refining, reflects_on_memory: bool
) -> list[Parent]:
    """The parents of a step besides the prompt, from the good steps of each kind so far."""
    answer = made[ANSWER][-1]
    memory = [Parent(one, "reflection") for one in remembered(made[REFLECTION], settings.memory)]
    if kind == REFLECTION:
        about = [Parent(answer, "reflection_of"), Parent(made[EVALUATION][-1], "evaluation")]
        return [*about, *memory] if reflects_on_memory else about
    if kind != ANSWER:
        return [Parent(answer, f"{kind}_of")]
    # Only Self-Refine's prompts hold earlier answers, each with its feedback.
    shown = slice(None) if settings.history and made[FEEDBACK] else slice(-1, None)
    return [
        Parent(answer, "revision_of"),
        *(Parent(earlier, "earlier_answer") for earlier in made[ANSWER][shown][:-1]),
        *(Parent(one, "feedback") for one in made[FEEDBACK][shown]),
        *memory,
    ]
