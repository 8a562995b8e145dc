"""Which column comes from which, in the tables of generation against discrimination."""

from __future__ import annotations

from selfimprove_dagster import self_knowledge_tables as t
from selfimprove_dagster.column_sources import Columns, drawn, each, new, of, same

_ASKED = of(t.SK_QUESTIONS, "question")
_SAID = of(t.SK_CANDIDATES, "text")
_RIGHT = of(t.SK_GENERATION_SCORE, "right")
_SCORES = [*of(t.SK_GENERATION_SCORE, "score"), *of(t.SK_DISCRIMINATION_SCORE, "right")]

SELF_KNOWLEDGE_COLUMN_SOURCES: dict[str, Columns] = {
    t.SK_QUESTIONS.name: new("parents", *t.SK_QUESTIONS.content),
    t.SK_CANDIDATES.name: {
        **drawn(of(t.SK_QUESTIONS, "id"), [*_ASKED, *of(t.SK_QUESTIONS, "kind")]),
        "question_id": of(t.SK_QUESTIONS, "id"),
        **same(t.SK_QUESTIONS, "task"),
    },
    t.SK_GENERATION_SCORE.name: {
        "parents": [*of(t.SK_QUESTIONS, "id"), *of(t.SK_CANDIDATES, "id")],
        "question_id": of(t.SK_QUESTIONS, "id"),
        **same(t.SK_QUESTIONS, "task"),
        "candidate_ids": of(t.SK_CANDIDATES, "id"),
        **each([*_SAID, *of(t.SK_QUESTIONS, "source_line")], "right", "unread", "score"),
    },
    t.SK_DISCRIMINATION_SCORE.name: {
        "parents": [
            *of(t.SK_QUESTIONS, "id"),
            *of(t.SK_CANDIDATES, "id"),
            *of(t.SK_GENERATION_SCORE, "id"),
        ],
        **same(t.SK_GENERATION_SCORE, "question_id", "task", "candidate_ids"),
        **each(_ASKED, "principles", "orders"),
        **each([*_ASKED, *_SAID], "prompts", "texts", "choices", "probabilities"),
        "picked_id": [*of(t.SK_CANDIDATES, "id"), *_ASKED, *_SAID],
        **each([*_RIGHT, *_ASKED, *_SAID], "right", "score"),
        **new("by"),
    },
    t.SK_DISCRIMINATION_GAP.name: {
        "parents": [
            *of(t.SK_GENERATION_SCORE, "activity_id"),
            *of(t.SK_DISCRIMINATION_SCORE, "activity_id"),
        ],
        **same(t.SK_GENERATION_SCORE, "task"),
        **same(t.SK_DISCRIMINATION_SCORE, "by"),
        **each(_SCORES, "questions", "generation", "discrimination"),
        "best": _RIGHT,
        **each(_SCORES, "gap", "gap_low", "gap_high", "statement"),
        "unread_share": of(t.SK_DISCRIMINATION_SCORE, "choices"),
        **new("kind", "model_id", "candidates"),
    },
}
