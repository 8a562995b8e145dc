"""Collect the searchable tables of one iteration: its examples, and the candidates that rules dropped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from selfimprove_dagster.experiment.naming import split_turn
from selfimprove_dagster.explorer.listings import Listing
from selfimprove_dagster.explorer.methods import dropped_of, examples_of, method_of, pages_of
from selfimprove_dagster.explorer.views import stages_of
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lineage.walk import RecordNotFound
from selfimprove_dagster.text import plural

ROWS = 50
"""Number of rows per page."""


@dataclass
class _Table:
    """A request as SQL conditions whose values are bound as parameters, never interpolated."""

    asked: Mapping[str, str]
    values: dict[str, Any]
    conditions: list[str] = field(default_factory=list)

    def equal(self, parameter: str, column: str, many: bool = False) -> None:
        if value := self.asked.get(parameter, "").strip():
            is_it = f"list_contains({column}, ${parameter})" if many else f"{column} = ${parameter}"
            self._where(is_it, **{parameter: value})

    def between(self, column: str) -> None:
        """Filter by the parameters `least` and `most`; values that are not numbers are ignored."""
        for parameter, comparison in (("least", ">="), ("most", "<=")):
            try:
                bound = float(self.asked.get(parameter, ""))
            except ValueError:
                continue
            if math.isfinite(bound):
                self._where(f"{column} {comparison} ${parameter}", **{parameter: bound})

    def words(self, *columns: str) -> None:
        """Require every word of `q` in one of the columns, ignoring case."""
        text = " || ' ' || ".join(f"coalesce({column}, '')" for column in columns)
        for number, word in enumerate(self.asked.get("q", "").split()[:20]):
            self._where(f"contains(lower({text}), lower($word{number}))", **{f"word{number}": word})

    def _where(self, condition: str, **values: Any) -> None:
        self.conditions.append(f"AND {condition}")
        self.values.update(values)

    @property
    def sql(self) -> str:
        return " ".join(self.conditions)

    def order(self, columns: Mapping[str, str], default: str) -> tuple[str, str]:
        """Return the column that `sort` names (with the prefix `-`: descending), and its SQL."""
        sort = self.asked.get("sort", default)
        if sort.removeprefix("-") not in columns:
            sort = default
        column = columns[sort.removeprefix("-")]
        return sort, f"ORDER BY {column} {'DESC' if sort.startswith('-') else 'ASC'} NULLS LAST, id"

    def link(self, **changes: Any) -> str:
        """Return the query string with these parameters changed; the page is reset to 1."""
        query = {**self.asked, "page": "", **{key: str(value) for key, value in changes.items()}}
        return "?" + urlencode({key: value for key, value in query.items() if value})


def examples(home: Home, name: str, iteration: int, asked: Mapping[str, str]) -> dict[str, Any]:
    """Return one page of an iteration's examples. Raises RecordNotFound if its method makes no dataset."""
    stages = stages_of(home, name, iteration)
    listing = examples_of(stages)
    if listing is None:
        raise RecordNotFound(f"the method {method_of(stages)} does not make a dataset")
    return _listed(home, _table(asked, name, iteration), listing, stages)


def rejected(home: Home, name: str, iteration: int, asked: Mapping[str, str]) -> dict[str, Any]:
    """Return one page of dropped candidates, each with the rule that dropped it; `of` selects the list.

    Raises RecordNotFound if the iteration has no filter.
    """
    stages = stages_of(home, name, iteration)
    kinds = dropped_of(stages)
    if not kinds:
        raise RecordNotFound(
            f"iteration {iteration} of {name} has no table of decisions, so nothing was dropped"
        )
    kind = asked.get("of", "")
    kind = kind if kind in kinds else next(iter(kinds))
    shown = _shown(home, _table(asked, name, iteration), kinds[kind], stages)
    return shown | {"kinds": list(kinds), "kind": kind}


def more(home: Home, name: str, iteration: int, which: str, asked: Mapping[str, str]) -> dict[str, Any]:
    """Return one page of another list that the method declares.

    Raises RecordNotFound if it is not declared.
    """
    stages = stages_of(home, name, iteration)
    listing = pages_of(method_of(stages)).more.get(which)
    if listing is None:
        raise RecordNotFound(f"the method {method_of(stages)} has no {which}")
    return _listed(home, _table(asked, name, iteration), listing, stages)


def _listed(home: Home, table: _Table, listing: Listing, stages: Mapping[str, Manifest]) -> dict[str, Any]:
    shown = _shown(home, table, listing, stages)
    return shown | {"heading": plural(listing.noun).capitalize()}


def _table(asked: Mapping[str, str], name: str, iteration: int) -> _Table:
    return _Table(dict(asked), {"experiment": split_turn(name)[0], "iteration": iteration})


def _shown(home: Home, table: _Table, listing: Listing, stages: Mapping[str, Manifest]) -> dict[str, Any]:
    table.words(*listing.words)
    for facet in listing.facets:
        table.equal(facet.parameter, facet.column, facet.many)
    if listing.answer:
        table.equal("answer", "answer")
    if listing.between:
        table.between(listing.between.column)
    if listing.readable and table.asked.get("readable") in ("yes", "no"):
        table.conditions.append(f"AND answer IS {'NOT ' if table.asked['readable'] == 'yes' else ''}NULL")
    columns = {column.sort: f'"{column.name}"' for column in listing.columns if column.sort}
    sort, order = table.order(columns, listing.default)
    rows: list[dict[str, Any]] = []
    facets: list[tuple[str, list[tuple[Any, ...]]]] = []
    count, page = 0, 1
    ready = all(stage in stages for stage in listing.needed)
    if ready:
        source = listing.source
        with home.lake.connect() as connection:
            everything = {key: table.values[key] for key in ("experiment", "iteration")}
            for facet in listing.facets:
                choice = f"unnest({facet.column})" if facet.many else facet.column
                choices = connection.execute(
                    f"SELECT choice, count(*) FROM (SELECT {choice} AS choice {source}) "
                    "GROUP BY 1 ORDER BY 2 DESC, 1",
                    everything,
                ).fetchall()
                facets.append((facet.parameter, choices))
            found = connection.execute(f"SELECT count(*) {source} {table.sql}", table.values).fetchone()
            count = found[0] if found else 0
            asked = table.asked.get("page", "1")
            last = max(1, math.ceil(count / ROWS))
            page = min(int(asked), last) if asked.isdecimal() and len(asked) < 10 and int(asked) else 1
            result = connection.execute(
                f"SELECT {listing.select} {source} {table.sql} {order} "
                f"LIMIT {ROWS} OFFSET {(page - 1) * ROWS}",
                table.values,
            )
            names = [column[0] for column in result.description]
            rows = [dict(zip(names, values, strict=True)) for values in result.fetchall()]
    return {
        "name": table.values["experiment"],
        "iteration": table.values["iteration"],
        "listing": listing,
        "ready": ready,
        "rows": rows,
        "count": count,
        "page": page,
        "first": (page - 1) * ROWS + 1,
        "pages": max(1, math.ceil(count / ROWS)),
        "facets": facets,
        "asked": table.asked,
        "link": table.link,
        "sort": sort,
    }
