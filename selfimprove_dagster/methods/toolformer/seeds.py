"""The seeds of Toolformer: plain texts."""

from __future__ import annotations

from selfimprove_dagster.methods.toolformer.files import texts
from selfimprove_dagster.methods.toolformer.tables import SEED_TEXTS
from selfimprove_dagster.seeds.kind import SeedKind, as_rows
from selfimprove_dagster.text import normalise_question

TEXTS = SeedKind(
    SEED_TEXTS,
    "text",
    lambda source: as_rows(texts(source)),
    key=lambda row: normalise_question(row["text"]),
    reading=("text_field", "date_field", "source_field", "rows", "longest"),
)
"""Plain texts, from a `TextFile`."""
