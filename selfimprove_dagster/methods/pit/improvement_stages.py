"""improvement_rounds: held-out responses, and what PIT's checkpoint and the champion make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.experiment.opening import identity_of
from selfimprove_dagster.experiment.sections import ModelSection
from selfimprove_dagster.families.dialogues.files import read_held_out_prompts
from selfimprove_dagster.families.preferences.rewarding import ModelReward, reward_model_of
from selfimprove_dagster.families.refining.trajectories import Refining
from selfimprove_dagster.families.refining.ways import REFLEXION, SELF_REFINE
from selfimprove_dagster.home.exams import held_out_questions
from selfimprove_dagster.lake.records import Draft, Parent, build_records, content_hash
from selfimprove_dagster.language_model.options import Unscored
from selfimprove_dagster.methods.pit import tables as t
from selfimprove_dagster.methods.pit.exam import chosen_responses, preferred_by_truth
from selfimprove_dagster.methods.pit.improving import ORIGINAL, PIT, UNTAUGHT, HeldOut, Improver, refine
from selfimprove_dagster.methods.pit.pit import round_gaps
from selfimprove_dagster.methods.pit.settings import PitExperiment
from selfimprove_dagster.methods.pit.win_rates import (
    ITSELF,
    TRUTH,
    Contest,
    contests,
    outcome,
    preferred_by,
    win_rates,
)
from selfimprove_dagster.stage import Markdown, OneModel, Result, StageContext, stage
from selfimprove_dagster.text import markdown_table
from selfimprove_dagster.work.shards import Shard
from selfimprove_dagster.work.spec import Spec

TOLD = (SELF_REFINE, REFLEXION)
"""The ways in which the champion gets instructions on how to improve its responses."""


@dataclass(frozen=True)
class _Part:
    """Some of the held-out prompts in one way, and the model that responds.

    `originals` is the number of the shard that holds their first responses.
    """

    way: str
    originals: int
    asked: Sequence[HeldOut]
    path: str


@stage(
    t.PIT_IMPROVEMENT_ROUNDS,
    after=["fine_tuned_checkpoint", "gap_reward_model"],
    description="The champion's response to each held-out prompt, and improvements of it in turn: by the new "
    "checkpoint (pit), by the champion, asked alike (untaught), and by the champion with feedback "
    "(self_refine) and with reflections (reflexion). The truth is not read.",
    kinds=["parquet", "pytorch"],
    uses=["language_model"],
)
def improvement_rounds(context: StageContext[PitExperiment]) -> Result:
    experiment, champion = context.experiment, context.champion
    section = experiment.evaluation
    checkpoint_manifest, trained = context.small(t.PIT_CHECKPOINT)
    challenger_id, address = trained.select("model_id", "path").row(0)
    challenger_path = context.lake.folder_at(address)
    reward, reward_inputs = reward_model_of(context.lake, experiment, context.iteration, "gap_reward_model")
    assert reward is not None
    asked = [
        HeldOut(one.question, one.source_file, one.source_line) for one in held_out_questions(experiment)
    ]
    parts = _parts(context.sample(asked), section.shard, champion.path, challenger_path)
    refining = Refining(rounds=experiment.win_rates.rounds, max_tokens=section.max_tokens)
    with OneModel(context.language_model) as models:
        model = models.open(experiment.model, champion.path)
        activity = context.activity(
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
            about={"model_path": address, "champion": champion.name},
        )
        manifest, spent = context.map(
            parts,
            Spec.of(improve_part),
            activity,
            size=1,
            unit="responses",
            each=lambda part: len(part.asked) * (section.rounds if part.way in (PIT, UNTAUGHT) else 1),
            opened=_Opened(models, reward),
        )
    return context.result(
        manifest,
        preview=["way", "round", "question", "text", "gap_reward", "tie_reward"],
        metadata={
            "champion": champion.name,
            **_gap_metadata(context.lake.scan_ungated(manifest)),
            "tokens": spent.tokens,
            "lineage": context.lineage_page,
        },
    )


@dataclass(frozen=True)
class _Opened:
    """What responds to held-out prompts, and what measures the gap between two responses."""

    models: OneModel
    reward: ModelReward


def improve_part(shard: Shard[PitExperiment, _Part]) -> list[Draft]:
    """The first responses to a part's prompts, or improvements of them in its way."""
    (part,) = shard.items
    opened: _Opened = shard.opened
    experiment, section = shard.experiment, shard.experiment.evaluation
    model = opened.models.open(experiment.model, part.path)
    improver = Improver(model, shard.prompts, part.way, section.max_tokens, shard.report.advance)
    if part.way == ORIGINAL:
        return improver.respond(part.asked)
    assert shard.written is not None
    originals = shard.written(part.originals)
    record = partial(build_records, t.PIT_IMPROVEMENT_ROUNDS, activity=shard.activity)
    if part.way in TOLD:
        refining = Refining(rounds=experiment.win_rates.rounds, max_tokens=section.max_tokens)
        return refine(
            model, shard.prompts, part.way, part.asked, originals, refining, record, shard.report.advance
        )
    return improver.improve(part.asked, originals, section.rounds, opened.reward.gaps, record)


def _parts(asked: Sequence[HeldOut], size: int, champion: str, challenger: str) -> list[_Part]:
    """First responses, what the champion makes of them, what the checkpoint does: a model is opened once."""
    parts = [asked[start : start + size] for start in range(0, max(len(asked), 1), size)]
    return [
        _Part(way, at, part, challenger if way == PIT else champion)
        for way in (ORIGINAL, UNTAUGHT, *TOLD, PIT)
        for at, part in enumerate(parts)
    ]


