"""How much a call helps: the weighted loss of the tokens that follow it (2302.04761, section 2, "Filtering").

L_i(z) = −Σ_{j≥i} w_{j−i} · ln p(x_j | z, x_<j) for a text x, a call before its token i and a prefix z. The
weights fall to zero within five tokens. z comes before the whole text, not at position i: a model that has
seen no calls yet would be thrown off by one in the middle of a sentence.

A call may use what the text says only after position i: the prompt that samples it shows the whole text, as
the paper's does, and it is kept like any other if it lowers the loss, as in the paper. While writing, a model
does not know what comes later and cannot make such a call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selfimprove_dagster.tools.calls import Call, call_without_result, write_call

SLOPE = 0.2
"""By how much the unnormalised weight falls from one token to the next."""


def loss_weights(slope: float = SLOPE) -> tuple[float, ...]:
    """w_t = w̃_t / Σ_s w̃_s with w̃_t = max(0, 1 − slope·t), as far as they are above zero.

    They sum to 1, so that τ_f is in nats a token: with weights that do not, it means something else.
    """
    if not 0 < slope <= 1:
        raise ValueError(f"the slope is {slope}: it must be above 0 and at most 1")
    raw: list[float] = []
    while (weight := 1 - slope * len(raw)) > 1e-9:
        raw.append(weight)
    return tuple(weight / sum(raw) for weight in raw)


WEIGHTS = loss_weights()
"""(1/3, 4/15, 1/5, 2/15, 1/15)."""


WINDOW = len(WEIGHTS)


def weighted_loss(logprobs: Sequence[float], weights: Sequence[float] = WEIGHTS) -> float:
    """L_i(z) in nats, from ln p of the tokens i, i + 1, … of the text given z and what precedes them.

    Tokens after the window count nothing. Where the text ends inside it the weights stay as they are, as in
    the formula, whose normaliser knows nothing of the text. Raises ValueError without any token.
    """
    if not logprobs:
        raise ValueError("there is no token after the call: nothing that it could help with")
    return -sum(weight * logprob for weight, logprob in zip(weights, logprobs, strict=False))


@dataclass(frozen=True)
class Losses:
    """L_i with the empty prefix, with e(c, ε) and with e(c, r), in nats; None where it was not needed."""

    no_call: float
    call: float | None
    call_with_result: float | None

    @property
    def reduction(self) -> float | None:
        """L⁻ − L⁺ = min(no_call, call) − call_with_result: kept if it is at least τ_f."""
        if self.call is None or self.call_with_result is None:
            return None
        return min(self.no_call, self.call) - self.call_with_result

    @property
    def most_reduction(self) -> float:
        """The most that L⁻ − L⁺ can be, after what is known: L⁻ ≤ no_call, and no loss is below 0."""
        known = self.reduction
        return self.no_call - (self.call_with_result or 0.0) if known is None else known


def prefixes(call: Call) -> tuple[str, str, str]:
    """The three z of a call with its result: ε, e(c, ε) and e(c, r), in the order of `Losses`.

    e(c, ε) keeps its arrow, as the formula has it.
    """
    if not call.result:
        raise ValueError(f"{write_call(call)} has no result: drop it before it is scored")
    return "", write_call(call_without_result(call)), write_call(call)


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
    """Return the indices of the `most` most likely positions above the threshold, ascending.

    Of equal ones the earlier is kept. Raises ValueError for numbers that are not probabilities.
    """
    for index, probability in enumerate(probabilities):
        if not 0 <= probability <= 1 + 1e-6:  # no NaN either
            raise ValueError(f"position {index} has the probability {probability}: not between 0 and 1")
    above = [index for index, probability in enumerate(probabilities) if probability > threshold]
    return sorted(sorted(above, key=lambda index: -probabilities[index])[: max(0, most)])
