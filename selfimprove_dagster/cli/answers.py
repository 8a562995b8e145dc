"""Print explanations in the terminal. Control characters in text from models and files are escaped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from selfimprove_dagster.lineage.descend import Descent
from selfimprove_dagster.lineage.diff import Difference, Side
from selfimprove_dagster.lineage.explanation import Explanation
from selfimprove_dagster.lineage.iteration import Fate, Step
from selfimprove_dagster.lineage.replay import Replay, Replayed
from selfimprove_dagster.lineage.what_if import Outcome, WhatIf
from selfimprove_dagster.text import plain

_WIDTH = 300


_MARKS = {True: ("✓", "green"), False: ("✗", "red"), None: ("·", "dim")}


def explanation_text(explanation: Explanation) -> Group:
    """Return the verdict, the steps, the outcome of each path, and the uses of the record."""
    title = Text(plain(explanation.id), style="bold cyan").append(
        f"  {plain(explanation.verdict, 2 * _WIDTH)}", style="default not bold"
    )
    parts: list[Text | Table] = [title, _steps(explanation)]
    if explanation.fates:
        parts.append(_fates(explanation))
    if explanation.uses:
        table = _grid("iteration", "record", "outcome")
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
    """Return what other thresholds would keep, for the iteration and for the given record."""
    changes = ", ".join(f"{name} {old} → {new}" for name, (old, new) in answer.thresholds.items())
    lines = [
        Text(f"{answer.key} with {changes or 'unchanged thresholds'}", style="bold"),
        Text(f"kept {answer.kept_then:,} → {answer.kept_now:,} of {answer.paths:,} {answer.noun}s"),
        Text(f"gained, by the rule that dropped them before: {_counts(answer.gained)}"),
        Text(f"lost, by the rule that would drop them: {_counts(answer.lost)}"),
    ]
    if answer.note:
        lines.append(Text(answer.note, style="dim"))
    if not answer.record:
        return Group(*lines)
    table = _grid(answer.noun, "then", "now", noun=answer.noun)
    for change in answer.record:
        table.add_row(Text(plain(change.path)), _outcome(change.then), _outcome(change.now))
    return Group(*lines, table)


def _steps(explanation: Explanation) -> Table:
    table = _grid("", "stage", "decision", "record")
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
    table = _grid("", "record", "content", "outcome")
    for fate in explanation.fates:
        mark, style = _MARKS[fate.rule is None]
        path, answer = Text(plain(fate.path)), Text(plain(fate.answer or "–", 80))
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


def _grid(*headings: str, noun: str = "") -> Table:
    """Return a table without lines; the columns `record` and `noun` hold ids, which are never wrapped."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in headings:
        table.add_column(heading, no_wrap=heading in ("record", noun))
    return table


_SIDE_WIDTH = 160


_SHOWN = 10


def difference_text(difference: Difference) -> Group:
    """Return the figures of both iterations side by side, then the settings and answers that differ."""
    a, b = difference.a, difference.b
    figures = Table("")
    figures.add_column(Text(a.key), justify="right")
    figures.add_column(Text(b.key), justify="right")
    for name, old, new in _figures(a, b):
        figures.add_row(Text(name), Text(old), Text(new))
    lines: list[Table | Text] = [
        figures,
        Text(
            f"examples: {difference.both:,} in both, {len(difference.lost):,} in {a.key} only, "
            f"{len(difference.gained):,} in {b.key} only"
        ),
        Text(
            f"{a.noun}: {difference.questions_both:,} in both, {len(difference.questions_lost):,} in "
            f"{a.key} only, {len(difference.questions_gained):,} in {b.key} only; "
            f"{len(difference.answers):,} with a different answer"
        ),
    ]
    if not difference.settings:
        lines.append(Text("settings: identical"))
    for name, (before, after) in difference.settings.items():
        lines.append(Text(plain(f"{name}: {before} → {after}", _SIDE_WIDTH)))
    for changed in difference.answers[:_SHOWN]:
        lines.append(
            Text(
                f"{plain(changed.old, 40)}{_share(changed.old_share)} → {plain(changed.new, 40)}"
                f"{_share(changed.new_share)}  {plain(changed.question, _SIDE_WIDTH)}"
            )
        )
    if len(difference.answers) > _SHOWN:
        lines.append(Text(f"… and {len(difference.answers) - _SHOWN:,} more; --json has all"))
    return Group(*lines)


