"""Refinement from end to end on the embedded dialogue model."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from kit.judging_home import make_home, run
from kit.reading import parents
from starlette.testclient import TestClient

from selfimprove_dagster.explorer.pages import create_app
from selfimprove_dagster.families.refining.ways import (
    ANSWER,
    EVALUATION,
    FAILED,
    FEEDBACK,
    OUTCOME,
    REFLECTION,
    STOPS,
    WAYS,
)
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.lineage.explain import explain
from selfimprove_dagster.lineage.replay import replay
from selfimprove_dagster.lineage.verify import verify
from selfimprove_dagster.loop.rules import Stop, decide_next
from selfimprove_dagster.loop.status import results
from selfimprove_dagster.methods.refinement import tables as t
from selfimprove_dagster.methods.refinement.exam import after_rounds, curves, stops
from selfimprove_dagster.quality.results import QualityResult
from selfimprove_dagster.quality.suites import run_suite
from selfimprove_dagster.table import Table

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
ROUNDS = 3


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = make_home(tmp_path_factory.mktemp("refining"))
    run(home, "refined", "short")
    return home


def rows(home: Home, schema: Table, name: str = "refined") -> pl.DataFrame:
    return home.lake.read_ungated(home.lake.manifest(schema.name, partition_of(name, 0)))


def test_each_step_names_what_it_was_made_from(home: Home) -> None:
    first, steps = rows(home, t.RF_RAW_GENERATIONS), rows(home, t.REFINEMENTS)
    said = {row["id"]: row for row in pl.concat([first, steps], how="diagonal").iter_rows(named=True)}
    shown = 0
    for row in steps.filter(pl.col("seed").is_not_null()).iter_rows(named=True):
        for edge in row["parents"]:
            if edge["role"] != "prompt":
                assert said[edge["id"]]["text"].strip() in row["prompt"]
                assert said[edge["id"]]["prompt_id"] == row["prompt_id"]
                shown += 1
        if row["kind"] == ANSWER:
            (replaced,) = parents(row, "revision_of")
            assert (said[replaced]["round"] or 0) == row["round"] - 1
            of_way = {"self_refine": "feedback", "reflexion": "reflection"}.get(row["way"])
            assert of_way is None or len(parents(row, of_way)) == row["round"], "history, or memory of three"
        else:
            (of,) = parents(row, f"{row['kind']}_of")
            assert (said[of]["round"] or 0) == row["round"] - 1
    assert shown > 100
    assert set(steps["kind"]) == {ANSWER, FEEDBACK, EVALUATION, REFLECTION, OUTCOME}


def test_every_prompt_comes_to_an_outcome_in_every_way(home: Home) -> None:
    pool, steps = rows(home, t.RF_SEED_POOL), rows(home, t.REFINEMENTS)
    outcomes = steps.filter(kind=OUTCOME)
    assert len(outcomes) == len(pool) * len(WAYS) == outcomes.n_unique(["prompt_id", "way"])
    for row in outcomes.iter_rows(named=True):
        own = steps.filter(pl.col("kind") != OUTCOME, prompt_id=row["prompt_id"], way=row["way"])
        assert row["stopped"] in STOPS
        assert (row["tokens_in"], row["tokens_out"]) == (own["tokens_in"].sum(), own["tokens_out"].sum())
        assert (row["error"] is not None) == (row["stopped"] == FAILED)
    assert set(outcomes["stopped"]) >= {"fine", "content", "unchanged"}


def test_what_fails_keeps_its_error_and_its_last_good_answer(home: Home) -> None:
    first = dict(rows(home, t.RF_RAW_GENERATIONS, "short").select("id", "text").iter_rows())
    steps = rows(home, t.REFINEMENTS, "short")
    failed = steps.filter(kind=OUTCOME, stopped=FAILED)
    assert len(failed) > 0 and len(steps.filter(kind=OUTCOME)) == 8
    for row in failed.iter_rows(named=True):
        good = steps.filter(pl.col("error").is_null(), kind=ANSWER, prompt_id=row["prompt_id"])
        last = good.sort("round")["text"].to_list() or [first[row["first_id"]]]
        assert row["text"] == last[-1].strip()
        assert row["error"] == f"round {row['round']}: the answer was cut off at the token limit"
        assert "cut off" in explain(home.lake, row["id"]).verdict
    checks = {
        result.name: result
        for result in run_suite(t.REFINEMENTS.name, home.lake, home.experiment("short"), 0)
    }
    assert not checks["few_fail"].passed and not checks["few_fail"].blocking
    assert all(checks[name].passed for name in ("one_outcome", "rounds_follow", "last_good_answer"))


def test_the_exam_follows_every_way_round_by_round(home: Home) -> None:
    answers = rows(home, t.RF_EVALUATION)
    modes = {"greedy", *(f"{way}_{number}" for way in WAYS for number in range(1, ROUNDS + 1))}
    assert set(answers["mode"]) == modes and len(answers) == 40 * len(modes)
    assert (answers["correct"] == (answers["helpful"] & answers["harmless"])).all()
    measured = after_rounds(answers)
    for way, rounds in curves(measured).items():
        assert [one.round for one in rounds] == [*range(ROUNDS + 1)]
        assert [one.tokens for one in rounds] == sorted(one.tokens for one in rounds)
        assert rounds[1].tokens > rounds[0].tokens
        assert rounds[-1].harmless.value > rounds[0].harmless.value, way
        change = rounds[-1].against_original
        assert change.questions == 40
        assert (change.gained - change.lost) / 40 == pytest.approx(
            rounds[-1].correct.value - rounds[0].correct.value
        )
    assert {way: sum(found.values()) for way, found in stops(answers).items()} == dict.fromkeys(WAYS, 40)


def test_steps_can_be_drawn_again(home: Home) -> None:
    steps = rows(home, t.REFINEMENTS)
    for kind in (ANSWER, FEEDBACK, REFLECTION):
        row = steps.filter(pl.col("error").is_null(), kind=kind).row(0, named=True)
        again = replay(home, row["id"])
        assert [path.id for path in again.paths] == [row["id"]] and again.agreement.value == 1
    outcome = steps.filter(kind=OUTCOME, stopped="content").row(-1, named=True)
    drawn = [path.id for path in replay(home, outcome["id"]).paths]
    assert drawn == parents(outcome, "answer"), "nothing is drawn for an outcome: its answer is"


def test_a_lost_shard_is_made_again_as_it_was(home: Home, tmp_path: Path) -> None:
    manifest = home.lake.manifest(t.REFINEMENTS.name, partition_of("refined", 0))
    before = rows(home, t.REFINEMENTS)["id"].to_list()
    kept, lost, *_ = manifest.paths
    made = kept.stat().st_mtime_ns
    (manifest.directory / "manifest.json").unlink()
    lost.unlink()
    run(home, "refined")
    assert rows(home, t.REFINEMENTS)["id"].to_list() == before
    assert kept.stat().st_mtime_ns == made, "the others were not made again"


def test_the_lake_holds_what_it_says(home: Home) -> None:
    report = verify(home.lake)
    assert not report.findings and report.rows > 0


def test_an_iteration_ends_with_its_evaluation(home: Home) -> None:
    experiment = home.experiment("refined")
    follows = decide_next(home.lake, experiment)
    assert isinstance(follows, Stop) and "1 of 1 iterations are done" in follows.reason
    (result,) = results(home.lake, experiment)
    assert [*result.columns] == ["original", *(way.replace("_", "-") for way in WAYS)]
    assert result.promoted is None and result.counts["prompts"]


def test_the_pages_show_every_round(home: Home) -> None:
    pages = TestClient(create_app(home, "http://127.0.0.1:3000"), base_url="http://127.0.0.1:3001")

    def page(address: str) -> str:
        shown = pages.get(address)
        assert shown.status_code == 200, shown.text
        return shown.text

    assert "self-refine" in page("/experiments/refined") and "finished" in page("/experiments/refined")
    assert "Held-out accuracy over rounds" in page("/experiments/refined/0")
    assert "promotion decision" not in page("/experiments/refined/0")
    assert "reflection" in page("/experiments/refined/0/examples?kind=reflection")
    assert "cut off at the token limit" in page("/experiments/short/0/rejected")
    reflected = rows(home, t.REFINEMENTS).filter(kind=REFLECTION).row(0, named=True)
    shown = page(f"/records/{reflected['id']}")
    assert "First answer" in shown and "Evaluation, round 1" in shown and "Outcome, round" in shown
    for schema in t.TABLES:
        page(f"/records/{rows(home, schema)['id'][0]}")
    (seeds,) = home.lake.manifests("seeds/prompts", "refined")
    seed = page(f"/records/{home.lake.read_ungated(seeds)['id'][0]}")
    assert "used in" in seed or "no iteration has used it yet" in seed


def test_only_the_exam_is_judged_by_the_truth() -> None:
    """What judges is imported by the exams alone, and no table of a stage before it holds what is wanted."""
    judging = {
        str(path.relative_to(ROOT))
        for folder in ("selfimprove_dagster", "assets", "resources")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "selfimprove_dagster.families.dialogues.exam"
        if "judged" in {alias.name for alias in node.names}
    }
    assert judging == {"selfimprove_dagster/methods/refinement/exam.py"}
    before = (t.RF_SEED_POOL, t.RF_RAW_GENERATIONS, t.REFINEMENTS)
    assert not {"wanted", "unwanted", "correct", "expected"} & {
        name for schema in before for name in (*schema.content, *schema.measures)
    }


# ---- checks: each fails where its fault was planted ------------------------------------------------------

OUT = pl.col("kind") == OUTCOME
FAULTS: dict[str, tuple[Table, Callable[[pl.DataFrame], pl.DataFrame]]] = {
    "one_outcome": (t.REFINEMENTS, lambda rows: rows.filter(pl.col("id") != rows.filter(OUT)["id"][3])),
    "rounds_follow": (
        t.REFINEMENTS,
        lambda rows: rows.with_columns(pl.when(~OUT).then(pl.col("round") + 1).otherwise(pl.col("round"))),
    ),
    "last_good_answer": (
        t.REFINEMENTS,
        lambda rows: rows.with_columns(text=pl.when(OUT).then(pl.lit("No.")).otherwise(pl.col("text"))),
    ),
    "few_fail": (
        t.REFINEMENTS,
        lambda rows: rows.with_columns(stopped=pl.when(OUT).then(pl.lit(FAILED))),
    ),
    "all_questions_answered": (t.RF_EVALUATION, lambda rows: rows.tail(-1)),
    "pit_not_worse": (
        t.RF_EVALUATION,
        lambda rows: rows.with_columns(pl.col("correct") & (pl.col("mode") != f"pit_{ROUNDS}")),
    ),
}
WARNING = {"few_fail", "pit_not_worse"}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_by_its_check(home: Home, tmp_path: Path, name: str) -> None:
    shutil.copytree(home.root / "lake", tmp_path / "lake")
    lake, experiment = Lake(tmp_path / "lake"), home.experiment("refined")
    schema, spoil = FAULTS[name]

    def checked() -> QualityResult:
        results = run_suite(schema.name, lake, experiment, 0, only=[name])
        return next(result for result in results if result.name == name)

    assert checked().passed
    activity = lake.manifest(schema.name, partition_of("refined", 0)).activity
    lake.write(schema, activity, spoil(rows(home, schema)))
    found = checked()
    assert not found.passed and found.blocking == (name not in WARNING)
