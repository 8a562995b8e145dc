"""How probable each of several written-out answers is, whatever the tokenizer makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.language_model.base import LanguageModel, RefusedPrompt, no_scores


@dataclass(frozen=True)
class Unscored:
    """In place of probabilities that the engine did not give: the `problem` of the row that they are for."""

    problem: str


def scored_options(
    model: LanguageModel, contexts: Sequence[Sequence[int]], options: Sequence[str]
) -> list[list[float] | Unscored]:
    """Return the `closed_probabilities` of the options, or why there are none after a context."""
    longest = max(map(len, model.encode_completions(options)))
    asked = [one for one in contexts if not isinstance(one, RefusedPrompt)]
    likely = iter(closed_probabilities(model, asked, options) if asked else ())
    found: list[list[float] | Unscored] = []
    for context in contexts:
        if isinstance(context, RefusedPrompt):
            found.append(Unscored(context.problem))
            continue
        own = next(likely)
        is_scored = not any(map(isnan, own))
        found.append(own if is_scored else Unscored(no_scores(model, len(context) + longest)))
    return found


def closed_probabilities(
    model: LanguageModel, contexts: Sequence[Sequence[int]], options: Sequence[str]
) -> list[list[float]]:
    """Return the probability of each option per context, summing to 1; no option counts for another.

    The tokens of one option can begin those of another: where digits are split, ` 1` begins ` 10`. The model's
    probability of the shorter one then includes the longer one, which is subtracted: what remains is that the
    answer does not go on to any longer option. Raises ModelError for options of the same tokens.
    """
    tokens = model.encode_completions(options)
    begins = beginnings(tokens)
    for option, ids, same in zip(options, tokens, begins, strict=True):
        if same is not None and tokens[same] == ids:
            raise ModelError(
                f"the tokenizer of {model.model_id} reads the options {options[same]!r} and {option!r} as the "
                "same tokens, so the model cannot choose between them"
            )
    found = model.option_probabilities(contexts, tokens)
    return [closed(row, begins) for row in found] if any(one is not None for one in begins) else found


def beginnings(options: Sequence[Sequence[int]]) -> list[int | None]:
    """Return for each option the index of the longest other one that begins it; None where none does.

    Of equal options the earlier begins the later.
    """
    found = []
    for index, option in enumerate(options):
        shorter = [
            other
            for other, begin in enumerate(options)
            if list(option[: len(begin)]) == list(begin)
            and (len(begin) < len(option) or (len(begin) == len(option) and other < index))
        ]
        found.append(max(shorter, key=lambda other: len(options[other]), default=None))
    return found


def closed(probabilities: Sequence[float], begins: Sequence[int | None]) -> list[float]:
    """Return the probabilities of options less those of the options that they begin, summing to 1."""
    own = list(probabilities)
    for probability, begin in zip(probabilities, begins, strict=True):
        if begin is not None:
            own[begin] -= probability
    own = [max(probability, 0.0) for probability in own]
    return [probability / sum(own) for probability in own]
