"""How many tasks join a pool that refuses what resembles its members.

The more tasks a pool has, the more new ones resemble one of them. A member, with all candidates that were refused as
near to it, is taken for a species. The number of species in a larger sample follows from how many were seen once and
twice (Colwell et al. 2012, Journal of Plant Ecology 5:3; Chao et al. 2014, Ecological Monographs 84:45).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from selfimprove_dagster.methods.self_instruct.tables import SI_SIMILARITY_SCORES
from selfimprove_dagster.stage import StageContext


def growth(context: StageContext[Any], factor: float) -> float:
    """Return by which factor more tasks join the pool if there are `factor` times as many candidates."""
    manifest = context.lake.manifest(SI_SIMILARITY_SCORES.name, context.partition)
    rows = context.lake.read_columns(manifest, ["candidate_id", "kept", "neighbours"]).rows(named=True)
    joined = {row["candidate_id"] for row in rows if row["kept"]}
    seen = Counter(row["candidate_id"] if row["kept"] else row["neighbours"][0]["id"] for row in rows)
    return species_growth([count for member, count in seen.items() if member in joined], len(rows), factor)


def species_growth(counts: Sequence[int], sample: int, factor: float) -> float:
    """Return by which factor more species a sample has if it is `factor` times as large; 1 if it has none.

    `counts` are the individuals of each species in a sample of `sample`, some of which may be of no such species.
    """
    if not counts:
        return 1.0
    once, twice = counts.count(1), counts.count(2)
    unseen = once**2 / (2 * twice) if twice else once * (once - 1) / 2
    if unseen == 0:
        return 1.0
    more = sample * (factor - 1)
    return 1 + unseen * (1 - (1 - once / (sample * unseen + once)) ** more) / len(counts)
