"""Prompts and finished examples from files: every good line goes in, every bad one is kept with its reason.

A line has an instruction, perhaps an input, and, if it is a finished example, an output. Lines of Self-Instruct's
format, with `instances` of `input` and `output`, are one example for each instance. A line of plain text is a prompt. A
dialogue of messages is a finished example if the assistant speaks last, and a prompt otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from selfimprove_dagster.families.dialogues.files import dialogue_in
from selfimprove_dagster.families.tasks.files import filled, optional
from selfimprove_dagster.lake.records import content_hash
from selfimprove_dagster.methods.curate.settings import ExampleFile
from selfimprove_dagster.methods.curate.tables import SEED_EXAMPLES
from selfimprove_dagster.rows import Place, Rejected
from selfimprove_dagster.seeds.files import DUPLICATE, each
from selfimprove_dagster.seeds.kind import SeedKind
from selfimprove_dagster.table import Row

TEXTS = ("instruction", "input", "output")


def examples(source: ExampleFile) -> Iterator[Row | Rejected]:
    """Yield the rows of `seeds/examples` that a source makes, and the rejected lines, in order.

    The output of a prompt is None. Raises SeedFileError if a whole file cannot be read.
    """

    def parse(row: Any, at: Place) -> list[Row]:
        if isinstance(row, str):
            row = {source.instruction_field: row}
        place = {"source_file": at.file, "source_line": at.line, "licence": source.licence}
        if (said := dialogue_in(row, source.instruction_field)) is not None:
            return [{"instruction": said[0], "input": "", "output": said[1], **place}]
        instruction = filled(row, source.instruction_field)
        return [
            {"instruction": instruction, "input": given, "output": output, **place}
            for given, output in _pairs(row, source)
        ]

    def keys(found: list[Row]) -> Iterable[tuple[str, str]]:
        return [(key_of(row), DUPLICATE) for row in found]

    for found in each(Path(source.file), parse, keys, source.rows):
        if isinstance(found, Rejected):
            yield found
        else:
            yield from found


def _pairs(row: Any, source: ExampleFile) -> list[tuple[str, str | None]]:
    """Return the inputs of a line, each with its output or None."""
    instances = row.get("instances") if isinstance(row, Mapping) else None
    if instances is None:
        return [(optional(row, source.input_field), optional(row, source.output_field) or None)]
    if not isinstance(instances, list) or not all(isinstance(one, Mapping) for one in instances):
        raise ValueError("field `instances` must be a list of objects with `input` and `output`")
    pairs = [(optional(one, "input"), optional(one, "output") or None) for one in instances]
    return [*dict.fromkeys(pairs)] or [("", None)]


def key_of(row: Row) -> str:
    """Return what two lines with equal texts have in common."""
    return content_hash({name: row[name] for name in TEXTS})


EXAMPLES = SeedKind(
    SEED_EXAMPLES,
    "instruction",
    examples,
    key_of,
    reading=("instruction_field", "input_field", "output_field", "rows"),
)
"""Seeds that are prompts or finished examples, from an `ExampleFile`."""
