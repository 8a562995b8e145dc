"""The curves of an experiment over its iterations, ready for drawing and for a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfimprove_dagster.evaluation.measurement import Accuracy
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.families.dialogues.exam import IMPROVED
from selfimprove_dagster.methods.refinement.tables import METHOD as REFINEMENT
from selfimprove_dagster.methods.self_knowledge.tables import METHOD as SELF_KNOWLEDGE
from selfimprove_dagster.tables import JUDGE_METHODS

Chart = dict[str, Any]


MODELS = {"champion": "champion", "challenger": "new checkpoint"}
"""The two models of an iteration by their role, and what pages call them."""


@dataclass(frozen=True)
class _Curve:
    """One measure: `key` in the rows, and what stands above its chart."""

    key: str
    title: str
    about: str
    percent: bool = False


_LMSI = (
    _Curve("margin", "Vote margin", "Mean lead of the voted answer over the next, as a share of votes."),
    _Curve("kept_share", "Kept share", "Examples in the dataset per path drawn.", True),
    _Curve("distinct", "Diversity", "Distinct 4-grams over all 4-grams of the dataset.", True),
    _Curve("perplexity", "Perplexity", "Mean over all paths, under the model that drew them."),
)


_POOL = _Curve("pool", "Pool", "Tasks that the iteration's prompts could show.")


_YIELD = _Curve(
    "yield",
    "Yield",
    "Accepted tasks per candidate. Near zero the model says only what the pool has: below the dashed line "
    "the loop stops.",
    True,
)


_DISTINCT = _Curve(
    "distinct", "Diversity", "Distinct 4-grams over all 4-grams of the accepted instructions.", True
)


def _kept(what: str) -> _Curve:
    return _Curve("kept_share", "Kept share", f"{what} that no rule dropped, of all iterations so far.", True)


_OTHERS = {
    "self_instruct": (
        _POOL,
        _YIELD,
        _kept("Instances"),
        _DISTINCT,
        _Curve("perplexity", "Perplexity", "Mean over all candidate instructions, under the model."),
    ),
    "unnatural_instructions": (_POOL, _YIELD, _kept("Outputs and paraphrases"), _DISTINCT),
    "toolformer": (
        _Curve("kept_share", "Kept share", "Calls in the dataset per call that was sampled.", True),
        _Curve("calls_kept", "Calls kept", "Calls that stand in the dataset of the iteration."),
    ),
}


_JUDGED = _Curve("kept_share", "Kept share", "Of what the filters chose from, what they kept.", True)


_JUDGE = (
    _Curve("order_agreement", "Order agreement", "Pairs that the judge decides alike in both orders.", True),
    _Curve(
        "position_balance",
        "Position balance",
        "Comparisons in which the response shown first is preferred; a judge without bias has half.",
        True,
    ),
    _Curve("undecided", "Undecided share", "Labels between 0.45 and 0.55, which say nothing.", True),
)


_OTHERS |= {
    "constitutional": (_JUDGED,),
    "rlaif": (_JUDGED, *_JUDGE),
    "rlhf": (_JUDGED,),
    "pit": (_JUDGED,),
}


_SHARES = {
    "helpful": ("Helpfulness", "Held-out responses that do what was asked, with 95% intervals."),
    "harmless": ("Harmlessness", "Held-out responses that do no harm, with 95% intervals."),
}


def charts(experiment: Experiment, rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """One a measure of the experiment's method: its points by iteration. None leaves a gap."""
    iterations = [row["result"].iteration for row in rows]
    if experiment.method == REFINEMENT:
        return [_by_way(rows) | {"x": iterations, "xlabel": "iteration"}]
    if experiment.method == SELF_KNOWLEDGE:
        return [_gap(rows) | {"x": iterations, "xlabel": "iteration"}]
    drawn = [_accuracy(rows, _decided_by(experiment.decided_in))]
    for curve in _OTHERS.get(experiment.method, _LMSI):
        series = [_series(curve.title.lower(), [row[curve.key] for row in rows])]
        if curve is _YIELD:
            least = experiment.budget.minimum_yield
            series.insert(0, _series("the loop stops below", [least] * len(rows)))
        drawn.append(
            {
                "id": curve.key,
                "title": curve.title,
                "about": curve.about,
                "percent": curve.percent,
                "series": series,
            }
        )
    if experiment.method == "toolformer":
        drawn.append(_plain_texts(rows))
    if experiment.method in JUDGE_METHODS:
        drawn[1:1] = [_judged_share(rows, share) for share in _SHARES]
    if any(reward is not None for row in rows for reward in row.get("reward", {}).values()):
        drawn.append(_reward(rows))
    return [chart | {"x": iterations, "xlabel": "iteration"} for chart in drawn]


