"""A method that declares nothing but its tables, or is not even installed, is answered from its rows."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from kit.small_lake import activity_of, store
from rich.console import Console

from selfimprove_dagster import registry
from selfimprove_dagster.cli.ancestry import ancestry_tree
from selfimprove_dagster.cli.answers import explanation_text, what_if_text
from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.records import Draft, Parent
from selfimprove_dagster.lineage.descend import descend
from selfimprove_dagster.lineage.diff import diff
from selfimprove_dagster.lineage.explain import explain, method_of
from selfimprove_dagster.lineage.revoke import plan
from selfimprove_dagster.lineage.trace import trace
from selfimprove_dagster.lineage.what_if import what_if
from selfimprove_dagster.method import Method, Stage
from selfimprove_dagster.stage import Result, StageContext
from selfimprove_dagster.table import SOURCE, TEXT, Table, decisions, sentence_of

NAMES = Table("seeds/names", "name", {"name": TEXT, **SOURCE}, noun="name")
SAID = Table("loud/said", "said", {"word": TEXT}, noun="word")
SHOUTED = Table("loud/shouted", "shout", {"text": TEXT}, {"loudness": pl.Float64}, noun="shout")
DECISIONS = decisions("loud/decisions")
KEPT = Table("loud/kept", "kept", {"letter": TEXT, "completion": TEXT}, noun="group")
WORDS = ("ant", "ape", "bat", "crow")
LEAST = 3.5


def nothing(context: StageContext[Experiment]) -> Result:
    raise NotImplementedError


METHOD = Method(
    "loud",
    Experiment,
    {},
    [Stage([table], nothing) for table in (SAID, SHOUTED, DECISIONS, KEPT)],
    inputs=[NAMES],
)


@pytest.fixture(params=["installed", "not installed"])
def lake(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    """Said → shouted → kept, which is many to one: the words with four letters or more, and decisions on all."""
    known = {**registry.methods(), **({"loud": METHOD} if request.param == "installed" else {})}
    monkeypatch.setattr(registry, "methods", lambda: known)
    registry.tables.cache_clear()
    registry.pipeline_order.cache_clear()
    lake = Lake(tmp_path / "lake")
    source = {"source_file": "names.jsonl", "licence": "MIT"}
    named = [Draft({"name": word, "source_line": line, **source}) for line, word in enumerate(WORDS, 1)]
    _, names = store(lake, NAMES, named, partition={"experiment": "demo", "batch": "b"})
    told = [Draft({"word": one}, [Parent(name, "seed")]) for one, name in zip(WORDS, names, strict=True)]
    words_of, said = store(lake, SAID, told)
    loud = [
        Draft({"text": one.upper()}, [Parent(record, "shouted_from")], {"loudness": float(len(one))})
        for one, record in zip(WORDS, said, strict=True)
    ]
    shouts, shouted = store(lake, SHOUTED, loud, inputs=[words_of.activity.id])
    activity = activity_of(KEPT, inputs=[shouts.activity.id], parameters={"least": LEAST})
    decided = [
        Draft(
            {
                "stage": KEPT.name,
                "candidate_id": record,
                "rule": "length",
                "kept": len(one) >= LEAST,
                "reason": f"{len(one)} letters",
                "nearest_id": None,
            },
            [Parent(record, "decided")],
            {"score": float(len(one)), "threshold": LEAST},
        )
        for one, record in zip(WORDS, shouted, strict=True)
    ]
    store(lake, DECISIONS, decided, parameters={"decides": activity.id})
    group = Draft({"letter": "C", "completion": "CROW"}, [Parent(shouted[3], "kept_from")])
    store(lake, KEPT, [group], inputs=[shouts.activity.id], parameters={"least": LEAST})
    yield lake
    monkeypatch.undo()
    registry.tables.cache_clear()
    registry.pipeline_order.cache_clear()


def ids(lake: Lake, table: Table) -> list[str]:
    (manifest,) = lake.manifests(table.name)
    return lake.read_whole(manifest)["id"].to_list()


def shown(renderable: object) -> str:
    console = Console(file=io.StringIO(), width=300, color_system=None)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_what_was_kept_is_explained_step_by_step(lake: Lake) -> None:
    for table, number in ((KEPT, 0), (SHOUTED, 3), (SAID, 3), (DECISIONS, 3)):
        explanation = explain(lake, ids(lake, table)[number])
        assert explanation.in_dataset
        assert "in the dataset of demo-000" in explanation.verdict and "1 rule" in explanation.verdict
        stages = [step.rule or step.stage.split("/")[1] for step in explanation.steps]
        assert stages[-4:] == ["said", "shouted", "length", "kept"]
        assert "CROW" in shown(explanation_text(explanation))


def test_what_was_dropped_names_the_rule(lake: Lake) -> None:
    explanation = explain(lake, ids(lake, SHOUTED)[0])
    assert explanation.in_dataset is False
    assert explanation.verdict == "not in the dataset of demo-000: dropped by the rule length: 3 letters"
    step = explanation.steps[-1]
    assert (step.passed, step.score, step.threshold) == (False, 3.0, LEAST)


def test_an_ancestry_and_what_came_of_it_are_told(lake: Lake) -> None:
    text = shown(ancestry_tree(trace(lake, ids(lake, KEPT)[0])))
    for said in ("“CROW”", "“crow”", "kept from", "shouted from"):
        assert said in text
    descent = descend(lake, ids(lake, SAID)[3])
    assert {(count.table, count.rows) for count in descent.counts} == {
        (SHOUTED.name, 1),
        (DECISIONS.name, 1),
        (KEPT.name, 1),
    }


def test_another_threshold_is_applied_to_the_recorded_scores(lake: Lake) -> None:
    shouts = ids(lake, SHOUTED)
    answer = what_if(lake, "demo-000", ["length=3"])
    assert answer.thresholds == {"length": (LEAST, 3.0)}
    assert (answer.kept_then, answer.kept_now, answer.gained, answer.lost) == (1, 4, {"length": 3}, {})
    assert "recorded scores" in answer.note and answer.note in shown(what_if_text(answer)).replace("\n", "")
    (change,) = what_if(lake, ids(lake, KEPT)[0], ["length=5"]).record
    assert (change.path, change.then.kept, change.now.kept) == (shouts[3], True, False)
    with pytest.raises(
        ExperimentError, match="is not a threshold: write name=value, name being one of length"
    ):
        what_if(lake, "demo-000", ["confidence=1"])


def test_it_is_compared_and_revoked(lake: Lake) -> None:
    difference = diff(lake, "demo-000", "demo-000")
    assert (difference.both, difference.a.examples, difference.a.dropped) == (1, 1, {"length": 3})
    assert difference.settings == {}
    settled = plan(lake, "record", ids(lake, SAID)[3], None, by="Ada", why="a test")
    assert set(settled.counts["table"]) == {SAID.name, SHOUTED.name, DECISIONS.name, KEPT.name}


def test_no_other_method_answers_for_it(lake: Lake) -> None:
    """A seed belongs to the method that reads its table and has made tables of the experiment; to none before."""
    installed = "loud" in registry.methods()
    assert method_of(lake, SAID.name, "demo") == "loud"
    assert method_of(lake, NAMES.name, "demo") == ("loud" if installed else None)
    seed = explain(lake, ids(lake, NAMES)[3])
    assert "names.jsonl, line 4" in seed.verdict
    if installed:
        assert seed.verdict.endswith("used in 1 iteration, 1 record, 1 kept") and seed.in_dataset
    else:
        assert seed.verdict.endswith("no iteration has used it yet")


def test_the_words_of_a_row_are_its_main_text() -> None:
    assert sentence_of(None, {"text": " hello "}) == "“hello”"
    assert sentence_of(SAID, {"word": "ant"}) == "“ant”"
    assert sentence_of(None, {"score": 1.0}) == ""
