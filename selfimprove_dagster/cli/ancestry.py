"""Draw a record's ancestry as a tree in the terminal. Control characters in model text are escaped."""

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
"""Maximum depth of the tree; each level takes four columns of the terminal."""


def ancestry_tree(ancestor: Ancestor) -> Tree:
    """Return the tree: each record with the model and sampling parameters that produced it.

    A record that is already shown above, or that is too deep, appears by its id only.
    """
    way: list[Tree] = []
    for depth, node, above in ancestor.unfolded():
        if depth > _DEEPEST:
            continue
        if above:
            label = _name(node).append("  (above)", style="dim")
        elif depth == _DEEPEST and node.parents:
            label = _name(node).append("  (more parents: trace this id)", style="dim")
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
    """Return the row in the form that `Lineage.rows` returns."""
    parents = [{"id": parent.id, "role": parent.role} for parent in ancestor.parents]
    return {
        **ancestor.columns,
        "id": ancestor.id,
        "parents": parents,
        "table_name": ancestor.table,
        "activity": ancestor.activity,
    }


def _made_by(node: Ancestor) -> str:
    """Return the engine and the sampling parameters of a record that a model wrote."""
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
