"""Collect what is held out for evaluation, to drop training texts that are, or quote, one of its texts.

`filters.contamination` compares the texts. An experiment without `decontamination` drops none, and its checks say if a
training text is an evaluation text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from selfimprove_dagster.errors import SeedFileError
from selfimprove_dagster.experiment.base import BenchmarkFile, DecontaminationSection, Experiment
from selfimprove_dagster.filters.contamination import EvaluationTexts, described
from selfimprove_dagster.home.exams import held_out_questions
from selfimprove_dagster.lake.records import content_hash
from selfimprove_dagster.rows import Unreadable, check_source, is_on_hub, read_rows, text_field, value_at

LEAST_WORDS = 5
"""Texts of a benchmark file with fewer words are left out unless their field is named: `yes` is in every data set."""


class HeldOut:
    """The evaluation texts of an experiment and of the benchmark files that it names, each with file and line."""

    def __init__(self, experiment: Experiment, section: DecontaminationSection) -> None:
        """Read all texts. Raises SeedFileError if a file cannot be read, or a line of a benchmark has no text."""
        self.names: list[str] = []
        self._texts: list[str] = []
        self._words = section.words
        for question in held_out_questions(experiment):
            self._add(question.source_file, question.source_line, question.question)
        for benchmark in section.benchmarks:
            for file, line, text in _texts_of(benchmark):
                self._add(file, line, text)

    def _add(self, file: str, line: int, text: str) -> None:
        self.names.append(f"{file}, line {line}")
        self._texts.append(text)

    @cached_property
    def texts(self) -> EvaluationTexts:
        """Return the texts, to be compared with."""
        return EvaluationTexts(self._texts, self._words)

    @property
    def parameters(self) -> dict[str, Any]:
        """Return what determines which texts are dropped, for an activity."""
        return {"words": self._words, "texts": content_hash({"names": self.names, "texts": self._texts})}

    def reasons(self, texts: list[tuple[int, str]]) -> dict[int, str]:
        """Return why rows are dropped, by number of the row; `texts` are pairs of such a number and a text."""
        found: dict[int, str] = {}
        for hit in self.texts.hits(text for _, text in texts):
            found.setdefault(texts[hit.training][0], described(hit, self.names))
        return found


def held_out_of(experiment: Experiment) -> HeldOut | None:
    """Return what training texts are compared with; None if the experiment has no `decontamination`."""
    section = getattr(experiment, "decontamination", None)
    return None if section is None else HeldOut(experiment, section)


def recorded(held_out: HeldOut | None) -> dict[str, Any]:
    """Return what an activity records of the texts that were compared; nothing without any."""
    return {} if held_out is None else {"decontamination": held_out.parameters}


def _texts_of(benchmark: BenchmarkFile) -> Iterator[tuple[str, int, str]]:
    for number, (at, row) in enumerate(read_rows(Path(benchmark.file))):
        if number == 0 and isinstance(row, Mapping):
            _check_fields(benchmark, row)
        try:
            if isinstance(row, Unreadable):
                raise ValueError(row.reason)
            if benchmark.fields and isinstance(row, Mapping):
                texts = [text for field in benchmark.fields for text in _named(row, field)]
            else:
                texts = [text for text in _leaves(row) if len(text.split()) >= LEAST_WORDS]
        except ValueError as error:
            raise SeedFileError(
                f"decontamination: {benchmark.file}, {at.file}, line {at.line}: {error}; fix the line"
            ) from None
        yield from ((at.file, at.line, text) for text in texts)


def benchmark_problems(benchmark: BenchmarkFile) -> Iterator[str]:
    """Yield why the first texts of a benchmark cannot be read, such as a field that it lacks. Later rows are not read.

    A missing file and a data set of the Hub are no problem here.
    """
    try:
        check_source(Path(benchmark.file))
    except SeedFileError:
        return
    try:
        if not is_on_hub(benchmark.file):
            next(_texts_of(benchmark), None)
    except SeedFileError as error:
        yield str(error)


def _check_fields(benchmark: BenchmarkFile, row: Mapping[str, Any]) -> None:
    """Raise SeedFileError for a field that the first row of a benchmark lacks."""
    for field in benchmark.fields:
        if value_at(row, field) is None and field not in row:
            raise SeedFileError(
                f"decontamination.benchmarks: {benchmark.file} has no field `{field}`; its fields are "
                f"{', '.join(map(str, row)) or 'none'}: correct `fields`, or omit it for all texts"
            )


def _named(row: Mapping[str, Any], field: str) -> list[str]:
    value = value_at(row, field)
    return list(_leaves(value)) if isinstance(value, Mapping | list | tuple) else [text_field(row, field)]


def _leaves(value: Any) -> Iterator[str]:
    """Yield all texts in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _leaves(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _leaves(one)
