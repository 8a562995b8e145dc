"""Verifiers: functions by name, reward models by path, and votes that count their scores."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from kit.homes import make_home
from kit.judging_home import materialise
from kit.training import make_comparisons
from pins.small_experiments import EXPERIMENTS

from selfimprove_dagster import embedded, own_code
from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.families.voting.counting import recount
from selfimprove_dagster.families.voting.settings import VerifierSection, WeightsSection
from selfimprove_dagster.families.voting.verifying import open_verifier, weighing
from selfimprove_dagster.home.home import Home

LENGTHS = """
def score(questions, answers):
    return [min(len(answer), 200) / 200 for answer in answers]

def even(questions, answers):
    return [float(len(answer) % 2 == 0) for answer in answers]

one = 1
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "my_verifier.py"
    file.write_text(LENGTHS)
    return file


# ---- functions -----------------------------------------------------------------------------------------


def test_a_function_in_a_file_scores_and_is_recorded_by_its_content(own: Path, tmp_path: Path) -> None:
    recorded = []
    for text in (LENGTHS, LENGTHS, LENGTHS.replace("200", "100")):
        own.write_text(text)
        section = WeightsSection(weights="verifier", verifier=VerifierSection(function=f"{own}:score"))
        with open_verifier(section.verifier) as verifier:
            assert verifier is not None
            assert verifier.scores(["q", "q"], ["", "x" * 300]) == [0.0, 1.0]
            recorded.append(weighing(section, verifier))
    assert recorded[0] == recorded[1] != recorded[2]
    assert recorded[0]["verifier"]["function"] == "my_verifier.py:score", "the folder is no part of it"


def test_a_package_offers_a_function_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    point = SimpleNamespace(
        name="solver",
        dist=SimpleNamespace(name="solving", version="2.1"),
        load=lambda: lambda questions, answers: [0.5 for _ in answers],
    )
    monkeypatch.setattr(own_code, "entry_points", lambda group: [point])
    with open_verifier(VerifierSection(function="solver")) as verifier:
        assert verifier is not None
        assert verifier.scores(["q"], ["a"]) == [0.5]
        assert verifier.recorded == {"function": "solver", "source": "solving-2.1"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("solver", "is no verifier"),
        ("missing.py:score", "there is no file"),
        ("{own}:absent", "is no function"),
        ("{own}:one", "is no function"),
    ],
)
def test_what_is_no_function_is_refused_with_its_name(own: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VerifierSection(function=name.format(own=own))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [1.5 for _ in answers]", "returned 1.5: a score must be a number from 0 to 1"),
        ("return [-0.1 for _ in answers]", "returned -0.1"),
        ("return ['good' for _ in answers]", "returned 'good'"),
        ("return [1.0]", "returned 1 scores for 2 answers"),
        ("return 1 / 0", "ZeroDivisionError"),
        ("return None", "TypeError"),
    ],
)
def test_wrong_scores_are_errors_that_name_the_function(own: Path, body: str, message: str) -> None:
    own.write_text(f"def score(questions, answers):\n    {body}\n")
    with (
        open_verifier(VerifierSection(function=f"{own}:score")) as verifier,
        pytest.raises(ExperimentError, match=r"my_verifier\.py:score") as error,
    ):
        assert verifier is not None
        verifier.scores(["q", "q"], ["a", "b"])
    assert message in str(error.value)


def test_an_answer_that_cannot_be_scored_has_no_score(own: Path) -> None:
    own.write_text("def score(questions, answers):\n    return [None, float('nan'), True]\n")
    with open_verifier(VerifierSection(function=f"{own}:score")) as verifier:
        assert verifier is not None
        assert verifier.scores(["q"] * 3, ["a", "b", "c"]) == [None, None, 1.0]


@pytest.mark.parametrize(
    "settings",
    [
        {"weights": "verifier"},
        {"verifier": {"model": "somewhere"}},
        {"weights": "probability", "verifier": {"model": "somewhere"}},
        {"weights": "verifier", "verifier": {}},
        {"weights": "verifier", "verifier": {"model": "somewhere", "function": "solver"}},
    ],
)
def test_weights_and_verifier_belong_together(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"verifier|reward model"):
        WeightsSection.model_validate(settings)


# ---- reward models -------------------------------------------------------------------------------------


