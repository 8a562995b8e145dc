"""A record's ancestry as a tree in the terminal. Text that a model wrote is shown inert."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.text import Text
from rich.tree import Tree

from selfimprove_dagster import registry
from selfimprove_dagster.families.preferences.explain import TABLES as JUDGED
from selfimprove_dagster.families.preferences.explain import sentence as judged_sentence
from selfimprove_dagster.families.tasks.explain import TASK_METHODS, sentence, text_of
from selfimprove_dagster.families.tasks.tables import SEED_TASKS
from selfimprove_dagster.lineage.trace import Ancestor
from selfimprove_dagster.methods.constitutional.tables import CAI_RAW_GENERATIONS
from selfimprove_dagster.methods.refinement.tables import RF_RAW_GENERATIONS
from selfimprove_dagster.methods.rlaif.tables import RLAIF_RESPONSE_PAIRS
from selfimprove_dagster.methods.self_knowledge.explain import TABLES as SELF_KNOWLEDGE
from selfimprove_dagster.methods.self_knowledge.explain import sentence as measured_sentence
from selfimprove_dagster.methods.toolformer.explain import METHOD as TOOL_METHOD
from selfimprove_dagster.methods.toolformer.explain import sentence as tool_sentence
from selfimprove_dagster.methods.toolformer.tables import SEED_TEXTS
from selfimprove_dagster.text import plain
from selfimprove_dagster.work.shards import recorded_sampling

_WIDTH = 100


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
    method, _, stage = ancestor.table.partition("/")
    label = _name(ancestor)
    if ancestor.revoked:
        return label.append("  revoked", style="bold red")
    special: Mapping[str, Callable[[Ancestor], str]] = {}
    if method in TASK_METHODS or ancestor.table == SEED_TASKS.name:
        special = _OF_TASKS
    elif method == TOOL_METHOD or ancestor.table == SEED_TEXTS.name:
        special = _OF_TOOLS
    elif ancestor.table in JUDGED and stage not in _AS_ELSEWHERE:
        special = {stage: _judged}
    elif ancestor.table in SELF_KNOWLEDGE:
        special = {stage: _measured}
    describe = special.get(stage) or _DESCRIPTIONS.get(stage)
    if describe:
        label.append("  ")
        label.append(describe(ancestor))
    made_by = _made_by(ancestor)
    if made_by:
        label.append("\n" + made_by, style="dim")
    return label


def _example(node: Ancestor) -> str:
    columns = node.columns
    said = plain(columns["prompt"] + " ▸" + columns["completion"], _WIDTH * 3)
    return f"{plain(columns['format'])}, vote share {_figure(columns['vote_share'])}\n{said}"


def _task_example(node: Ancestor) -> str:
    columns = node.columns
    scores = [
        f", {name} {_figure(columns[column])}"
        for column, name in (("rouge_l", "ROUGE-L"), ("perplexity", "perplexity"))
        if columns.get(column) is not None
    ]
    said = plain(columns["prompt"] + " ▸" + columns["completion"], _WIDTH * 3)
    return f"{plain(columns['format'])}{''.join(scores)}\n{said}"


def _instruction(node: Ancestor) -> str:
    columns = node.columns
    problem = f" ({plain(columns['problem'], _WIDTH)})" if columns.get("problem") else ""
    return plain(text_of(dict(columns)), _WIDTH) + problem


def _score(node: Ancestor) -> str:
    row = {**node.columns, "table_name": node.table}
    return plain(sentence(row), _WIDTH)


def _vote(node: Ancestor) -> str:
    columns = node.columns
    counts = ", ".join(f"{vote['answer']} × {vote['count']}" for vote in columns["votes"])
    tie = ", a tie" if columns["tie"] else ""
    return (
        f"voted {plain(str(columns['voted_answer']), _WIDTH)} by {plain(columns['rule'])} of "
        f"{columns['n_paths']} paths (share {_figure(columns['vote_share'])}, "
        f"margin {_figure(columns['margin'])}{tie}): {plain(counts, _WIDTH)}"
    )


def _path(node: Ancestor) -> str:
    return f"seed {node.columns['seed']}: {plain(node.columns['text'], _WIDTH)}"


def _question(node: Ancestor) -> str:
    return plain(node.columns["question"], _WIDTH)


def _seed(node: Ancestor) -> str:
    columns = node.columns
    file, licence = plain(columns["source_file"], _WIDTH), plain(columns["licence"], 40)
    return f"{file}, line {columns['source_line']} (licence: {licence})"


def _checkpoint(node: Ancestor) -> str:
    columns = node.columns
    return (
        f"model {plain(columns['model_id'])}, {columns['examples']} examples, {columns['steps']} steps, "
        f"at {plain(columns['path'])}"
    )


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


_DESCRIPTIONS: dict[str, Callable[[Ancestor], str]] = {
    "filtered_dataset": _example,
    "voted_answers": _vote,
    "raw_generations": _path,
    "seed_pool": _question,
    "accepted": _seed,
    "demonstrations": _seed,
    "fine_tuned_checkpoint": _checkpoint,
    "decisions": lambda node: f"{plain(node.columns['rule'])}: {plain(node.columns['reason'], _WIDTH)}",
    "promotion": lambda node: plain(node.columns["reason"], _WIDTH * 3),
}


_OF_TASKS: dict[str, Callable[[Ancestor], str]] = {
    "filtered_dataset": _task_example,
    "tasks": lambda node: f"{_seed(node)}: {_instruction(node)}",
    "perplexity_scores": _score,
    "similarity_scores": _score,
    "classified_tasks": _score,
    **dict.fromkeys(
        ("seed_pool", "candidate_tasks", "accepted_tasks", "task_instances", "paraphrases"), _instruction
    ),
    **dict.fromkeys(("raw_generations", "instance_generations", "task_outputs"), _path),
}
"""What differs where the model writes tasks."""


_OF_TOOLS: dict[str, Callable[[Ancestor], str]] = {
    "filtered_dataset": lambda node: plain(node.columns["completion"], _WIDTH * 3),
    **dict.fromkeys(
        (
            *("texts", "seed_pool", "search_index", "call_positions"),
            *("tool_results", "perplexity_scores"),
        ),
        lambda node: plain(tool_sentence({**node.columns, **_place(node)}), _WIDTH * 2),
    ),
}
"""What differs where the model calls tools."""


_AS_ELSEWHERE = ("fine_tuned_checkpoint", "decisions", "evaluation", "promotion")
"""Stages of which the same is said where models or people judge."""


_DRAWN_ALONE = (CAI_RAW_GENERATIONS.name, RLAIF_RESPONSE_PAIRS.name, RF_RAW_GENERATIONS.name)
"""Completions of which there is no more to say than how they were drawn."""


def _judged(node: Ancestor) -> str:
    if node.table in _DRAWN_ALONE:
        return _path(node)
    return plain(judged_sentence({**node.columns, **_place(node)}), _WIDTH * 3)


def _measured(node: Ancestor) -> str:
    if registry.is_drawn(node.table):
        return _path(node)
    return plain(measured_sentence({**node.columns, **_place(node)}), _WIDTH * 3)


def _place(node: Ancestor) -> dict[str, Any]:
    return {"table_name": node.table, "activity": node.activity}


def _made_by(node: Ancestor) -> str:
    """Model and parameters of a record that a model wrote."""
    if not registry.is_drawn(node.table) or not node.activity or node.columns.get("seed") is None:
        return ""
    parameters: dict[str, Any] = node.activity["parameters"]
    by = f"from {node.activity['about']['champion']} {node.activity['model_id']} with {parameters['engine']}"
    if "sampling" in parameters:
        sampling = parameters["sampling"]
        which = f"sample {node.columns['sample_index']} of {sampling['paths']} "
        nucleus = f"top_p={sampling['top_p']}, top_k={sampling['top_k']}"
        return plain(f"{which}{by}, T={parameters['temperature']}, {nucleus}")
    drawn = recorded_sampling(registry.table(node.table), parameters)
    if not drawn.temperature:
        return plain(f"drawn greedily {by}")
    return plain(f"drawn {by}, T={drawn.temperature}, top_p={drawn.top_p}, top_k={drawn.top_k}")
