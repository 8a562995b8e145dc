"""Text to token ids for training: prompt and completion apart, exactly as generation joins them.

Rows are tokenised a batch at a time, as they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from selfimprove_dagster.training.rewards import TokenisedPrompt
from selfimprove_dagster.training.rows import batched

if TYPE_CHECKING:
    from selfimprove_dagster.training.supervised import TokenisedExample


def tokenise_prompts(base: str | Path, prompts: Iterable[tuple[str, str]]) -> Iterator[TokenisedPrompt]:
    """(prompt, question) pairs with the tokenizer of `base`, its leading special tokens included."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    for batch in batched(prompts):
        ids = tokenizer([prompt for prompt, _ in batch])["input_ids"]
        yield from (TokenisedPrompt(one, question) for one, (_, question) in zip(ids, batch, strict=True))


def decoder(base: str | Path) -> Callable[[Sequence[list[int]]], list[str]]:
    """What turns completions into text, special tokens left out, with the tokenizer of `base`."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    return lambda completions: tokenizer.batch_decode(list(completions), skip_special_tokens=True)


def tokenise_examples(base: str | Path, pairs: Iterable[tuple[str, str]]) -> Iterator[TokenisedExample]:
    """(prompt, completion) pairs with the tokenizer of `base`.

    A prompt gets the tokenizer's leading special tokens; a completion gets none but the end-of-sequence
    token, so that the model learns to stop.
    """
    from transformers import AutoTokenizer

    from selfimprove_dagster.training.supervised import TokenisedExample

    tokenizer = AutoTokenizer.from_pretrained(base)
    for batch in batched(pairs):
        prompts = tokenizer([prompt for prompt, _ in batch])["input_ids"]
        completions = tokenizer([completion for _, completion in batch], add_special_tokens=False)[
            "input_ids"
        ]
        for prompt, completion in zip(prompts, completions, strict=True):
            yield TokenisedExample(prompt, [*completion, tokenizer.eos_token_id])
