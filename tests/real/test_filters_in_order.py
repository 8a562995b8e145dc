"""All four filters of curation in two orders, on a chat model that people use, which `make real-model` fetches."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from kit.homes import make_home
from kit.judging_home import materialise

from selfimprove_dagster import registry
from selfimprove_dagster.home.home import Home

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "build" / "models" / "smollm2-135m-instruct"
SHIPPED = ROOT / "experiments" / "real" / "curate.yaml"

pytestmark = [
    pytest.mark.real,
    pytest.mark.rotates,
    pytest.mark.skipif(not (MODEL / "config.json").is_file(), reason="no real model here: make real-model"),
]


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, list[Any]]:
    """Two experiments up to their datasets, the second with the filters of the first in reverse."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SELFIMPROVE_REAL_MODEL", str(MODEL))
        settings = yaml.safe_load(os.path.expandvars(SHIPPED.read_text(encoding="utf-8")))
    filters = settings["filters"]
    home = make_home(
        tmp_path_factory.mktemp("orders"),
        {**settings, "name": "one"},
        {**settings, "name": "other", "filters": filters[::-1]},
    )
    tables = [table.name for stage in registry.method("curate").stages for table in stage.assets]
    until = tables.index("curate/filtered_dataset") + 1
    for name in ("one", "other"):
        materialise(home, name, *tables[:until])
    return home, filters


def test_all_four_filters_judge_in_either_order(orders: tuple[Home, list[Any]]) -> None:
    home, filters = orders
    names = [next(iter(one)) for one in filters]
    assert set(names) == {"annotation", "perplexity", "self_consistency", "novelty"}
    for name, expected in (("one", names), ("other", names[::-1])):
        (manifest,) = home.lake.manifests("curate/decisions", name)
        decisions = home.lake.read_whole(manifest)
        by_filters = decisions.filter(pl.col("rule").is_in(names))
        assert by_filters["rule"].unique(maintain_order=True).to_list() == expected
        assert by_filters["score"].drop_nulls().is_finite().all()
        counts = by_filters.group_by("rule", maintain_order=True).agg(pl.len(), pl.col("kept").sum())
        reached, kept = counts["len"].to_list(), counts["kept"].to_list()
        assert reached[1:] == kept[:-1], "a filter sees what those before it kept"
        (dataset,) = home.lake.manifests("curate/filtered_dataset", name)
        assert dataset.rows == kept[-1] > 0


def test_the_same_answers_are_judged_alike(orders: tuple[Home, list[Any]]) -> None:
    """Generations, ratings and perplexities do not depend on which filter comes first."""
    home, _ = orders
    for stage, column in (
        ("candidate_answers", "output"),
        ("ratings", "rating"),
        ("perplexity_scores", "perplexity"),
    ):
        first, second = (
            home.lake.read_whole(home.lake.manifests(f"curate/{stage}", name)[0])[column]
            for name in ("one", "other")
        )
        assert len(first) and first.equals(second), stage
