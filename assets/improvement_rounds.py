"""improvement_rounds: held-out responses, and what PIT's checkpoint and the champion make of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import dagster as dg
import polars as pl

from assets.declared import stage_asset
from assets.stage import Stage
from resources import LanguageModelResource
from selfimprove_dagster import pit_tables as t
from selfimprove_dagster.exams import held_out_questions
from selfimprove_dagster.experiment import PitExperiment
from selfimprove_dagster.generation import in_shards
from selfimprove_dagster.home import Home
from selfimprove_dagster.improving import ORIGINAL, PIT, UNTAUGHT, HeldOut, Improver, refine
from selfimprove_dagster.methods.pit import round_gaps
from selfimprove_dagster.methods.refinement import REFLEXION, SELF_REFINE
from selfimprove_dagster.progress import ProgressReport
from selfimprove_dagster.records import Draft, build_records, content_hash
from selfimprove_dagster.rewarding import reward_model_of
from selfimprove_dagster.trajectories import Refining

TOLD = (SELF_REFINE, REFLEXION)
"""The ways in which the champion is told how its responses are to be better."""


@dataclass(frozen=True)
class _Shard:
    """Some of the held-out prompts in one way; `originals` is the shard that holds their first responses."""

    way: str
    originals: int
    asked: Sequence[HeldOut]


@stage_asset(
    t.PIT_IMPROVEMENT_ROUNDS,
    deps=[t.PIT_CHECKPOINT, t.PIT_GAP_REWARD_MODEL],
    description="The champion's response to each held-out prompt, and improvements of it in turn: by the new "
    "checkpoint (pit), by the champion, asked alike (untaught), and by the champion with feedback "
    "(self_refine) and with reflections (reflexion). The truth is not read.",
    kinds={"parquet", "pytorch"},
    holds_model=True,
)
def improvement_rounds(
    context: dg.AssetExecutionContext, home: dg.ResourceParam[Home], language_model: LanguageModelResource
) -> dg.MaterializeResult:
    stage = Stage.begin(context, home, t.PIT_IMPROVEMENT_ROUNDS, PitExperiment)
    experiment, champion = stage.experiment, stage.champion
    section = experiment.evaluation
    checkpoint_manifest, trained = stage.read(t.PIT_CHECKPOINT)
    challenger_id, challenger_path = trained.select("model_id", "path").row(0)
    reward, reward_inputs = reward_model_of(stage.lake, experiment, stage.iteration, "gap_reward_model")
    assert reward is not None
    asked = [
        HeldOut(one.question, one.source_file, one.source_line) for one in held_out_questions(experiment)
    ]
    shards = _shards(asked, section.shard)
    refining = Refining(rounds=experiment.win_rates.rounds, max_tokens=section.max_tokens)
    with ExitStack() as opened:
        model = opened.enter_context(language_model.open(experiment.model, champion.path))
        activity = stage.activity(
            inputs=[checkpoint_manifest, *reward_inputs],
            parameters={
                "rounds": section.rounds,
                "refining": vars(refining),
                "max_tokens": section.max_tokens,
                "questions": content_hash({"all": [vars(one) for one in asked]}),
                "champion": model.model_id,
                "engine": model.engine,
            },
            model_id=challenger_id,
            about={"model_path": challenger_path, "champion": champion.name},
        )
        record = partial(build_records, t.PIT_IMPROVEMENT_ROUNDS, activity=activity)
        with stage.lake.writer(stage.schema, activity) as writer:

            def work(items: Sequence[_Shard], report: ProgressReport) -> list[Draft]:
                nonlocal model
                (shard,) = items
                if shard.way == PIT and model.model_id != challenger_id:
                    opened.close()
                    model = opened.enter_context(language_model.open(experiment.model, challenger_path))
                improver = Improver(model, shard.way, section.max_tokens, report.advance)
                if shard.way == ORIGINAL:
                    return improver.respond(shard.asked)
                originals = writer.read_shard(shard.originals)
                if shard.way in TOLD:
                    return refine(model, shard.way, shard.asked, originals, refining, record, report.advance)
                return improver.improve(shard.asked, originals, section.rounds, reward.gaps, record)

            spent = in_shards(
                writer,
                shards,
                work,
                size=1,
                unit="responses",
                each=lambda shard: len(shard.asked) * (section.rounds if shard.way in (PIT, UNTAUGHT) else 1),
                log=stage.log,
                allowance=stage.allowance,
            )
            manifest = writer.commit({"seconds": stage.seconds, **vars(spent)})
    return stage.result(
        manifest,
        preview=["way", "round", "question", "text", "gap_reward", "tie_reward"],
        metadata={
            "champion": champion.name,
            **_gap_metadata(stage.lake.read_ungated(manifest)),
            "tokens": spent.tokens,
            "lineage": stage.lineage_page,
        },
    )


def _shards(asked: Sequence[HeldOut], size: int) -> list[_Shard]:
    """First responses, what the champion makes of them, what the checkpoint does: a model is opened once."""
    parts = [asked[start : start + size] for start in range(0, max(len(asked), 1), size)]
    return [
        _Shard(way, at, part) for way in (ORIGINAL, UNTAUGHT, *TOLD, PIT) for at, part in enumerate(parts)
    ]


def _gap_metadata(rows: pl.DataFrame) -> dict[str, dg.MetadataValue[str]]:
    originals = rows.filter(way=ORIGINAL)
    return {
        f"gap_reward_{way}": dg.MetadataValue.md("\n".join(f"- {one}" for one in gaps))
        for way in (PIT, UNTAUGHT)
        for gaps in (round_gaps(pl.concat([originals, rows.filter(way=way)])),)
    }
