"""The stages that every training method shares, written once: train, evaluate, promote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import dagster as dg

from selfimprove_dagster import tables
from selfimprove_dagster.assets.factory import image, stage_asset
from selfimprove_dagster.evaluation.exam import (
    Examinee,
    accuracy,
    accuracy_by_difficulty,
    compare,
    compare_rewards,
    examine,
)
from selfimprove_dagster.exams import open_exam
from selfimprove_dagster.experiment.base import TrainingExperiment
from selfimprove_dagster.families.dialogues.prompts import dialogue_prompt
from selfimprove_dagster.families.trained.checkpoints import fine_tuned, starting_model
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.records import Draft, Parent
from selfimprove_dagster.loop.champion import champion_before
from selfimprove_dagster.loop.promotion import decide_promotion
from selfimprove_dagster.loop.rules import next_turn
from selfimprove_dagster.methods.constitutional.settings import ConstitutionalExperiment
from selfimprove_dagster.methods.refinement.settings import RefinementExperiment
from selfimprove_dagster.methods.rlaif.settings import RlaifExperiment
from selfimprove_dagster.resources.language_model import LanguageModelResource
from selfimprove_dagster.resources.trainer import TrainerResource
from selfimprove_dagster.seeds import imports as seeds
from selfimprove_dagster.stage import Stage
from selfimprove_dagster.table import Table
from selfimprove_dagster.text import markdown_table
from selfimprove_dagster.work.shards import Request

Report = Callable[[Stage[Any], Manifest], dict[str, Any]]
"""What Dagster shows of an evaluation besides accuracies."""


def drawn_pool(
    schema: Table,
    kind: type[seeds.DrawingExperiment],
    description: str,
    deps: Sequence[Table] = (),
) -> dg.AssetsDefinition:
    """seed_pool: an iteration's questions, texts, prompts or comparisons, drawn by lot from all seeds."""

    @stage_asset(schema, deps=deps, description=description)
    def seed_pool(context: dg.AssetExecutionContext, home: dg.ResourceParam[Home]) -> dg.MaterializeResult:
        stage = Stage.begin(context, home, schema, kind)
        imported = {}
        if stage.experiment.taught_by is None:
            _, accepted, rejected = seeds.import_file(stage.lake, stage.experiment)
            imported = {"imported_from_seed_file": accepted, "rejected_lines": rejected}
        pool = seeds.pool(stage.lake, stage.experiment, stage.iteration)
        text = next(iter(schema.content))
        activity = stage.activity(
            inputs=pool.inputs, parameters={f"{text}s": len(pool.chosen), "pool": pool.size}
        )
        drafts = [
            Draft(
                content={name: row[name] for name in schema.content},
                parents=[Parent(row["id"], "seed")],
                measures={name: row[name] for name in schema.measures},
            )
            for row in pool.chosen.iter_rows(named=True)
        ]
        return stage.result(
            stage.store(activity, drafts),
            preview=[text, "source_file", "source_line"],
            metadata={
                **imported,
                "pool": pool.size,
                "never_used_before": pool.fresh,
            },
        )

    return seed_pool


def drawn_responses(
    schema: Table,
    pool: Table,
    kind: type[ConstitutionalExperiment] | type[RlaifExperiment] | type[RefinementExperiment],
    description: str,
    samples: int = 1,
) -> dg.AssetsDefinition:
    """`samples` responses to each prompt of a pool, drawn as the experiment's `responses` say."""

    @stage_asset(schema, deps=[pool], description=description, kinds={"parquet", "pytorch"}, holds_model=True)
    def responses(
        context: dg.AssetExecutionContext, home: dg.ResourceParam[Home], language_model: LanguageModelResource
    ) -> dg.MaterializeResult:
        stage = Stage.begin(context, home, schema, kind)
        pool_manifest, prompts = stage.read(pool)
        requests = [
            Request(
                prompt, dialogue_prompt(prompt), {"prompt_id": id}, [Parent(id, "prompt")], samples=samples
            )
            for id, prompt in prompts.select("id", "prompt").iter_rows()
        ]
        section = stage.experiment.responses
        manifest, shown = stage.complete(
            language_model,
            [pool_manifest],
            {"responses": section.model_dump()},
            requests,
            size=section.shard,
        )
        return stage.result(manifest, preview=["prompt", "sample_index", "text"], metadata=shown)

    return responses


