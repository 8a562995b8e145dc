"""How it is said which columns a column comes from, and what holds for every method."""

from __future__ import annotations

from selfimprove_dagster.table import Table, evaluation, fine_tuned_checkpoint, promotion

Source = tuple[str, str]
"""A table's name and one of its columns."""


Columns = dict[str, list[Source]]


def of(table: Table, *columns: str) -> list[Source]:
    """Columns of a table."""
    return [(table.name, column) for column in columns]


def new(*columns: str) -> dict[str, list[Source]]:
    """Columns that no table of the lake held before: from a file, a setting, a clock."""
    return {column: [] for column in columns}


def same(table: Table, *columns: str) -> dict[str, list[Source]]:
    """Columns that are handed on as they are."""
    return {column: of(table, column) for column in columns}


def each(sources: list[Source], *columns: str) -> dict[str, list[Source]]:
    """Columns that all come from the same."""
    return dict.fromkeys(columns, sources)


def drawn(parents: list[Source], prompt: list[Source], *given: str) -> Columns:
    """Of completions: their parents, what their prompts show, and columns given by settings."""
    return {
        "parents": parents,
        **each(prompt, "prompt", "prompt_token_ids", "token_ids", "text", "finish_reason", "logprobs"),
        **each(prompt[:1], "seed"),
        **new(*given),
    }


def decided(candidates: list[Source], judged: list[Source]) -> Columns:
    """Of decisions: the candidates, and the columns by which they were judged."""
    return {
        **each(candidates, "parents", "candidate_id"),
        **each(judged, "kept", "reason", "score", "nearest_id"),
        **new("stage", "rule", "threshold"),
    }


def training_stages(
    method: str,
    dataset: Table,
    shown: list[Source],
    exam: Table | None = None,
    trained_on: tuple[str, ...] = ("prompt", "completion"),
) -> dict[str, Columns]:
    """Of checkpoint, evaluation and promotion; `shown` are the columns that the exam's prompts show.

    `exam` is the evaluation's table where it has columns of its own, `trained_on` the dataset's columns that
    a model learns from.
    """
    checkpoint, decision, plain_exam = fine_tuned_checkpoint(method), promotion(method), evaluation(method)
    exam = exam or plain_exam
    examples = of(dataset, *trained_on)
    correct = of(exam, "role", "mode", "question", "correct")
    return {
        checkpoint.name: {
            **each(of(dataset, "activity_id"), "parents", "dataset_activity_id"),
            **each(examples, "model_id", "tokens", "first_loss", "final_loss", "log"),
            "examples": of(dataset, "id"),
            **new("base_model_id", "steps", "path", "seconds"),
        },
        exam.name: {
            **each(of(checkpoint, "model_id"), "parents", "model_id"),
            **each([*of(checkpoint, "model_id"), *shown], "text", "predicted", "correct"),
            **each(
                of(checkpoint, "model_id"),
                *(exam.content.keys() - plain_exam.content),
                *exam.measures,
            ),
            **new("question", "source_file", "source_line", "difficulty", "expected", "role", "mode"),
        },
        decision.name: {
            "parents": [*of(checkpoint, "id"), *of(exam, "model_id", "activity_id")],
            "challenger_model_id": of(checkpoint, "model_id"),
            "challenger_path": of(checkpoint, "path"),
            "champion_model_id": of(exam, "model_id"),
            **each(
                correct,
                *("promoted", "reason", "questions", "gained", "lost"),
                *("champion_accuracy", "challenger_accuracy"),
                *("difference", "difference_low", "difference_high", "p_worse"),
            ),
            **new("champion_path"),
        },
    }
