"""Filters by name: what an experiment may list, what is refused, and how a user's own are found."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import polars as pl
import pytest
from kit.small_lake import SMALL_EXPERIMENT
from pins.small_experiments import EXPERIMENTS

from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.filtering import registry, running
from selfimprove_dagster.filtering.registry import read_steps
from selfimprove_dagster.filtering.steps import BUILT_IN, PERPLEXITY
from selfimprove_dagster.home.files import parse_experiment
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.readiness.engines import check_filters

OWN = '''
import polars as pl
from selfimprove_dagster.filtering import Step
from selfimprove_dagster.filters.rules import decision


class Short(Step):
    """Keep short answers."""

    name = "short"
    most: int = 3

    def open(self):
        def decide(candidates):
            length = pl.col("text").str.len_chars()
            return decision(candidates, "any", kept=length <= self.most, reason=pl.lit("short"), score=length)

        return decide
'''

CURATED: dict[str, Any] = {
    "name": "mine",
    "method": "curate",
    "model": {"path": "embedded"},
    "seeds": {"file": "embedded"},
    "evaluation": {"file": "embedded"},
}


def candidates(*texts: str, **columns: Any) -> pl.DataFrame:
    ids = [f"c:{number}" for number in range(len(texts))]
    rows = pl.DataFrame(
        {"candidate_id": ids, "question_id": ids, "question": ["Why?"] * len(texts), "text": texts}
    )
    return rows.with_columns(**{name: pl.Series(values) for name, values in columns.items()})


def parsed(folder: Path, *filters: Any, **settings: Any) -> Any:
    return parse_experiment({**CURATED, "filters": [*filters], **settings}, folder=folder)


# ---- names and settings --------------------------------------------------------------------------------


def test_steps_run_in_the_order_of_the_list_and_see_what_is_left() -> None:
    rows = candidates("a b", "a b", "a", "c d e", perplexity=[2.0, 2.0, 2.0, 9.0])
    perplexity = {"perplexity": {"at_most": 5}}
    for entries, counts in (
        (["duplicates", perplexity, {"words": {"at_least": 2}}], [4, 3, 2]),
        ([{"words": {"at_least": 2}}, "duplicates", perplexity], [4, 3, 2]),
        ([perplexity, {"words": {"at_least": 2}}, "duplicates"], [4, 3, 2]),
    ):
        steps = read_steps(entries, PERPLEXITY)
        decisions = running.decisions_on([rows], steps)
        rules = decisions["rule"].unique(maintain_order=True).to_list()
        assert rules == [one if isinstance(one, str) else next(iter(one)) for one in entries]
        assert [len(of) for _, of in decisions.group_by("rule", maintain_order=True)] == counts
        dropped = decisions.filter(~pl.col("kept"))["candidate_id"]
        assert sorted(set(rows["candidate_id"]) - set(dropped)) == ["c:0"]


def test_a_step_that_is_listed_twice_has_two_rules() -> None:
    steps = read_steps([{"words": {"at_least": 2}}, {"words": {"at_most": 4}}])
    assert [one.rule for one in steps] == ["words", "words 2"]
    decisions = running.decisions_on([candidates("a b", "a")], steps)
    assert decisions["rule"].to_list() == ["words", "words", "words 2"]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("diversity", r"'diversity' is none of words, duplicates, .*toxicity; .*my_filters\.py:Short"),
        ({"words": {"least": 3}}, "words: there is no setting least; there are at_least, at_most, tokeniser"),
        ({"words": {"at_least": 5, "at_most": 2}}, "at_most 2 is less than at_least 5: nothing is kept"),
        ({"language": {"keep": ["klingon"]}}, "language: lingua knows no language 'klingon'"),
        ("perplexity", "perplexity: the setting at_most is missing"),
        ({"novelty": {"at_most": 3}}, "novelty: at_most: .*less than or equal to 1, not 3"),
        ({"a": {}, "b": {}}, "is no filter: write its name"),
        ("gone.py:Short", "there is no file .*gone.py"),
    ],
)
def test_a_wrong_filter_is_refused_when_the_experiment_is_read(entry: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=f"filters: .*{said}"):
        parsed(tmp_path, entry)


def test_all_wrong_filters_are_named_at_once_each_with_its_place(tmp_path: Path) -> None:
    wrong = ({"words": {"least": 3}}, "duplicates", {"novelty": {"at_most": 3}}, "gone")
    with pytest.raises(ExperimentError) as error:
        parsed(tmp_path, *wrong)
    said = str(error.value)
    assert "as a whole" not in said and said.count("filters: ") == 1
    for place, problem in [
        (1, "words: there is no setting"),
        (3, "novelty: at_most"),
        (4, "'gone' is none of"),
    ]:
        assert f"filter {place}: {problem}" in said
    assert "filter 2" not in said
    pairs = ("self_consistency", {"self_consistency": {"answer": "text"}})
    with pytest.raises(ExperimentError, match=r"a vote needs .*a vote needs"):
        parsed(tmp_path, *pairs, generation={"samples": 0})
    with pytest.raises(
        ExperimentError, match=r"filters: filter 1: .* is no filter.*; filter 3: 7 is no filter"
    ):
        parsed(tmp_path, {"a": {}, "b": {}}, "duplicates", 7)
    with pytest.raises(ExperimentError, match=r"filter 1: 'gone' is none of .*; filter 3: 7 is no filter"):
        parsed(tmp_path, "gone", "duplicates", 7)


def test_only_numbers_are_thresholds() -> None:
    steps = read_steps(
        [{"personal_data": {}}, {"words": {"at_most": None}}, {"self_consistency": {"drop_ties": True}}]
    )
    section = running.RecordedSteps(**running.recorded(steps)["filters"])
    assert running.thresholds(None, cast("Any", None), section) == {
        "personal_data.at_least": 0.4,
        "words.at_least": 1,
        "words.at_most": None,
        "self_consistency.at_least": 0.5,
        "self_consistency.drop_ties": True,
    }


def test_a_filter_whose_scores_a_method_does_not_have_is_refused(tmp_path: Path) -> None:
    small = {**SMALL_EXPERIMENT, "method": "lmsi"}
    kept = parse_experiment({**small, "filters": [{"perplexity": {"at_most": 9}}]}, folder=tmp_path)
    assert [one.rule for one in kept.steps] == ["perplexity"]  # type: ignore[attr-defined]
    with pytest.raises(ExperimentError, match=r"self_consistency reads .*: the rules of the method are this"):
        parse_experiment({**small, "filters": ["self_consistency"]}, folder=tmp_path)


ANSWERS = {"lmsi", "self_instruct", "unnatural_instructions", "constitutional", "curate"}
"""The methods whose examples are answers to questions."""

READ_SCORES: list[Any] = [{"perplexity": {"at_most": 9.0}}, "annotation", "self_consistency"]


@pytest.mark.parametrize(
    "filter", READ_SCORES, ids=lambda one: one if isinstance(one, str) else next(iter(one))
)
@pytest.mark.parametrize(
    "settings", [one for one in EXPERIMENTS.values() if "training" in one], ids=lambda one: one["method"]
)
def test_each_method_has_scores_or_says_why_not(
    settings: dict[str, Any], filter: Any, tmp_path: Path
) -> None:
    mine = {**deepcopy(settings), "name": "mine", "filters": [filter]}
    if settings["method"] == "pit":
        mine["seeds"] = {"file": "embedded", "licence": "Apache-2.0"}
    if settings["method"] in ANSWERS and (filter != "self_consistency" or settings["method"] == "curate"):
        experiment: Any = parse_experiment(mine, folder=tmp_path)
        assert [one.step.name for one in experiment.steps] == [
            filter if isinstance(filter, str) else "perplexity"
        ]
        return
    with pytest.raises(ExperimentError, match=r"filters: .* do not have: .*\w") as error:
        parse_experiment(mine, folder=tmp_path)
    assert "set " in str(error.value) or "see " in str(error.value) or " and " in str(error.value)


def test_a_judge_is_hashed_only_where_it_is_set(tmp_path: Path) -> None:
    usual = parse_experiment({**SMALL_EXPERIMENT, "method": "lmsi"}, folder=tmp_path)
    judged = {"question": "How well?"}
    other = parse_experiment({**SMALL_EXPERIMENT, "method": "lmsi", "judge": judged}, folder=tmp_path)
    assert "judge" not in usual.model_dump() and usual.settings_hash != other.settings_hash


def test_a_vote_without_several_answers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="self_consistency: a vote needs several answers"):
        parsed(tmp_path, "self_consistency", generation={"samples": 0})
    with pytest.raises(ExperimentError, match="one vote is taken per question"):
        parsed(tmp_path, "self_consistency", {"self_consistency": {"answer": "text"}})


def test_filters_are_recorded_only_where_they_are_set(tmp_path: Path) -> None:
    usual = parse_experiment({**SMALL_EXPERIMENT, "method": "lmsi"}, folder=tmp_path)
    none = parse_experiment({**SMALL_EXPERIMENT, "method": "lmsi", "filters": []}, folder=tmp_path)
    assert "filters" not in usual.model_dump() and usual.settings_hash == none.settings_hash
    assert parsed(tmp_path, "duplicates").model_dump()["filters"] == ({"duplicates": {}},)


def test_every_filter_is_described() -> None:
    lines = "\n".join(registry.described())
    for name, kind in BUILT_IN.items():
        assert f"{name}: " in lines and kind.__doc__
        assert all(field.description for field in kind.model_fields.values()), name


# ---- a user's own --------------------------------------------------------------------------------------


def test_a_filter_in_a_file_is_found_from_the_folder_of_the_experiment(tmp_path: Path) -> None:
    (tmp_path / "my_filters.py").write_text(OWN)
    experiment = parsed(tmp_path, {"my_filters.py:Short": {"most": 2}}, "duplicates")
    own, other = experiment.steps
    assert (own.rule, own.step.most, other.rule) == ("short", 2, "duplicates")
    decisions = running.decisions_on([candidates("ab", "abc")], [own])
    assert decisions.select("rule", "kept").rows() == [("short", True), ("short", False)]
    recorded = own.recorded
    assert recorded["name"] == "my_filters.py:Short" and recorded["source"].startswith("b2:")
    assert str(tmp_path) not in str(recorded), "where a file lies is no part of an id"
    (tmp_path / "my_filters.py").write_text(OWN + "\n# another version\n")
    assert experiment.steps[0].recorded["source"] != recorded["source"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 / 0", "cannot be loaded: ZeroDivisionError"),
        ("Short = 3", "Short is no filter: .* subclass of"),
        ("", "has no class Short"),
    ],
)
def test_a_file_without_a_filter_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "my_filters.py").write_text(text)
    with pytest.raises(ExperimentError, match=said):
        parsed(tmp_path, "my_filters.py:Short")


def test_a_filter_of_an_installed_package_is_found_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_filters.py").write_text(OWN)
    about = tmp_path / "their_filters-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: their-filters\nVersion: 1.2\n")
    (about / "entry_points.txt").write_text(f"[{registry.GROUP}]\nshort = their_filters:Short\n")
    monkeypatch.syspath_prepend(tmp_path)
    (step,) = parsed(tmp_path, {"short": {"most": 1}}).steps
    assert (step.source, step.step.most) == ("their-filters-1.2", 1)
    assert "short" in [*registry.known()]


# ---- before a run --------------------------------------------------------------------------------------


def test_a_library_that_is_missing_is_named_before_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = parsed(tmp_path, "near_duplicates", "duplicates")
    home = Home(tmp_path, tmp_path)
    monkeypatch.setattr(BUILT_IN["near_duplicates"], "modules", ("no_such_module",))
    (finding,) = check_filters(home, experiment)
    assert finding.text == (
        "filters: near_duplicates needs no_such_module: install the extra `selfimprove_dagster[filters]`"
    )
