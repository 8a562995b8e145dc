"""What the pages of experiments, iterations and searches show, as plain data from the library."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from selfimprove_dagster import registry, tables
from selfimprove_dagster.errors import ExperimentError, PartitionMissing, SelfImproveError
from selfimprove_dagster.experiment.base import Experiment, TrainingExperiment
from selfimprove_dagster.experiment.naming import split_turn
from selfimprove_dagster.explorer.curves import charts
from selfimprove_dagster.explorer.funnel import funnel
from selfimprove_dagster.families.preferences.pages import judging_of, measured_judging
from selfimprove_dagster.families.tasks.pages import pool_of
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lineage.search import search as search_words
from selfimprove_dagster.lineage.walk import Lineage, RecordNotFound
from selfimprove_dagster.loop.champion import NEWEST, champion_before
from selfimprove_dagster.loop.rules import Stop, decide_next
from selfimprove_dagster.loop.status import IterationResult, results
from selfimprove_dagster.methods.lmsi.lmsi import distinct_ngram_share
from selfimprove_dagster.methods.refinement.tables import METHOD as REFINEMENT
from selfimprove_dagster.methods.self_knowledge.tables import METHOD as SELF_KNOWLEDGE
from selfimprove_dagster.methods.toolformer.explain import METHOD as TOOL_METHOD
from selfimprove_dagster.methods.toolformer.pages import calls_of_iteration, measured_calls
from selfimprove_dagster.tables import JUDGE_METHODS

_GAP = "discrimination_gap"


_ID = re.compile(r"[a-z0-9]{1,6}:[0-9a-f]*")


_ORDER = {name: position for position, name in enumerate(tables.TABLES)}


def experiments(home: Home) -> dict[str, Any]:
    """Every experiment that has a file or rows in the lake, with its state and what follows."""
    lake = home.lake
    found = sorted({*home.experiment_names(), *(manifest.experiment for manifest in lake.manifests())})
    return {"home": str(home.root), "experiments": [_summary(home, lake, name) for name in found]}


def _summary(home: Home, lake: Lake, name: str) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "name": name,
        "description": "",
        "problem": "",
        "champion": "",
        "accuracy": None,
        "state": "",
        "follows": "",
        "iterations": sorted({m.iteration for m in lake.manifests("*/*", name) if m.iteration >= 0}),
    }
    try:
        settled = home.experiment(name)
        rows = results(lake, settled)
        summary["description"] = settled.description
        summary["champion"] = champion_before(lake, settled, NEWEST).name
        measured = [row for row in rows if row.promoted is not None and row.champion and row.challenger]
        if measured:
            last = measured[-1]
            summary["accuracy"] = last.challenger if last.promoted else last.champion
        summary["state"] = _state(rows)
        summary["follows"] = _follows(lake, settled)
    except SelfImproveError as error:
        summary["problem"] = str(error)
    return summary


def _state(rows: Sequence[IterationResult]) -> str:
    if not rows:
        return "not started"
    last = rows[-1]
    if last.ended:
        return f"{len(rows)} iteration{'' if len(rows) == 1 else 's'} finished"
    return f"iteration {last.iteration} is " + ("held by a gate" if last.closed_gates else "under way")


def _follows(lake: Lake, settled: Experiment) -> str:
    step = decide_next(lake, settled)
    return step.in_words if isinstance(step, Stop) else f"{step.in_words} can follow"


def experiment(home: Home, name: str) -> dict[str, Any]:
    """An experiment's iterations with the curves over them."""
    if split_turn(name)[0] not in home.experiment_names():
        refuse_unknown(home, name)
        raise ExperimentError(
            f"the lake holds rows of the experiment {name}, but {home.experiments} has no {name}.yaml: "
            f"put its file back to see its page; /experiments/{name}/0 and the records can be read without"
        )
    settled, lake = home.experiment(name), home.lake
    rows = [_measured(lake, settled, row) for row in results(lake, settled)]
    return {
        "name": settled.turn_name,
        "turns": turns_of(home, name),
        "description": settled.description,
        "preset": settled.preset,
        "champion": champion_before(lake, settled, NEWEST),
        "follows": _follows(lake, settled),
        "rows": rows,
        "voted": settled.method == "lmsi",
        "trained": isinstance(settled, TrainingExperiment),
        "charts": charts(settled, rows),
    }


