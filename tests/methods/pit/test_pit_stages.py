"""PIT from end to end on the embedded dialogue model, on preferences that another experiment made."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kit.judging_home import make_home, materialise, rows, run
from kit.pages import client
from kit.reading import parents

from selfimprove_dagster import registry
from selfimprove_dagster.drawing import drawn_with
from selfimprove_dagster.embedded import DIALOGUE_MODEL
from selfimprove_dagster.errors import SeedFileError
from selfimprove_dagster.home import imports as seeds
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.language_model import open_language_model
from selfimprove_dagster.language_model.prompting import TEXT
from selfimprove_dagster.lineage.explain import explain
from selfimprove_dagster.lineage.revoke import plan
from selfimprove_dagster.lineage.trace import trace
from selfimprove_dagster.lineage.verify import verify
from selfimprove_dagster.loop.rules import Stop, decide_next
from selfimprove_dagster.methods.pit import tables as t
from selfimprove_dagster.methods.pit.pit import GAP_TERMS, better_asked
from selfimprove_dagster.methods.pit.settings import GapChecksSection
from selfimprove_dagster.methods.pit.win_rates import CONTESTS, win_rates
from selfimprove_dagster.prompts import load_prompts
from selfimprove_dagster.quality.suites import run_suite
from selfimprove_dagster.table import Table

pytestmark = [pytest.mark.slow, pytest.mark.train, pytest.mark.rotates]

ROOT = Path(__file__).parents[3]
PROMPTS = load_prompts(registry.method("pit").prompts, TEXT)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = make_home(tmp_path_factory.mktemp("pit"))
    assert isinstance(decide_next(home.lake, home.experiment("taught")), Stop)
    materialise(home, "people", "rlhf/seed_pool", "rlhf/filtered_dataset")
    run(home, "taught")
    materialise(home, "pit", "pit/seed_pool", "pit/filtered_dataset")
    return home


def of(home: Home, schema: Table) -> pl.DataFrame:
    return rows(home, schema, "taught")


def one(home: Home, schema: Table) -> dict[str, Any]:
    (row,) = of(home, schema).iter_rows(named=True)
    return row


def test_pairs_are_those_of_the_other_experiment_and_descend_from_them(home: Home) -> None:
    given = rows(home, registry.table("rlhf/filtered_dataset"), "people")
    pool = of(home, t.PIT_SEED_POOL)
    by_id = {row["id"]: row for row in given.iter_rows(named=True)}
    assert len(pool) == len(given)
    for row in pool.iter_rows(named=True):
        (seed,) = parents(row, "seed")
        assert (row["prompt"], row["chosen"]) == (by_id[seed]["question"], by_id[seed]["chosen"])
        assert row["source_file"] == "dialogue_comparisons.jsonl" and row["probability"] == 1.0
    assert set(of(home, t.PIT_FILTERED_DATASET)["labelled_by"]) == {"the experiment people"}


def test_pairs_of_a_file_are_what_people_chose(home: Home) -> None:
    pairs = rows(home, t.PIT_FILTERED_DATASET, "pit")
    assert len(pairs) > 50 and set(pairs["labelled_by"]) == {"people"} and set(pairs["probability"]) == {1.0}


def test_an_experiment_without_preferences_gives_none(home: Home) -> None:
    experiment = home.experiment("taught")
    source = experiment.seeds.model_copy(update={"experiment": "direct"})  # type: ignore[attr-defined]
    with pytest.raises(SeedFileError, match="direct, which has no dataset of preferences yet"):
        seeds.pool(home.lake, experiment.model_copy(update={"seeds": source}), 0)  # type: ignore[arg-type]


def test_each_model_starts_from_the_one_before_and_is_rewarded_by_the_gaps(home: Home) -> None:
    improver, gaps = one(home, t.PIT_IMPROVER_CHECKPOINT), one(home, t.PIT_GAP_REWARD_MODEL)
    first, second = one(home, t.PIT_CURRICULUM_CHECKPOINT), one(home, t.PIT_CHECKPOINT)
    assert improver["base_model_id"] == gaps["base_model_id"]
    assert first["base_model_id"] == improver["model_id"]
    assert second["base_model_id"] == first["model_id"]
    for policy in (first, second):
        assert parents(policy, "rewarded_by") == [gaps["model_id"]]


def test_the_gap_reward_model_learns_from_five_terms_a_pair_and_is_measured_on_others(home: Home) -> None:
    terms, gaps = of(home, t.PIT_GAP_PAIRS), one(home, t.PIT_GAP_REWARD_MODEL)
    for _, pair in terms.group_by("example_id"):
        assert {*pair.select("first_kind", "second_kind").rows()} == {*GAP_TERMS}
        assert pair["held_out"].n_unique() == 1
    held_out = terms.filter(pl.col("held_out"))["example_id"].n_unique()
    assert gaps["held_out_pairs"] == held_out > 0
    assert gaps["examples"] == terms.filter(~pl.col("held_out")).height
    assert [one["kind"] for one in gaps["gap_means"]] == ["w,l", "w,w", "l,l", "l,w"]


def test_the_first_phase_improves_the_data_and_the_second_the_policys_own_samples(home: Home) -> None:
    pairs = {row["id"]: row for row in of(home, t.PIT_FILTERED_DATASET).iter_rows(named=True)}
    own = {row["id"]: row for row in of(home, t.PIT_POLICY_REFERENCES).iter_rows(named=True)}
    for row in of(home, t.PIT_CURRICULUM_ROLLOUTS).iter_rows(named=True):
        (reference,) = parents(row, "reference")
        pair = pairs[reference]
        assert row["prompt"] in [
            better_asked(PROMPTS, pair["question"], pair[which]) for which in ("chosen", "rejected")
        ]
    for row in of(home, t.PIT_ROLLOUTS).iter_rows(named=True):
        (reference,) = parents(row, "reference")
        sample = own[reference]
        question = pairs[sample["example_id"]]["question"]
        assert row["prompt"] == better_asked(PROMPTS, question, sample["text"])
        assert parents(row, "prompt") == [sample["prompt_id"]]
    writer = home.lake.manifest(t.PIT_POLICY_REFERENCES.name, partition_of("taught", 0)).activity.model_id
    assert writer == one(home, t.PIT_CURRICULUM_CHECKPOINT)["model_id"]


def test_references_can_be_drawn_again(home: Home) -> None:
    manifest = home.lake.manifest(t.PIT_POLICY_REFERENCES.name, partition_of("taught", 0))
    parameters = drawn_with(manifest.activity)
    shown = home.lake.read_ungated(manifest).head(8)
    folder = home.lake.folder_at(manifest.activity.about["model_path"])
    model = open_language_model(folder, engine="transformers", device="cpu")
    drawn = model.generate(
        shown["prompt_token_ids"].to_list(), [[seed] for seed in shown["seed"]], parameters
    )
    model.close()
    assert [path.token_ids for (path,) in drawn] == shown["token_ids"].to_list()


def test_each_round_improves_the_one_before(home: Home) -> None:
    rounds = of(home, t.PIT_IMPROVEMENT_ROUNDS)
    all_of_them = rounds.filter(pl.col("way").is_in(["original", "pit", "untaught"]))
    made = all_of_them.group_by("way", "round").len().sort("way", "round").rows()
    assert made == [
        (way, number, 40)
        for way, number in (
            ("original", 0),
            ("pit", 1),
            ("pit", 2),
            ("untaught", 1),
            ("untaught", 2),
        )
    ]
    by_id = {row["id"]: row for row in rounds.iter_rows(named=True)}
    challenger = one(home, t.PIT_CHECKPOINT)["model_id"]
    for row in rounds.filter(pl.col("round") > 0).iter_rows(named=True):
        (improved,) = parents(row, "improvement_of")
        before = by_id[improved]
        assert (row["improves_id"], row["round"]) == (improved, before["round"] + 1)
        assert before["way"] == ("original" if row["round"] == 1 else row["way"])
        assert (row["model_id"] == challenger) == (row["way"] == "pit")
        if row["way"] in ("self_refine", "reflexion"):
            assert before["text"].strip() in row["prompt"] and "Feedback:" in row["prompt"]
            continue
        assert row["prompt"] == better_asked(PROMPTS, row["question"], before["text"])
        if row["text"].strip() == before["text"].strip():
            assert row["gap_reward"] == pytest.approx(row["tie_reward"], abs=1e-4)


def test_contests_are_between_recorded_responses_and_every_judge_decides_them(home: Home) -> None:
    rounds, met = of(home, t.PIT_IMPROVEMENT_ROUNDS), of(home, t.PIT_WIN_RATES)
    by_id = {row["id"]: row for row in rounds.iter_rows(named=True)}
    assert met.group_by("first", "second", "judge").len()["len"].to_list() == [40] * (len(CONTESTS) * 3)
    judges = {row["judge"]: {*parents(row, "judged_by")} for row in met.iter_rows(named=True)}
    itself = {rounds.filter(way="original")["model_id"][0]}
    assert judges == {"ground truth": set(), "the model itself": itself, str(DIALOGUE_MODEL): itself}
    for row in met.iter_rows(named=True):
        first = by_id[row["first_id"]]
        assert (first["question"], first["text"]) == (row["question"], row["first_text"])
        assert {*parents(row, "compared")} == {row["first_id"], row["second_id"]} - {None}
        assert (row["second_id"] is None) == (row["second"] == "chosen")
    table = {(one["first"], one["second"], one["judge"]): one for one in win_rates(met)}
    lost = table["original", "chosen", "ground truth"]
    assert lost["losses"] > lost["wins"], "what people chose is better than what the base model says"


def test_the_exam_judges_the_rounds_of_either_model(home: Home) -> None:
    answers, rounds = of(home, t.PIT_EVALUATION), of(home, t.PIT_IMPROVEMENT_ROUNDS)
    ways = {"champion": "untaught", "challenger": "pit"}
    for role, way in ways.items():
        for number in (1, 2):
            judged = answers.filter(role=role, mode=f"improved_{number}").select("source_line", "text")
            made = rounds.filter(way=way, round=number).select("source_line", "text")
            assert judged.sort("source_line").rows() == made.sort("source_line").rows()
    originals = rounds.filter(way="original").select("source_line", "text")
    greedy = answers.filter(role="champion", mode="greedy").select("source_line", "text")
    assert greedy.sort("source_line").rows() == originals.sort("source_line").rows()
    decision = one(home, registry.table("pit/promotion"))
    right = answers.filter(role="challenger", mode="improved_1")["correct"]
    assert decision["challenger_accuracy"] == pytest.approx(right.sum() / len(right))


def test_only_the_exam_reads_the_truth(home: Home) -> None:
    """The stage of the rounds reads what is held out, but not its truth, nor the module that judges by it."""
    told = {column for schema in t.TABLES for column in schema.content if column in ("wanted", "unwanted")}
    assert not told
    folder = ROOT / "selfimprove_dagster" / "methods" / "pit"
    rounds = {"improvement_rounds", "improve_part", "_parts"}
    looked_at = 0
    for name in ("improvement_stages.py", "stages.py", "improving.py"):
        for part in ast.parse((folder / name).read_text()).body:
            # Beside the rounds, this module holds the contests, in which the truth is one of the judges.
            if name == "improvement_stages.py" and getattr(part, "name", None) not in rounds:
                continue
            looked_at += isinstance(part, ast.FunctionDef)
            names = {node.attr for node in ast.walk(part) if isinstance(node, ast.Attribute)}
            assert not names & {"wanted", "unwanted", "answer", "judge"}, (name, ast.unparse(part)[:80])
    assert looked_at > 10
    trained = [schema.name for schema in t.TABLES if schema.name.split("/")[1] in ("rollouts", "gap_pairs")]
    for table in trained:
        manifest = home.lake.manifest(table, partition_of("taught", 0))
        made = {one.activity.id: one.table for one in home.lake.manifests()}
        read = {made[source] for source in manifest.activity.inputs}
        assert not read & {"pit/evaluation", "pit/improvement_rounds"}


def test_an_example_is_explained_by_the_pair_and_where_that_came_from(home: Home) -> None:
    example = of(home, t.PIT_IMPROVER_DATASET).row(0, named=True)
    told = explain(home.lake, example["id"])
    said = [step.reason for step in told.steps]
    assert told.in_dataset
    assert any("taken from the dataset of people-000" in reason for reason in said)
    assert any(reason.startswith("learnt after the worse response") for reason in said)
    assert "the experiment people chose" in told.verdict
    assert "was trained on descendants of it" in told.verdict or any(
        "was trained on descendants of it" in reason for reason in said
    )
    tables = {ancestor.table for _, ancestor, _ in trace(home.lake, example["id"]).unfolded()}
    assert {"pit/seed_pool", "rlhf/filtered_dataset", "rlhf/seed_pool", "seeds/comparisons"} <= tables


def test_what_is_revoked_in_the_other_experiment_falls_here_too(home: Home) -> None:
    seed = rows(home, registry.table("rlhf/filtered_dataset"), "people")["id"][0]
    fallen = plan(home.lake, "record", seed, None, "a tester", "a mistake")
    assert {"pit/filtered_dataset", "pit/gap_pairs", "pit/improver_dataset"} <= {*fallen.counts["table"]}
    assert one(home, t.PIT_CHECKPOINT)["model_id"] in fallen.tainted["taught"]


def test_no_id_depends_on_where_things_lie(home: Home) -> None:
    """Activities hold hashes of files and models; only what an experiment calls a judge is its own word."""
    for manifest in home.lake.manifests():
        parameters = dict(manifest.activity.parameters)
        if settings := parameters.pop("win_rates", None):
            parameters["win_rates"] = {name: each for name, each in settings.items() if name != "judges"}
        assert not [text for text in _strings(parameters) if Path(text).is_absolute()], manifest.table


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for each in value.values() for text in _strings(each))
    elif isinstance(value, (list, tuple)):
        yield from (text for each in value for text in _strings(each))


def test_the_lake_holds_what_it_says(home: Home) -> None:
    report = verify(home.lake)
    assert not report.findings and report.rows > 0


# ---- checks ------------------------------------------------------------------------------------------------


def _gaps(**means: float) -> pl.Expr:
    """Gaps by the two kinds that they compare, each sure to a tenth and right on all of ten pairs."""
    order = [
        {
            "first": pair[0],
            "second": pair[1],
            "mean": mean,
            "low": mean - 0.1,
            "high": mean + 0.1,
            "right": 10,
            "pairs": 10,
        }
        for pair, mean in zip((*GAP_TERMS, ("w,w", "l,l")), means.values(), strict=True)
    ]
    return pl.lit(pl.Series([order], dtype=pl.List(t.ORDERED))).alias("gap_order")


SOUND = {"wl_ww": 1.0, "wl_ll": 1.0, "wl_lw": 2.0, "ww_lw": 1.0, "ll_lw": 1.0, "ww_ll": 0.0}


@pytest.mark.parametrize(
    ("schema", "check", "change", "passes"),
    [
        (t.PIT_GAP_REWARD_MODEL, "gap_ordered", _gaps(**SOUND), True),
        (t.PIT_GAP_REWARD_MODEL, "order_kept", _gaps(**SOUND), True),
        (t.PIT_GAP_REWARD_MODEL, "gap_ordered", _gaps(**{**SOUND, "wl_lw": 0.05}), False),
        (t.PIT_GAP_REWARD_MODEL, "order_kept", _gaps(**{**SOUND, "ll_lw": -0.5}), False),
        (t.PIT_GAP_REWARD_MODEL, "order_kept", _gaps(**{**SOUND, "ww_ll": 0.7}), False),
        (t.PIT_GAP_REWARD_MODEL, "held_out_loss", pl.lit(3.4).alias("held_out_loss"), True),
        (t.PIT_GAP_REWARD_MODEL, "held_out_loss", pl.lit(3.5).alias("held_out_loss"), False),
        (t.PIT_GAP_PAIRS, "five_a_pair", pl.lit("w,l").alias("first_kind"), False),
        (t.PIT_WIN_RATES, "outcomes_follow", pl.lit("win").alias("outcome"), False),
        (t.PIT_IMPROVEMENT_ROUNDS, "rounds_complete", pl.lit("original").alias("way"), False),
        (t.PIT_IMPROVEMENT_ROUNDS, "rounds_complete", pl.lit("").alias("text"), False),
        (t.PIT_IMPROVEMENT_ROUNDS, "tells_rounds_apart", pl.col("tie_reward").alias("gap_reward"), False),
    ],
)
def test_checks_fail_exactly_where_a_fault_was_planted(
    home: Home, tmp_path: Path, schema: Table, check: str, change: pl.Expr, passes: bool
) -> None:
    shutil.copytree(home.lake.root, tmp_path / "lake")
    lake = Lake(tmp_path / "lake")
    manifest = lake.manifest(schema.name, partition_of("taught", 0))
    lake.write(schema, manifest.activity, lake.read_ungated(manifest).with_columns(change))
    results = run_suite(schema.name, lake, home.experiment("taught"), 0, only=[check])
    assert [one.passed for one in results if one.name == check] == [passes]


def test_every_term_and_round_is_there(home: Home) -> None:
    for schema in (t.PIT_GAP_PAIRS, t.PIT_IMPROVEMENT_ROUNDS, t.PIT_WIN_RATES):
        for result in run_suite(schema.name, home.lake, home.experiment("taught"), 0):
            assert result.passed or not result.blocking, result.reason


def test_a_model_that_orders_no_gaps_stops_the_policy_unless_it_may_go_on(home: Home) -> None:
    experiment, table = home.experiment("taught"), t.PIT_GAP_REWARD_MODEL.name
    strict = experiment.model_copy(update={"gap_checks": GapChecksSection()})
    for settled, blocking in ((strict, True), (experiment, False)):
        results = run_suite(table, home.lake, settled, 0, only=["gap_ordered"])
        assert [one.blocking for one in results if one.name == "gap_ordered"] == [blocking]


@pytest.mark.parametrize("page", ["", "/0", "/0/examples", "/0/rejected", "/0/rollouts"])
def test_pages_tell_of_pit(home: Home, page: str) -> None:
    answer = client(home).get(f"/experiments/taught{page}")
    assert answer.status_code == 200
    if page == "/0":
        assert "Improvement over rounds" in answer.text
        assert "comparisons of gaps, five per pair" in answer.text


def test_records_of_every_stage_have_a_page(home: Home) -> None:
    for schema in t.TABLES:
        record = of(home, schema)["id"][0]
        answer = client(home).get(f"/records/{record}")
        assert answer.status_code == 200, schema.name
