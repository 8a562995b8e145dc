"""Review items for Argilla and Label Studio, and labels that come back from there."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from kit.review_lake import HOSTILE, add_preferences, add_votes
from kit.small_lake import write_lines

from selfimprove_dagster.errors import ReviewError
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.review.files import export_queue, import_reviews
from selfimprove_dagster.review.queue import labels, review_queue

ADA, BOB = "3d5f8e7a-0000-4000-8000-0000000000aa", "3d5f8e7a-0000-4000-8000-0000000000bb"
"""Argilla names people by UUID."""


@pytest.fixture
def judged(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path / "lake")
    add_preferences(lake)
    return lake


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def stored(lake: Lake) -> set[tuple[str, str, str, str]]:
    """Item, label as shown, person and note."""
    swapped = {row["item_id"]: row["swapped"] for row in review_queue(lake, "judged", 0, 10).to_dicts()}
    shown = {"first": "ab", "second": "ba"}
    return {
        (
            row["item_id"],
            shown[row["label"]][swapped[row["item_id"]]] if row["label"] in shown else row["label"],
            row["by"],
            row["note"],
        )
        for row in labels(lake, "judged").to_dicts()
    }


# ---- Argilla -------------------------------------------------------------------------------------------


def test_a_folder_for_argilla_holds_the_queue_and_its_questions(judged: Lake, tmp_path: Path) -> None:
    assert export_queue(judged, "judged", tmp_path / "out", layout="argilla") == 4
    records = read(tmp_path / "out" / "records.json")
    queue = review_queue(judged, "judged", 0, 10).to_dicts()
    assert [one["id"] for one in records] == [row["item_id"] for row in queue]
    for one, row in zip(records, queue, strict=True):
        assert one["fields"].keys() == {"prompt", "option_a", "option_b", "reason"}
        assert one["metadata"] == {"table": row["table"], "uncertainty": row["uncertainty"]}
        assert (one["responses"], one["suggestions"], one["status"]) == ({}, {}, "pending")
    settings = read(tmp_path / "out" / ".argilla" / "settings.json")
    fields = {one["name"] for one in settings["fields"]}
    assert fields == {*records[0]["fields"]}
    label, note = settings["questions"]
    assert [one["value"] for one in label["settings"]["options"]] == ["a", "b", "both", "neither"]
    assert (label["settings"]["type"], note["settings"]["type"]) == ("label_selection", "text")
    assert label["required"] and not note["required"]
    assert {one["name"] for one in settings["metadata"]} == {*records[0]["metadata"]}
    assert read(tmp_path / "out" / ".argilla" / "dataset.json")["name"]
    shown = json.dumps(records)
    assert "\\u001b" not in shown and "\\u202e" not in shown and HOSTILE not in shown


def test_labels_of_argilla_are_stored_for_each_person(judged: Lake, tmp_path: Path) -> None:
    export_queue(judged, "judged", tmp_path / "out", layout="argilla")
    records = read(tmp_path / "out" / "records.json")
    records[0]["responses"] = {
        "label": [{"value": "a", "user_id": ADA}, {"value": "neither", "user_id": BOB}],
        "note": [{"value": "Both refuse.", "user_id": BOB}],
    }
    records[1]["responses"] = {"label": [{"value": "both", "user_id": ADA}]}
    records[2]["responses"] = {"label": [{"value": "perhaps", "user_id": ADA}]}
    file = tmp_path / "labels.json"
    file.write_text(json.dumps(records))
    done = import_reviews(judged, "judged", file)
    assert (done.accepted, done.known, done.open) == (3, 0, 1)
    (bad,) = done.rejected
    assert (bad.source_line, bad.reason) == (3, "the label 'perhaps' is not one of a, b, both, neither")
    first, second = records[0]["id"], records[1]["id"]
    assert stored(judged) == {
        (first, "a", ADA, ""),
        (first, "neither", BOB, "Both refuse."),
        (second, "both", ADA, ""),
    }
    again = import_reviews(judged, "judged", file)
    assert (again.accepted, again.known) == (0, 3)


# ---- Label Studio --------------------------------------------------------------------------------------


def annotation(label: str, by: Any, *, note: str = "", cancelled: bool = False) -> dict[str, Any]:
    """What Label Studio exports of one person's answer."""
    regions = [
        {
            "from_name": "label",
            "to_name": "prompt",
            "type": "choices",
            "value": {"choices": [label]},
            "id": "x",
        }
    ]
    if note:
        regions.append(
            {
                "from_name": "note",
                "to_name": "prompt",
                "type": "textarea",
                "value": {"text": [note]},
                "id": "y",
            }
        )
    return {
        "id": 7,
        "result": regions,
        "completed_by": by,
        "was_cancelled": cancelled,
        "created_at": "2026-03-09T22:16:08.728353Z",
        "updated_at": "2026-03-09T22:17:00.000000Z",
    }