def _gap_metadata(rounds: pl.LazyFrame) -> dict[str, Markdown]:
    rows = rounds.select("id", "way", "round", "text", "improves_id", "gap_reward", "tie_reward").collect()
    originals = rows.filter(way=ORIGINAL)
    return {
        f"gap_reward_{way}": Markdown("\n".join(f"- {one}" for one in gaps))
        for way in (PIT, UNTAUGHT)
        for gaps in (round_gaps(pl.concat([originals, rows.filter(way=way)])),)
    }


@dataclass(frozen=True)
class _Contested:
    """Some of the contests that a judge decides; `model` and `path` are None where the truth decides."""

    judge: str
    met: Sequence[Contest]
    model: ModelSection | None
    path: str | None


@stage(
    t.PIT_WIN_RATES,
    after=["improvement_rounds"],
    description="Wins and losses on held-out prompts: original against what people chose, PIT, Self-Refine "
    "and Reflexion against the original, PIT against Self-Refine; by the truth, by the champion itself in "
    "both orders, and by every engine that the experiment names as a judge.",
    kinds=["parquet", "pytorch"],
    uses=["language_model"],
)
def win_rates_asset(context: StageContext[PitExperiment]) -> Result:
    experiment, section, champion = context.experiment, context.experiment.win_rates, context.champion
    rounds_manifest, rounds = context.scan(t.PIT_IMPROVEMENT_ROUNDS)
    # Each response meets others of its prompt, so that they are held whole, without their prompts.
    named = ("id", "way", "round", "question", "source_file", "source_line", "text")
    responses = rounds.select(named).collect()
    prompts, _ = read_held_out_prompts(experiment.evaluation)
    asked = contests(responses, section.round, chosen_responses(prompts))
    judges = {TRUTH: None, ITSELF: experiment.model, **{one.path: one for one in section.judges}}
    parts = [
        _Contested(
            judge,
            asked[start : start + section.shard],
            model,
            champion.path if judge == ITSELF else model.path if model else None,
        )
        for judge, model in judges.items()
        for start in range(0, len(asked), section.shard)
    ]
    constitution = experiment.constitution.load()
    asking = {
        one.path: {
            **registry.prompts(experiment, one).parameters,
            **({"model": identity_of(one)} if one.is_provided else {}),
        }
        for one in section.judges
    }
    activity = context.activity(
        inputs=[rounds_manifest],
        parameters={
            "win_rates": {
                **section.model_dump(exclude={"shard", "judges"}),
                "judges": [one.determinants for one in section.judges],
            },
            "constitution": constitution.hash,
            "questions": content_hash({"all": [vars(prompt) for prompt in prompts]}),
            "champion": champion.identity_in(experiment.model),
            **({"judges": asking} if any(asking.values()) else {}),
        },
        about={"model_path": context.lake.address_of(champion.path), "champion": champion.name},
    )
    with OneModel(context.language_model) as models:
        manifest, _ = context.map(
            parts,
            Spec.of(decide),
            activity,
            size=1,
            unit="contests",
            each=lambda part: len(part.met),
            opened=models,
        )
    return context.result(
        manifest,
        preview=["first", "second", "judge", "outcome", "question"],
        metadata={
            "champion": champion.name,
            **win_rate_table(context.lake.scan_ungated(manifest)),
            "lineage": context.lineage_page,
        },
    )


def decide(shard: Shard[PitExperiment, _Contested]) -> list[Draft]:
    """Who wins each contest of a part, by its judge."""
    (part,) = shard.items
    experiment = shard.experiment
    if part.model is None:
        prompts, _ = read_held_out_prompts(experiment.evaluation)
        shard.report.advance(len(part.met))
        right = preferred_by_truth(part.met, prompts)
        return [_draft(part.judge, *each) for each in zip(part.met, right, strict=True)]
    models: OneModel = shard.opened
    model = models.open(part.model, part.path, scores="options")
    seeds_from = (*shard.seeds_from, part.judge)
    constitution, principles = experiment.constitution.load(), experiment.win_rates.principles
    asking = replace(shard.prompts, prompting=model.prompting)
    preferred = preferred_by(
        model, asking, part.met, constitution, principles, seeds_from, shard.report.advance
    )
    return [_draft(part.judge, *each, model.model_id) for each in zip(part.met, preferred, strict=True)]


def win_rate_table(contests: pl.LazyFrame) -> dict[str, Any]:
    """The table of the contests as Dagster shows it."""
    rows = contests.select("first", "second", "judge", "outcome").collect()
    table = [
        {
            "": f"{one['first']} against {one['second']}".replace("_", "-"),
            "judge": one["judge"],
            "wins": one["wins"],
            "losses": one["losses"],
            "ties": one["ties"],
            "Δ": f"{one['delta']:+.1%} [{one['interval'][0]:+.1%}, {one['interval'][1]:+.1%}]",
        }
        for one in win_rates(rows)
    ]
    return {"win_rates": Markdown(markdown_table(table))}


def _draft(judge: str, contest: Contest, preferred: float | Unscored, model_id: str | None = None) -> Draft:
    return Draft(
        content={
            "first": contest.first,
            "second": contest.second,
            "judge": judge,
            "question": contest.question,
            "source_file": contest.place[0],
            "source_line": contest.place[1],
            "first_id": contest.ids[0],
            "second_id": contest.ids[1],
            "first_text": contest.texts[0],
            "second_text": contest.texts[1],
            "outcome": outcome(preferred),
        },
        parents=[
            *(Parent(one, "compared") for one in dict.fromkeys(contest.ids) if one is not None),
            *([Parent(model_id, "judged_by")] if model_id else []),
        ],
        measures={"preferred": None, "problem": preferred.problem}
        if isinstance(preferred, Unscored)
        else {"preferred": preferred, "problem": None},
    )
