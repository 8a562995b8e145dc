"""Several methods in one experiment, taking turns on one line of champions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from kit.judging_home import CHAIN, run
from kit.judging_home import EXPERIMENTS as JUDGED
from kit.judging_home import make_home as make_judging_home
from kit.small_lake import promotion_draft, store

from selfimprove_dagster import registry
from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.home.files import parse_chain
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest, partition_of
from selfimprove_dagster.lineage.revoke import revoke
from selfimprove_dagster.loop.champion import champion_before
from selfimprove_dagster.loop.rules import Continue, Stop, next_turn
from selfimprove_dagster.loop.taint import tainted_models

_SHARED = ("model", "budget")
"""What the methods of a chain have in common."""


def parse(**changes: Any) -> list[Experiment]:
    return parse_chain({**CHAIN, **changes}, folder=Path("/nowhere"), origin="both.yaml")


def refused(**changes: Any) -> str:
    with pytest.raises(ExperimentError) as caught:
        parse(**changes)
    return str(caught.value)


def test_each_method_gets_what_is_shared_and_what_stands_under_its_name() -> None:
    first, second = parse()
    assert [one.method for one in (first, second)] == ["constitutional", "rlaif"] == [*first.chain]
    assert {one.seed for one in (first, second)} == {5}
    assert first.revisions.rounds == 2  # type: ignore[attr-defined]
    assert second.responses.prompts == 60  # type: ignore[attr-defined]
    assert second.reward_model.steps == 4  # type: ignore[attr-defined]


def test_what_cannot_be_a_chain_is_refused_in_words() -> None:
    assert "'sorcery' is not one of" in refused(methods=["rlaif", "sorcery"])
    assert "contains a name twice" in refused(methods=["rlaif", "rlaif"])
    assert "must be a list" in refused(methods="rlaif")
    assert "both method and methods" in refused(method="rlaif")
    assert "none of constitutional, rlaif has such a field" in refused(voting={})
    assert "belong at the top level" in refused(rlaif={"seed": 1})
    assert "rlaif has wrong values" in refused(rlaif={"judge": {"principles": 0}})
    apart = refused(methods=["lmsi", "rlaif"], constitutional=None, evaluation={"file": "embedded"})
    assert "none of lmsi, rlaif has such a field" in apart


def test_methods_of_a_chain_improve_one_model() -> None:
    shared = {key: CHAIN[key] for key in ("name", "model", "budget")}
    with pytest.raises(
        ExperimentError, match=r"improve one model, but model.path is .* for lmsi and .* for rlaif"
    ):
        parse_chain(
            {
                **shared,
                "methods": ["lmsi", "rlaif"],
                "seeds": {"file": "embedded"},
                "evaluation": {"file": "embedded"},
            },
            folder=Path("/nowhere"),
        )


def test_any_methods_can_take_turns_on_a_model_of_the_users_own() -> None:
    chain = parse_chain(
        {
            "name": "everything",
            "methods": ["self_instruct", "lmsi", "constitutional", "rlaif", "pit"],
            "model": {"path": "someone/model"},
            "self_instruct": {
                "seeds": {"file": "tasks.jsonl"},
                "evaluation": {"file": "tasks_out.jsonl"},
            },
            "lmsi": {"seeds": {"file": "questions.jsonl"}, "evaluation": {"file": "held_out.jsonl"}},
            "constitutional": {
                "seeds": {"file": "prompts.jsonl"},
                "evaluation": {"file": "prompts_out.jsonl"},
            },
            "rlaif": {"seeds": {"file": "prompts.jsonl"}, "evaluation": {"file": "prompts_out.jsonl"}},
            "pit": {"seeds": {"experiment": "everything"}, "evaluation": {"file": "prompts_out.jsonl"}},
        },
        folder=Path("/somewhere"),
    )
    assert [one.method for one in chain] == [*chain[0].chain]
    assert {one.model.path for one in chain} == {"someone/model"}
    assert chain[-1].taught_by == "everything"


def decided(lake: Lake, method: str, iteration: int, promoted: bool) -> Manifest:
    """A method's promotion decision."""
    manifest, _ = store(
        lake,
        registry.method(method).table("promotion"),
        [promotion_draft(f"{method}{iteration}", promoted)],
        partition=partition_of("both", iteration),
    )
    return manifest


