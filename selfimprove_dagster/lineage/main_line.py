"""Walk the main line of a record: its ancestors without the demonstrations that its prompts showed.

The demonstrations of a prompt are parents, too, and have parents of their own. Walked in full, the ancestry
of one example would be most of the lake. Along the main line they are counted but not walked.
"""

from __future__ import annotations

from selfimprove_dagster.lineage.walk import Lineage, Walk
from selfimprove_dagster.table import Row
from selfimprove_dagster.words import SHOWN


def main_line(lineage: Lineage, record: str) -> list[Row]:
    """Return the rows of the main line, the record first, including revoked ones, each with its place."""
    found: dict[str, Row] = {}
    ahead = [record]
    while ahead:
        found |= lineage.rows(ahead, withdrawn=True)
        parents = (edge for one in ahead if one in found for edge in found[one]["parents"])
        ahead = [edge["id"] for edge in parents if edge["role"] != SHOWN and edge["id"] not in found]
    return list(found.values())


def without_ancestors_of_the_shown(walk: Walk, start: str) -> Walk:
    """Return a walk up from `start` that keeps the demonstrations of prompts but not their ancestors."""
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
