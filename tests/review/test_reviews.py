"""The review queue: what is asked first, what people say by file and command, and where it may go."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.review_lake import HOSTILE, JUDGED, PREFERENCES, add_preferences, add_rollouts, add_votes
from kit.small_lake import demo_home, write_lines
from kit.stage_assets import stage_assets
from typer.testing import CliRunner

from selfimprove_dagster.assets.partitions import add_iterations
from selfimprove_dagster.cli.main import app
from selfimprove_dagster.errors import ReviewError
from selfimprove_dagster.families.dialogues.files import read_comparisons
from selfimprove_dagster.families.dialogues.settings import ComparisonFile
from selfimprove_dagster.families.preferences.reviewing import of_rewards
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lineage.explain import explain
from selfimprove_dagster.lineage.revoke import revoke
from selfimprove_dagster.lineage.walk import Lineage
from selfimprove_dagster.methods.rlaif.reviewing import of_preferences
from selfimprove_dagster.methods.rlaif.tables import RLAIF_REVIEW_QUEUE, RLAIF_SEED_POOL
from selfimprove_dagster.quality.suites import run_suite
from selfimprove_dagster.resources import HomeResource, LanguageModelResource, TrainerResource
from selfimprove_dagster.review.files import export_queue, import_reviews, write_comparisons
from selfimprove_dagster.review.queue import (
    Review,
    find_items,
    labels,
    review_queue,
    review_status,
    store_review,
)
from selfimprove_dagster.review.uncertainty import ITEM, least_certain
from selfimprove_dagster.shared_tables import REVIEW_LABELS

# ---- what is least certain ---------------------------------------------------------------------------

preferences = st.lists(
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.booleans()), min_size=1, max_size=12
).map(
    lambda rows: pl.DataFrame(
        [
            {
                "id": f"pref:{index:02x}",
                "activity_id": "act:0",
                "prompt": "p",
                "first": "yes",
                "second": "no",
                "probability": (as_first + as_second) / 2,
                "as_first": as_first if both else None,
                "as_second": as_second if both else None,
            }
            for index, (as_first, as_second, both) in enumerate(rows)
        ],
        schema_overrides={"as_first": pl.Float64, "as_second": pl.Float64},
    )
)


@given(preferences, st.randoms(), st.integers(0, 14))
def test_the_queue_is_the_same_whatever_the_order_of_the_rows(
    rows: pl.DataFrame, random: Any, count: int
) -> None:
    items = of_preferences(rows)
    order = list(range(len(items)))
    random.shuffle(order)
    queue = least_certain(items, count)
    assert least_certain(items[order], count).equals(queue)
    assert len(queue) == min(count, len(items))
    left = items.join(queue, on="item_id", how="anti")["uncertainty"]
    assert left.is_empty() or queue.is_empty() or left.max() <= queue["uncertainty"].min()  # type: ignore[operator]
    assert items["uncertainty"].is_between(0, 1).all()


@given(preferences)
def test_both_options_are_shown_each_once(rows: pl.DataFrame) -> None:
    for row in least_certain(of_preferences(rows), 100).iter_rows(named=True):
        shown = (row["option_a"], row["option_b"])
        assert shown == (("no", "yes") if row["swapped"] else ("yes", "no"))


def test_either_side_stands_first_about_as_often() -> None:
    items = pl.DataFrame(
        [
            {
                **dict.fromkeys(ITEM),
                "item_id": f"pref:{n:04x}",
                "uncertainty": 0.5,
                "first": "1",
                "second": "2",
            }
            for n in range(1_000)
        ],
        schema=ITEM,
    )
    assert 450 < int(least_certain(items, 1_000)["swapped"].sum()) < 550


def test_a_judge_near_one_half_or_at_odds_with_itself_is_the_least_certain(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    ids = add_preferences(lake)
    queue = review_queue(lake, "judged", 0, 10)
    assert queue["item_id"].to_list() == [ids[1], ids[2], ids[3], ids[0]]
    told = [1 - abs(2 * p - 1) * (1 - abs(first - second)) for p, first, second in PREFERENCES]
    assert queue["uncertainty"].to_list() == pytest.approx([told[1], told[2], told[3], told[0]])
    assert "its two orders are 0.80 apart and contradict each other" in queue["reason"][0]
    assert "gives one response 0.70" in queue["reason"][2], "which one it is, is not given away"


def test_a_narrow_vote_comes_first_and_shows_a_path_to_each_answer(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    narrow, wide, _ = add_votes(lake, ["7", "7", "7", "8", "8"], ["7", "7", "7", "7", "9"], ["5", "5"])
    queue = review_queue(lake, "demo", 0, 10)
    assert queue["item_id"].to_list() == [narrow, wide], "where all paths agree there is nothing to ask"
    assert queue["uncertainty"].to_list() == pytest.approx([0.8, 0.4])
    first = queue.row(0, named=True)
    assert (first["first"], first["second"]) == (
        "So it must be this. The answer is 7.",
        "So it must be this. The answer is 8.",
    )


def test_rewards_that_are_near_each_other_are_asked_and_both_rollouts_are_its_parents(
    tmp_path: Path,
) -> None:
    lake = Lake(tmp_path)
    add_preferences(lake, PREFERENCES[:1])
    prompt = lake.read(RLAIF_SEED_POOL.name, JUDGED)["id"][0]
    written = add_rollouts(lake, prompt, [0.1, 0.3, 0.2])
    queue = review_queue(lake, "judged", 0, 1)
    (item,) = queue.rows(named=True)
    assert item["records"] == [written[1], written[0]] and item["table"] == "rlaif/rollouts"
    assert item["prompt"] == "Tell me about 0 goats.", "as a person asked it"
    assert item["uncertainty"] == pytest.approx(1 - abs(2 / (1 + 2.718281828**-0.2) - 1))
    store_review(lake, "judged", Review(item["item_id"], "a", "Ada", "2025-01-01T00:00:00.000000+00:00"))
    (label,) = lake.manifests(REVIEW_LABELS.name)
    assert {edge["id"] for edge in lake.read_ungated(label)["parents"][0]} == {written[0], written[1]}


def test_only_the_last_step_of_a_prompt_is_asked_about() -> None:
    rows = [
        {"id": f"roll:{n}", "activity_id": "act:0", "prompt_id": "p", "prompt": "?", "step": n // 2}
        | {"text": str(n), "reward": float(n)}
        for n in range(4)
    ]
    rows.append({**rows[-1], "id": "roll:4", "text": " ", "reward": -1.0})
    assert of_rewards(pl.DataFrame(rows))["records"].to_list() == [["roll:3", "roll:2"]], "not the empty one"


@pytest.mark.parametrize("ids", ["0123456789", "9876543210"])
def test_what_is_asked_does_not_depend_on_ids(ids: str) -> None:
    rollouts = [
        {"id": f"roll:{id}", "activity_id": "act:0", "prompt_id": "p", "prompt": "?", "step": 1}
        | {"text": f"said {n}", "reward": float(n % 2)}
        for n, id in enumerate(ids)
    ]
    (item,) = of_rewards(pl.DataFrame(rollouts)).rows(named=True)
    assert (item["first"], item["second"]) == ("said 3", "said 4")
    items = [
        {**dict.fromkeys(ITEM), "item_id": f"pref:{id}", "uncertainty": 0.5, "prompt": f"{n}?"}
        for n, id in enumerate(ids)
    ]
    asked = least_certain(pl.DataFrame(items, schema=ITEM), 3)["prompt"].to_list()
    assert asked == ["1?", "2?", "0?"]


# ---- files -------------------------------------------------------------------------------------------


def fill(folder: Path, answers: list[str], **more: str) -> Path:
    """The exported JSON Lines with labels filled in."""
    rows = [json.loads(line) for line in (folder / "review.jsonl").read_text().splitlines()]
    for row, label in zip(rows, answers, strict=False):
        row |= {"label": label, **more}
    return write_lines(folder / "filled.jsonl", rows)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path / "lake")
    add_preferences(lake)
    return lake


def test_what_a_person_says_of_the_options_comes_back_in_terms_of_the_record(
    lake: Lake, tmp_path: Path
) -> None:
    export_queue(lake, "judged", tmp_path / "out")
    done = import_reviews(lake, "judged", fill(tmp_path / "out", ["a", "B", "both", "neither"]), "Ada")
    assert (done.accepted, done.known, done.open, done.rejected) == (4, 0, 0, [])
    queue = {row["item_id"]: row for row in review_queue(lake, "judged", 0).iter_rows(named=True)}
    said = labels(lake, "judged").rows(named=True)
    for row, preferred in zip(said, ("option_a", "option_b"), strict=False):
        assert row["label"] in ("first", "second") and row[row["label"]] == queue[row["item_id"]][preferred]
        assert (row["first"], row["second"]) == tuple(queue[row["item_id"]][s] for s in ("first", "second"))
    assert [row["label"] for row in said[2:]] == ["both", "neither"]
    assert {row["by"] for row in said} == {"Ada"} and all(row["at"].endswith("+00:00") for row in said)


def test_the_csv_is_filled_in_a_spreadsheet_and_its_hostile_text_is_no_formula(
    lake: Lake, tmp_path: Path
) -> None:
    assert export_queue(lake, "judged", tmp_path / "out") == 4
    path = tmp_path / "out" / "review.csv"
    text = path.read_text()
    assert "\x1b" not in text and "‮" not in text
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert not any(str(value).startswith(("=", "+", "-", "@")) for row in rows for value in row.values())
    assert any("'=HYPERLINK(1)<script>" in str(value) for row in rows for value in row.values())
    rows[0]["label"] = "a"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    done = import_reviews(lake, "judged", path, "Ada")
    assert (done.accepted, done.open, done.rejected) == (1, 3, [])
    item = rows[2]["item_id"]
    assert HOSTILE in find_items(lake, "judged", [item])[item].values(), "the lake has it as it was"


def test_bad_lines_are_listed_and_the_others_stored(lake: Lake, tmp_path: Path) -> None:
    export_queue(lake, "judged", tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / "review.jsonl").read_text().splitlines()]
    good, other = rows[0]["item_id"], rows[1]["item_id"]
    path = write_lines(
        tmp_path / "labels.jsonl",
        [
            {"item_id": good, "label": "a"},
            {"item_id": "pref:00", "label": "a"},
            {"item_id": good, "label": "perhaps"},
            "{no json",
            {"label": "a"},
            {"item_id": other, "label": "b", "at": "yesterday"},
            {"item_id": other, "label": "b", "by": "Bo", "at": "2025-01-31T12:00:00+02:00", "note": "Ha."},
            ["a list"],
        ],
    )
    done = import_reviews(lake, "judged", path, "Ada")
    assert done.accepted == 2
    assert [(bad.source_file, bad.source_line) for bad in done.rejected] == [
        ("labels.jsonl", line) for line in (2, 3, 4, 5, 6, 8)
    ]
    reasons = [bad.reason for bad in done.rejected]
    assert "no item 'pref:00'" in reasons[0] and "'perhaps' is not one of a, b, both, neither" in reasons[1]
    said = labels(lake, "judged").rows(named=True)
    assert (said[0]["by"], said[0]["at"], said[0]["note"]) == (
        "Bo",
        "2025-01-31T10:00:00.000000+00:00",
        "Ha.",
    )

    nobody = import_reviews(
        lake, "judged", write_lines(tmp_path / "n.jsonl", [{"item_id": good, "label": "a"}])
    )
    assert nobody.accepted == 0 and "give the name of the reviewer" in nobody.rejected[0].reason


def test_the_same_file_twice_is_stored_once_and_lines_that_were_bad_can_be_stored_later(
    tmp_path: Path,
) -> None:
    lake = Lake(tmp_path / "lake")
    (early,) = add_votes(lake, ["1", "2"])
    late = add_votes(Lake(tmp_path / "other"), ["1", "1", "2"], iteration=1)[0]
    path = write_lines(tmp_path / "l.jsonl", [{"item_id": id, "label": "a"} for id in (early, late)])
    assert [import_reviews(lake, "demo", path, "Ada").accepted for _ in range(2)] == [1, 0]
    add_votes(lake, ["1", "1", "2"], iteration=1)
    again = import_reviews(lake, "demo", path, "Ada")
    assert (again.accepted, again.known, again.rejected) == (1, 1, [])
    assert len(labels(lake, "demo")) == 2
    assert import_reviews(lake, "demo", path, "Bo").accepted == 2, "another person's labels"


def test_a_later_label_of_the_same_person_counts_and_the_earlier_stays(lake: Lake) -> None:
    item = review_queue(lake, "judged", 0)["item_id"][0]
    for at, label in (("2025-01-02", "neither"), ("2025-01-01", "both")):
        store_review(lake, "judged", Review(item, label, "Ada", f"{at}T00:00:00.000000+00:00"))
    store_review(lake, "judged", Review(item, "both", "Bo", "2024-01-01T00:00:00.000000+00:00"))
    said = labels(lake, "judged")
    assert dict(said.select("by", "label").iter_rows()) == {"Ada": "neither", "Bo": "both"}
    assert sum(manifest.rows for manifest in lake.manifests(REVIEW_LABELS.name)) == 3


@pytest.mark.parametrize(
    "review",
    [
        Review("pref:0", "a", "Ada", "t"),
        Review("ITEM", "c", "Ada", "t"),
        Review("ITEM", "a", " ", "t"),
        Review("ITEM", "a", "A\x1b[2Jda", "t"),
        Review("ITEM", "a", "Ada", "t", "x" * 5_000),
    ],
)
def test_what_cannot_be_taken_is_refused(lake: Lake, review: Review) -> None:
    item = review_queue(lake, "judged", 0)["item_id"][0]
    taken = Review(item if review.item_id == "ITEM" else review.item_id, *list(vars(review).values())[1:])
    with pytest.raises(ReviewError):
        store_review(lake, "judged", taken)
    assert not lake.manifests(REVIEW_LABELS.name)


def test_nothing_that_a_person_filled_in_is_written_over(lake: Lake, tmp_path: Path) -> None:
    export_queue(lake, "judged", tmp_path / "out")
    with pytest.raises(ReviewError, match="choose another folder"):
        export_queue(lake, "judged", tmp_path / "out")


def test_what_is_reviewed_makes_room_for_the_next(lake: Lake, tmp_path: Path) -> None:
    order = review_queue(lake, "judged", 0)["item_id"].to_list()
    export_queue(lake, "judged", tmp_path / "one", count=2)
    import_reviews(lake, "judged", fill(tmp_path / "one", ["a", "both"]), "Ada")
    export_queue(lake, "judged", tmp_path / "two", count=2)
    rows = (tmp_path / "two" / "review.jsonl").read_text().splitlines()
    assert [json.loads(row)["item_id"] for row in rows] == order[2:]


# ---- what follows ------------------------------------------------------------------------------------


def test_the_status_says_who_reviewed_and_how_far_people_agree_with_the_judge(lake: Lake) -> None:
    rows = review_queue(lake, "judged", 0).rows(named=True)
    for row in rows[1:]:  # the first of the queue stands at one half: nobody can agree with that
        better = "first" if row["probability"] > 0.5 else "second"
        agreeing = "a" if row["option_a"] == row[better] else "b"
        label = agreeing if row is not rows[3] else {"a": "b", "b": "a"}[agreeing]
        store_review(lake, "judged", Review(row["item_id"], label, "Ada", "2025-01-01"))
    store_review(lake, "judged", Review(rows[1]["item_id"], "both", "Bo", "2025-01-01"))
    found = review_status(lake, "judged")
    assert (found.queued, found.waiting, found.reviewed, found.by) == (4, 1, 3, [("Ada", 3), ("Bo", 1)])
    (agreement,) = found.agreement.values()
    assert (agreement.correct, agreement.total) == (2, 3) and found.option_a.total == 3


def test_comparisons_are_what_an_experiment_of_rlhf_reads(lake: Lake, tmp_path: Path) -> None:
    export_queue(lake, "judged", tmp_path / "out")
    path = tmp_path / "comparisons.jsonl"
    with pytest.raises(ReviewError, match="no labels with a preference"):
        write_comparisons(lake, "judged", path)
    import_reviews(lake, "judged", fill(tmp_path / "out", ["a", "b", "both", "a"]), "Ada")
    assert write_comparisons(lake, "judged", path) == 3
    seeds, rejected = read_comparisons(ComparisonFile(file=str(path)))
    assert rejected == [] and len(seeds) == 3
    said = {row["prompt"]: row for row in labels(lake, "judged").iter_rows(named=True)}
    for seed in seeds:
        row = said[seed.prompt]
        assert seed.chosen == row[row["label"]].strip()
    with pytest.raises(ReviewError, match="exists"):
        write_comparisons(lake, "judged", path)


def test_no_stage_reads_what_people_said() -> None:
    """Labels reach training by a file that a person names, and by nothing else."""
    root = Path(__file__).parents[2]
    readers = {"registry.py", "shared_tables.py"}
    library = root / "selfimprove_dagster"
    for path in [*(root / "assets").glob("*.py"), *library.rglob("*.py")]:
        if path.name not in readers and path.parent.name not in ("lineage", "review"):
            assert "REVIEW_LABELS" not in path.read_text(), path


def test_a_label_can_be_traced_and_falls_when_its_record_is_revoked(lake: Lake) -> None:
    item = review_queue(lake, "judged", 0)["item_id"][0]
    manifest = store_review(lake, "judged", Review(item, "a", "Ada", "2025-01-01"))
    label = lake.read_ungated(manifest)["id"][0]
    ancestors = set(Lineage(lake).ancestors([label]).nodes["id"])
    responses = {one for one in ancestors if one.startswith("gen:")}
    assert item in ancestors and len(responses) == 2
    assert "Ada at 2025-01-01: A is better" in explain(lake, label).verdict
    revoke(lake, "record", responses.pop(), None, by="Eve", why="asked to")
    assert labels(lake, "judged").is_empty()
    with pytest.raises(ReviewError, match="no item"):
        store_review(lake, "judged", Review(item, "a", "Ada", "2025-01-02"))


# ---- the command line --------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    home = demo_home(tmp_path)
    monkeypatch.setenv("SELFIMPROVE_HOME", str(home.root))
    monkeypatch.setenv("SELFIMPROVE_EXPERIMENTS", str(home.experiments))
    return home


def test_a_person_exports_labels_imports_and_writes_comparisons(home: Home, tmp_path: Path) -> None:
    def selfimprove(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["review", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    add_votes(home.lake, ["7", "7", "8"], ["1", "1", "1", "2"])
    assert "1 items written" in selfimprove("export", "demo", str(tmp_path / "out"), "--count", "1")
    filled = fill(tmp_path / "out", ["a"])
    filled.write_text(filled.read_text() + json.dumps({"item_id": "\x1b[31mvote:0", "label": "a"}) + "\n")
    said = selfimprove("import", "demo", str(filled), "--by", "Ada")
    assert "1 labels imported" in said and "filled.jsonl, line 2: experiment demo has no item" in said
    assert "\x1b" not in said
    status = selfimprove("status", "demo")
    assert "1 of 2 items are waiting" in status and "by Ada: 1" in status
    assert "agreement with lmsi/voted_answers: " in status and "of 1 labels" in status
    assert "1 comparisons" in selfimprove("comparisons", "demo", str(tmp_path / "c.jsonl"))


def test_where_there_is_nothing_to_review_it_says_what_to_do(home: Home) -> None:
    done = CliRunner().invoke(app, ["review", "status", "demo"])
    assert isinstance(done.exception, ReviewError) and "lmsi/voted_answers" in str(done.exception)


# ---- the asset ---------------------------------------------------------------------------------------


@pytest.fixture
def judged(home: Home) -> Home:
    """The experiment `judged`, with a queue of two."""
    add_preferences(home.lake)
    (home.experiments / "judged.yaml").write_text(
        json.dumps(
            {
                "method": "rlaif",
                "model": {"path": "embedded"},
                "seeds": {"file": "prompts.jsonl"},
                "evaluation": {"file": "heldout.jsonl"},
                "review": {"count": 2},
            }
        )
    )
    return home


def test_the_queue_is_an_asset_whose_rows_descend_from_the_preferences(judged: Home) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        add_iterations(instance, "rlaif", ["judged-000"])
        done = dg.materialize(
            stage_assets("rlaif", "review_queue"),
            partition_key="judged-000",
            instance=instance,
            resources={
                "home": HomeResource(),
                "language_model": LanguageModelResource(),
                "trainer": TrainerResource(),
            },
        )
    assert done.success
    lake = judged.lake
    rows = lake.read(RLAIF_REVIEW_QUEUE.name, JUDGED)
    assert rows["item_id"].to_list() == review_queue(lake, "judged", 0)["item_id"].to_list()
    assert len(rows) == 2 and rows["parents"][0].to_list() == [{"id": rows["item_id"][0], "role": "reviewed"}]
    results = run_suite(RLAIF_REVIEW_QUEUE.name, lake, judged.experiment("judged"), 0)
    assert all(result.passed for result in results), [result.reason for result in results]
    assert "uncertain by 1.00: the judge gives one response 0.50" in explain(lake, rows["id"][0]).verdict