def _measured(lake: Lake, settled: Experiment, row: IterationResult) -> dict[str, Any]:
    if settled.method == SELF_KNOWLEDGE:
        gaps = _gaps(lake, _stages(lake, settled.turn_name, row.iteration))
        return {"result": row, "counts": row.counts(settled.method), "gaps": gaps}
    if settled.method == TOOL_METHOD or settled.method in JUDGE_METHODS:
        stages = _stages(lake, settled.turn_name, row.iteration)
        measure = measured_calls if settled.method == TOOL_METHOD else measured_judging
        return {"result": row, "counts": row.counts(settled.method), **measure(lake, stages)}
    if settled.method == REFINEMENT:
        return {"result": row, "counts": row.counts(settled.method)}
    partition = {"experiment": settled.name, "iteration": f"{row.iteration:03d}"}

    def column(stage: str, *names: str) -> pl.DataFrame | None:
        table = f"{settled.method}/{stage}"
        if table not in tables.TABLES or not lake.exists(table, partition):
            return None
        return lake.read_columns(lake.manifest(table, partition), list(names))

    said, perplexity = column("filtered_dataset", "completion"), column("perplexity_scores", "perplexity")
    kept = row.examples / row.paths if row.examples is not None and row.paths else None
    if settled.method != "lmsi":
        kept = _kept_share(column("decisions", "candidate_id", "kept"))
        said = column("accepted_tasks", "instruction")
    counts = {"questions": row.questions, "paths": row.paths, "examples": row.examples}
    return {
        "result": row,
        "counts": counts if settled.method == "lmsi" else row.counts(settled.method),
        "kept_share": kept,
        "distinct": None if said is None else distinct_ngram_share(said.to_series().to_list()),
        "perplexity": None if perplexity is None else perplexity["perplexity"].mean(),
        "margin": row.margin,
        "pool": row.questions,
        "yield": row.accepted_share,
    }


def _kept_share(decisions: pl.DataFrame | None) -> float | None:
    """The share of the instances, or outputs and paraphrases, that no rule dropped."""
    if decisions is None or decisions.is_empty():
        return None
    verdicts = decisions.group_by("candidate_id").agg(pl.col("kept").all())["kept"]
    return int(verdicts.sum()) / len(verdicts)


def refuse_unknown(home: Home, name: str) -> None:
    """Refuses a name that neither a file nor the lake has; so no name can be a pattern or a way out."""
    experiment, _ = split_turn(name)
    known = {*home.experiment_names(), *(manifest.experiment for manifest in home.lake.manifests())}
    if experiment not in known:
        raise RecordNotFound(f"there is no experiment {name!r}")


def stages_of(home: Home, name: str, iteration: int) -> dict[str, Manifest]:
    """The committed tables of one iteration by stage. Raises PartitionMissing when there are none."""
    refuse_unknown(home, name)
    found = _stages(home.lake, name, iteration)
    if not found:
        raise PartitionMissing(f"iteration {iteration} of experiment {name} has not begun")
    return found


def _stages(lake: Lake, name: str, iteration: int) -> dict[str, Manifest]:
    """Those of one method: of several, of the one that the name names, or the first."""
    experiment, method = split_turn(name)
    found: dict[str, dict[str, Manifest]] = {}
    for manifest in lake.manifests(f"{method or '*'}/*", experiment):
        if manifest.iteration == iteration:
            of, stage = manifest.table.split("/")
            found.setdefault(of, {})[stage] = manifest
    return found[min(found, key=[*registry.methods()].index)] if found else {}


def turns_of(home: Home, name: str) -> list[tuple[str, str]]:
    """The methods of a chain, each with the name of its pages; none where there is one method."""
    if split_turn(name)[0] not in home.experiment_names():
        return []
    chain = home.chain(name)
    return [(one.method, one.turn_name) for one in chain] if len(chain) > 1 else []


