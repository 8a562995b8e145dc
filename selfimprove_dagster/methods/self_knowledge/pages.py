"""The pages of self-knowledge: discrimination gaps, and what the model picked among its own answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.explorer.curves import Chart, Measured
from selfimprove_dagster.explorer.declare import Block, Pages
from selfimprove_dagster.explorer.funnel import Stages, Step, counted, step
from selfimprove_dagster.explorer.listings import HERE, Column, Facet, Listing
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.methods.self_knowledge.tables import METHOD, SK_DISCRIMINATION_GAP
from selfimprove_dagster.table import Row

_TEXTS = f"""FROM (SELECT * FROM "{METHOD}"."discrimination_score" {HERE}) AS pick
LEFT JOIN (SELECT id, question FROM "{METHOD}"."questions" {HERE}) AS asked ON asked.id = pick.question_id
LEFT JOIN (SELECT id, text FROM "{METHOD}"."candidates" {HERE}) AS said ON said.id = pick.picked_id"""


_SHOWN = (
    "pick.id AS id, pick.id AS link, left(question, 400) AS title, left(text, 400) AS body, "
    'task, pick."by" AS way'
)


_FACETS = (Facet("task", "task"), Facet("by", 'pick."by"'))


_COLUMNS = (Column("task", "task", "task"), Column("by", "way"))


_PICKS = Listing(
    noun="pick",
    about="",
    text="question, and the candidate that was picked",
    asks="questions and candidates",
    needed=("discrimination_score", "candidates", "questions"),
    source=f"{_TEXTS} WHERE TRUE",
    select=f'{_SHOWN}, "right" AS is_right',
    words=("question", "text"),
    facets=_FACETS,
    columns=(*_COLUMNS, Column("right", "is_right")),
    default="task",
)


_WRONG = Listing(
    noun="pick",
    about="Picks that are wrong, or that could not be read.",
    text="question, and the candidate that was picked",
    asks="questions and candidates",
    needed=("discrimination_score", "candidates", "questions"),
    source=f'{_TEXTS} WHERE "right" IS DISTINCT FROM TRUE',
    select=f"""{_SHOWN}, NULL AS nearest_id,
CASE WHEN "right" IS NULL THEN 'unread' ELSE 'wrong' END AS rule,
CASE WHEN "right" IS NULL THEN 'no choice could be read' ELSE 'the candidate is wrong' END AS reason""",
    words=("question", "text"),
    facets=_FACETS,
    columns=_COLUMNS,
    default="task",
    waiting="Nothing was picked yet.",
    called="the picks that are wrong",
)


# ---- gaps --------------------------------------------------------------------------------------------


def _measure(lake: Lake, stages: Stages) -> Row:
    """The discrimination gaps of an iteration, one row for each task and way of picking."""
    gaps = stages.get(SK_DISCRIMINATION_GAP.stage)
    return {"gaps": lake.read_ungated(gaps).rows(named=True) if gaps else []}


def _charts(experiment: Experiment, rows: Sequence[Measured]) -> list[Chart]:
    """The discrimination gap of each task and way of picking; an iteration without one leaves a gap."""
    measured = [{(gap["task"], gap["by"]): gap for gap in row["gaps"]} for row in rows]
    names = dict.fromkeys(name for found in measured for name in found)
    return [
        {
            "id": "gap",
            "title": "Discrimination gap",
            "about": "How much more often the model's pick among its own answers is right than a random pick, "
            "with 95% intervals. Below zero the model picks worse than chance.",
            "percent": True,
            "series": [
                {
                    "name": f"{task}, by {by}",
                    "values": [found.get((task, by), {}).get("gap") for found in measured],
                    "intervals": [
                        (found[task, by]["gap_low"], found[task, by]["gap_high"])
                        if (task, by) in found
                        else None
                        for found in measured
                    ],
                }
                for task, by in names
            ],
        }
    ]


def _gaps(lake: Lake, stages: Stages) -> Row | None:
    return _measure(lake, stages) if SK_DISCRIMINATION_GAP.stage in stages else None


def _funnel(lake: Lake, stages: Stages) -> list[Step]:
    """The steps from questions to candidates, to picks, to picks that are right."""
    found = counted(lake, stages, {"questions": "questions", "candidates": "candidates"})
    if "discrimination_score" in stages:
        right = lake.read_columns(stages["discrimination_score"], ["right"])["right"]
        found.append(step("picks among them", len(right), of=len(right)))
        found.append(step("picks that are right", int(right.sum()), of=len(right)))
    return found


PAGES = Pages(
    examples=_PICKS,
    dropped={"picks": _WRONG},
    funnel=_funnel,
    measure=_measure,
    charts=_charts,
    blocks=[Block(Path(__file__).with_name("gaps.html"), _gaps)],
)
CARD = None
