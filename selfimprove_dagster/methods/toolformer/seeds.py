"""The seeds of Toolformer: plain texts."""

from __future__ import annotations

from selfimprove_dagster.methods.toolformer.files import read_texts
from selfimprove_dagster.methods.toolformer.settings import TextFile
from selfimprove_dagster.methods.toolformer.tables import SEED_TEXTS
from selfimprove_dagster.rows import Rejected
from selfimprove_dagster.seeds.kind import SeedKind
from selfimprove_dagster.table import Row
from selfimprove_dagster.text import normalise_question


def _texts(source: TextFile) -> tuple[list[Row], list[Rejected]]:
    texts, rejected = read_texts(source)
    return [vars(one) for one in texts], rejected


TEXTS = SeedKind(
    SEED_TEXTS,
    "text",
    _texts,
    key=lambda row: normalise_question(row["text"]),
    reading=("text_field", "date_field", "source_field", "rows", "longest"),
)
"""Plain texts, from a `TextFile`."""
