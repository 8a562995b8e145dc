"""Collect the data of the pages of experiments, iterations and searches."""

from __future__ import annotations

import re
from typing import Any

from selfimprove_dagster import registry
from selfimprove_dagster.errors import ExperimentError, PartitionMissing, SelfImproveError
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.experiment.naming import split_turn
from selfimprove_dagster.explorer.curves import default_charts, live
from selfimprove_dagster.explorer.methods import (
    committed_tables,
    dropped_of,
    examples_of,
    funnel_of,
    in_order,
    installed,
    method_of,
    pages_of,
    tables_of,
)
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lineage.search import search as search_words
from selfimprove_dagster.lineage.walk import Lineage, RecordNotFound
from selfimprove_dagster.loop.champion import NEWEST, champion_before
from selfimprove_dagster.loop.state import state_of
from selfimprove_dagster.loop.status import IterationResult, results, warnings_of
from selfimprove_dagster.table import Row
from selfimprove_dagster.text import plural

_ID = re.compile(r"[a-z0-9]{1,6}:[0-9a-f]*")


def experiments(home: Home) -> dict[str, Any]:
    """Return every experiment that has a file or rows in the lake, with its state and next step."""
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
        "state": None,
        "warnings": [],
        "iterations": sorted({m.iteration for m in lake.manifests("*/*", name) if m.iteration >= 0}),
    }
    try:
        chain = home.chain(name)
        settled = chain[0]
        rows = results(lake, settled)
        summary["description"] = settled.description
        summary["champion"] = champion_before(lake, settled, NEWEST).name
        measured = [row for row in rows if row.promoted is not None and row.champion and row.challenger]
        if measured:
            last = measured[-1]
            summary["accuracy"] = last.challenger if last.promoted else last.champion
        summary["state"] = state_of(lake, chain)
        summary["warnings"] = warnings_of(rows)
    except SelfImproveError as error:
        summary["problem"] = str(error)
    return summary


def experiment(home: Home, name: str) -> dict[str, Any]:
    """Return an experiment's iterations and the charts over them."""
    refuse_unknown(home, name)
    if home.experiment_file(split_turn(name)[0]) is None:
        raise ExperimentError(
            f"the lake holds rows of the experiment {name}, but {home.experiments} has no {name}.yaml: "
            f"restore the file to see this page; /experiments/{name}/0 and the records can be read without it"
        )
    settled, lake = home.experiment(name), home.lake
    pages, method = pages_of(settled.method), registry.method(settled.method)
    rows = [_measured(lake, settled, row) for row in results(lake, settled)]
    dataset, state = method.dataset, state_of(lake, home.chain(name))
    return {
        "name": settled.turn_name,
        "turns": turns_of(home, name),
        "description": settled.description,
        "preset": settled.preset,
        "champion": champion_before(lake, settled, NEWEST),
        "state": state,
        "live": live(state.attempt.progress) if state.kind == "running" and state.attempt else [],
        "warnings": warnings_of([row["result"] for row in rows]),
        "rows": rows,
        "headings": list(method.counted),
        "columns": list(dict.fromkeys(heading for row in rows for heading in row["result"].columns)),
        "examples": [name for name, stage in method.counted.items() if dataset and stage == dataset.stage],
        "about": method.results.about if method.results else "",
        "trained": f"{settled.method}/promotion" in method.tables,
        "charts": [
            {**chart, "x": [row["result"].iteration for row in rows], "xlabel": "iteration"}
            for chart in (pages.charts(settled, rows) if pages.charts else default_charts(rows))
        ],
    }


def _measured(lake: Lake, settled: Experiment, result: IterationResult) -> dict[str, Any]:
    """Return one row of the table of iterations: its results, and the measures of the method's pages."""
    stages, pages = _stages(lake, settled.turn_name, result.iteration), pages_of(settled.method)
    measured = pages.measure(lake, stages) if pages.measure else {}
    return {"result": result, "counts": result.counts, **measured}


def refuse_unknown(home: Home, name: str) -> None:
    """Refuse a name without a file or rows, so that no name can be a pattern or a path outside the lake."""
    experiment, _ = split_turn(name)
    known = {*home.experiment_names(), *(manifest.experiment for manifest in home.lake.manifests())}
    if experiment not in known:
        raise RecordNotFound(f"there is no experiment {name!r}")


