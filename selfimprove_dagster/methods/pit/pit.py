"""PIT: improvement learnt from preferences, without being told how (Wang et al., 2310.00898, section 3).

A pair of responses (x, y_w, y_l) is read as "y_l can be improved to y_w". `chosen` is y_w and `rejected` y_l
throughout; a *gap* is r_gap(x, y, y_ref), the reward of a response y for what it improves on a reference
y_ref. The equations are as METHODS.md and memory have them, the paper's text was not at hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, isnan, log1p
from statistics import fmean, stdev
from typing import Any, Literal

import polars as pl

from selfimprove_dagster.evaluation.measurement import Z95, Accuracy, MeanChange
from selfimprove_dagster.families.dialogues.prompts import spoken
from selfimprove_dagster.lots import seed_of
from selfimprove_dagster.prompts import Prompts
from selfimprove_dagster.text import percent

IMPROVEMENT, RESPONSE = "improvement", "response"
"""The formats of examples, and the prompts of that name: a response is improved, or a prompt answered."""


CHOSEN, REJECTED = "chosen", "rejected"


KINDS: Mapping[str, tuple[str, str]] = {
    "w,l": (CHOSEN, REJECTED),
    "w,w": (CHOSEN, CHOSEN),
    "l,l": (REJECTED, REJECTED),
    "l,w": (REJECTED, CHOSEN),
}
"""The four gaps of a pair, highest first: which response is compared with which reference."""


GAP_TERMS = (("w,l", "w,w"), ("w,l", "l,l"), ("w,l", "l,w"), ("w,w", "l,w"), ("l,l", "l,w"))
"""Which gap is to be above which: every comparison that r(w,l) ≥ r(w,w) ≈ r(l,l) ≥ r(l,w) settles. Of the
six pairs of the four gaps it leaves one open, (w,w) against (l,l): five terms."""


References = Literal["rejected", "both"]


def better_asked(prompts: Prompts, question: str, response: str) -> str:
    """Return the prompt that a better response than the given one follows."""
    return prompts.ask(IMPROVEMENT, **spoken(question), response=response)


def improver_examples(pairs: pl.DataFrame, prompts: Prompts, plain_share: float, seed: int) -> pl.DataFrame:
    """What the supervised step learns, −log M(y_w | x, y_l): one example a pair, prompts to be masked.

    `pairs` have `id, question, chosen, rejected, prompt_id`. For a random share of the pairs, the
    prompt alone is answered by y_w as well: otherwise the model forgets how to respond. Returns `example_id,
    prompt_id, question, format, prompt, completion`.
    """
    rows = []
    for row in pairs.iter_rows(named=True):
        formats = {IMPROVEMENT: better_asked(prompts, row["question"], row["rejected"])}
        if seed_of(seed, "plain", row["question"]) / 2**63 < plain_share:
            formats[RESPONSE] = prompts.ask(RESPONSE, **spoken(row["question"]))
        said = row["chosen"].strip()
        rows += [
            (
                row["id"],
                row["prompt_id"],
                row["question"],
                name,
                prompt,
                prompts.completion(name, said),
            )
            for name, prompt in formats.items()
        ]
    columns = ("example_id", "prompt_id", "question", "format", "prompt", "completion")
    return pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")


@dataclass(frozen=True)
class GapComparison:
    """One term of the gap loss: the first response against its reference above the second against its."""

    first_kind: str
    second_kind: str
    first_prompt: str
    first: str
    second_prompt: str
    second: str


def gap_comparisons(prompts: Prompts, question: str, chosen: str, rejected: str) -> list[GapComparison]:
    """The five terms of a pair, each a comparison of two completions after prompts of their own."""
    texts = {CHOSEN: chosen.strip(), REJECTED: rejected.strip()}
    said = {name: prompts.completion(IMPROVEMENT, text) for name, text in texts.items()}
    asked = {name: better_asked(prompts, question, text) for name, text in texts.items()}

    def side(kind: str) -> tuple[str, str]:
        response, reference = KINDS[kind]
        return asked[reference], said[response]

    return [GapComparison(above, below, *side(above), *side(below)) for above, below in GAP_TERMS]


def gap_loss(rewards: Mapping[str, float], probability: float = 1.0) -> float:
    """The loss of one pair in nats, the sum of −log σ(r₁ − r₂) over its five terms.

    `rewards` are by kind. `probability` is that of y_w being the better one: were y_l, every term would be
    the other way round.
    """
    differences = [rewards[above] - rewards[below] for above, below in GAP_TERMS]
    return sum(
        probability * _softplus(-difference) + (1 - probability) * _softplus(difference)
        for difference in differences
    )


def _softplus(value: float) -> float:
    return max(value, 0.0) + log1p(exp(-abs(value)))


@dataclass(frozen=True)
class Ordered:
    """How two gaps of the same pairs compare: mean r₁ − r₂ with its 95% interval, and how often r₁ > r₂."""

    first: str
    second: str
    mean: float
    low: float
    high: float
    right: int
    pairs: int


def gap_order(rewards: Mapping[str, Sequence[float]]) -> list[Ordered]:
    """Of the rewards of pairs by kind: the five terms, then (w,w) against (l,l), which should be alike.

    Nothing for fewer than two pairs, which have no interval.
    """
    found = []
    for first, second in (*GAP_TERMS, ("w,w", "l,l")):
        change = MeanChange.of(rewards[second], rewards[first])
        if change is not None:
            right = sum(one > other for one, other in zip(rewards[first], rewards[second], strict=True))
            found.append(Ordered(first, second, change.mean, *change.interval, right, change.questions))
    return found


def first_references(pairs: pl.DataFrame, prompts: Prompts, references: References) -> pl.DataFrame:
    """What the first phase of the curriculum improves: the responses of the data.

    Each y_l once and, with `both`, each y_w: from a good response too the policy must not make a worse one.
    `pairs` as in `improver_examples`; returns `reference_id, prompt_id, prompt`.
    """
    names = (REJECTED,) if references == "rejected" else (REJECTED, CHOSEN)
    rows = {
        (row["question"], row[name].strip()): (
            row["id"],
            row["prompt_id"],
            better_asked(prompts, row["question"], row[name]),
        )
        for name in names
        for row in pairs.iter_rows(named=True)
    }
    return _references(list(rows.values()))


def own_references(samples: pl.DataFrame, prompts: Prompts, questions: Mapping[str, str]) -> pl.DataFrame:
    """What the second phase improves: the policy's own samples (`id, prompt_id, text`), each text once.

    `questions` are by prompt id; the columns are those of `first_references`.
    """
    rows = {
        (prompt_id, text.strip()): (id, prompt_id, better_asked(prompts, questions[prompt_id], text))
        for id, prompt_id, text in samples.select("id", "prompt_id", "text").iter_rows()
        if text.strip() and prompt_id in questions
    }
    return _references(list(rows.values()))


def _references(rows: Sequence[tuple[str, str, str]]) -> pl.DataFrame:
    columns = ("reference_id", "prompt_id", "prompt")
    return pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")


@dataclass(frozen=True)
class RoundGap:
    """What the gap reward says of one round of improvement: how far r(y_k, y_{k−1}) is above a tie.

    A tie is r(y_{k−1}, y_{k−1}). `rows` are the responses that the round changed, `raised` those of them with
    a reward above their tie, `change` the mean over them.
    """

    round: int
    responses: int
    rows: int
    raised: Accuracy
    change: MeanChange | None

    @property
    def tells_apart(self) -> bool:
        """Whether the round's responses are rewarded above ties, beyond chance."""
        return self.change is not None and self.change.interval[0] > 0

    def __str__(self) -> str:
        if self.change is None:
            return f"round {self.round}: {self.rows} of {self.responses} responses changed"
        low, high = self.change.interval
        return (
            f"round {self.round}: {self.rows:,} of {self.responses:,} responses changed, "
            f"{percent(self.raised.value, 0)} of them rewarded above a tie, by {self.change.mean:+.2f} "
            f"[{low:+.2f}, {high:+.2f}] on average"
        )


