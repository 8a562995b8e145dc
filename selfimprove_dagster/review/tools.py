"""Review items for Argilla and Label Studio, and the labels that people gave there.

Argilla 2: a folder that `argilla.Dataset.from_disk` reads; labels come back as the file that
`dataset.records.to_json` writes. Label Studio: `tasks.json` to import, and `labelling.xml`, the project's labelling
interface; labels come back as the project's export in the format JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from selfimprove_dagster.table import Row
from selfimprove_dagster.text import readable

LABEL, NOTE = "label", "note"
_TEXTS = ("prompt", "option_a", "option_b", "reason")
_TITLES = {"prompt": "Prompt", "option_a": "Option A", "option_b": "Option B", "reason": "Why it is asked"}
_CHOICES = {"a": "A is better", "b": "B is better", "both": "Both are good", "neither": "Neither is good"}
_GUIDELINES = "Which response to the prompt is better? The order of the two is random."


def argilla(rows: Iterable[Row]) -> dict[str, Any]:
    """Return the content of the files of an Argilla dataset by path, for items of the queue."""
    questions = [
        _argilla("question", LABEL, "Which is better?", "label_selection", options=_options()),
        _argilla("question", NOTE, "Note", "text", required=False, use_markdown=False),
    ]
    fields = [
        _argilla("field", name, _TITLES[name], "text", required=name != "reason", use_markdown=False)
        for name in _TEXTS
    ]
    metadata = [
        {"name": name, "title": name, "visible_for_annotators": True, "settings": {"type": kind}}
        for name, kind in (("table", "terms"), ("uncertainty", "float"))
    ]
    settings = {"guidelines": _GUIDELINES, "fields": fields, "questions": questions, "metadata": metadata}
    records = [
        {
            "id": row["item_id"],
            "fields": _texts(row),
            "metadata": {"table": row["table"], "uncertainty": row["uncertainty"]},
            "suggestions": {},
            "responses": {},
            "vectors": {},
            "status": "pending",
            "_server_id": None,
        }
        for row in rows
    ]
    return {
        ".argilla/dataset.json": {"name": "review", "guidelines": _GUIDELINES, "allow_extra_metadata": False},
        ".argilla/settings.json": {
            **settings,
            "vectors": [],
            "allow_extra_metadata": False,
            "distribution": {"strategy": "overlap", "min_submitted": 1},
            "mapping": None,
        },
        "records.json": records,
    }


def _options() -> list[dict[str, str]]:
    return [{"value": value, "text": text} for value, text in _CHOICES.items()]


def _argilla(what: str, name: str, title: str, kind: str, required: bool = True, **settings: Any) -> Row:
    """Return a question or a field as Argilla's settings describe it."""
    given: Row = {"name": name, "title": title, "required": required, "type": kind}
    if what == "question":
        given["description"] = None
    return {**given, "settings": {"type": kind, **settings}}


def label_studio(rows: Iterable[Row]) -> dict[str, Any]:
    """Return the content of the files for a project of Label Studio by path, for items of the queue."""
    named = ("item_id", "table", "uncertainty")
    tasks = [{"data": {**{name: row[name] for name in named}, **_texts(row)}} for row in rows]
    return {"tasks.json": tasks, "labelling.xml": _LABELLING}


_LABELLING = f"""<View>
  <Header value="{_GUIDELINES}"/>
  <Text name="prompt" value="$prompt"/>
  <Header value="Option A"/>
  <Text name="option_a" value="$option_a"/>
  <Header value="Option B"/>
  <Text name="option_b" value="$option_b"/>
  <Choices name="{LABEL}" toName="prompt" choice="single" required="true">
{"".join(f'    <Choice value="{value}" hint="{text}"/>{chr(10)}' for value, text in _CHOICES.items())}  </Choices>
  <Header value="$reason" size="6"/>
  <TextArea name="{NOTE}" toName="prompt" placeholder="Note" maxSubmissions="1"/>
</View>
"""


def _texts(row: Row) -> dict[str, str]:
    return {name: readable(row[name]) for name in _TEXTS}


def labels_of(row: Any) -> Sequence[Row] | None:
    """Return the labels of a record of Argilla or a task of Label Studio: one row for each person, or an open one.

    The rows have the fields of `review.files.import_reviews`. Return None for any other row. Raises KeyError,
    TypeError or AttributeError for a record or task without the form of the tool.
    """
    if not isinstance(row, Mapping):
        return None
    if isinstance(row.get("fields"), Mapping) and "responses" in row:
        return _from_argilla(row)
    if isinstance(row.get("data"), Mapping):
        return _from_label_studio(row)
    return None


def _from_argilla(record: Mapping[str, Any]) -> list[Row]:
    responses = record["responses"] or {}
    notes = {one.get("user_id"): one["value"] for one in responses.get(NOTE, [])}
    rows = [
        {
            "item_id": record.get("id"),
            LABEL: one["value"],
            NOTE: notes.get(one.get("user_id")),
            "by": one.get("user_id"),
        }
        for one in responses.get(LABEL, [])
    ]
    return rows or [{"item_id": record.get("id")}]


def _from_label_studio(task: Mapping[str, Any]) -> list[Row]:
    item = task["data"].get("item_id")
    rows = []
    for annotation in task.get("annotations") or []:
        said = {
            one["from_name"]: one["value"] for one in annotation["result"] if one.get("type") != "relation"
        }
        if annotation.get("was_cancelled") or LABEL not in said:
            continue
        rows.append(
            {
                "item_id": item,
                LABEL: "".join(said[LABEL].get("choices", [])),
                NOTE: "\n".join(said.get(NOTE, {}).get("text", [])),
                "by": _person(annotation.get("completed_by")),
                "at": annotation.get("updated_at") or annotation.get("created_at"),
            }
        )
    return rows or [{"item_id": item}]


def _person(by: Any) -> str | None:
    """Return the name of a user of Label Studio, whose exports have a number or an object."""
    if isinstance(by, Mapping):
        return by.get("email") or f"user {by.get('id')}"
    return None if by is None else f"user {by}"


def file_content(data: Any) -> bytes:
    """Return a file's bytes: text as it is, anything else as JSON."""
    return (data if isinstance(data, str) else json.dumps(data, indent=1)).encode()


TOOLS = {"argilla": argilla, "label-studio": label_studio}
"""Functions that return the files for a tool by path."""