def test_tasks_for_label_studio_fit_its_labelling_interface(judged: Lake, tmp_path: Path) -> None:
    assert export_queue(judged, "judged", tmp_path / "out", count=2, layout="label-studio") == 2
    tasks = read(tmp_path / "out" / "tasks.json")
    view = ElementTree.parse(tmp_path / "out" / "labelling.xml").getroot()
    named = {one.get("value", "")[1:] for one in view if one.get("value", "").startswith("$")}
    for task in tasks:
        assert named <= {*task["data"]} and {"item_id", "table", "uncertainty"} <= {*task["data"]}
    objects = {one.get("name") for one in view.iter("Text")}
    (choices,) = view.iter("Choices")
    assert choices.get("toName") in objects and choices.get("name") == "label"
    assert [one.get("value") for one in choices] == ["a", "b", "both", "neither"]


def test_labels_of_label_studio_are_stored_with_person_and_time(judged: Lake, tmp_path: Path) -> None:
    export_queue(judged, "judged", tmp_path / "out", layout="label-studio")
    tasks = read(tmp_path / "out" / "tasks.json")
    given = [
        [annotation("a", {"id": 1, "email": "ada@example.org"}, note="Kinder."), annotation("b", 2)],
        [annotation("both", 2, cancelled=True)],
        [annotation("neither", 2)],
        [],
    ]
    exported = [
        {**task, "id": n, "annotations": made}
        for n, (task, made) in enumerate(zip(tasks, given, strict=True))
    ]
    file = tmp_path / "project.json"
    file.write_text(json.dumps(exported))
    done = import_reviews(judged, "judged", file)
    assert (done.accepted, done.open, done.rejected) == (3, 2, [])
    first, _, third, _ = (task["data"]["item_id"] for task in tasks)
    assert stored(judged) == {
        (first, "a", "ada@example.org", "Kinder."),
        (first, "b", "user 2", ""),
        (third, "neither", "user 2", ""),
    }
    assert {*labels(judged, "judged")["at"]} == {"2026-03-09T22:17:00.000000+00:00"}


# ---- both ----------------------------------------------------------------------------------------------


def test_a_record_of_another_project_is_rejected_and_the_others_are_stored(
    judged: Lake, tmp_path: Path
) -> None:
    export_queue(judged, "judged", tmp_path / "out", layout="label-studio")
    task = read(tmp_path / "out" / "tasks.json")[0]
    file = write_lines(
        tmp_path / "mixed.jsonl",
        [
            {"data": {"image": "x.jpg"}, "annotations": [annotation("a", 1)]},
            {"data": task["data"], "annotations": [{"result": "none"}]},
            {"id": "pref:0", "fields": {}, "responses": {"label": [{"user_id": ADA}]}},
            {**task, "annotations": [annotation("b", 1)]},
            {"item_id": task["data"]["item_id"], "label": "a", "by": "Ada"},
        ],
    )
    done = import_reviews(judged, "judged", file)
    assert done.accepted == 2
    assert [bad.source_line for bad in done.rejected] == [1, 2, 3]
    assert "the form in which the tool exports labels" in done.rejected[2].reason
    assert {by for *_, by, _ in stored(judged)} == {"user 1", "Ada"}


def test_a_folder_with_work_is_not_overwritten_and_formats_are_named(judged: Lake, tmp_path: Path) -> None:
    for layout in ("argilla", "label-studio"):
        export_queue(judged, "judged", tmp_path / layout, layout=layout)
        with pytest.raises(ReviewError, match="may hold a person's labels"):
            export_queue(judged, "judged", tmp_path / layout, layout=layout)
    with pytest.raises(ReviewError, match="no review format 'excel'; use one of csv, argilla, label-studio"):
        export_queue(judged, "judged", tmp_path / "out", layout="excel")
    assert not (tmp_path / "out").exists()


def test_votes_are_reviewed_in_both_tools_too(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    add_votes(lake, "112", "333", "45")
    assert export_queue(lake, "demo", tmp_path / "a", layout="argilla") == export_queue(
        lake, "demo", tmp_path / "b", layout="label-studio"
    )
    asked = [one["fields"]["prompt"] for one in read(tmp_path / "a" / "records.json")]
    assert asked == [one["data"]["prompt"] for one in read(tmp_path / "b" / "tasks.json")] != []
