"""Count a recorded vote again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

_EQUAL = 1e-9
"""Sums of weights that differ by no more are equal."""

COUNTED = (
    *("voted_answer", "votes", "paths", "tie", "n_paths", "n_valid"),
    *("vote_share", "readable_share", "weights"),
)
"""The columns of votes that `recount` reads, besides `rule`."""


def recount(vote: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a vote when the answers of its paths are counted again; None if nothing is.

    A vote without `rule` is a majority.
    """
    answers = [path["answer"] for path in vote["paths"]]
    counts = Counter(answer for answer in answers if answer is not None)
    stated = {entry["answer"]: entry["count"] for entry in vote["votes"]}
    if stated != dict(counts):
        return f"counts are {dict(counts)}, not {stated}"
    if vote["n_paths"] != len(answers):
        return f"there are {len(answers)} paths, not {vote['n_paths']}"
    valid = sum(counts.values())
    weights = vote["weights"] or [1.0] * len(answers)
    weighed: dict[str, float] = dict.fromkeys(counts, 0.0)
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            weighed[answer] += weight or 0.0
    # Rows of version 2 and before have the share of the readable paths, and no readable share.
    every = valid if vote["readable_share"] is None else sum(weight or 0.0 for weight in weights)
    if vote["n_valid"] != valid:
        return f"there are {valid} valid votes, not {vote['n_valid']}"
    voted = vote["voted_answer"]
    if not valid:
        return None if voted is None else f"nobody voted for {voted}"
    most = max(weighed.values())
    if voted not in counts:
        return f"nobody voted for {voted}"
    if vote.get("rule", "majority") == "majority" and weighed[voted] < most - _EQUAL:
        return f"{voted} has {weighed[voted]:.4g} votes, another answer {most:.4g}"
    if vote["tie"] != (most > 0 and sum(most - weight <= _EQUAL for weight in weighed.values()) > 1):
        return f"tie is {vote['tie']}"
    share, right = vote["vote_share"], weighed[voted] / every if every else None
    if share != right and (share is None or right is None or abs(share - right) > _EQUAL):
        return f"the vote share is {right}, not {share}"
    return None