def test_methods_take_turns_and_each_starts_from_what_the_one_before_promoted(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    cai, rlaif = parse(budget={"iterations": 2, "minimum_yield": 0.0})
    assert next_turn(lake, cai) == Continue(0, "start", "constitutional")
    first = decided(lake, "constitutional", 0, promoted=True)
    assert next_turn(lake, rlaif) == Continue(0, first.activity.id, "rlaif") == next_turn(lake, cai)
    assert champion_before(lake, cai, 0).iteration is None
    assert champion_before(lake, rlaif, 0).path == "/checkpoints/constitutional0"
    assert champion_before(lake, rlaif, 0).name == "the checkpoint of constitutional, iteration 0"
    second = decided(lake, "rlaif", 0, promoted=False)
    assert next_turn(lake, cai) == Continue(1, second.activity.id, "constitutional")
    assert champion_before(lake, cai, 1).path == "/checkpoints/constitutional0"
    decided(lake, "constitutional", 1, promoted=False)
    decided(lake, "rlaif", 1, promoted=True)
    assert isinstance(next_turn(lake, cai), Stop)
    assert champion_before(lake, cai, 2).path == "/checkpoints/rlaif1"
    assert champion_before(lake, rlaif, 1).path == "/checkpoints/constitutional0"


def test_an_iteration_of_a_chain_counts_as_promoted_if_any_of_its_methods_was(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    cai, _ = parse(budget={"iterations": 9, "patience": 2, "minimum_yield": 0.0})
    for iteration, promoted in enumerate([(True, False), (False, False)]):
        for method, one in zip(("constitutional", "rlaif"), promoted, strict=True):
            decided(lake, method, iteration, one)
    assert isinstance(next_turn(lake, cai), Continue)
    for method in ("constitutional", "rlaif"):
        decided(lake, method, 2, promoted=False)
    assert next_turn(lake, cai) == Stop("no gain: none of the last 2 iterations was promoted")


def test_a_chain_is_one_file(tmp_path: Path) -> None:
    home = Home(root=tmp_path / "home", experiments=tmp_path)
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(CHAIN))
    assert [one.method for one in home.chain("both")] == ["constitutional", "rlaif"]
    assert home.experiment("both").method == "constitutional"
    assert home.experiment("both", "rlaif").method == "rlaif"
    with pytest.raises(ExperimentError, match="materialise the group constitutional or rlaif, not lmsi"):
        home.experiment("both", "lmsi")


def test_each_method_of_a_chain_has_its_pages(tmp_path: Path) -> None:
    from starlette.testclient import TestClient

    from selfimprove_dagster.explorer.pages import create_app

    home = Home(root=tmp_path / "home", experiments=tmp_path)
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(CHAIN))
    decided(home.lake, "constitutional", 0, promoted=True)
    decided(home.lake, "rlaif", 0, promoted=False)
    client = TestClient(create_app(home, "http://127.0.0.1:3000"), base_url="http://127.0.0.1:3001")
    first, second = (client.get(f"/experiments/both{of}").text for of in ("", ".rlaif"))
    assert 'href="/experiments/both.rlaif"' in first and 'href="/experiments/both.constitutional"' in second
    assert "✓ promoted" in first and "✗ not promoted" in second
    iteration = client.get("/experiments/both.rlaif/0")
    assert iteration.status_code == 200 and 'href="/experiments/both.constitutional/0"' in iteration.text


@pytest.mark.slow
@pytest.mark.rotates
def test_four_methods_learn_from_each_other(tmp_path: Path) -> None:
    """The last learns from the preferences of the one before; what the first learnt from fells them all."""
    home = make_judging_home(tmp_path)
    pit = {key: value for key, value in JUDGED["pit"].items() if key not in ("method", "seeds", *_SHARED)}
    chain = {
        **CHAIN,
        "name": "four",
        "methods": ["self_knowledge", "constitutional", "rlaif", "pit"],
        "self_knowledge": {
            "tasks": [{"name": "dialogues", "kind": "dialogues", "file": "embedded", "rows": "0:40"}]
        },
        "pit": {**pit, "seeds": {"experiment": "four"}},
    }
    (home.experiments / "four.yaml").write_text(yaml.safe_dump(chain))
    turns = []
    while isinstance(step := next_turn(home.lake, home.experiment("four")), Continue):
        run(home, f"four.{step.method}")
        turns.append(step.method)
    assert turns == chain["methods"] and len({*turns}) == 4

    def rows_of(table: str) -> Any:
        return home.lake.read_ungated(home.lake.manifest(table, partition_of("four", 0)))

    taught = {*rows_of("rlaif/filtered_dataset")["id"]}
    pool = rows_of("pit/seed_pool")
    assert {edge["id"] for edges in pool["parents"] for edge in edges if edge["role"] == "seed"} <= taught
    trained = [rows_of(f"{method}/fine_tuned_checkpoint")["model_id"][0] for method in turns[1:]]
    assert rows_of("pit/improver_checkpoint")["base_model_id"][0] == trained[1]
    revoke(home.lake, "record", rows_of("constitutional/filtered_dataset")["id"][0], None, "ann", "wrong")
    assert {*trained} <= {*tainted_models(home.lake, "four")}
