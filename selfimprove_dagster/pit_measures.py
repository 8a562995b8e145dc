"""What a model of gaps makes of pairs that it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import polars as pl

from selfimprove_dagster.measurement import Z95
from selfimprove_dagster.methods.pit import KINDS, gap_loss, gap_order

if TYPE_CHECKING:
    from selfimprove_dagster.training.comparisons import Comparison
    from selfimprove_dagster.training.reward import RewardModel


def measure_gaps(judge: RewardModel, terms: pl.DataFrame, held_out: Sequence[Comparison]) -> dict[str, Any]:
    """The measures of gap_reward_model, from the held-out terms and the same as comparisons.

    Each of the four gaps of a pair is rewarded as often as it stands in a term, and alike each time.
    """
    sides = [side for one in held_out for side in zip(one.prompts, one.completions, strict=True)]
    rewards = judge.score([prompt for prompt, _ in sides], [completion for _, completion in sides])
    by_pair: dict[str, dict[str, float]] = {}
    probabilities: dict[str, float] = {}
    columns = terms.select("example_id", "first_kind", "second_kind", "probability").rows()
    for (pair, *kinds, probability), *both in zip(columns, rewards[::2], rewards[1::2], strict=True):
        by_pair.setdefault(pair, {}).update(zip(kinds, both, strict=True))
        probabilities[pair] = probability
    gaps = {kind: [one[kind] for one in by_pair.values()] for kind in KINDS}
    losses = [gap_loss(one, probabilities[pair]) for pair, one in by_pair.items()]
    return {
        "held_out_pairs": len(by_pair),
        "held_out_accuracy": judge.accuracy(held_out) if held_out else None,
        "held_out_loss": fmean(losses) if losses else None,
        "gap_means": [_mean(kind, found) for kind, found in gaps.items() if len(found) > 1],
        "gap_order": [vars(one) for one in gap_order(gaps)],
    }


def _mean(kind: str, rewards: Sequence[float]) -> dict[str, Any]:
    mean, half = fmean(rewards), Z95 * stdev(rewards) / len(rewards) ** 0.5
    return {"kind": kind, "mean": mean, "low": mean - half, "high": mean + half}
