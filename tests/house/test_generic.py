"""What a method gets that declares nothing but its settings and stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kit.toy import TOY, ToyExperiment, toy

from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.evaluation.exam import held_out_keys, open_exam
from selfimprove_dagster.home.files import describe_fields, parse_chain, parse_experiment
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.method import Method

__all__ = ["toy"]


def experiment(folder: Path, **settings: Any) -> ToyExperiment:
    data = {"name": "mine", "method": "toy", "model": {"path": "org/model"}, **settings}
    read = parse_experiment(data, folder=folder)
    assert isinstance(read, ToyExperiment)
    return read


def test_settings_of_an_unknown_method_are_read_by_its_own_classes(
    toy: Method[ToyExperiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POEMS", "poems")
    (tmp_path / "critic").mkdir()
    read = experiment(
        tmp_path,
        verses={
            "file": "${POEMS}/all.jsonl",
            "files": ["one.txt", "/two.txt"],
            "critics": {"ours": {"path": "critic"}, "theirs": {"path": "org/critic"}},
        },
    )
    assert read.verses.file == f"{tmp_path}/poems/all.jsonl"
    assert read.verses.files == (f"{tmp_path}/one.txt", "/two.txt")
    assert {name: one.path for name, one in read.verses.critics.items()} == {
        "ours": f"{tmp_path}/critic",
        "theirs": "org/critic",
    }
    assert read.model.path == "org/model" and read.measures is None
    assert "verses.file" in {field.name for field in describe_fields("toy")}


def test_embedded_is_a_file_like_any_other_where_a_method_ships_none(
    toy: Method[ToyExperiment], tmp_path: Path
) -> None:
    assert experiment(tmp_path, verses={"file": "embedded"}).verses.file == f"{tmp_path}/embedded"


def test_a_wrong_field_below_a_name_is_answered_with_those_that_exist(
    toy: Method[ToyExperiment], tmp_path: Path
) -> None:
    with pytest.raises(ExperimentError, match=r"verses\.critics\.ours\.pth: .*; allowed here: path"):
        experiment(tmp_path, verses={"critics": {"ours": {"path": "a/b", "pth": 1}}})


@pytest.mark.parametrize("settings", [{"method": "sonnet"}, {"methods": ["toy", "sonnet"]}])
def test_a_method_that_there_is_not_is_answered_with_those_that_there_are(
    toy: Method[ToyExperiment], tmp_path: Path, settings: dict[str, Any]
) -> None:
    with pytest.raises(ExperimentError, match=r"'sonnet' is not one of .*'lmsi'.*'toy'"):
        parse_chain({"name": "mine", "model": {"path": "a/b"}, **settings}, folder=tmp_path)
    with pytest.raises(ExperimentError, match=r"'sonnet' is not one of .*'toy'"):
        describe_fields("sonnet")


def test_an_unknown_method_is_chained_with_a_shipped_one(toy: Method[ToyExperiment], tmp_path: Path) -> None:
    chain = parse_chain(
        {
            "name": "both",
            "methods": ["lmsi", "toy"],
            "model": {"path": "org/model"},
            "lmsi": {"seeds": {"file": "q.jsonl"}, "evaluation": {"file": "e.jsonl"}},
            "toy": {"verses": {"file": "v.jsonl"}},
        },
        folder=tmp_path,
    )
    assert [one.method for one in chain] == ["lmsi", TOY.name]
    assert chain[1].model_dump()["verses"]["file"] == f"{tmp_path}/v.jsonl"


def test_a_method_without_an_exam_says_so_and_holds_nothing_out(
    toy: Method[ToyExperiment], tmp_path: Path
) -> None:
    home, settled = Home(tmp_path, tmp_path), experiment(tmp_path)
    with pytest.raises(ExperimentError, match="experiment mine: the method toy has no exam"):
        open_exam(home, settled, lambda path: pytest.fail("no model is needed"))
    assert held_out_keys(settled) == set()
