"""Adaptive-Consistency: stop drawing paths for a question once its vote is decided, or not worth deciding.

Source: Aggarwal et al. 2023 (arXiv 2305.11860) §3: with v₁ votes for the leading answer and v₂ for the next,
and a flat prior, the share of the leader among the two is Beta(v₁ + 1, v₂ + 1); drawing stops when it is
above one half with the probability asked for (the paper's is 0.95). The paper finds its Beta rule, of two
answers, as good as the Dirichlet rule over all of them.

What the paper leaves open, here: paths are drawn by the handful, since a batch costs little more than one;
a path whose answer cannot be read is no vote; and drawing stops as well when the paths that are left could
not change the vote.

Its rule asks which answer is likelier, which answers that are equally likely never settle: most paths go
there, and buy nothing, since either answer is as good. So the other rule, of this project, asks what drawing
on is worth: the value of information (Raiffa & Schlaifer 1961, Applied Statistical Decision Theory), under
the same prior and of the same two answers. See `expected_gain`.

Tried and not taken: stopping by the probability that the leader leads the vote of all `most` paths too
(Dirichlet-multinomial over the leader, the next and the rest), and by a price on each path. At an equal
loss of accuracy they draw as many paths or a few more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from math import comb


def is_decided(
    answers: Sequence[str | None], most: int, confidence: float, least_gain: float | None = None
) -> bool:
    """Whether to stop after these answers (None: unreadable), at most `most` paths being drawn.

    `confidence` is the probability, above 0.5 and below 1, that the leading answer is the likelier of the two
    that lead. With `least_gain`, drawing stops as well where drawing all that is left is expected to gain no
    more than that.
    """
    votes = Counter(answer for answer in answers if answer is not None)
    first, second, *_ = [*(count for _, count in votes.most_common(2)), 0, 0]
    return is_settled(first, second, most - len(answers), confidence, least_gain)


@lru_cache(maxsize=1 << 16)
def is_settled(first: int, second: int, left: int, confidence: float, least_gain: float | None) -> bool:
    """`is_decided` by the votes of the two leading answers, with `left` paths to draw."""
    if first == 0:
        return left <= 0
    if first - second > left or leader_probability(first, second) >= confidence:
        return True
    return least_gain is not None and expected_gain(first, second, left) <= least_gain


def leader_probability(first: int, second: int) -> float:
    """P(p > ½) for p of Beta(first + 1, second + 1): that the leader of two answers is the likelier one."""
    from scipy.special import betainc

    return float(betainc(second + 1, first + 1, 0.5))


def expected_gain(first: int, second: int, left: int) -> float:
    """By how much `left` more votes for the two leading answers raise P(the vote takes the likelier one).

    The votes to come are Beta-binomial. Those that leave the leader ahead change nothing; those after which
    the next is ahead, the likelier one with a probability P' > ½, would gain P' − (1 − P'). Paths that will
    vote for a third answer are counted as votes for the two, which makes it an upper bound. It is never
    above 1 − `leader_probability`.
    """
    ways = comb(first + second + left + 1, left)
    gain = 0.0
    for won in range(left + 1):
        lost = left - won
        if second + lost <= first + won:
            break
        chance = comb(first + won, won) * comb(second + lost, lost) / ways
        gain += chance * (1 - 2 * leader_probability(first + won, second + lost))
    return gain