def stages_of(home: Home, name: str, iteration: int) -> dict[str, Manifest]:
    """Return the committed tables of one iteration by stage. Raises PartitionMissing if there are none."""
    refuse_unknown(home, name)
    found = _stages(home.lake, name, iteration)
    if not found:
        raise PartitionMissing(f"iteration {iteration} of experiment {name} has not started")
    return found


def _stages(lake: Lake, name: str, iteration: int) -> dict[str, Manifest]:
    """Return the tables of the method that the name contains, or else of the method that started first."""
    experiment, method = split_turn(name)
    found: dict[str, dict[str, Manifest]] = {}
    for manifest in lake.manifests(f"{method or '*'}/*", experiment):
        if manifest.iteration == iteration:
            of, stage = manifest.table.split("/")
            found.setdefault(of, {})[stage] = manifest
    if not found:
        return {}
    first = min(found, key=lambda of: min(manifest.committed_at for manifest in found[of].values()))
    return in_order(found[first])


def turns_of(home: Home, name: str) -> list[tuple[str, str]]:
    """Return the methods of a chain, each with the name of its pages.

    The list is empty for a single method and for a file that cannot be read.
    """
    if home.experiment_file(split_turn(name)[0]) is None:
        return []
    try:
        chain = home.chain(name)
    except ExperimentError:
        return []
    return [(one.method, one.turn_name) for one in chain] if len(chain) > 1 else []


def iteration(home: Home, name: str, number: int) -> dict[str, Any]:
    """Return one iteration: funnel, parts of its method, models, settings, checks, tokens and times."""
    lake, stages = home.lake, stages_of(home, name, number)
    experiment, _ = split_turn(name)
    others = {manifest.iteration for manifest in lake.manifests("*/*", experiment)}
    method, pages = installed(method_of(stages)), pages_of(method_of(stages))
    tables, listing = committed_tables(stages), examples_of(stages)
    shown = [(block, block.show(lake, stages)) for block in pages.blocks]
    generator = next((one.activity for one in stages.values() if one.activity.about.get("champion")), None)
    return {
        "name": name,
        "iteration": number,
        "turns": turns_of(home, name),
        "partition_key": f"{experiment}-{number:03d}",
        "before": number - 1 if number - 1 in others and number else None,
        "after": number + 1 if number + 1 in others else None,
        "first": plural(next(iter(tables.values())).noun),
        "last": plural(listing.noun) if listing else "rows",
        "funnel": funnel_of(lake, stages),
        "examples": listing,
        "dropped": next(iter(dropped_of(stages).values()), None),
        "blocks": [(str(block.template), part) for block, part in shown if part is not None],
        "ended": method is None or method.experiment.ends_with in stages,
        "promotion": _only_row(lake, stages.get("promotion")),
        "generator": generator,
        "models": [
            (table.noun, row)
            for stage, table in tables.items()
            if table.holds_model
            for row in lake.read_ungated(stages[stage]).iter_rows(named=True)
        ],
        "trains": any(table.holds_model for table in tables_of(stages).values()),
        "settings": [
            (stage, list(flat(manifest.activity.parameters)))
            for stage, manifest in stages.items()
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
            for stage, manifest in stages.items()
        ],
    }


def _only_row(lake: Lake, manifest: Manifest | None) -> Row | None:
    frame = lake.read_ungated(manifest) if manifest else None
    return frame.row(0, named=True) if frame is not None and len(frame) else None


def flat(settings: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Return nested settings as pairs of dotted name and value."""
    if not isinstance(settings, dict):
        return [(prefix, settings)]
    return [
        pair
        for key, value in settings.items()
        for pair in flat(value, f"{prefix}.{key}" if prefix else str(key))
    ]


def search(home: Home, query: str) -> dict[str, Any]:
    """Return the record with the given id, or the records that contain the text.

    `problem` is set if the id is unknown.
    """
    record, problem = None, ""
    if _ID.fullmatch(query):
        try:
            record = Lineage(home.lake).find(query).id
        except RecordNotFound as error:
            problem = str(error)
    found = search_words(home.lake, query, limit=100) if query and not record and not problem else []
    return {"query": query, "record": record, "problem": problem, "found": found}
