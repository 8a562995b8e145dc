"""The stages that every training method shares, written once: train, evaluate, promote."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from selfimprove_dagster.evaluation.exam import (
    Examinee,
    accuracy,
    accuracy_by_difficulty,
    compare,
    compare_rewards,
    failed_answers,
    failed_rewards,
    failed_verdicts,
)
from selfimprove_dagster.evaluation.judge import mode_against
from selfimprove_dagster.experiment.base import JUDGED, TrainingExperiment
from selfimprove_dagster.experiment.opening import identity_of
from selfimprove_dagster.families.trained.checkpoints import fine_tuned, starting_model
from selfimprove_dagster.home import imports as seeds
from selfimprove_dagster.home.exams import open_exam
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.records import Draft, Parent, parents_of
from selfimprove_dagster.language_model.prompting import Prompting
from selfimprove_dagster.loop.champion import champion_before
from selfimprove_dagster.loop.promotion import Opponent, decide_promotion
from selfimprove_dagster.loop.rules import next_turn
from selfimprove_dagster.method import Stage
from selfimprove_dagster.stage import Markdown, Picture, Result, StageContext, stage
from selfimprove_dagster.table import Row, Table
from selfimprove_dagster.text import markdown_table
from selfimprove_dagster.work.shards import Shard
from selfimprove_dagster.work.spec import Spec

BASE = "base"
"""The role of the base model in an exam of a champion that is another model."""

Report = Callable[[StageContext[Any], Manifest], dict[str, Any]]
"""What Dagster shows of an evaluation besides accuracies."""


def drawn_pool(
    schema: Table,
    description: str,
    after: Sequence[str] = (),
) -> Stage:
    """Return the stage seed_pool: an iteration's questions, texts, prompts or comparisons, randomly sampled
    from all seeds.
    """

    @stage(schema, after=after, description=description)
    def seed_pool(context: StageContext[Any]) -> Result:
        imported = {}
        if context.experiment.taught_by is None:
            _, accepted, rejected = seeds.import_file(context.lake, context.experiment)
            imported = {"imported_from_seed_file": accepted, "rejected_lines": rejected}
        pool = seeds.pool(context.lake, context.experiment, context.iteration)
        text = next(iter(schema.content))
        activity = context.activity(
            inputs=pool.inputs,
            parameters={
                f"{text}s": len(pool.chosen),
                "pool": pool.size,
                **seeds.leaving_out(context.experiment),
            },
        )
        columns = [*schema.content, *schema.measures]
        manifest, _ = context.map(pool.chosen.lazy(), Spec.of(seeded, columns=columns), activity)
        return context.result(
            manifest,
            preview=[text, "source_file", "source_line"],
            metadata={
                **imported,
                "pool": pool.size,
                "never_used_before": pool.fresh,
            },
        )

    return seed_pool


def seeded(shard: Shard[Any, Row], *, columns: Sequence[str]) -> pl.DataFrame:
    """The seeds of a pool, with those columns."""
    return shard.frame.select(*columns, parents=parents_of(id="seed"))


def named(tables: Sequence[Table], stage: str) -> Table:
    """The table of a stage among the tables of a method."""
    return next(table for table in tables if table.stage == stage)


def training_stages(
    tables: Sequence[Table],
    report: Report = lambda context, manifest: {},
    prompting: Prompting | None = None,
) -> list[Stage]:
    """fine_tuned_checkpoint → evaluation → promotion of the method whose tables these are.

    `prompting` is the form of the dataset's prompts, by default that in which the experiment's model is asked.
    """
    dataset, checkpoint = named(tables, "filtered_dataset"), named(tables, "fine_tuned_checkpoint")

    @stage(
        checkpoint,
        after=[dataset.stage],
        description="The model fine-tuned on the filtered dataset with TRL's SFTTrainer, prompts masked. "
        "A killed run resumes from its last checkpoint.",
        kinds=["pytorch", "huggingface"],
        uses=["trainer"],
    )
    def fine_tuned_checkpoint(context: StageContext[Any]) -> Result:
        return _train(context, dataset, prompting)

    return [fine_tuned_checkpoint, *judging_stages(tables, report)]


def judging_stages(
    tables: Sequence[Table],
    report: Report = lambda context, manifest: {},
    after: Sequence[str] = (),
    with_base: bool = True,
) -> list[Stage]:
    """evaluation → promotion of a method's fine-tuned checkpoint; the exam may read tables `after` it.

    With `with_base` False the base model takes no exam, as where the exam examines what only two models made.
    """
    checkpoint = named(tables, "fine_tuned_checkpoint")
    evaluation, promotion = named(tables, "evaluation"), named(tables, "promotion")

    @stage(
        evaluation,
        after=[checkpoint.stage, *after],
        description="Held-out accuracy of champion, challenger and base model on the same questions, greedy "
        "and by majority. The only stage that reads true answers.",
        kinds=["parquet", "pytorch"],
        uses=["language_model"],
    )
    def evaluation_asset(context: StageContext[TrainingExperiment]) -> Result:
        return _evaluate(context, checkpoint, report, with_base)

    @stage(
        promotion,
        after=[evaluation.stage],
        description="Whether the checkpoint becomes the champion of the next iteration, and why.",
        version="2",
    )
    def promotion_asset(context: StageContext[Any]) -> Result:
        return _promote(context, checkpoint, evaluation, with_base)

    return [evaluation_asset, promotion_asset]


def _train(context: StageContext[TrainingExperiment], dataset: Table, prompting: Prompting | None) -> Result:
    return fine_tuned(context, dataset, starting_model(context), prompting=prompting)


def _evaluate(
    context: StageContext[TrainingExperiment],
    checkpoint: Table,
    report: Report,
    with_base: bool,
) -> Result:
    experiment, champion = context.experiment, context.champion
    checkpoint_manifest, trained = context.small(checkpoint)
    challenger_id, challenger_path = trained.select("model_id", "path").row(0)
    challenger_path = context.lake.folder_at(challenger_path)
    champion_id, base_path = champion.identity_in(experiment.model), experiment.model.path
    base_id = ""
    if with_base and champion.path != base_path:
        base_id = identity_of(experiment.model)
    compares_base = base_id not in ("", champion_id)
    examinees = [
        Examinee("champion", champion_id, champion.path),
        Examinee("challenger", challenger_id, challenger_path),
    ]
    if compares_base:
        examinees.append(Examinee(BASE, base_id, base_path))
    opened = open_exam(context.home, experiment, context.open_model, context.iteration)
    exam = opened.exam
    activity = context.activity(
        inputs=[checkpoint_manifest, *opened.inputs],
        parameters={
            "exam": exam.determinants,
            "champion": champion_id,
            **({BASE: base_id} if compares_base else {}),
        },
        model_id=challenger_id,
    )
    manifest, _ = context.examine(exam, examinees, activity)
    shown = {"rejected_evaluation_lines": len(opened.rejected), **report(context, manifest)}
    return _report_evaluation(context, manifest, shown)


def _report_evaluation(
    context: StageContext[TrainingExperiment], manifest: Manifest, metadata: dict[str, Any]
) -> Result:
    rows = _measured(context.lake.scan_ungated(manifest))
    decided_in = context.experiment.decided_in
    table = []
    roles = [role for role in ("champion", "challenger", BASE) if (rows["role"] == role).any()]
    for mode in rows.drop_nulls("correct")["mode"].unique(maintain_order=True):
        for role in roles:
            measured = accuracy(rows, role, mode)
            if not measured.total:
                continue
            metadata[f"{role}_{mode}_accuracy"] = round(measured.value, 5)
            table.append({"model": role, "mode": mode, "difficulty": "all", "accuracy": str(measured)})
            table += [
                {"model": role, "mode": mode, "difficulty": difficulty, "accuracy": str(part)}
                for difficulty, part in accuracy_by_difficulty(rows, role, mode).items()
            ]
    kinds = {
        "failed_answers": (
            failed_answers(rows),
            "answers of the {} could not be generated and count as wrong",
        ),
        "failed_verdicts": (
            failed_verdicts(rows),
            "verdicts on answers of the {} could not be made and count as wrong",
        ),
        "failed_rewards": (
            failed_rewards(rows),
            "answers of the {} have no reward and are left out of its mean",
        ),
    }
    for name, (failed, words) in kinds.items():
        for role in roles:
            if count := failed.filter(role=role).height:
                metadata[f"{role}_{name}"] = count
                first = failed.filter(role=role).row(0, named=True)
                context.warn(
                    f"{count:,} {words.format(role)}; the first: "
                    f"{first['source_file']}, line {first['source_line']}: {first['problem']}"
                )
    comparison = compare(rows, decided_in)
    low, high = comparison.interval
    metadata |= {
        "difference": round(comparison.difference, 5),
        "difference_low": round(low, 5),
        "difference_high": round(high, 5),
        "accuracies": Markdown(markdown_table(table)),
        "accuracy_by_iteration": Picture(_accuracy_chart(context)),
    }
    return context.result(
        manifest, ["role", "mode", "question", "expected", "predicted", "correct"], metadata
    )


def _measured(answers: pl.LazyFrame) -> pl.DataFrame:
    """What accuracies are computed from: a narrow row per held-out question, model and mode, without any text."""
    named = ("role", "model_id", "mode", "source_file", "source_line", "difficulty", "correct")
    return answers.select(*named, pl.col("^(reward|problem)$")).collect()


def _accuracy_chart(context: StageContext[TrainingExperiment]) -> bytes:
    """Held-out accuracy of champion and challenger, iteration by iteration, up to this one."""
    from selfimprove_dagster.plots import line_chart

    mode = context.experiment.decided_in
    series: dict[str, list[tuple[float, float]]] = {}
    for manifest in context.lake.manifests(context.table.name, context.experiment.name):
        if manifest.iteration <= context.iteration:
            rows = _measured(context.lake.scan_ungated(manifest))
            for role in ("champion", "challenger"):
                point = (float(manifest.iteration), accuracy(rows, role, mode).value)
                series.setdefault(role, []).append(point)
    return line_chart(
        series,
        x="iteration",
        y=f"held-out accuracy ({mode.replace('_', ' ')})",
        title=context.experiment.name,
    )


def _promote(
    context: StageContext[TrainingExperiment], checkpoint: Table, evaluation: Table, with_base: bool
) -> Result:
    checkpoint_manifest, trained = context.small(checkpoint)
    evaluation_manifest, answers = context.scan(evaluation)
    rows = _measured(answers)
    experiment, champion = context.experiment, context.champion
    champion_id = rows.filter(role="champion")["model_id"][0]
    against = _opponents(rows, experiment.decided_in, {"champion": champion.name, BASE: "the base model"})
    section = experiment.promotion
    promoted, reason = decide_promotion(
        section, [*against.values()], compare_rewards(rows, experiment.decided_in)
    )
    if promoted and with_base and BASE not in against and identity_of(experiment.model) != champion_id:
        promoted, reason = False, "not promoted: the base model took no exam; materialise evaluation again"
    if not promoted:
        reason += f"; the next iteration starts from {champion.name} again"
    challenger = trained.row(0, named=True)
    activity = context.activity(
        inputs=[checkpoint_manifest, evaluation_manifest],
        parameters=section.model_dump(),
        model_id=challenger["model_id"],
    )
    first, base = against["champion"], against.get(BASE)
    base_id = rows.filter(role=BASE)["model_id"][0] if base else None
    draft = Draft(
        content={
            "promoted": promoted,
            "reason": reason,
            "challenger_model_id": challenger["model_id"],
            "champion_model_id": champion_id,
            "questions": first.comparison.questions,
            "gained": first.comparison.gained,
            "lost": first.comparison.lost,
        },
        parents=[
            Parent(challenger["id"], "challenger"),
            Parent(champion_id, "champion"),
            *([Parent(base_id, BASE)] if base_id else []),
            Parent(evaluation_manifest.activity.id, "judged_by"),
        ],
        measures={
            "champion_path": context.lake.address_of(champion.path),
            "challenger_path": challenger["path"],
            "champion_accuracy": first.before.value,
            "challenger_accuracy": first.after.value,
            **_difference(first, section.level),
            "p_worse": first.comparison.p_worse,
            "rule": section.rule,
            "bound": section.bound,
            "base_model_id": base_id,
            "base_accuracy": base.before.value if base else None,
            **{f"base_{name}": value for name, value in _difference(base, section.level).items()},
        },
    )
    manifest = context.store(activity, [draft])
    context.log(reason)
    step = next_turn(context.lake, experiment)
    return context.result(
        manifest,
        preview=["promoted", "reason"],
        metadata={
            "promoted": promoted,
            "reason": reason,
            "difference": round(first.comparison.difference, 5),
            **({"difference_from_base": round(base.comparison.difference, 5)} if base else {}),
            "champion_of_next_iteration": champion_before(
                context.lake, experiment, context.iteration + 1
            ).path,
            "lineage": context.lineage_page,
            "what_follows": step.in_words,
        },
    )


def _opponents(rows: pl.DataFrame, mode: str, names: Mapping[str, str]) -> dict[str, Opponent]:
    """The models that the challenger is compared with, by role: the champion, and the base model if it is another."""
    found = {}
    for role, name in names.items():
        if role == "champion" or (rows["role"] == role).any():
            # A judge that compares says of each pair of models which answers better.
            pairwise = mode == JUDGED and (rows["mode"] == mode_against(role)).any()
            at = mode_against(role) if pairwise else mode
            after = accuracy(rows, "challenger", at)
            found[role] = Opponent(name, accuracy(rows, role, at), after, compare(rows, at, role))
    return found


def _difference(against: Opponent | None, level: float) -> dict[str, float | None]:
    """The difference of the accuracies, with the interval in which promotion is decided."""
    if against is None:
        return dict.fromkeys(("difference", "difference_low", "difference_high"))
    low, high = against.comparison.interval_at(level)
    return {"difference": against.comparison.difference, "difference_low": low, "difference_high": high}
