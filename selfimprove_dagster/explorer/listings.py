"""Define the searchable tables of an iteration: what a method declares, and the defaults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from selfimprove_dagster.explorer.shapes import text_columns
from selfimprove_dagster.table import TEXT, Table, is_decisions

HERE = "WHERE experiment = $experiment AND iteration = $iteration"
"""Selects the rows of the requested iteration, in SQL."""


SO_FAR = "WHERE experiment = $experiment AND iteration <= $iteration"
"""Selects the rows of the requested iteration and all earlier ones, in SQL."""


@dataclass(frozen=True)
class Column:
    """A column next to the text: heading, column of the query, name in `sort`, and whether it is a number."""

    heading: str
    name: str
    sort: str = ""
    number: bool = False


@dataclass(frozen=True)
class Facet:
    """A column to filter by equality, under its query parameter; for a list column, by its members."""

    parameter: str
    column: str
    many: bool = False


@dataclass(frozen=True)
class Range:
    """A column to filter by a range of numbers; `share`: its values are between 0 and 1."""

    heading: str
    column: str
    share: bool = True


@dataclass(frozen=True)
class Listing:
    """A searchable table: its query, its filters, and how it is shown.

    The query returns `id`, the record that a row links to (`link`), `title`, `body`, and the columns.
    `needed` lists the stages that must be committed. `asks` names the searched texts and `words` their
    columns. `facets` are the columns to filter by, and `between` is the column that `least` and `most` bound.
    A dropped row also has `rule`, `reason` and `nearest_id`. `waiting` is the message while the stages are
    missing, and `called` is the text of the link to the table.
    """

    noun: str
    about: str
    text: str
    asks: str
    needed: tuple[str, ...]
    source: str
    select: str
    words: tuple[str, ...]
    facets: tuple[Facet, ...]
    columns: tuple[Column, ...]
    default: str
    between: Range | None = None
    answer: bool = False
    readable: bool = False
    waiting: str = "These rows are not committed yet."
    called: str = ""


RULE = Facet("rule", "rule")


SCORES = (
    Column("rule", "rule", "rule"),
    Column("score", "score", "score", True),
    Column("threshold", "threshold", number=True),
)


FORMAT = Column("format", "format", "format")


UNFILTERED = "The filters of this iteration have not run yet."


def dropped(
    method: str, table: str, about: str, noun: str, texts: str, needed: tuple[str, ...], text: str
) -> Listing:
    """Return a listing of the candidates that the rules of a table of decisions dropped.

    `texts` is a query that returns the texts of candidates: `of` (the candidate), `title, body`.
    """
    return Listing(
        noun=noun,
        about=about,
        text=text,
        asks="text or reason",
        needed=(table, *needed),
        source=f'FROM "{method}"."{table}" AS decided LEFT JOIN ({texts}) AS said '
        f"ON said.of = decided.candidate_id {HERE} AND NOT kept",
        select="decided.id AS id, candidate_id AS link, rule, reason, score, threshold, nearest_id, "
        "left(title, 400) AS title, left(body, 400) AS body",
        words=("title", "body", "reason"),
        facets=(RULE,),
        columns=SCORES,
        default="rule",
        between=Range("Score", "score", share=False),
        waiting=UNFILTERED,
        called="dropped candidates",
    )


_MOST_COLUMNS = 4
"""Maximum number of columns that a table shows by default next to its texts."""


def default_rows(table: Table) -> Listing:
    """Return a listing of the rows of a table: their texts, numbers and short strings."""
    texts = text_columns(table)
    numbers = [name for name, kind in table.polars.items() if kind.is_numeric()][: _MOST_COLUMNS - 1]
    names = ["format"] if table.content.get("format") == TEXT else []
    columns = tuple(
        Column(name.replace("_", " "), name, name, number=name in numbers) for name in (*names, *numbers)
    )
    title, body = (f'left("{name}", 400)' if name else "NULL" for name in (*texts, "", "")[:2])
    return Listing(
        noun=table.noun,
        about="",
        text=" and ".join(name.replace("_", " ") for name in texts[:2]) or table.noun,
        asks=" or ".join(name.replace("_", " ") for name in texts) or "texts",
        needed=(table.stage,),
        source=f'FROM "{table.method}"."{table.stage}" {HERE}',
        select=", ".join(
            [
                "id",
                "id AS link",
                f"{title} AS title",
                f"{body} AS body",
                *(f'"{one.name}"' for one in columns),
            ]
        ),
        words=tuple(f'"{name}"' for name in texts) or ("id",),
        facets=tuple(Facet(name, f'"{name}"') for name in names),
        columns=columns,
        default=columns[0].name if columns else "id",
    )


def default_dropped(tables: Iterable[Table]) -> Mapping[str, Listing]:
    """Return, by stage, a listing of what each table of decisions dropped, with the candidates' texts."""
    known = [*tables]
    texts = " UNION ALL ".join(
        f'SELECT id AS of, "{said[0]}" AS title, {_quoted(said[1:2])} AS body '
        f'FROM "{table.method}"."{table.stage}" {SO_FAR}'
        for table in known
        if not is_decisions(table) and (said := text_columns(table))
    )
    nothing = "SELECT NULL AS of, NULL AS title, NULL AS body"
    return {
        table.stage: dropped(
            table.method,
            table.stage,
            "Candidates that a rule dropped, each with its score, the threshold and the reason.",
            "candidate",
            texts or nothing,
            (),
            "candidate",
        )
        for table in known
        if is_decisions(table)
    }


def _quoted(names: list[str]) -> str:
    return f'"{names[0]}"' if names else "NULL"
