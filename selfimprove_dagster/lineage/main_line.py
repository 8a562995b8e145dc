"""The main line of a record: what it was made from, without what was only shown to the model that wrote it.

A prompt's demonstrations are parents too, and each has parents of its own: walked through, the ancestry of
one example is most of the lake. Along the main line they are counted, not walked.
"""

from __future__ import annotations

from selfimprove_dagster.lineage.walk import Lineage, Walk
from selfimprove_dagster.table import Row
from selfimprove_dagster.words import SHOWN


def main_line(lineage: Lineage, record: str) -> list[Row]:
    """The rows of the main line, the record's own first, withdrawn ones too; with `table_name` and place."""
    found: dict[str, Row] = {}
    ahead = [record]
    while ahead:
        found |= lineage.rows(ahead, withdrawn=True)
        parents = (edge for one in ahead if one in found for edge in found[one]["parents"])
        ahead = [edge["id"] for edge in parents if edge["role"] != SHOWN and edge["id"] not in found]
    return list(found.values())


def without_ancestors_of_the_shown(walk: Walk, start: str) -> Walk:
    """A walk up from `start`, cut at what prompts showed: it stays, but not what it was made from."""
    edges = walk.edges.rows_by_key("child", named=True)
    reached, ahead = {start}, [start]
    kept = set()
    while ahead:
        child = ahead.pop()
        kept.add(child)
        for edge in edges.get(child, ()):
            if edge["parent"] not in reached and edge["role"] != SHOWN:
                ahead.append(edge["parent"])
                reached.add(edge["parent"])
    near = walk.edges.filter(walk.edges["child"].is_in(list(kept)))
    named = {start, *near["parent"]}
    return Walk(walk.nodes.filter(walk.nodes["id"].is_in(list(named))), near)
