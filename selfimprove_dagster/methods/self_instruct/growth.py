"""How many tasks join a pool that refuses what resembles its members.

The more tasks a pool has, the more new ones resemble one of them. As with the words of a text (Heaps 1978), the number
of distinct ones among n is taken to grow as n^β. With the places m₁ < … < m_k of those that joined among M candidates,
the maximum likelihood estimate is β = k / Σ ln(M / mᵢ) (Crow 1974, for events whose rate is a power of time).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Any

from selfimprove_dagster.methods.self_instruct.tables import SI_SIMILARITY_SCORES
from selfimprove_dagster.stage import StageContext


def growth(context: StageContext[Any], factor: float) -> float:
    """Return by which factor more tasks join the pool if there are `factor` times as many candidates."""
    manifest = context.lake.manifest(SI_SIMILARITY_SCORES.name, context.partition)
    kept = context.lake.read_columns(manifest, ["kept"])["kept"].to_list()
    return float(factor ** exponent(kept))


def exponent(kept: Sequence[bool]) -> float:
    """Return β from 0 to 1, given whether each candidate joined the pool, in order; 1 if none did."""
    count = len(kept)
    places = [at + 0.5 for at, joined in enumerate(kept) if joined]
    logs = sum(log(count / place) for place in places)
    return min(len(places) / logs, 1.0) if logs else 1.0
