"""Paths with a structure: asked for in an experiment, recorded, checked, and drawn again."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from kit.homes import enter, make_home
from kit.small_lake import SMALL_EXPERIMENT

from selfimprove_dagster.assets.partitions import add_iterations
from selfimprove_dagster.definitions import defs
from selfimprove_dagster.drawing import drawn_with, recorded_sampling
from selfimprove_dagster.families.questions.prompts import PROMPTS as FILE
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.language_model.prompting import TEXT
from selfimprove_dagster.language_model.structure import Structure
from selfimprove_dagster.lineage.replay import replay_sample
from selfimprove_dagster.methods.lmsi.tables import RAW_GENERATIONS
from selfimprove_dagster.prompts import Prompts, load_prompts
from selfimprove_dagster.work.shards import sampling_of

PROMPTS = load_prompts([FILE], TEXT)
SCHEMA = {
    "type": "object",
    "properties": {"why": {"enum": ["easy", "hard"]}, "answer": {"type": "integer", "maximum": 99}},
    "required": ["why", "answer"],
    "additionalProperties": False,
}


def test_paths_match_and_are_drawn_again_under_the_same_structure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {
        **SMALL_EXPERIMENT,
        "prompts": {"structure": {"zero_shot_cot": {"json_schema": "schema.json"}}},
        "sampling": {"questions": 3, "paths": 4, "prompt_format": "zero_shot_cot", "max_tokens": 80},
    }
    home = enter(make_home(tmp_path, given), monkeypatch)
    (home.experiments / "schema.json").write_text(json.dumps(SCHEMA))
    with dg.DagsterInstance.ephemeral() as instance:
        add_iterations(instance, "lmsi", ["small-000"])
        outcome = defs.resolve_job_def("lmsi_iteration").execute_in_process(
            instance=instance,
            partition_key="small-000",
            asset_selection=[dg.AssetKey(["lmsi", stage]) for stage in ("seed_pool", "raw_generations")],
        )
    assert outcome.success
    manifest = home.lake.manifest(RAW_GENERATIONS.name, partition_of("small", 0))
    structure = Structure.of_schema(SCHEMA)
    recorded = {"structure": {"zero_shot_cot": structure.parameters}}
    assert manifest.activity.parameters["prompting"] == recorded
    assert drawn_with(manifest.activity).structure == structure
    paths = home.lake.read(RAW_GENERATIONS.name, manifest.partition)
    assert [structure.mismatch(text) for text in paths["text"]] == [None] * 12
    assert {*paths["finish_reason"]} == {"stop"}
    (check,) = (one for one in outcome.get_asset_check_evaluations() if one.check_name == "matches_structure")
    assert check.passed
    again = replay_sample(home, "small-000", 12, alone=True)
    assert (again.agreement.correct, again.agreement.total) == (12, 12)


def test_a_structure_goes_to_another_process_as_plain_data() -> None:
    settings = {"sampling": {"prompt_format": "zero_shot_cot", "max_tokens": 9, "stop": []}}
    structure = Structure(regex="[A-D]")
    for prompts in (PROMPTS, Prompts(PROMPTS.forms, TEXT, structures={"zero_shot_cot": structure})):
        sampling = recorded_sampling(RAW_GENERATIONS, settings, prompts)
        assert sampling.structure == prompts.structure("zero_shot_cot")
        assert sampling_of(json.loads(json.dumps(asdict(sampling)))).structure == sampling.structure
