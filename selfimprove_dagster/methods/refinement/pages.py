"""The pages of refinement: accuracy by round and way, and the steps of each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from selfimprove_dagster.evaluation.measurement import Accuracy
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.explorer.curves import Chart, Measured, shares
from selfimprove_dagster.explorer.declare import AboutRecord, Block, Pages, RecordBlock
from selfimprove_dagster.explorer.funnel import Stages, Step, counted, step
from selfimprove_dagster.explorer.listings import HERE, UNFILTERED, Column, Facet, Listing
from selfimprove_dagster.families.dialogues.pages import TEMPLATE
from selfimprove_dagster.families.judging.pages import CHAIN
from selfimprove_dagster.families.refining.ways import OUTCOME
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lineage.iteration import Iteration
from selfimprove_dagster.methods.refinement.exam import AfterRound, after_rounds, curves
from selfimprove_dagster.methods.refinement.explain import steps_of
from selfimprove_dagster.methods.refinement.tables import METHOD, REFINEMENTS
from selfimprove_dagster.methods.refinement.words import step as step_words
from selfimprove_dagster.table import Row

_EXAM = ("mode", "source_file", "source_line", "correct", "helpful", "harmless", "tokens_in", "tokens_out")


def refining_of(lake: Lake, stages: Stages) -> Row:
    """The accuracy of one iteration by round and way, for the template of judged responses."""
    ways = _curves(lake, stages)
    chart = None
    if ways:
        series = [
            {
                "name": way.replace("_", "-"),
                "values": [one.correct.value for one in rounds],
                "intervals": [one.correct.interval for one in rounds],
            }
            for way, rounds in ways.items()
        ]
        costs = "; ".join(f"{way.replace('_', '-')} {rounds[-1].tokens:,.0f}" for way, rounds in ways.items())
        first = next(iter(ways.values()))[0]
        chart = {
            "id": "rounds",
            "title": "Held-out accuracy over rounds",
            "about": "By way, with 95% intervals; round 0 is the first answer. Tokens per prompt, read and "
            f"generated: {first.tokens:,.0f} for the first answer; with all rounds {costs}.",
            "percent": True,
            "x": [one.round for one in max(ways.values(), key=len)],
            "xlabel": "round",
            "series": series,
        }
    return {"rounds": chart, "models": [], "checks": [], "rollouts": None, "contests": []}


def steps_of_record(about: AboutRecord) -> Row | None:
    """The steps of the one task that a record belongs to, as a chain; None for other records."""
    row = about.row
    if row["table_name"] != REFINEMENTS.name:
        return None
    iteration = Iteration(about.lake, row["experiment"], row["iteration"], METHOD)
    found = steps_of(iteration, row["prompt_id"], row["way"])
    return {"chain": [_step(one, row) for one in found if one["id"] not in about.withdrawn]}


def _step(one: Row, row: Row) -> Row:
    kind = one.get("kind")
    label = f"{kind.capitalize()}, round {one['round']}" if kind else "First answer"
    text = one["text"] if not kind or (one["text"] and kind != OUTCOME) else step_words(one)
    return {"label": label, "id": one["id"], "text": text, "here": one["id"] == row["id"]}


def _curves(lake: Lake, stages: Stages) -> dict[str, list[AfterRound]]:
    if "evaluation" not in stages:
        return {}
    return curves(after_rounds(lake.read_columns(stages["evaluation"], list(_EXAM))))


_TASKS = f"""SELECT step.*, pool.prompt AS title FROM (FROM "refinement"."refinements" {HERE}) AS step
LEFT JOIN (SELECT id, prompt FROM "refinement"."seed_pool" {HERE}) AS pool ON pool.id = step.prompt_id"""


_WAY, _ROUND = Column("way", "way", "way"), Column("round", "round", "round", True)


_STEPS = Listing(
    noun="step",
    about="The texts of all steps of refining. Nothing is trained on them.",
    text="prompt and text",
    asks="prompts and texts",
    needed=("refinements",),
    source=f"FROM ({_TASKS}) {HERE}",
    select="id, id AS link, left(title, 400) AS title, left(coalesce(text, error, ''), 400) AS body, way, "
    "kind, round, score",
    words=("title", "text"),
    facets=(Facet("way", "way"), Facet("kind", "kind")),
    columns=(_WAY, Column("kind", "kind", "kind"), _ROUND, Column("score", "score", "score", True)),
    default="way",
)


_FAILURES = Listing(
    noun="task",
    about="Tasks that failed, each with its error and its last good answer.",
    text="prompt and last good answer",
    asks="prompts, answers and errors",
    needed=("refinements",),
    source=f"""FROM (SELECT *, stopped AS rule, error AS reason FROM ({_TASKS})) {HERE}
AND kind = 'outcome' AND stopped = 'failed'""",
    select="id, id AS link, rule, reason, NULL AS nearest_id, left(title, 400) AS title, "
    "left(coalesce(text, ''), 400) AS body, way, round",
    words=("title", "text", "reason"),
    facets=(Facet("way", "way"),),
    columns=(_WAY, _ROUND),
    default="way",
    waiting=UNFILTERED,
    called="tasks that failed",
)


# ---- an experiment -----------------------------------------------------------------------------------


def _measure(lake: Lake, stages: Stages) -> Row:
    """Held-out accuracy of first answers and of the last round of each way."""
    if "evaluation" not in stages:
        return {"by_way": {}}
    measured = after_rounds(lake.read_columns(stages["evaluation"], list(_EXAM)))
    return {"by_way": {one.way: one.correct for one in measured}}  # the last round of a way comes last


def _charts(experiment: Experiment, rows: Sequence[Measured]) -> list[Chart]:
    measured: list[Mapping[str, Accuracy]] = [row["by_way"] for row in rows]
    ways = dict.fromkeys(way for one in measured for way in one)
    return [
        {
            "id": "accuracy",
            "title": "Held-out accuracy",
            "about": "First answers, and answers after the last round of each way, with 95% intervals.",
            "percent": True,
            "series": [shares(way.replace("_", "-"), [one.get(way) for one in measured]) for way in ways],
        }
    ]


def _funnel(lake: Lake, stages: Stages) -> list[Step]:
    """The steps from prompts to first answers, to texts written while refining, to the outcome of each way."""
    steps = counted(lake, stages, {"seed_pool": "prompts", "raw_generations": "first answers"})
    if "refinements" in stages:
        rows = lake.read_columns(stages["refinements"], ["way", "kind", "stopped", "seed"])
        steps.append(step("texts written while refining", int(rows["seed"].count())))
        done = rows.filter(kind="outcome")
        for (way,), part in done.group_by("way", maintain_order=True):
            failed = int((part["stopped"] == "failed").sum())
            label = f"refined by {str(way).replace('_', '-')} without a failure"
            steps.append(step(label, len(part) - failed, failed, f"rejected?way={way}", len(part)))
    return steps


PAGES = Pages(
    examples=_STEPS,
    dropped={"tasks": _FAILURES},
    funnel=_funnel,
    measure=_measure,
    charts=_charts,
    blocks=[Block(TEMPLATE, refining_of)],
    record=[RecordBlock(CHAIN, steps_of_record)],
)
CARD = None
