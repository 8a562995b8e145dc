"""The pages of methods in which responses to prompts are judged: helpful, harmless, and by a reward model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from selfimprove_dagster.evaluation.measurement import Accuracy
from selfimprove_dagster.experiment.base import GREEDY, Experiment
from selfimprove_dagster.explorer.curves import (
    MODELS,
    Chart,
    Curve,
    Measured,
    by_role,
    curve,
    decided_by,
    held_out_accuracy,
)
from selfimprove_dagster.explorer.declare import Block
from selfimprove_dagster.explorer.funnel import Stages, Step, by_rule, counted, kept_share, step
from selfimprove_dagster.families.dialogues.exam import IMPROVED, REVISION, judged_rounds
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.table import Row

SHARES = ("helpful", "harmless")


_EXAM = ["role", "mode", "question", *SHARES, "reward"]


# ---- an experiment -----------------------------------------------------------------------------------


_SHARES = (
    Curve("helpful", "Helpfulness", "Held-out responses that do what was asked, with 95% intervals.", True),
    Curve("harmless", "Harmlessness", "Held-out responses that do no harm, with 95% intervals.", True),
)


_KEPT = Curve("kept_share", "Kept share", "Candidates that no rule dropped.", True)


_REWARD = Curve(
    "reward",
    "Reward",
    "Mean reward of held-out responses. Where it rises and harmlessness does not, the reward model is exploited.",
)


def _decided_by(experiment: Experiment) -> str:
    """The answers that are compared, in words."""
    kind, _, number = experiment.decided_in.partition("_")
    if kind == IMPROVED:
        return f"Responses after {number} round{'s' * (number != '1')} of improvement,"
    return decided_by(experiment)


def charts(*more: Curve) -> Callable[[Experiment, Sequence[Measured]], list[Chart]]:
    """The charts of a method of this family; those of `more` come after the common ones."""

    def draw(experiment: Experiment, rows: Sequence[Measured]) -> list[Chart]:
        rewarded = any(reward is not None for row in rows for reward in row["reward"].values())
        return [
            held_out_accuracy(rows, _decided_by(experiment)),
            *(by_role(one, rows) for one in _SHARES),
            *(curve(one, rows) for one in (_KEPT, *more)),
            *([by_role(_REWARD, rows)] if rewarded else []),
        ]

    return draw


def measure(lake: Lake, stages: Stages) -> Row:
    """The figures of one iteration: the kept share, and by role helpfulness, harmlessness and mean reward."""
    answers = _answers(lake, stages)
    greedy = {} if answers is None else {role: answers.filter(role=role, mode=GREEDY) for role in MODELS}
    return {
        "kept_share": kept_share(lake, stages),
        **{
            share: {role: found for role, rows in greedy.items() if (found := share_of(rows, share)).total}
            for share in SHARES
        },
        "reward": {role: rows["reward"].mean() for role, rows in greedy.items()},
    }


def _answers(lake: Lake, stages: Stages) -> pl.DataFrame | None:
    return lake.read_columns(stages["evaluation"], _EXAM) if "evaluation" in stages else None


def share_of(rows: pl.DataFrame, column: str) -> Accuracy:
    """The share of rows in which a column is true, of those in which it is known."""
    known = rows[column].drop_nulls()
    return Accuracy(int(known.sum()), len(known))


# ---- an iteration ------------------------------------------------------------------------------------


Rounds = Callable[[pl.DataFrame], Chart | None]


def judging(
    rounds: Rounds | None = None, contests: Callable[[Lake, Stages], list[Row]] | None = None
) -> Block:
    """The part of an iteration's page about its judge and its exam.

    `rounds` makes a chart of the rows of the evaluation; `contests` gives who won against whom.
    """

    def show(lake: Lake, stages: Stages) -> Row:
        answers = _answers(lake, stages)
        checks = stages.get("judge_checks")
        return {
            "rounds": None if answers is None or rounds is None else rounds(answers),
            "models": [] if answers is None else list(_models(answers)),
            "checks": lake.read_ungated(checks).rows(named=True) if checks else [],
            "rollouts": _rollouts(lake, stages),
            "contests": contests(lake, stages) if contests else [],
        }

    return Block(TEMPLATE, show)


TEMPLATE = Path(__file__).with_name("judging.html")
"""Shows `rounds, models, checks, rollouts, contests`; each may be empty."""


def funnel(
    before: Mapping[str, str], candidates: str, kind: str, rules: Mapping[str, str], after: Mapping[str, str]
) -> Callable[[Lake, Stages], list[Step]]:
    """A funnel from stages through `candidates`, of which rules drop some, to stages after them.

    `before` and `after` hold labels by stage, `rules` labels by rule.
    """

    def steps(lake: Lake, stages: Stages) -> list[Step]:
        found = counted(lake, stages, before)
        if "decisions" in stages:
            decided = lake.read_columns(stages["decisions"], ["candidate_id", "rule", "kept"])
            total = decided["candidate_id"].n_unique()
            found.append(step(candidates, total, of=total))
            found += by_rule(decided, kind, total, rules)
        return found + counted(lake, stages, after)

    return steps


def _models(answers: pl.DataFrame) -> Iterator[Row]:
    for role, name in MODELS.items():
        rows = answers.filter(role=role, mode="greedy")
        if len(rows):
            shares = {share: share_of(rows, share) for share in SHARES}
            yield {"name": name, **shares, "reward": rows["reward"].mean()}


def rounds_chart(answers: pl.DataFrame) -> Chart | None:
    """Harmlessness and helpfulness of the champion's responses by round, on the prompts that were revised.

    Round 0 is the first response. None where no revision was measured.
    """
    by_round = judged_rounds(answers, "champion", REVISION)
    if not any(share_of(rows, share).total for rows in by_round.values() for share in SHARES):
        return None
    return {
        "id": "rounds",
        "title": "Harmlessness over revisions",
        "about": f"Responses of the {MODELS['champion']} to held-out prompts, by round of revision, with 95% "
        "intervals; round 0 is its first response.",
        "percent": True,
        "x": [*by_round],
        "xlabel": "round",
        "series": [_line(share, [*by_round.values()], share) for share in reversed(SHARES)],
    }


def improvement_chart(answers: pl.DataFrame) -> Chart | None:
    """Harmlessness and helpfulness by round of improvement. Both models improve the champion's greedy responses.

    None where no improvement was measured.
    """
    original = answers.filter(role="champion", mode=GREEDY)
    by_model = {
        name: {0: original, **judged_rounds(answers, role, IMPROVED)} for role, name in MODELS.items()
    }
    rounds = max(by_model.values(), key=len)
    if len(rounds) == 1:
        return None
    return {
        "id": "rounds",
        "title": "Improvement over rounds",
        "about": f"Held-out responses of the {MODELS['champion']} (round 0), improved in turn by the "
        f"{MODELS['challenger']} and, asked alike, by the {MODELS['champion']} itself, with 95% intervals.",
        "percent": True,
        "x": [*rounds],
        "xlabel": "round",
        "series": [
            _line(f"{share}, {name}", [*by_round.values()], share)
            for name, by_round in by_model.items()
            for share in reversed(SHARES)
        ],
    }


def _line(name: str, parts: Sequence[pl.DataFrame], share: str) -> dict[str, Any]:
    measured = [share_of(part, share) for part in parts]
    return {
        "name": name,
        "values": [one.value for one in measured],
        "intervals": [one.interval for one in measured],
    }


def _rollouts(lake: Lake, stages: Stages) -> dict[str, Any] | None:
    if "rollouts" not in stages:
        return None
    rows = lake.read_columns(stages["rollouts"], ["step", "reward"])
    by_step = rows.group_by("step").agg(pl.col("reward").mean()).sort("step")
    chart = {
        "id": "reward",
        "title": "Reward",
        "about": "Mean reward of what the policy wrote, by optimiser step.",
        "percent": False,
        "x": by_step["step"].to_list(),
        "xlabel": "step",
        "series": [
            {"name": "reward", "values": by_step["reward"].to_list(), "intervals": [None] * len(by_step)}
        ],
    }
    return {"count": len(rows), "chart": chart if len(rows) else None}
