"""Comparisons of two completions: the data of reward models and of direct preference optimisation."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from typing import Any

from selfimprove_dagster.errors import TrainingError
from selfimprove_dagster.language_model.prompting import Prompting
from selfimprove_dagster.training.settings import check_tokens, longer_than, none_usable


@dataclass(frozen=True)
class Comparison:
    """Two completions, their end-of-sequence tokens included, and how much the first is preferred.

    `probability` is that of the first being the better one, 0 to 1: 1.0 is a hard label, 0.5 says nothing.
    The second completion follows the same prompt, or one of its own where `second_prompt_token_ids` is given.
    `problem` is why a prompt cannot be asked; such a comparison is left out of the training. Comparisons of one
    `group`, by default those with one first prompt, are held out together.
    """

    prompt_token_ids: list[int]
    first_token_ids: list[int]
    second_token_ids: list[int]
    probability: float
    second_prompt_token_ids: list[int] | None = None
    problem: str = ""
    group: str = ""

    @property
    def prompts(self) -> tuple[list[int], list[int]]:
        """Of the first and of the second completion."""
        second = self.second_prompt_token_ids
        return self.prompt_token_ids, self.prompt_token_ids if second is None else second

    @property
    def completions(self) -> tuple[list[int], list[int]]:
        return self.first_token_ids, self.second_token_ids

    @property
    def held_out_with(self) -> str:
        """Return the group, or the first prompt where there is none."""
        return self.group or str(self.prompt_token_ids)

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens of each side, prompt and completion together."""
        first, second = (len(p) + len(c) for p, c in zip(self.prompts, self.completions, strict=True))
        return first, second


def tokenise_comparisons(
    base: str | Path, rows: Iterable[tuple[Any, ...]], prompting: Prompting
) -> Iterator[Comparison]:
    """(prompt, first, second, probability of the first) rows with the tokenizer of `base`.

    Prompts and completions become tokens as in `tokenise_examples`: completions end with the end-of-sequence
    token. A fifth part is the group of the comparison.
    """
    return tokenise_sides(base, ((prompt, one, prompt, *rest) for prompt, one, *rest in rows), prompting)


def tokenise_sides(
    base: str | Path, rows: Iterable[tuple[Any, ...]], prompting: Prompting
) -> Iterator[Comparison]:
    """Like `tokenise_comparisons`, for (first prompt, first, second prompt, second, probability) rows."""
    from selfimprove_dagster.training.tokenising import tokenise_examples

    kept, read = tee(rows)
    sides = tokenise_examples(base, (side for row in read for side in (row[0:2], row[2:4])), prompting)
    for row, first, second in zip(kept, sides, sides, strict=True):
        yield Comparison(
            first.prompt_token_ids,
            first.completion_token_ids,
            second.completion_token_ids,
            row[4],
            None if row[0] == row[2] else second.prompt_token_ids,
            first.problem or second.problem,
            *row[5:],
        )


def hash_comparisons(comparisons: Sequence[Comparison]) -> str:
    """`b2:` and 32 hex digits over all comparisons, in their order."""
    digest = hashlib.blake2b(digest_size=16)
    for comparison in comparisons:
        sides = [*comparison.prompts, *comparison.completions]
        digest.update(f"{sides}{float(comparison.probability)!r}\n".encode())
    return f"b2:{digest.hexdigest()}"


def usable_comparisons(
    comparisons: Sequence[Comparison], *, vocabulary: int, max_length: float
) -> tuple[dict[int, tuple[int, int]], list[tuple[int, str]]]:
    """Those of which both sides have at most `max_length` tokens, as their lengths by index, and the others with their
    problems; each is checked.

    Raises TrainingError where there are none, none fits, or one has no completion, a token id beyond the
    vocabulary, or a probability that is none.
    """
    if not comparisons:
        raise TrainingError("There are no comparisons to train on. See what the filters before it dropped.")
    lengths, refused = {}, []
    for number, comparison in enumerate(comparisons):
        if comparison.problem:
            refused.append((number, comparison.problem))
            continue
        for side, prompt, completion in zip(
            ("first", "second"), comparison.prompts, comparison.completions, strict=True
        ):
            check_tokens(f"Comparison {number}, {side},", prompt, completion, vocabulary)
        if not (math.isfinite(comparison.probability) and 0 <= comparison.probability <= 1):
            raise TrainingError(
                f"Comparison {number} has probability {comparison.probability}; it must lie between 0 and 1."
            )
        lengths[number] = comparison.lengths
    usable = {number: sides for number, sides in lengths.items() if max(sides) <= max_length}
    if not usable:
        raise none_usable("comparisons", refused, len(lengths), max_length)
    longer = longer_than(max_length, {number: max(sides) for number, sides in lengths.items()})
    return usable, [*refused, *longer]