def training_stages(
    method: str, dataset: Table, report: Report = lambda stage, manifest: {}
) -> list[dg.AssetsDefinition]:
    """fine_tuned_checkpoint → evaluation → promotion, for the method whose examples `dataset` holds."""
    checkpoint = tables.of(method, "fine_tuned_checkpoint")

    @stage_asset(
        checkpoint,
        deps=[dataset],
        description="The model fine-tuned on the filtered dataset with TRL's SFTTrainer, prompts masked. "
        "A killed run goes on from its last save.",
        kinds={"pytorch", "huggingface"},
        holds_model=True,
    )
    def fine_tuned_checkpoint(
        context: dg.AssetExecutionContext, home: dg.ResourceParam[Home], trainer: TrainerResource
    ) -> dg.MaterializeResult:
        return _train(Stage.begin(context, home, checkpoint, TrainingExperiment), trainer, dataset)

    return [fine_tuned_checkpoint, *judging_stages(method, report)]


def judging_stages(
    method: str, report: Report = lambda stage, manifest: {}, after: Sequence[Table] = ()
) -> list[dg.AssetsDefinition]:
    """evaluation → promotion of the method's fine-tuned checkpoint; the exam may read tables `after` it."""
    checkpoint = tables.of(method, "fine_tuned_checkpoint")
    evaluation = tables.of(method, "evaluation")
    promotion = tables.of(method, "promotion")

    @stage_asset(
        evaluation,
        deps=[checkpoint, *after],
        description="Held-out accuracy of champion and challenger on the same questions, greedy and by "
        "majority. The only stage that reads true answers.",
        kinds={"parquet", "pytorch"},
        holds_model=True,
    )
    def evaluation_asset(
        context: dg.AssetExecutionContext, home: dg.ResourceParam[Home], language_model: LanguageModelResource
    ) -> dg.MaterializeResult:
        stage = Stage.begin(context, home, evaluation, TrainingExperiment)
        return _evaluate(stage, language_model, checkpoint, report)

    @stage_asset(
        promotion,
        deps=[evaluation],
        description="Whether the checkpoint becomes the champion of the next iteration, and why.",
    )
    def promotion_asset(
        context: dg.AssetExecutionContext, home: dg.ResourceParam[Home]
    ) -> dg.MaterializeResult:
        return _promote(Stage.begin(context, home, promotion, TrainingExperiment), checkpoint, evaluation)

    return [evaluation_asset, promotion_asset]


def _train(
    stage: Stage[TrainingExperiment], trainer: TrainerResource, dataset: Table
) -> dg.MaterializeResult:
    manifest, examples = stage.read(dataset)
    shown = examples.select("prompt", "completion").iter_rows()
    return fine_tuned(stage, trainer, manifest, starting_model(stage), shown)


def _evaluate(
    stage: Stage[TrainingExperiment],
    language_model: LanguageModelResource,
    checkpoint: Table,
    report: Report,
) -> dg.MaterializeResult:
    experiment, champion = stage.experiment, stage.champion
    checkpoint_manifest, trained = stage.read(checkpoint)
    challenger_id, challenger_path = trained.select("model_id", "path").row(0)
    champion_id = champion.identity
    open_model = partial(language_model.open, experiment.model)
    opened = open_exam(stage.home, experiment, open_model, stage.iteration)
    exam = opened.exam
    activity = stage.activity(
        inputs=[checkpoint_manifest, *opened.inputs],
        parameters={"exam": exam.parameters, "champion": champion_id},
        model_id=challenger_id,
    )
    with stage.lake.writer(stage.schema, activity) as writer:
        spent = examine(
            writer,
            exam,
            [
                Examinee("champion", champion_id, champion.path),
                Examinee("challenger", challenger_id, challenger_path),
            ],
            remembered=partial(exam.remembered, stage.lake, stage.schema, stage.iteration),
            open_model=open_model,
            log=stage.log,
            allowance=stage.allowance,
        )
        manifest = writer.commit({"seconds": stage.seconds, **vars(spent)})
    shown = {"rejected_evaluation_lines": len(opened.rejected), **report(stage, manifest)}
    return _report_evaluation(stage, manifest, shown)