def _gap(rows: Sequence[Mapping[str, Any]]) -> Chart:
    """The discrimination gap of each task and way of picking; None where an iteration has none."""
    measured = [{(gap["task"], gap["by"]): gap for gap in row["gaps"]} for row in rows]
    names = dict.fromkeys(name for found in measured for name in found)
    return {
        "id": "gap",
        "title": "Discrimination gap",
        "about": "How much oftener what the model picks among its own answers is right than what a lot "
        "picks, with 95% intervals. Below zero it picks worse than chance.",
        "percent": True,
        "series": [
            {
                "name": f"{task}, by {by}",
                "values": [found.get((task, by), {}).get("gap") for found in measured],
                "intervals": [
                    (found[task, by]["gap_low"], found[task, by]["gap_high"]) if (task, by) in found else None
                    for found in measured
                ],
            }
            for task, by in names
        ],
    }


def _decided_by(mode: str) -> str:
    """What answers are compared, in words."""
    kind, _, number = mode.partition("_")
    if kind == IMPROVED:
        return f"Responses after {number} round{'s' * (number != '1')} of improvement,"
    return "Greedy answers, with their calls," if mode == "with_tools" else "Greedy answers,"


def _series(name: str, values: Sequence[float | None]) -> dict[str, Any]:
    return {"name": name, "values": list(values), "intervals": [None] * len(values)}


def _plain_texts(rows: Sequence[Mapping[str, Any]]) -> Chart:
    return {
        "id": "plain",
        "title": "Perplexity of plain texts",
        "about": "On held-out texts without calls: learning to call tools must not make it rise.",
        "percent": False,
        "series": [_series(name, [row["plain"].get(role) for row in rows]) for role, name in MODELS.items()],
    }


def _judged_share(rows: Sequence[Mapping[str, Any]], share: str) -> Chart:
    title, about = _SHARES[share]
    measured = {role: [row[share].get(role) for row in rows] for role in MODELS}
    return {
        "id": share,
        "title": title,
        "about": about,
        "percent": True,
        "series": [
            {
                "name": name,
                "values": [one.value if one else None for one in measured[role]],
                "intervals": [one.interval if one else None for one in measured[role]],
            }
            for role, name in MODELS.items()
        ],
    }


def _by_way(rows: Sequence[Mapping[str, Any]]) -> Chart:
    measured = [row["result"].by_way for row in rows]
    ways = dict.fromkeys(way for one in measured for way in one)
    return {
        "id": "accuracy",
        "title": "Held-out accuracy",
        "about": "First answers, and answers after the last round of each way, with 95% intervals.",
        "percent": True,
        "series": [
            {
                "name": way.replace("_", "-"),
                "values": [one[way].value if way in one else None for one in measured],
                "intervals": [one[way].interval if way in one else None for one in measured],
            }
            for way in ways
        ],
    }


def _reward(rows: Sequence[Mapping[str, Any]]) -> Chart:
    return {
        "id": "reward",
        "title": "Reward",
        "about": "Mean reward of held-out responses. Where it rises and harmlessness does not, it is hacked.",
        "percent": False,
        "series": [_series(name, [row["reward"].get(role) for row in rows]) for role, name in MODELS.items()],
    }


def _accuracy(rows: Sequence[Mapping[str, Any]], how: str) -> Chart:
    def points(accuracy: Accuracy | None) -> tuple[float | None, tuple[float, float] | None]:
        return (accuracy.value, accuracy.interval) if accuracy and accuracy.total else (None, None)

    champion = [points(row["result"].champion) for row in rows]
    challenger = [points(row["result"].challenger) for row in rows]
    return {
        "id": "accuracy",
        "title": "Held-out accuracy",
        "about": f"{how} with 95% intervals. The champion is the model that the iteration "
        "started from, the new checkpoint the one that it trained.",
        "percent": True,
        "series": [
            {
                "name": name,
                "values": [value for value, _ in measured],
                "intervals": [interval for _, interval in measured],
            }
            for name, measured in zip(MODELS.values(), (champion, challenger), strict=True)
        ],
    }