@pytest.mark.train
def test_a_reward_model_scores_by_the_probability_of_its_reward(tmp_path: Path) -> None:
    from selfimprove_dagster.language_model.tokens import TokenText
    from selfimprove_dagster.training.reward import RewardModel, RewardSettings, train_reward_model

    how = RewardSettings(steps=2, learning_rate=1e-2, batch_size=4)
    path = tmp_path / "judge"
    train_reward_model(embedded.DIALOGUE_MODEL, make_comparisons(), path, how, seed=0, device="cpu")
    reader, model = TokenText(path), RewardModel.open(path, "cpu")
    with open_verifier(VerifierSection(model=str(path), device="cpu")) as verifier:
        assert verifier is not None
        found = verifier.scores(["How are you?", "How are you?"], ["Well.", " Go away. "])
        assert verifier.recorded == {"model": model.model_id}
    prompt = reader.encode("Human: How are you?\n\nAssistant:")
    said = [[*reader.encode_continuation(text), reader.end_token_id] for text in (" Well.", " Go away.")]
    rewards = model.score([prompt, prompt], said)
    assert found == pytest.approx([1 / (1 + math.exp(-one)) for one in rewards])
    assert found[0] != found[1]


# ---- votes ---------------------------------------------------------------------------------------------


def votes_of(home: Home, method: str) -> pl.DataFrame:
    (manifest,) = home.lake.manifests(f"{method}/voted_answers", "small")
    return home.lake.read_whole(manifest)


def settings_of(name: str, **changes: Any) -> dict[str, Any]:
    return {**EXPERIMENTS[name], "name": "small", **changes}


@pytest.mark.slow
def test_lmsi_counts_votes_by_the_scores_of_a_function(own: Path, tmp_path: Path) -> None:
    voting = {"weights": "verifier", "verifier": {"function": "../my_verifier.py:score"}}
    home = make_home(tmp_path, settings_of("sums", voting=voting))
    materialise(home, "small", "lmsi/seed_pool", "lmsi/raw_generations", "lmsi/voted_answers")
    (manifest,) = home.lake.manifests("lmsi/raw_generations", "small")
    texts = dict(home.lake.read_whole(manifest).select("id", "text").iter_rows())
    votes = votes_of(home, "lmsi")
    assert not votes.is_empty()
    for row in votes.iter_rows(named=True):
        assert row["weights"] == [min(len(texts[path["id"]]), 200) / 200 for path in row["paths"]]
        assert recount(row) is None
    (made,) = home.lake.manifests("lmsi/voted_answers", "small")
    assert made.activity.parameters["weights"] == "verifier"
    assert made.activity.parameters["verifier"]["function"] == "my_verifier.py:score"


@pytest.mark.slow
def test_curate_counts_votes_by_the_scores_of_a_function_and_by_probability(
    own: Path, tmp_path: Path
) -> None:
    stages = ("seed_pool", "raw_generations", "candidate_answers", "perplexity_scores", "voted_answers")
    filters = [{"self_consistency": {"answer": "text", "at_least": 0.3, "drop_ties": False}}]
    for weights in ("verifier", "probability"):
        voting: dict[str, Any] = {"weights": weights}
        if weights == "verifier":
            voting["verifier"] = {"function": f"{own}:even"}
        home = make_home(tmp_path / weights, settings_of("curator", filters=filters, voting=voting))
        materialise(home, "small", *(f"curate/{stage}" for stage in stages))
        votes = votes_of(home, "curate")
        (manifest,) = home.lake.manifests("curate/perplexity_scores", "small")
        scores = home.lake.read_whole(manifest)
        probable = dict(scores.select("candidate_id", pl.col("mean_logprob").exp()).iter_rows())
        assert bool(probable) == (weights == "probability"), "scores are made only where they are read"
        (manifest,) = home.lake.manifests("curate/candidate_answers", "small")
        texts = dict(home.lake.read_whole(manifest).select("id", "output").iter_rows())
        seen = set()
        for row in votes.iter_rows(named=True):
            assert recount(row) is None
            for path, weight in zip(row["paths"], row["weights"], strict=True):
                text = texts[path["id"]]
                even = None if text is None else float(len(text) % 2 == 0)
                assert weight == (even if weights == "verifier" else probable.get(path["id"]))
                seen.add(weight)
        assert len(seen) > 1
