"""The import graph of the package: which file imports which, and which room which."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "selfimprove_dagster"


@cache
def files() -> Mapping[str, Path]:
    """Every module of the package by its dotted name."""
    found: dict[str, Path] = {}
    for folder, prefix in (
        ("selfimprove_dagster", ""),
        ("assets", f"{PACKAGE}."),
        ("resources", f"{PACKAGE}."),
    ):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if any(parent.is_symlink() for parent in path.parents):
                continue
            name = prefix + ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def imported(path: Path, *, top_level: bool = False, types: bool = False) -> set[str]:
    """The modules that a file imports, inside functions too unless `top_level`; with `types`, those that only type
    checkers import too."""

    def statements(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if not types and isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            yield child
            if not (top_level and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))):
                yield from statements(child)

    found: set[str] = set()
    for node in statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            # `from package import module` needs the module; the package is only the way to it.
            found |= below if below <= files().keys() else {node.module, *below}
    return found


@cache
def graph() -> Mapping[str, frozenset[str]]:
    """For each module of the package those that it imports: at once, inside functions, or for type checkers."""
    known = files()
    return {
        name: frozenset((imported(path, types=True) & known.keys()) - {name, PACKAGE})
        for name, path in known.items()
    }


def room(module: str) -> str:
    """The folder that a module lies in, or its own name at the root; a method or family is a room of its own."""
    parts = module.split(".")[1:]
    if not parts:
        return PACKAGE
    if parts[0] in ("methods", "families") and len(parts) > 1:
        return "/".join(parts[:2])
    return parts[0]


def rooms() -> dict[str, set[str]]:
    """For each room those that it imports from."""
    found: dict[str, set[str]] = {}
    for module, used in graph().items():
        found.setdefault(room(module), set()).update({room(one) for one in used} - {room(module)})
    return found


def cycles(arrows: Mapping[str, set[str] | frozenset[str]]) -> list[list[str]]:
    """The groups of nodes that reach one another, each sorted; none where the graph has no cycle."""
    order: list[str] = []
    seen: set[str] = set()

    def visit(node: str, edges: Mapping[str, set[str]], out: list[str]) -> None:
        stack = [(node, iter(sorted(edges.get(node, ()))))]
        seen.add(node)
        while stack:
            top, rest = stack[-1]
            following = next((one for one in rest if one not in seen), None)
            if following is None:
                out.append(top)
                stack.pop()
            else:
                seen.add(following)
                stack.append((following, iter(sorted(edges.get(following, ())))))

    forward = {node: set(used) for node, used in arrows.items()}
    backward: dict[str, set[str]] = {}
    for node, used in forward.items():
        for one in used:
            backward.setdefault(one, set()).add(node)
    for node in sorted(forward):
        if node not in seen:
            visit(node, forward, order)
    seen.clear()
    groups = []
    for node in reversed(order):
        if node not in seen:
            group: list[str] = []
            visit(node, backward, group)
            groups.append(sorted(group))
    return [group for group in groups if len(group) > 1]
