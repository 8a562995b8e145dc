"""Lineage as W3C PROV: what is said, that others can read it, and that it is the same every time."""

from __future__ import annotations

import json
import math
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from kit.small_lake import activity_of, known_ancestry, seed_draft, store
from typer.testing import CliRunner

from selfimprove_dagster.cli.main import app
from selfimprove_dagster.export import last_dataset
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.records import Draft, Parent
from selfimprove_dagster.lake.revocations import Revocation
from selfimprove_dagster.lineage.prov import dataset_document, prov_json, trace_document
from selfimprove_dagster.lineage.walk import Lineage
from selfimprove_dagster.methods.lmsi.tables import (
    FINE_TUNED_CHECKPOINT,
    PERPLEXITY_SCORES,
    RAW_GENERATIONS,
    SEED_POOL,
)

prov = pytest.importorskip("prov.model", reason="the package prov is not installed: pip install prov")


def read_by_others(text: str) -> Any:
    """What the package `prov` understands, any doubt of it an error; it must survive its own writer."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        document = prov.ProvDocument.deserialize(content=text, format="json")
        written = document.serialize(format="json")
        again = prov.ProvDocument.deserialize(content=written, format="json")
        assert again.serialize(format="json") == written
        assert document.get_provn()
    return document


def edges(document: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {
        (said["prov:generatedEntity"], said["prov:usedEntity"], said["prov:type"]["$"])
        for said in document["wasDerivedFrom"].values()
    }


def test_every_edge_of_an_ancestry_is_a_derivation_with_its_role(lake: Lake) -> None:
    known = known_ancestry(lake)
    document = trace_document(lake, known.example)
    walked = Lineage(lake).ancestors([known.example]).edges
    assert edges(document) == {
        (child, parent, f"role:{role}")
        for child, parent, role in walked.select("child", "parent", "role").rows()
    }
    assert (known.vote, known.paths[2], "role:voted_from") in edges(document)
    assert len(document["wasDerivedFrom"]) == len(walked)


def test_a_record_is_an_entity_with_its_table_hash_place_and_columns(lake: Lake) -> None:
    known = known_ancestry(lake)
    document = trace_document(lake, known.vote)
    vote = document["entity"][known.vote]
    (row,) = Lineage(lake).rows([known.vote]).values()
    assert vote["prov:type"] == {"$": "table:lmsi/voted_answers", "type": "prov:QUALIFIED_NAME"}
    assert vote["record:content_hash"] == row["content_hash"]
    assert (vote["record:experiment"], vote["record:iteration"]) == ("demo", 0)
    assert vote["column:voted_answer"] == "2"
    assert json.loads(vote["column:votes"]) == [{"answer": "2", "count": 4}]
    assert vote["column:tie"] is False


def test_an_activity_says_when_with_what_and_by_which_model(lake: Lake) -> None:
    known = known_ancestry(lake)
    document = trace_document(lake, known.paths[0])
    (activity_id,) = {
        said["prov:activity"]
        for said in document["wasGeneratedBy"].values()
        if said["prov:entity"] == known.paths[0]
    }
    said = document["activity"][activity_id]
    committed = lake.manifest(RAW_GENERATIONS.name, activity_of(RAW_GENERATIONS).partition)
    assert said["prov:endTime"] == committed.committed_at
    assert said["prov:startTime"] < said["prov:endTime"]
    assert json.loads(said["activity:parameters"])["temperature"] == 0.7
    assert {"prov:activity": activity_id, "prov:agent": "b2:fake"} in document["wasAssociatedWith"].values()
    assert "b2:fake" in document["agent"]


def test_a_checkpoint_was_derived_from_its_dataset_whose_members_are_its_examples(lake: Lake) -> None:
    manifest, members = store(
        lake, SEED_POOL, [seed_draft("1 + 1?"), seed_draft("2 + 2?")], parameters={"n": 1}
    )
    row = {"model_id": "b2:new", "base_model_id": "b2:old", "examples": 2, "steps": 1}
    measures = dict.fromkeys(FINE_TUNED_CHECKPOINT.measures)
    _, (checkpoint,) = store(
        lake,
        FINE_TUNED_CHECKPOINT,
        [
            Draft(
                {**row, "dataset_activity_id": manifest.activity.id},
                [Parent(manifest.activity.id, "trained_on"), Parent("b2:old", "initialised_from")],
                measures,
            )
        ],
        inputs=(manifest.activity.id,),
    )
    document = trace_document(lake, checkpoint)
    dataset = manifest.activity.id.replace("act:", "set:")
    assert edges(document) == {
        (checkpoint, dataset, "role:trained_on"),
        (checkpoint, "b2:old", "role:initialised_from"),
    }
    assert document["entity"][dataset]["prov:type"]["$"] == "prov:Collection"
    assert {said["prov:entity"] for said in document["hadMember"].values()} == set(members)
    assert {said["prov:entity"] for said in document["used"].values()} == {dataset}
    read_by_others(prov_json(document))


def test_a_revoked_record_was_invalidated_by_a_person(lake: Lake) -> None:
    known = known_ancestry(lake)
    pool = lake.manifests(SEED_POOL.name)[0]
    revocation = Revocation(
        "seed", known.seed, None, (known.seed,), (), "Ada <a@b.c>", "no consent", "2026-01-02T03:04:05+00:00"
    )
    lake.ledger.record(revocation)
    lake.withdraw(pool, {known.question: revocation.id})
    document = trace_document(lake, known.example)
    (invalidated,) = document["wasInvalidatedBy"].values()
    assert invalidated["prov:entity"] == known.question
    assert document["activity"][revocation.id]["prov:label"] == "no consent"
    assert {"Ada <a@b.c>"} == {
        said["prov:label"] for name, said in document["agent"].items() if name.startswith("person:")
    }
    assert "column:question" not in document["entity"][known.question], "what was withdrawn is not told"
    read_by_others(prov_json(document))


def test_numbers_that_json_lacks_and_ids_of_no_known_form_are_still_valid(lake: Lake) -> None:
    draft = Draft(
        {"path_id": "gen:x", "tokens": 1},
        [Parent("a b\u202e\x1b'; DROP", "scored by"), Parent("gen:x/", "scored")],
        {"mean_logprob": math.nan, "perplexity": math.inf},
    )
    _, (score,) = store(lake, PERPLEXITY_SCORES, [draft])
    document = trace_document(lake, score)
    said = document["entity"][score]
    assert (said["column:mean_logprob"]["$"], said["column:perplexity"]["$"]) == ("NaN", "INF")
    assert (score, "unknown:a%20b%E2%80%AE%1B%27%3B%20DROP", "role:scored%20by") in edges(document)
    read_by_others(prov_json(document))


def test_a_whole_dataset_of_real_iterations_can_be_read_by_others(finished_home: Home) -> None:
    lake = finished_home.lake
    manifest = last_dataset(lake, finished_home.experiment("small"), 1)
    document = dataset_document(lake, manifest)
    examples = set(lake.read_ungated(manifest)["id"])
    assert examples <= set(document["entity"])
    assert {said["prov:entity"] for said in document["hadMember"].values()} == examples
    kinds = Counter(said["prov:type"]["$"] for said in document["entity"].values() if "prov:type" in said)
    assert kinds["table:lmsi/filtered_dataset"] == manifest.rows
    assert kinds["table:lmsi/raw_generations"] > manifest.rows
    for statements, names in (("wasGeneratedBy", "entity"), ("wasDerivedFrom", "generatedEntity")):
        said = {statement[f"prov:{names}"] for statement in document[statements].values()}
        assert said <= set(document["entity"])
    assert set(document["entity"]).isdisjoint(document["activity"]), "PROV keeps the two apart"
    records = read_by_others(prov_json(document)).get_records()
    assert len(records) == sum(len(said) for kind, said in document.items() if kind != "prefix")


def test_the_same_lake_gives_the_same_bytes(finished_home: Home) -> None:
    manifest = last_dataset(finished_home.lake, finished_home.experiment("small"))
    once, again = (prov_json(dataset_document(Lake(finished_home.lake.root), manifest)) for _ in range(2))
    assert once == again
    assert once.isascii()


def test_a_trace_is_printed_in_each_format(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFIMPROVE_HOME", str(tmp_path))
    known = known_ancestry(lake)
    said = {
        options: CliRunner().invoke(app, ["lineage", "trace", known.example, *options])
        for options in ((), ("--json",), ("--format", "json"), ("--format", "prov-json"))
    }
    assert all(result.exit_code == 0 for result in said.values())
    assert known.example in said[()].stdout
    assert json.loads(said[("--json",)].stdout)["id"] == known.example
    assert said[("--json",)].stdout == said[("--format", "json")].stdout
    read_by_others(said[("--format", "prov-json")].stdout)
