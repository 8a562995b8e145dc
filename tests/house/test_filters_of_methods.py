"""The datasets of all methods that train pass through the filters that an experiment lists."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from kit.homes import entered, make_home
from kit.judging_home import materialise
from kit.sampling import chosen_methods
from pins.small_experiments import EXPERIMENTS
from typer.testing import CliRunner

from selfimprove_dagster import registry
from selfimprove_dagster.cli.main import app
from selfimprove_dagster.explorer.methods import funnel_of
from selfimprove_dagster.families.scored.settings import ScoredExperiment
from selfimprove_dagster.filtering.settings import FilteringExperiment
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lineage.what_if import what_if

pytestmark = [pytest.mark.slow, pytest.mark.matrix]

TRAIN = [name for name, one in registry.methods().items() if issubclass(one.experiment, FilteringExperiment)]
BY_METHOD = {one["method"]: one for one in EXPERIMENTS.values()}
FILTERS: list[Any] = [{"words": {"at_least": 2}}, {"novelty": {"at_most": 0.6, "compare": "answer"}}]


def test_every_method_that_trains_takes_filters() -> None:
    trains = {name for name, one in registry.methods().items() if one.promotes}
    assert trains == set(TRAIN)


def settings_of(method: str) -> dict[str, Any]:
    settings = {**deepcopy(BY_METHOD[method]), "filters": deepcopy(FILTERS), "name": "small"}
    if method == "toolformer":  # its texts have little in common
        settings["filters"][1]["novelty"]["at_most"] = 0.2
    if method == "pit":
        settings["seeds"] = {"file": "embedded", "licence": "Apache-2.0"}
    return settings


def scored_settings(method: str, name: str, rating: float, perplexity: float) -> dict[str, Any]:
    filters = [{"annotation": {"at_least": rating}}, {"perplexity": {"at_most": perplexity}}]
    settings = {**settings_of(method), "name": name, "filters": filters}
    if (
        method == "constitutional"
    ):  # whichever the judge likes better: the check of their share is not the subject
        settings["filter"] = {**settings.get("filter", {}), "helpful_share": 0.95}
    return {**settings, "judge": {"model": {"path": "embedded"}}}


SCORED = [name for name in TRAIN if issubclass(registry.method(name).experiment, ScoredExperiment)]


def test_methods_with_answers_score_their_examples() -> None:
    assert {*SCORED} == {"lmsi", "self_instruct", "unnatural_instructions", "constitutional", "curate"}


@pytest.mark.parametrize("method", chosen_methods([name for name in SCORED if name != "curate"]))
def test_examples_pass_filters_that_read_scores_of_models(method: str, tmp_path: Path) -> None:
    home = make_home(
        tmp_path,
        scored_settings(method, "small", rating=1.0, perplexity=1e9),
        {**settings_of(method), "filters": [], "name": "none"},
    )
    stages = registry.method(method).stages
    until = [one.name for one in stages].index("filtered_dataset")
    tables = [table.name for one in stages[: until + 1] for table in one.assets]
    for name in ("none", "small"):
        materialise(home, name, *tables)
    lake, made, unused = home.lake, made_by(home, method), made_by(home, method, "none")
    own, key = (
        ("perplexity_scores", "path_id") if method == "lmsi" else ("example_perplexities", "candidate_id")
    )
    scores = {
        "annotation": lake.read_whole(made["example_ratings"]).select(id="candidate_id", score="rating"),
        "perplexity": lake.read_whole(made[own]).select(id=key, score="perplexity"),
    }
    for stage in {"example_ratings", own} - {"perplexity_scores"}:
        assert lake.read_whole(unused[stage]).is_empty(), stage
        assert unused[stage].activity.id not in unused["filtered_dataset"].activity.inputs
        assert made[stage].activity.id in made["filtered_dataset"].activity.inputs
    # Other thresholds keep the scores.
    middle = {rule: float(one["score"].median()) for rule, one in scores.items()}  # type: ignore[arg-type]
    stricter = scored_settings(method, "small", rating=middle["annotation"], perplexity=middle["perplexity"])
    (home.experiments / "small.yaml").write_text(yaml.safe_dump(stricter))
    materialise(home, "small", f"{method}/filtered_dataset")
    made = made_by(home, method)
    decisions = lake.read_whole(made["decisions"])
    for rule, found in scores.items():
        rows = decisions.filter(rule=rule).join(found, left_on="candidate_id", right_on="id", suffix="_made")
        assert len(rows) == len(decisions.filter(rule=rule)) > 0
        assert rows["score"].to_list() == rows["score_made"].to_list()
    assert not decisions.filter(rule="annotation")["kept"].all()
    everything = lake.read_whole(unused["filtered_dataset"])
    dataset = lake.read_whole(made["filtered_dataset"])
    assert 0 < len(dataset) < len(everything)
    labels = {one.label for one in funnel_of(lake, made)}
    assert {"pass the rule annotation", "pass the rule perplexity"} & labels, labels
    looser = what_if(lake, "small-000", ["annotation=1"])
    assert looser.kept_now > looser.kept_then and looser.gained["annotation"] > 0
    with entered(home):
        verified = CliRunner().invoke(app, ["lineage", "verify", "small"], catch_exceptions=False)
        told = CliRunner().invoke(app, ["lineage", "explain", dataset["id"][0]], catch_exceptions=False)
    assert "no findings" in " ".join(verified.output.split()), verified.output
    assert "rated " in told.output, told.output


def made_by(home: Home, method: str, experiment: str = "small") -> dict[str, Manifest]:
    found = {one.table: one for one in home.lake.manifests(f"{method}/*", experiment)}
    return {table.partition("/")[2]: manifest for table, manifest in found.items()}


@pytest.mark.parametrize("method", chosen_methods(TRAIN))
def test_examples_pass_the_filters_after_the_methods_own_rules(method: str, tmp_path: Path) -> None:
    home = make_home(tmp_path, settings_of(method))
    stages = registry.method(method).stages
    until = [one.name for one in stages].index("filtered_dataset")
    tables = [table.name for one in stages[: until + 1] for table in one.assets]
    materialise(home, "small", *tables)
    lake, made = home.lake, made_by(home, method)
    dataset, decisions = lake.read_whole(made["filtered_dataset"]), lake.read_whole(made["decisions"])
    recorded = made["filtered_dataset"].activity.parameters["filters"]["steps"]
    assert [one["rule"] for one in recorded] == ["words", "novelty"]
    by_filters = decisions.filter(pl.col("rule").is_in(["words", "novelty"]))
    assert not by_filters.is_empty() and not by_filters.filter(~pl.col("kept")).is_empty()
    dropped = by_filters.filter(~pl.col("kept"))["candidate_id"]
    parents = dataset.select("id", "parents").explode("parents").unnest("parents", separator=".")
    used = parents["parents.id"]
    assert not set(dropped) & set(used), "what a filter dropped is no example"
    passed = by_filters.filter("kept", rule="novelty")["candidate_id"]
    assert set(passed) & set(used), "what all filters keep is one"
    labels = {one.label for one in funnel_of(lake, made)}
    assert "pass the rule novelty" in labels
    threshold = "novelty.at_most=1.0" if method == "curate" else "novelty=1.0"
    looser = what_if(lake, "small-000", [threshold])
    assert looser.kept_now > looser.kept_then and looser.gained["novelty"] > 0
    with entered(home):
        verified = CliRunner().invoke(app, ["lineage", "verify", "small"], catch_exceptions=False)
    assert "no findings" in " ".join(verified.output.split()), verified.output
