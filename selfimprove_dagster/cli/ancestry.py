"""A record's ancestry as a tree in the terminal. Text that a model wrote is shown inert."""

from __future__ import annotations

from typing import Any

from rich.text import Text
from rich.tree import Tree

from selfimprove_dagster import registry
from selfimprove_dagster.lineage.trace import Ancestor
from selfimprove_dagster.table import sentence_of
from selfimprove_dagster.text import plain

_WIDTH = 300


_DEEPEST = 20
"""Levels that are drawn; each takes four columns of the terminal."""


def ancestry_tree(ancestor: Ancestor) -> Tree:
    """The tree, each record with what made it; a record that stands above, or too deep, is named only."""
    way: list[Tree] = []
    for depth, node, above in ancestor.unfolded():
        if depth > _DEEPEST:
            continue
        if above:
            label = _name(node).append("  (above)", style="dim")
        elif depth == _DEEPEST and node.parents:
            label = _name(node).append("  (goes on: trace it by itself)", style="dim")
        else:
            label = _label(node)
        del way[depth:]
        way.append(way[-1].add(label) if way else Tree(label))
    return way[0]


def _name(ancestor: Ancestor) -> Text:
    label = Text()
    if ancestor.role:
        label.append(plain(ancestor.role.replace("_", " ")) + " ", style="italic")
    return label.append(plain(ancestor.id), style="bold cyan")


def _label(ancestor: Ancestor) -> Text:
    label = _name(ancestor)
    if ancestor.revoked:
        return label.append("  revoked", style="bold red")
    if ancestor.table:
        said = sentence_of(registry.tables().get(ancestor.table), _row(ancestor))
        label.append("  " + plain(said, _WIDTH))
    made_by = _made_by(ancestor)
    if made_by:
        label.append("\n" + made_by, style="dim")
    return label


def _row(ancestor: Ancestor) -> dict[str, Any]:
    """The row as `Lineage.rows` gives it."""
    parents = [{"id": parent.id, "role": parent.role} for parent in ancestor.parents]
    return {
        **ancestor.columns,
        "id": ancestor.id,
        "parents": parents,
        "table_name": ancestor.table,
        "activity": ancestor.activity,
    }


def _made_by(node: Ancestor) -> str:
    """The engine and the sampling parameters of a record that a model wrote."""
    if not node.activity or node.activity["model_id"] is None or node.columns.get("seed") is None:
        return ""
    parameters: dict[str, Any] = node.activity["parameters"]
    given = dict(parameters)
    for section in parameters.values():
        given |= section if isinstance(section, dict) else {}
    which = f"sample {node.columns['sample_index']} of {given['paths']}, " if "paths" in given else ""
    how = "greedily"
    if given.get("temperature"):
        how = f"T={given['temperature']}, top_p={given.get('top_p', 1.0)}, top_k={given.get('top_k', 0)}"
    return plain(f"{which}{given['engine']}, {how}" if "engine" in given else f"{which}{how}")
