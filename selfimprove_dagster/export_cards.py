"""Define what a method declares about its exported datasets: texts of the card, columns and layouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from selfimprove_dagster.explorer.shapes import table_of
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.table import is_decisions
from selfimprove_dagster.text import plural


@dataclass(frozen=True)
class CardWords:
    """The texts of the card of a dataset.

    `truth` states who judged, and whether true answers were used. `sources` has `source_file, licence`, with
    one row per imported text, which `noun` names; `of_sources` is the text above their table. `drawn` is the
    partition of the model's texts (None if people wrote them), and `sampling` describes how they were
    sampled. `decisions` are the tables of the filters. `made_by` states who wrote and selected the examples,
    and `columns` what to train on.
    """

    truth: str
    sources: pl.DataFrame
    noun: str
    of_sources: str
    drawn: Manifest | None
    sampling: str
    decisions: tuple[str, ...]
    made_by: str = "a language model wrote and selected"
    columns: str = "Train on `prompt` and `completion`"


Layout = Callable[[pl.DataFrame], pl.DataFrame]


@dataclass(frozen=True)
class Card:
    """The way in which the dataset of a method is exported.

    `words` returns the texts of its card, and `columns` the exported columns besides the measures. `layouts`
    holds functions that make the rows of a layout, and `refused` the reasons why layouts are not possible.
    """

    words: Callable[[Lake, Manifest], CardWords] | None = None
    columns: Sequence[str | pl.Expr] | None = None
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


def default_words(lake: Lake, dataset: Manifest) -> CardWords:
    """Return the default texts for a dataset, derived from the tables of its iteration."""
    method = dataset.table.split("/")[0]
    made = [
        one for one in lake.manifests(f"{method}/*", dataset.experiment) if one.iteration == dataset.iteration
    ]
    tables = {one.table: table_of(one) for one in made}
    given = next(
        (one for one in made if {"source_file", "licence"} <= tables[one.table].content.keys()), None
    )
    drawn = next((one for one in made if {"champion", "engine"} <= _recorded(one)), None)
    empty = pl.DataFrame(schema={"source_file": pl.String, "licence": pl.String})
    return CardWords(
        truth="",
        sources=lake.read_ungated(given) if given else empty,
        noun=plural(tables[given.table].noun) if given else "rows",
        of_sources="",
        drawn=drawn,
        sampling=f"{drawn.rows:,} {plural(tables[drawn.table].noun)} in total" if drawn else "",
        decisions=tuple(table.stage for table in tables.values() if is_decisions(table)),
        made_by="a language model wrote" if drawn else "were made",
        columns=f"The rows are those of the table `{dataset.table}`",
    )


def _recorded(manifest: Manifest) -> set[str]:
    return {*manifest.activity.about, *manifest.activity.parameters}