def _report_evaluation(
    stage: Stage[TrainingExperiment], manifest: Manifest, metadata: dict[str, Any]
) -> dg.MaterializeResult:
    rows = stage.lake.read_ungated(manifest)
    decided_in = stage.experiment.decided_in
    table = []
    for mode in rows.drop_nulls("correct")["mode"].unique(maintain_order=True):
        for role in ("champion", "challenger"):
            measured = accuracy(rows, role, mode)
            metadata[f"{role}_{mode}_accuracy"] = round(measured.value, 5)
            table.append({"model": role, "mode": mode, "difficulty": "all", "accuracy": str(measured)})
            table += [
                {"model": role, "mode": mode, "difficulty": difficulty, "accuracy": str(part)}
                for difficulty, part in accuracy_by_difficulty(rows, role, mode).items()
            ]
    comparison = compare(rows, decided_in)
    low, high = comparison.interval
    metadata |= {
        "difference": round(comparison.difference, 5),
        "difference_low": round(low, 5),
        "difference_high": round(high, 5),
        "accuracies": dg.MetadataValue.md(markdown_table(table)),
        "accuracy_by_iteration": image(_accuracy_chart(stage)),
    }
    return stage.result(manifest, ["role", "mode", "question", "expected", "predicted", "correct"], metadata)


def _accuracy_chart(stage: Stage[TrainingExperiment]) -> bytes:
    """Held-out accuracy of champion and challenger, iteration by iteration, up to this one."""
    from selfimprove_dagster.plots import line_chart

    mode = stage.experiment.decided_in
    series: dict[str, list[tuple[float, float]]] = {}
    for manifest in stage.lake.manifests(stage.schema.name, stage.experiment.name):
        if manifest.iteration <= stage.iteration:
            rows = stage.lake.read_ungated(manifest)
            for role in ("champion", "challenger"):
                point = (float(manifest.iteration), accuracy(rows, role, mode).value)
                series.setdefault(role, []).append(point)
    return line_chart(
        series, x="iteration", y=f"held-out accuracy ({mode.replace('_', ' ')})", title=stage.experiment.name
    )


def _promote(stage: Stage[TrainingExperiment], checkpoint: Table, evaluation: Table) -> dg.MaterializeResult:
    checkpoint_manifest, trained = stage.read(checkpoint)
    evaluation_manifest, rows = stage.read(evaluation)
    champion = stage.champion
    mode = stage.experiment.decided_in
    before, after = accuracy(rows, "champion", mode), accuracy(rows, "challenger", mode)
    comparison = compare(rows, mode)
    level = stage.experiment.promotion.level
    promoted, reason = decide_promotion(before, after, comparison, level, compare_rewards(rows, mode))
    challenger = trained.row(0, named=True)
    activity = stage.activity(
        inputs=[checkpoint_manifest, evaluation_manifest],
        parameters={"level": level},
        model_id=challenger["model_id"],
    )
    low, high = comparison.interval
    champion_id = rows.filter(role="champion")["model_id"][0]
    draft = Draft(
        content={
            "promoted": promoted,
            "reason": reason,
            "challenger_model_id": challenger["model_id"],
            "champion_model_id": champion_id,
            "questions": comparison.questions,
            "gained": comparison.gained,
            "lost": comparison.lost,
        },
        parents=[
            Parent(challenger["id"], "challenger"),
            Parent(champion_id, "champion"),
            Parent(evaluation_manifest.activity.id, "judged_by"),
        ],
        measures={
            "champion_path": champion.path,
            "challenger_path": challenger["path"],
            "champion_accuracy": before.value,
            "challenger_accuracy": after.value,
            "difference": comparison.difference,
            "difference_low": low,
            "difference_high": high,
            "p_worse": comparison.p_worse,
        },
    )
    manifest = stage.store(activity, [draft])
    stage.log(reason)
    step = next_turn(stage.lake, stage.experiment)
    return stage.result(
        manifest,
        preview=["promoted", "reason"],
        metadata={
            "promoted": promoted,
            "reason": reason,
            "difference": round(comparison.difference, 5),
            "champion_of_next_iteration": champion_before(
                stage.lake, stage.experiment, stage.iteration + 1
            ).path,
            "lineage": stage.lineage_page,
            "what_follows": step.in_words,
        },
    )
