"""Differences of datasets and replays in the terminal. Text of models and files is shown inert."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from selfimprove_dagster.lineage.diff import Difference, Side
from selfimprove_dagster.lineage.replay import Replay, Replayed
from selfimprove_dagster.text import plain

_WIDTH = 160
_SHOWN = 10


def difference_text(difference: Difference) -> Group:
    """The figures of both side by side, then settings and answers that differ."""
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
            f"{len(difference.answers):,} with another answer"
        ),
    ]
    if not difference.settings:
        lines.append(Text("settings: the same"))
    for name, (before, after) in difference.settings.items():
        lines.append(Text(plain(f"{name}: {before} → {after}", _WIDTH)))
    for changed in difference.answers[:_SHOWN]:
        lines.append(
            Text(
                f"{plain(changed.old, 40)}{_share(changed.old_share)} → {plain(changed.new, 40)}"
                f"{_share(changed.new_share)}  {plain(changed.question, _WIDTH)}"
            )
        )
    if len(difference.answers) > _SHOWN:
        lines.append(Text(f"… and {len(difference.answers) - _SHOWN:,} more; --json has all"))
    return Group(*lines)


def replay_text(replay: Replay) -> Group:
    """The rate of exact agreement, what is not as it was, and the paths that came out otherwise."""
    agreement = replay.agreement
    rate = f": {agreement}" if agreement.total > 1 else ""
    said = f"{agreement.correct:,} of {agreement.total:,} paths came out the same, token by token{rate}"
    lines = [
        Text(said, style="bold"),
        Text(plain(f"by {replay.model_path} ({replay.model_id}), {replay.engine}"), style="dim"),
        *(Text(plain(difference, _WIDTH), style="yellow") for difference in replay.differences),
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
        where = "the tokens are equal, the text is not"
    else:
        gap = "" if path.gap is None else f", log-probabilities {path.gap:.3g} apart"
        where = f"differs from token {path.position} on{gap}"
    text.append(f"  {where}", style="default not bold")
    text.append(f"\n  recorded  {plain(path.recorded_text, _WIDTH)}", style="default not bold")
    return text.append(f"\n  replayed  {plain(path.replayed_text, _WIDTH)}", style="default not bold")


def _figures(a: Side, b: Side) -> list[tuple[str, str, str]]:
    rows = [
        ("drawn by", plain(a.champion or "–"), plain(b.champion or "–")),
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
