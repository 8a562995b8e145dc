"""Where calls are sampled: the positions at which the model itself would begin one.

Schick et al., 2302.04761, section 2: p_i = p(<API> | P(x), x_<i); of the positions with p_i > τ_s the k
likeliest are kept, and m calls sampled at each. The numbers are those of section 4.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class CallSampling:
    """How many positions of a text are tried (k), how many calls at each (m), and τ_s."""

    positions: int = 5
    calls: int = 5
    threshold: float = 0.05


PAPER_SAMPLING: Mapping[str, CallSampling] = {
    "QA": CallSampling(),
    "WikiSearch": CallSampling(),
    "Calendar": CallSampling(),
    "Calculator": CallSampling(positions=20, calls=10, threshold=0.0),
    "MT": CallSampling(positions=20, calls=10, threshold=0.0),
}


def choose_positions(probabilities: Sequence[float], most: int, threshold: float) -> list[int]:
    """Indices of the `most` likeliest positions whose probability is above the threshold, ascending.

    Of equal ones the earlier is kept. Raises ValueError for what is no probability.
    """
    for index, probability in enumerate(probabilities):
        if not 0 <= probability <= 1 + 1e-6:  # no NaN either
            raise ValueError(f"position {index} has the probability {probability}: not between 0 and 1")
    above = [index for index, probability in enumerate(probabilities) if probability > threshold]
    return sorted(sorted(above, key=lambda index: -probabilities[index])[: max(0, most)])
