"""Words for what learns to improve responses, and for what is measured of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfimprove_dagster.families.refining.ways import PIT, REFLEXION, SELF_REFINE
from selfimprove_dagster.words import drawn, quoted, trained

if TYPE_CHECKING:
    from selfimprove_dagster.table import Row

_IMPROVED_BY = {
    PIT: "by the new checkpoint",
    "untaught": "by the champion, asked alike",
    SELF_REFINE: "by the champion with feedback of its own",
    REFLEXION: "by the champion with reflections of its own",
}


def improver_example(row: Row) -> str:
    """An example of the supervised step, and what it comes after."""
    after = "the worse response" if row["format"] == "improvement" else "the prompt alone"
    return f"learnt after {after}: {quoted(row['completion'])}"


def gap(row: Row) -> str:
    """A term of the gap loss: the response that is above the other, each against its reference."""
    sides = (f"r({row[f'{which}_kind']}), {quoted(row[which])}" for which in ("first", "second"))
    return f"{' above '.join(sides)}, probability {row['probability']:.2f}"


def reference(row: Row) -> str:
    """A reference of the second phase and how it was drawn."""
    return f"a reference of the second phase, {drawn(row)}"


def improvement_round(row: Row) -> str:
    """A response to a held-out prompt, by whom it was improved, and its gap reward."""
    if row["round"] == 0:
        return f"the champion's response to a held-out prompt: {quoted(row['text'])}"
    reward = ""
    if row["gap_reward"] is not None and row["tie_reward"] is not None:
        reward = f", gap reward {row['gap_reward']:.3g} against {row['tie_reward']:.3g}"
    by = _IMPROVED_BY.get(row["way"], row["way"])
    return f"improved {by} in round {row['round']}{reward}: {quoted(row['text'])}"


def contest(row: Row) -> str:
    """A contest of two responses to a held-out prompt and its outcome."""
    said = {"win": "wins against", "loss": "loses to", "tie": "ties with"}[row["outcome"]]
    first, second = (row[name].replace("_", "-") for name in ("first", "second"))
    sure = "not judged" if row["preferred"] is None else f"{row['preferred']:.2f}"
    return (
        f"{first} {said} {second} by {row['judge']} ({sure}): "
        f"{quoted(row['first_text'])} against {quoted(row['second_text'])}"
    )


def improver(row: Row) -> str:
    """The improver."""
    return trained(row, "improver")


def gap_reward_model(row: Row) -> str:
    """The model of the gap reward."""
    return trained(row, "gap reward model")


def first_phase(row: Row) -> str:
    """The policy of the first phase."""
    return trained(row, "policy of the first phase")
