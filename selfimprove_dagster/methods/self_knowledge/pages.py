"""The tables of what a model picked among its own answers."""

from __future__ import annotations

from collections.abc import Mapping

from selfimprove_dagster.explorer.listings import HERE, Column, Facet, Listing
from selfimprove_dagster.methods.self_knowledge.tables import METHOD

_TEXTS = f"""FROM (SELECT * FROM "{METHOD}"."discrimination_score" {HERE}) AS pick
LEFT JOIN (SELECT id, question FROM "{METHOD}"."questions" {HERE}) AS asked ON asked.id = pick.question_id
LEFT JOIN (SELECT id, text FROM "{METHOD}"."candidates" {HERE}) AS said ON said.id = pick.picked_id"""


_SHOWN = (
    "pick.id AS id, pick.id AS link, left(question, 400) AS title, left(text, 400) AS body, "
    'task, pick."by" AS way'
)


_FACETS = (Facet("task", "task"), Facet("by", 'pick."by"'))


_COLUMNS = (Column("task", "task", "task"), Column("by", "way"))


_PICKS = Listing(
    noun="pick",
    about="",
    text="question, and the candidate that was picked",
    asks="questions and candidates",
    needed=("discrimination_score", "candidates", "questions"),
    source=f"{_TEXTS} WHERE TRUE",
    select=f'{_SHOWN}, "right" AS is_right',
    words=("question", "text"),
    facets=_FACETS,
    columns=(*_COLUMNS, Column("right", "is_right")),
    default="task",
)


_WRONG = Listing(
    noun="pick",
    about="Picks that are wrong, or that could not be read.",
    text="question, and the candidate that was picked",
    asks="questions and candidates",
    needed=("discrimination_score", "candidates", "questions"),
    source=f'{_TEXTS} WHERE "right" IS DISTINCT FROM TRUE',
    select=f"""{_SHOWN}, NULL AS nearest_id,
CASE WHEN "right" IS NULL THEN 'unread' ELSE 'wrong' END AS rule,
CASE WHEN "right" IS NULL THEN 'no choice could be read' ELSE 'the candidate is wrong' END AS reason""",
    words=("question", "text"),
    facets=_FACETS,
    columns=_COLUMNS,
    default="task",
)


PICKS: Mapping[str, Listing] = {METHOD: _PICKS}
"""All picks of an iteration, where other methods have examples."""


WRONG_PICKS: Mapping[str, Mapping[str, Listing]] = {METHOD: {"picks": _WRONG}}
"""Those that are not right, where other methods have what was dropped."""


PAGES = None
CARD = None
