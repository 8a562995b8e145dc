"""Generation against discrimination from end to end, and the gate before a stage that trusts a judge."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
import yaml
from kit.homes import entered, make_home
from kit.judging_home import EXPERIMENTS
from kit.models import ByteModel
from kit.stage_assets import stage_assets
from starlette.testclient import TestClient

from selfimprove_dagster import registry
from selfimprove_dagster.assets.partitions import add_iterations
from selfimprove_dagster.drawing import drawn_with
from selfimprove_dagster.embedded import DIALOGUE_EVALUATION, DIALOGUE_MODEL, EVALUATION
from selfimprove_dagster.errors import ExperimentError, JudgeNotTrusted, RevocationError, SeedFileError
from selfimprove_dagster.explorer.pages import create_app
from selfimprove_dagster.families.dialogues.constitution import HOUSEHOLD, load_constitution
from selfimprove_dagster.families.judging.gate import MeasuredGap, decide
from selfimprove_dagster.families.judging.settings import SelfKnowledgeSection
from selfimprove_dagster.families.judging.trust import gate, measured_gaps
from selfimprove_dagster.home.exams import open_exam
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.lake.records import Activity, Draft, build_records
from selfimprove_dagster.language_model import open_language_model
from selfimprove_dagster.language_model.base import Generation
from selfimprove_dagster.language_model.prompting import TEXT
from selfimprove_dagster.language_model.weights import weights_hash
from selfimprove_dagster.lineage.explain import explain
from selfimprove_dagster.lineage.revoke import revoke
from selfimprove_dagster.lineage.verify import verify
from selfimprove_dagster.lineage.walk import Lineage
from selfimprove_dagster.methods.rlaif.tables import RLAIF_COMPARISONS
from selfimprove_dagster.methods.self_knowledge import tables as t
from selfimprove_dagster.methods.self_knowledge.choosing import Choice, pick_all
from selfimprove_dagster.methods.self_knowledge.exam import is_right, recorded_task, truth
from selfimprove_dagster.methods.self_knowledge.self_knowledge import measure_gap
from selfimprove_dagster.methods.self_knowledge.settings import DiscriminationSection, KnowledgeTask
from selfimprove_dagster.prompts import load_prompts
from selfimprove_dagster.quality.suites import checks_of
from selfimprove_dagster.resources.home import HomeResource
from selfimprove_dagster.resources.language_model import LanguageModelResource
from selfimprove_dagster.resources.trainer import TrainerResource
from selfimprove_dagster.runs import run_iteration

KNOWS: dict[str, Any] = {
    "method": "self_knowledge",
    "model": {"path": "embedded"},
    "candidates": {"count": 3, "max_tokens": 32, "shard": 16},
    "discrimination": {"shuffles": 3, "principles": 2, "shard": 16},
    "tasks": [
        {"name": "dialogues", "kind": "dialogues", "file": "embedded", "rows": "0:40"},
        {"name": "sums", "kind": "questions", "file": "embedded", "rows": "0:6"},
    ],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    experiments = {"knows": KNOWS, "ai": EXPERIMENTS["ai"]}.items()
    folder = tmp_path_factory.mktemp("self_knowledge")
    home = make_home(folder, *({**settings, "name": name} for name, settings in experiments))
    with entered(home):
        assert run_iteration(home, home.experiment("knows"), 0) == []
        yield home


def rows(home: Home, schema: Any) -> pl.DataFrame:
    return home.lake.read_ungated(home.lake.manifest(schema.name, partition_of("knows", 0)))


# ---- the stages ----------------------------------------------------------------------------------------


def test_the_questions_hold_nothing_that_tells_right_from_wrong(home: Home) -> None:
    asked = rows(home, t.SK_QUESTIONS)
    assert asked.group_by("task").len().sort("task").rows() == [("dialogues", 40), ("sums", 6)]
    assert not {"answer", "wanted", "unwanted"} & {*asked.columns}


def test_the_generation_score_is_the_share_of_right_candidates(home: Home) -> None:
    drawn, scored = rows(home, t.SK_CANDIDATES), rows(home, t.SK_GENERATION_SCORE)
    assert drawn.group_by("question_id").len()["len"].unique().to_list() == [3]
    for row in scored.iter_rows(named=True):
        assert row["score"] == pytest.approx(sum(row["right"]) / 3)
        assert {*row["candidate_ids"]} == {*drawn.filter(question_id=row["question_id"])["id"]}


def test_candidates_can_be_drawn_again(home: Home) -> None:
    manifest = home.lake.manifest(t.SK_CANDIDATES.name, partition_of("knows", 0))
    shown = home.lake.read_ungated(manifest).head(8)
    folder = home.lake.folder_at(manifest.activity.about["model_path"])
    model = open_language_model(folder, engine="transformers", device="cpu")
    parameters = drawn_with(manifest.activity)
    drawn = model.generate(
        shown["prompt_token_ids"].to_list(), [[seed] for seed in shown["seed"]], parameters
    )
    model.close()
    assert [path.token_ids for (path,) in drawn] == shown["token_ids"].to_list()


def test_each_pick_is_made_over_all_orders_and_shown_as_recorded(home: Home) -> None:
    texts = dict(rows(home, t.SK_CANDIDATES).select("id", "text").iter_rows())
    right = {
        id: correct
        for row in rows(home, t.SK_GENERATION_SCORE).iter_rows(named=True)
        for id, correct in zip(row["candidate_ids"], row["right"], strict=True)
    }
    picks = rows(home, t.SK_DISCRIMINATION_SCORE)
    assert picks.group_by("task", "by").len().sort("task", "by")["len"].to_list() == [40, 40, 6, 6]
    for row in picks.iter_rows(named=True):
        assert len(row["orders"]) == (6 if row["task"] == "dialogues" else 3)
        for order, prompt in zip(row["orders"], row["prompts"], strict=True):
            said = [texts[row["candidate_ids"][candidate]].strip() for candidate in order]
            assert "\n(A) {}\n(B) {}\n(C) {}\n".format(*said) in prompt
        assert row["right"] == (None if row["picked_id"] is None else right[row["picked_id"]])


def test_the_gap_is_that_of_the_recorded_scores(home: Home) -> None:
    gaps = rows(home, t.SK_DISCRIMINATION_GAP)
    picks, scored = rows(home, t.SK_DISCRIMINATION_SCORE), rows(home, t.SK_GENERATION_SCORE)
    assert gaps.select("task", "by").rows() == [
        ("dialogues", "probability"),
        ("dialogues", "text"),
        ("sums", "probability"),
        ("sums", "text"),
    ]
    for row in gaps.iter_rows(named=True):
        picked = picks.filter(task=row["task"], by=row["by"])["score"].mean()
        drawn = scored.filter(task=row["task"])["score"].mean()
        assert (row["discrimination"], row["generation"]) == pytest.approx((picked, drawn))
        assert row["gap_low"] < row["gap"] < row["gap_high"]
        assert row["gap"] == pytest.approx(picked - drawn)
        assert row["discrimination"] <= row["best"]
        assert row["model_id"] == weights_hash(Path(DIALOGUE_MODEL))


def test_the_lake_holds_what_it_says_and_every_blocking_check_passed(home: Home) -> None:
    report = verify(home.lake)
    assert not report.findings and report.rows > 0
    for schema in t.TABLES:
        checks = home.lake.checks(home.lake.manifest(schema.name, partition_of("knows", 0)))
        assert {check.name for check in checks} == {check.name for check in checks_of(schema)}
        assert all(check.passed or not check.blocking for check in checks)


def test_a_pick_can_be_traced_and_explained(home: Home) -> None:
    pick = rows(home, t.SK_DISCRIMINATION_SCORE).row(0, named=True)
    up = Lineage(home.lake).ancestors([pick["id"]]).nodes
    assert {*up["table_name"].drop_nulls()} == {schema.name for schema in t.TABLES[:4]}
    for schema in t.TABLES:
        said = explain(home.lake, rows(home, schema)["id"][0])
        assert said.verdict.startswith("it measures whether a model can judge itself")
    gap = rows(home, t.SK_DISCRIMINATION_GAP).row(0, named=True)
    assert gap["statement"] in explain(home.lake, gap["id"]).verdict


def test_the_pages_show_gaps_and_picks(home: Home) -> None:
    client = TestClient(create_app(home, "http://127.0.0.1:3000"), base_url="http://127.0.0.1:3001")
    gap = rows(home, t.SK_DISCRIMINATION_GAP).row(0, named=True)
    for page in ("/experiments/knows", "/experiments/knows/0", f"/records/{gap['id']}"):
        shown = client.get(page)
        assert shown.status_code == 200 and "discrimination gap" in shown.text, page
    picks = client.get("/experiments/knows/0/examples?task=sums").text
    assert "12 picks" in picks
    wrong = rows(home, t.SK_DISCRIMINATION_SCORE).filter(pl.col("right").ne_missing(True))
    assert f"{len(wrong)} picks" in client.get("/experiments/knows/0/rejected").text
    for schema in t.TABLES:
        assert client.get(f"/records/{rows(home, schema)['id'][0]}").status_code == 200


def test_a_revoked_question_takes_its_candidates_and_picks_but_not_the_measurement(
    home: Home, tmp_path: Path
) -> None:
    lake = Lake(shutil.copytree(home.lake.root, tmp_path / "lake"))
    asked = rows(home, t.SK_QUESTIONS)["id"][0]
    fallen = revoke(lake, "record", asked, "knows", "Ada", "not ours")
    assert dict(fallen.counts.select("table", "rows").iter_rows()) == {
        t.SK_QUESTIONS.name: 1,
        t.SK_CANDIDATES.name: 3,
        t.SK_GENERATION_SCORE.name: 1,
        t.SK_DISCRIMINATION_SCORE.name: 2,
    }
    assert not verify(lake).findings
    gap = rows(home, t.SK_DISCRIMINATION_GAP)["id"][0]
    with pytest.raises(RevocationError, match="whose rows never lead to examples"):
        revoke(lake, "record", gap, "knows", "Ada", "not ours")


def test_a_changed_task_is_not_scored_by_the_truth_of_then(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "sums.jsonl"
    file.write_text('{"question": "What is 2 + 2?", "answer": "4"}\n')
    task = KnowledgeTask(name="sums", kind="questions", file=str(file))
    recorded = [recorded_task(task)]
    (question,) = truth([task], recorded).values()
    assert is_right(question, "The answer is 4.") == (True, True)
    assert is_right(question, "The answer is 5.") == (False, True)
    assert is_right(question, "Well.") == (False, False)
    file.write_text('{"question": "What is 2 + 2?", "answer": "5"}\n')
    with pytest.raises(SeedFileError, match="was changed since its questions were asked"):
        truth([task], recorded)
    file.unlink()
    with pytest.raises(SeedFileError, match="task sums: there is no file"):
        recorded_task(task)


def test_it_has_no_exam_besides(home: Home) -> None:
    with pytest.raises(ExperimentError, match="its own stages are the measurement"):
        open_exam(home, home.experiment("knows"), lambda path: pytest.fail("no model is needed"))


# ---- settings ------------------------------------------------------------------------------------------


def test_the_word_embedded_is_the_file_of_each_kind_of_task(home: Home) -> None:
    tasks = home.experiment("knows").tasks  # type: ignore[attr-defined]
    assert [task.file for task in tasks] == [str(DIALOGUE_EVALUATION), str(EVALUATION)]


def test_the_model_is_that_of_the_experiment_whose_champion_is_measured(home: Home) -> None:
    settings = {name: value for name, value in KNOWS.items() if name != "model"}
    path = home.experiments / "later.yaml"
    path.write_text(yaml.safe_dump({**settings, "of": "ai"}))
    assert home.experiment("later").model == home.experiment("ai").model
    path.write_text(yaml.safe_dump({**settings, "of": "later"}))
    with pytest.raises(ExperimentError, match="later measures another experiment and has no champion"):
        home.experiment("later")
    path.unlink()


def test_a_wrong_field_of_a_task_is_named_with_those_that_it_has(home: Home) -> None:
    path = home.experiments / "wrong.yaml"
    path.write_text(yaml.safe_dump({**KNOWS, "tasks": [{**KNOWS["tasks"][0], "lines": 3}]}))
    with pytest.raises(
        ExperimentError, match=r"tasks\.0\.lines: there is no such field; allowed here: answer"
    ):
        home.experiment("wrong")
    path.unlink()


def test_tasks_must_have_different_names(home: Home) -> None:
    path = home.experiments / "twice.yaml"
    path.write_text(yaml.safe_dump({**KNOWS, "tasks": [KNOWS["tasks"][0]] * 2}))
    with pytest.raises(ExperimentError, match="tasks must have different names; twice: dialogues"):
        home.experiment("twice")
    path.unlink()


# ---- the gate ------------------------------------------------------------------------------------------


class Planted(ByteModel):
    """A model that knows the right answers, `right` by their text, and picks the worse or the better."""

    model_id, engine = "b2:planted", "planted"

    def __init__(self, better: bool) -> None:
        self.better = better

    def _likely(self, context: Sequence[int], options: int) -> list[float]:
        lines = self.decode(context).splitlines()[-1 - options : -1]
        liked = [("right" in line) == self.better for line in lines]
        return [0.9 if one else 0.1 for one in liked]

    def option_probabilities(
        self, contexts: Sequence[Sequence[int]], options: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        found = [self._likely(context, len(options)) for context in contexts]
        return [[each / sum(likely) for each in likely] for likely in found]

    def generate(self, prompts: Sequence[Sequence[int]], *rest: Any) -> list[list[Generation]]:
        found = [self._likely(prompt, 2) for prompt in prompts]
        return [[Generation([], [], " (A)" if a >= b else " (B)", "stop")] for a, b in found]


def choices(count: int) -> list[Choice]:
    """Two candidates each; of every other question one is right, of the others none."""
    return [
        Choice(
            f"ask:{n}", f"gsc:{n}", "sums", "questions", f"question {n}", (f"cand:{n}a", f"cand:{n}b"), *told
        )
        for n in range(count)
        for told in [
            ((f"right {n}", f"wrong {n}"), (True, False)) if n % 2 else (("no", "nor"), (False, False))
        ]
    ]


@pytest.mark.parametrize(("better", "action", "gap"), [(False, "stop", -0.25), (True, "go on", 0.25)])
def test_a_model_that_picks_the_worse_is_stopped(better: bool, action: str, gap: float) -> None:
    asked = choices(200)
    picked = pick_all(
        Planted(better),  # type: ignore[arg-type]
        load_prompts(registry.method("self_knowledge").prompts, TEXT),
        asked,
        load_constitution(HOUSEHOLD),
        DiscriminationSection(shuffles=2),
        (0,),
    )
    for by in ("probability", "text"):
        right = [draft.content["right"] for draft in picked if draft.content["by"] == by]
        found = measure_gap([choice.by_lot for choice in asked], right)
        assert found.gap == pytest.approx(gap)
        told = MeasuredGap("sums", by, found.gap, found.low, found.high, found.questions)
        assert decide([told]).action == action


def plant(
    lake: Lake, low: float, high: float, model_id: str, task: str = "dialogues", by: str = "probability"
) -> None:
    """A measured gap, newer than all in the lake."""
    number = len(lake.manifests(t.SK_DISCRIMINATION_GAP.name, "planted"))
    activity = Activity(t.SK_DISCRIMINATION_GAP.name, partition_of("planted", number), "1", {}, 0)
    numbers = {"gap": (low + high) / 2, "gap_low": low, "gap_high": high, "generation": 0.5, "best": 0.7}
    draft = Draft(
        content={"task": task, "kind": "dialogues", "by": by, "model_id": model_id},
        measures={
            **numbers,
            "questions": 300,
            "candidates": 2,
            "discrimination": 0.5 + numbers["gap"],
            "unread_share": 0.0,
            "statement": "planted",
        },
    )
    lake.write(t.SK_DISCRIMINATION_GAP, activity, build_records(t.SK_DISCRIMINATION_GAP, [draft], activity))


def test_the_newest_gap_of_the_very_model_and_way_counts(tmp_path: Path) -> None:
    lake, section = Lake(tmp_path), SelfKnowledgeSection()
    assert gate(lake, section, "b2:one", "probability").reason == (
        "no discrimination gap was measured on any task"
    )
    plant(lake, -0.2, -0.1, "b2:one")
    plant(lake, 0.1, 0.2, "b2:other")
    with pytest.raises(JudgeNotTrusted, match=r"b2:one is not trusted to judge: discrimination gap −15.0%"):
        gate(lake, section, "b2:one", "probability")
    assert gate(lake, section, "b2:other", "probability").action == "go on"
    assert gate(lake, section, "b2:one", "text").action == "go on", "nothing was measured by text"
    plant(lake, 0.1, 0.2, "b2:one")
    assert [one.gap for one in measured_gaps(lake, "b2:one", "probability")] == [pytest.approx(0.15)]


def materialise(key: str, method: str, *stages: str) -> dg.ExecuteInProcessResult:
    """These stages of one partition, as a run of Dagster."""
    with dg.DagsterInstance.ephemeral() as instance:
        add_iterations(instance, method, [key])
        return dg.materialize(
            stage_assets(method, *stages),
            partition_key=key,
            instance=instance,
            resources={
                "home": HomeResource(),
                "language_model": LanguageModelResource(),
                "trainer": TrainerResource(),
            },
            raise_on_error=False,
        )


def test_rlaif_stops_before_a_judge_that_is_worse_than_chance_and_goes_on_after_a_better_one(
    home: Home,
) -> None:
    model_id = weights_hash(Path(DIALOGUE_MODEL))
    plant(home.lake, -0.07, -0.012, model_id)
    (home.experiments / "ai.yaml").write_text(
        yaml.safe_dump({**EXPERIMENTS["ai"], "self_knowledge": {"tasks": ["dialogues"]}})
    )
    until_judged = "rlaif", "seed_pool", "response_pairs", "comparisons"
    stopped = materialise("ai-000", *until_judged)
    (failure,) = [event for event in stopped.all_events if event.is_step_failure]
    assert failure.step_key == "rlaif__comparisons"
    said = failure.step_failure_data.user_failure_data
    assert said is not None and (
        "discrimination gap −4.1% [−7.0%, −1.2%] on dialogues, by probability: the model picks worse than "
        "chance"
    ) in str(said.description)
    assert not home.lake.exists(RLAIF_COMPARISONS.name, partition_of("ai", 0)), "the judge was not asked"

    plant(home.lake, 0.03, 0.09, model_id)
    went_on = materialise("ai-000", *until_judged)
    assert went_on.success
    about = home.lake.manifest(RLAIF_COMPARISONS.name, partition_of("ai", 0)).activity.about
    assert about["self_knowledge"] == (
        "go on: discrimination gap +6.0% [+3.0%, +9.0%] on dialogues, by probability: "
        "the model picks no worse than chance"
    )
    (shown,) = went_on.asset_materializations_for_node("rlaif__comparisons")
    assert shown.metadata["self_knowledge"].value == about["self_knowledge"]


def test_feedback_of_a_model_that_is_worse_than_chance_by_text_is_not_asked_for(home: Home) -> None:
    plant(home.lake, -0.2, -0.1, weights_hash(Path(DIALOGUE_MODEL)), task="refined", by="text")
    settings = {**EXPERIMENTS["short"], "self_knowledge": {"tasks": ["refined"]}}
    for ways, stops in ((["pit"], False), (["self_refine"], True)):
        settings["refining"] = {**settings["refining"], "ways": ways}
        (home.experiments / "short.yaml").write_text(yaml.safe_dump(settings))
        done = materialise("short-000", "refinement", "seed_pool", "raw_generations", "refinements")
        failed = [event.step_key for event in done.all_events if event.is_step_failure]
        assert failed == (["refinement__refinements"] if stops else []), ways


def test_the_newest_champion_of_another_experiment_is_measured(home: Home, tmp_path: Path) -> None:
    champion = shutil.copytree(DIALOGUE_MODEL, tmp_path / "champion")
    promotion = registry.method("rlaif").table("promotion")
    activity = Activity(promotion.name, partition_of("ai", 7), "1", {}, 0)
    said = {
        "promoted": True,
        "reason": "planted",
        "challenger_model_id": "b2:new",
        "champion_model_id": "b2:old",
    }
    draft = Draft(
        content={**said, "questions": 1, "gained": 1, "lost": 0},
        measures=dict.fromkeys(promotion.measures) | {"challenger_path": str(champion)},
    )
    home.lake.write(promotion, activity, build_records(promotion, [draft], activity))
    task = {"name": "dialogues", "kind": "dialogues", "file": "embedded", "rows": "0:4"}
    settings = {"method": "self_knowledge", "of": "ai", "tasks": [task]}
    (home.experiments / "later.yaml").write_text(yaml.safe_dump(settings))
    assert materialise("later-000", "self_knowledge", "questions", "candidates").success
    about = home.lake.manifest(t.SK_CANDIDATES.name, partition_of("later", 0)).activity.about
    assert about["champion"] == "the checkpoint of iteration 7"
    assert home.lake.folder_at(about["model_path"]) == str(champion)
