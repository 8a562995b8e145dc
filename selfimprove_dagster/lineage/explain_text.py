"""Explanations in the terminal. Text that a model or a file brought is shown inert."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group
from rich.table import Table
from rich.text import Text

from selfimprove_dagster.lineage.explain import Explanation
from selfimprove_dagster.lineage.iteration import Fate, Step
from selfimprove_dagster.lineage.what_if import Outcome, WhatIf
from selfimprove_dagster.text import plain
from selfimprove_dagster.tool_tables import SEED_TEXTS

_WIDTH = 300
_IDS = ("record", "path", "question", "text", "candidate", "call")
"""Headings of columns that hold ids."""
_MARKS = {True: ("✓", "green"), False: ("✗", "red"), None: ("·", "dim")}


def explanation_text(explanation: Explanation) -> Group:
    """Verdict, steps, and what became of paths and uses."""
    title = Text(plain(explanation.id), style="bold cyan").append(
        f"  {plain(explanation.verdict, 2 * _WIDTH)}", style="default not bold"
    )
    parts: list[Text | Table] = [title, _steps(explanation)]
    if explanation.fates:
        parts.append(_fates(explanation))
    if explanation.uses:
        of_texts = explanation.table == SEED_TEXTS.name
        table = _grid("iteration", *(("text", "calls") if of_texts else ("question", "paths")))
        for use in explanation.uses:
            table.add_row(str(use.iteration), Text(plain(use.question)), Text(_counts(use.paths)))
        parts.append(table)
    if explanation.showings:
        counts = ("prompts", "candidates", "accepted", "examples")
        table = _grid("iteration", "record", *counts)
        for one in explanation.showings:
            figures = (f"{getattr(one, name):,}" for name in counts)
            table.add_row(str(one.iteration), Text(plain(one.task)), *figures)
        parts.append(table)
    return Group(*parts)


def what_if_text(answer: WhatIf) -> Group:
    """What other thresholds would keep, for the iteration and for the record that was asked about."""
    changes = ", ".join(f"{name} {old} → {new}" for name, (old, new) in answer.thresholds.items())
    lines = [
        Text(f"{answer.key} with {changes or 'the thresholds that it had'}", style="bold"),
        Text(f"kept {answer.kept_then:,} → {answer.kept_now:,} of {answer.paths:,} {answer.noun}s"),
        Text(f"gained, by the rule that dropped them: {_counts(answer.gained)}"),
        Text(f"lost, by the rule that would drop them: {_counts(answer.lost)}"),
    ]
    if not answer.record:
        return Group(*lines)
    table = _grid(answer.noun, "then", "now")
    for change in answer.record:
        table.add_row(Text(plain(change.path)), _outcome(change.then), _outcome(change.now))
    return Group(*lines, table)


def _steps(explanation: Explanation) -> Table:
    table = _grid("", "stage", "what was decided", "record")
    for step in explanation.steps:
        mark, style = _MARKS[step.passed]
        stage = plain(step.rule or step.stage.split("/")[-1]).replace("_", " ")
        table.add_row(Text(mark, style=style), Text(stage), _reason(step), Text(plain(step.record or "")))
    return table


def _reason(step: Step) -> Text:
    text = Text(plain(step.reason, _WIDTH))
    if step.nearest and step.nearest.text[:20] not in step.reason:
        text.append(f"\n{plain(step.nearest.text, _WIDTH)}", style="dim")
    return text


def _fates(explanation: Explanation) -> Table:
    of_paths = explanation.table.startswith("lmsi/")
    table = _grid("", *(("path", "answer") if of_paths else ("record", "what it says")), "what became of it")
    for fate in explanation.fates:
        mark, style = _MARKS[fate.rule is None]
        path, answer = Text(plain(fate.path)), Text(plain(fate.answer or "–", 40 if of_paths else 80))
        table.add_row(Text(mark, style=style), path, answer, Text(_became(fate)))
    return table


def _became(fate: Fate) -> str:
    if fate.rule:
        return f"dropped by {plain(fate.rule)}: {plain(fate.reason, _WIDTH)}"
    return f"example {plain(fate.example)}" if fate.example else "kept, but not in the dataset"


def _outcome(outcome: Outcome) -> Text:
    if outcome.kept:
        return Text("kept", style="green")
    return Text(f"dropped by {plain(outcome.rule)}: {plain(outcome.reason, _WIDTH)}", style="red")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{plain(name)} {count:,}" for name, count in counts.items()) or "none"


def _grid(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in headings:
        table.add_column(heading, no_wrap=heading in _IDS)
    return table
