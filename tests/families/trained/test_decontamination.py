"""Generated examples that quote a text held out for evaluation are dropped, with the text named."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kit.homes import entered, make_home
from kit.judging_home import materialise
from pins.small_experiments import EXPERIMENTS
from typer.testing import CliRunner

from selfimprove_dagster.cli.main import app
from selfimprove_dagster.explorer.methods import funnel_of
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.partition import Manifest

pytestmark = pytest.mark.slow

STAGES = ("seed_pool", "raw_generations", "perplexity_scores", "voted_answers", "filtered_dataset")


def made(home: Home, name: str) -> dict[str, Manifest]:
    return {one.table.partition("/")[2]: one for one in home.lake.manifests("lmsi/*", name)}


def words_of(text: str) -> list[str]:
    return "".join(mark if mark.isalnum() else " " for mark in text.lower()).split()


def quotes(text: str, other: str, words: int = 4) -> bool:
    """Whether two texts share a run of words."""
    own, theirs = (
        {tuple(one[at : at + words]) for at in range(len(one) - words + 1)}
        for one in map(words_of, (text, other))
    )
    return bool(own & theirs)


def test_examples_that_quote_a_held_out_text_are_dropped_and_named(tmp_path: Path) -> None:
    settings: dict[str, Any] = {**deepcopy(EXPERIMENTS["sums"]), "name": "plain"}
    tables = [f"lmsi/{stage}" for stage in STAGES]
    home = make_home(tmp_path, settings)
    materialise(home, "plain", *tables, "lmsi/example_ratings")
    everything = home.lake.read_whole(made(home, "plain")["filtered_dataset"])
    # A benchmark quotes what the model says in some examples, and no question.
    said = next(text for text in everything["completion"] if len(words_of(text)) >= 8)
    quoted = " ".join(words_of(said)[:6])
    (home.experiments / "bench.jsonl").write_text(json.dumps({"text": quoted}) + "\n")
    decontaminated = {"words": 4, "benchmarks": [{"file": "bench.jsonl"}]}
    # The questions of the embedded world are alike; those that are held out are of another kind.
    (home.experiments / "exam.jsonl").write_text(
        "".join(
            json.dumps({"question": f"Zorp {n}?", "answer": str(n), "difficulty": "1"}) + "\n"
            for n in range(8)
        )
    )
    other = {**settings, "name": "clean", "decontamination": decontaminated}
    other["evaluation"] = {**settings["evaluation"], "file": "exam.jsonl", "rows": None}
    make = home.experiments / "clean.yaml"
    make.write_text(json.dumps(other))
    materialise(home, "clean", *tables, "lmsi/example_ratings")
    found = made(home, "clean")
    decisions = home.lake.read_whole(found["decisions"]).filter(pl.col("rule") == "contamination")
    dataset = home.lake.read_whole(found["filtered_dataset"])
    dropped = decisions.filter(~pl.col("kept"))
    assert len(dropped) > 0 and decisions["kept"].any()
    assert dropped["reason"].str.contains(r"bench\.jsonl, line 1").all()
    assert not any(quotes(text, quoted) for text in dataset["completion"])
    paths = dict(home.lake.read_whole(found["raw_generations"]).select("id", "text").iter_rows())
    assert all(quotes(paths[one], quoted) for one in dropped["candidate_id"])
    assert found["filtered_dataset"].activity.parameters["decontamination"]["words"] == 4
    assert any("contamination" in one.label or "held out" in one.label for one in funnel_of(home.lake, found))
    with entered(home):
        verified = CliRunner().invoke(app, ["lineage", "verify", "clean"], catch_exceptions=False)
        told = CliRunner().invoke(
            app, ["lineage", "explain", dropped["candidate_id"][0]], catch_exceptions=False
        )
    assert "no findings" in " ".join(verified.output.split()), verified.output
    assert "bench.jsonl, line 1" in " ".join(told.output.split()), told.output