def method_of(stages: Mapping[str, Manifest]) -> str:
    """The method of an iteration's tables."""
    return next(iter(stages.values())).table.split("/")[0]


_NOUNS = {
    "lmsi": ("questions", "Paths"),
    "self_instruct": ("tasks", "Tasks"),
    "unnatural_instructions": ("tasks", "Tasks"),
    "toolformer": ("texts", "Calls"),
    "constitutional": ("prompts", "Responses"),
    "rlaif": ("prompts", "Responses"),
    "rlhf": ("comparisons", "Responses"),
    "refinement": ("prompts", "First answers"),
    "self_knowledge": ("questions", "Candidates"),
    "pit": ("comparisons", "Responses"),
}
"""By method: what an iteration starts from, and what its model draws."""


def iteration(home: Home, name: str, number: int) -> dict[str, Any]:
    """One iteration: the funnel, its models and settings, checks, tokens and times."""
    lake, stages = home.lake, stages_of(home, name, number)
    experiment, _ = split_turn(name)
    others = {manifest.iteration for manifest in lake.manifests("*/*", experiment)}
    generations = stages.get("raw_generations") or stages.get("response_pairs") or stages.get("candidates")
    ordered = sorted(stages.items(), key=lambda item: _ORDER.get(item[1].table, len(_ORDER)))
    return {
        "name": name,
        "iteration": number,
        "turns": turns_of(home, name),
        "partition_key": f"{experiment}-{number:03d}",
        "before": number - 1 if number - 1 in others and number else None,
        "after": number + 1 if number + 1 in others else None,
        "nouns": _NOUNS.get(method_of(stages), _NOUNS["lmsi"]),
        "funnel": funnel(lake, stages, method_of(stages)),
        "pool": pool_of(lake, experiment, number, stages),
        "calls": calls_of_iteration(lake, stages),
        "judging": judging_of(lake, stages, method_of(stages)),
        "ended": registry.method(method_of(stages)).experiment.ends_with in stages,
        "picks": method_of(stages) == SELF_KNOWLEDGE,
        "gaps": _gaps(lake, stages),
        "promotion": _only_row(lake, stages.get("promotion")),
        "checkpoint": _only_row(lake, stages.get("fine_tuned_checkpoint")),
        "generator": generations.activity.about.get("champion", "") if generations else "",
        "model_id": generations.activity.model_id if generations else None,
        "settings": [
            (stage, list(flat(manifest.activity.parameters)))
            for stage, manifest in ordered
            if manifest.activity.parameters and not stage.endswith("decisions")
        ],
        "stages": [
            {
                "stage": stage,
                "manifest": manifest,
                "rows": lake.live_rows(manifest),
                "about": manifest.activity.about,
                "checks": sorted(lake.checks(manifest), key=lambda check: check.passed),
            }
            for stage, manifest in ordered
        ],
    }


def _gaps(lake: Lake, stages: Mapping[str, Manifest]) -> list[dict[str, Any]]:
    """The discrimination gaps that an iteration measured."""
    return lake.read_ungated(stages[_GAP]).rows(named=True) if _GAP in stages else []


def _only_row(lake: Lake, manifest: Manifest | None) -> dict[str, Any] | None:
    frame = lake.read_ungated(manifest) if manifest else None
    return frame.row(0, named=True) if frame is not None and len(frame) else None


def flat(settings: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings as pairs of dotted name and value."""
    if not isinstance(settings, dict):
        return [(prefix, settings)]
    return [
        pair
        for key, value in settings.items()
        for pair in flat(value, f"{prefix}.{key}" if prefix else str(key))
    ]


def search(home: Home, query: str) -> dict[str, Any]:
    """The record that a query names by its id, or those that hold its words; `problem` when it names none."""
    record, problem = None, ""
    if _ID.fullmatch(query):
        try:
            record = Lineage(home.lake).find(query).id
        except RecordNotFound as error:
            problem = str(error)
    found = search_words(home.lake, query, limit=100) if query and not record and not problem else []
    return {"query": query, "record": record, "problem": problem, "found": found}