def replay_text(replay: Replay) -> Group:
    """Return the rate of exact agreement, differences in the environment, and the paths that differ."""
    agreement = replay.agreement
    rate = f": {agreement}" if agreement.total > 1 else ""
    said = f"{agreement.correct:,} of {agreement.total:,} paths are identical, token by token{rate}"
    lines = [
        Text(said, style="bold"),
        Text(plain(f"by {replay.model_path} ({replay.model_id}), {replay.engine}"), style="dim"),
        *(Text(plain(difference, _SIDE_WIDTH), style="yellow") for difference in replay.differences),
    ]
    differing = [path for path in replay.paths if not path.equal]
    for path in differing[:_SHOWN]:
        lines.append(_differing(path))
    if len(differing) > _SHOWN:
        lines.append(Text(f"… and {len(differing) - _SHOWN:,} more; --json has all"))
    return Group(*lines)


def _differing(path: Replayed) -> Text:
    text = Text(plain(path.id), style="bold cyan")
    if path.position is None:
        where = "the tokens are equal, but the text differs"
    else:
        gap = "" if path.gap is None else f", log-probabilities {path.gap:.3g} apart"
        where = f"differs from token {path.position} on{gap}"
    text.append(f"  {where}", style="default not bold")
    text.append(f"\n  recorded  {plain(path.recorded_text, _SIDE_WIDTH)}", style="default not bold")
    return text.append(f"\n  replayed  {plain(path.replayed_text, _SIDE_WIDTH)}", style="default not bold")


def _figures(a: Side, b: Side) -> list[tuple[str, str, str]]:
    rows = [
        ("sampled from", plain(a.champion or "–"), plain(b.champion or "–")),
        ("model", plain(a.model_id or "–"), plain(b.model_id or "–")),
        ("examples", f"{a.examples:,}", f"{b.examples:,}"),
        (a.noun, f"{a.questions:,}", f"{b.questions:,}"),
    ]
    rows += _pairs("share of", a.formats, b.formats, ".1%")
    rows += _pairs("mean", a.means, b.means, ".3f")
    return rows + _pairs("dropped by", a.dropped, b.dropped, ",")


def _pairs(what: str, a: Mapping[str, Any], b: Mapping[str, Any], form: str) -> list[tuple[str, str, str]]:
    def shown(value: float | None) -> str:
        return "–" if value is None else format(value, form)

    names = dict.fromkeys([*a, *b])
    return [(plain(f"{what} {name}"), shown(a.get(name)), shown(b.get(name))) for name in names]


def _share(value: float | None) -> str:
    return "" if value is None else f" ({value:.2f})"


_FIRST = 20


def descent_summary(descent: Descent, *, every: bool = False) -> RenderableType:
    """Return counts by iteration and table, datasets, checkpoints and later iterations, and the ids.

    Only the first ids are listed, unless `every` is set.
    """
    return Group(*_parts(descent, every))


def _parts(descent: Descent, every: bool) -> Iterator[RenderableType]:
    rows = descent.walk.nodes.filter(pl.col("depth") > 0).drop_nulls("table_name")
    yield Text(plain(descent.place.id), style="bold cyan").append(
        f"  {plain(descent.place.table)} of {plain(descent.place.experiment)}: {len(rows):,} descendants",
        style="not bold default",
    )
    if descent.counts:
        table = Table("experiment", "iteration", "table", "rows")
        for count in descent.counts:
            table.add_row(
                Text(plain(count.experiment)),
                _iteration(count.iteration),
                Text(plain(count.table)),
                f"{count.rows:,}",
            )
        yield table
    for dataset in descent.datasets:
        yield Text(
            f"dataset {plain(dataset.table)} of {plain(dataset.experiment)}, iteration "
            f"{_iteration(dataset.iteration)}: {dataset.rows:,} of its rows descend from it "
            f"({plain(dataset.activity_id)})"
        )
    verdicts = {True: "promoted", False: "not promoted", None: "not evaluated yet"}
    for checkpoint in descent.checkpoints:
        yield Text(
            f"checkpoint {plain(checkpoint.id)} of {plain(checkpoint.experiment)}, iteration "
            f"{_iteration(checkpoint.iteration)}: {verdicts[checkpoint.promoted]}"
        )
    for experiment, iteration in descent.later:
        yield Text(f"iteration {iteration} of {plain(experiment)} used a model that was trained on it")
    shown = rows if every else rows.head(_FIRST)
    for record, name in shown.select("id", "table_name").iter_rows():
        yield Text(plain(record), style="cyan").append(f"  {plain(name)}", style="dim")
    if len(rows) > len(shown):
        yield Text(f"… and {len(rows) - len(shown):,} more; --all lists them", style="dim")


def _iteration(iteration: int | None) -> str:
    return "none" if iteration is None else str(iteration)