def round_gaps(rows: pl.DataFrame) -> list[RoundGap]:
    """By round: what the gap reward says, without any truth.

    `rows` are the improvements of one way: `id, round, text, improves_id, gap_reward, tie_reward`, the
    originals (round 0) included. Those without a reward are not counted.
    """
    texts = dict(rows.select("id", pl.col("text").str.strip_chars()).iter_rows())
    found = []
    for number in rows.filter(pl.col("round") > 0)["round"].unique().sort():
        made = rows.filter(round=number).select("id", "improves_id", "tie_reward", "gap_reward")
        changed = [
            row for row in made.rows() if texts[row[0]] != texts.get(row[1]) and None not in (row[2], row[3])
        ]
        ties, gaps = [row[2] for row in changed], [row[3] for row in changed]
        raised = sum(gap > tie for tie, gap in zip(ties, gaps, strict=True))
        found.append(
            RoundGap(
                number,
                made.height,
                len(changed),
                Accuracy(raised, len(changed)),
                MeanChange.of(ties, gaps),
            )
        )
    return found


def measure_gaps(terms: pl.DataFrame, compared: Sequence[tuple[float, float, float]]) -> dict[str, Any]:
    """The measures of gap_reward_model, from the held-out terms (`example_id, first_kind, second_kind`).

    `compared` are the rewards of both sides of each, and its probability. Each of the four gaps of a pair is rewarded
    as often as it is in a term, and alike each time. Pairs with a side that has no reward (NaN) are left out.
    """
    by_pair: dict[str, dict[str, float]] = {}
    probabilities: dict[str, float] = {}
    columns = terms.select("example_id", "first_kind", "second_kind").rows()
    for (pair, *kinds), (*both, probability) in zip(columns, compared, strict=True):
        by_pair.setdefault(pair, {}).update(zip(kinds, both, strict=True))
        probabilities[pair] = probability
    by_pair = {pair: one for pair, one in by_pair.items() if not any(map(isnan, one.values()))}
    gaps = {kind: [one[kind] for one in by_pair.values()] for kind in KINDS}
    losses = [gap_loss(one, probabilities[pair]) for pair, one in by_pair.items()]
    return {
        "held_out_pairs": len(by_pair),
        "held_out_loss": fmean(losses) if losses else None,
        "gap_means": [_mean(kind, found) for kind, found in gaps.items() if len(found) > 1],
        "gap_order": [vars(one) for one in gap_order(gaps)],
    }


def _mean(kind: str, rewards: Sequence[float]) -> dict[str, Any]:
    mean, half = fmean(rewards), Z95 * stdev(rewards) / len(rewards) ** 0.5
    return {"kind": kind, "mean": mean, "low": mean - half, "high": mean + half}
