"""Adaptive-Consistency: stop drawing paths for a question once its vote is decided.

Source: Aggarwal et al. 2023 (arXiv 2305.11860) §3: with v₁ votes for the leading answer and v₂ for the next,
and a flat prior, the share of the leader among the two is Beta(v₁ + 1, v₂ + 1); drawing stops when it is
above one half with the probability asked for (the paper's is 0.95). The paper finds its Beta rule, of two
answers, as good as the Dirichlet rule over all of them.

What the paper leaves open, here: paths are drawn by the handful, since a batch costs little more than one;
a path whose answer cannot be read is no vote; and drawing stops as well when the paths that are left could
not change the vote.

Tried and not taken: stopping by the probability that the leader leads the vote of all `most` paths too
(Dirichlet-multinomial over the leader, the next and the rest), or by the votes that it is expected to fall
behind. At an equal loss of accuracy they draw 0 to 4 % of the full vote's paths less. What costs most paths
is out of reach of any such rule: answers that are equally likely.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def is_decided(answers: Sequence[str | None], most: int, confidence: float) -> bool:
    """Whether the vote on these answers (None: unreadable) is decided, at most `most` paths being drawn.

    `confidence` is the probability, above 0.5 and below 1, that the leading answer is the likelier of the two
    that lead.
    """
    votes = Counter(answer for answer in answers if answer is not None)
    first, second, *_ = [*(count for _, count in votes.most_common(2)), 0, 0]
    if first == 0:
        return len(answers) >= most
    if first - second > most - len(answers):
        return True
    return leader_probability(first, second) >= confidence


def leader_probability(first: int, second: int) -> float:
    """P(p > ½) for p of Beta(first + 1, second + 1): that the leader of two answers is the likelier one."""
    from scipy.special import betainc

    return float(betainc(second + 1, first + 1, 0.5))
