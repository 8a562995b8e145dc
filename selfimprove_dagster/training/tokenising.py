"""Text to token ids for training: prompt and completion apart, exactly as generation joins them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selfimprove_dagster.training.supervised import TokenisedExample


def prompt_token_ids(base: str | Path, prompts: Sequence[str]) -> list[list[int]]:
    """The prompts with the tokenizer of `base`, its leading special tokens included."""
    from transformers import AutoTokenizer

    ids: list[list[int]] = AutoTokenizer.from_pretrained(base)(list(prompts))["input_ids"] if prompts else []
    return ids


def decoder(base: str | Path) -> Callable[[Sequence[list[int]]], list[str]]:
    """What turns completions into text, special tokens left out, with the tokenizer of `base`."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    return lambda completions: tokenizer.batch_decode(list(completions), skip_special_tokens=True)


def tokenise_examples(base: str | Path, pairs: Iterable[tuple[str, str]]) -> list[TokenisedExample]:
    """(prompt, completion) pairs with the tokenizer of `base`.

    A prompt gets the tokenizer's leading special tokens; a completion gets none but the end-of-sequence
    token, so that the model learns to stop.
    """
    from transformers import AutoTokenizer

    from selfimprove_dagster.training.supervised import TokenisedExample

    tokenizer = AutoTokenizer.from_pretrained(base)
    pairs = list(pairs)
    prompts = tokenizer([prompt for prompt, _ in pairs])["input_ids"] if pairs else []
    completions = (
        tokenizer([completion for _, completion in pairs], add_special_tokens=False)["input_ids"]
        if pairs
        else []
    )
    return [
        TokenisedExample(prompt, [*completion, tokenizer.eos_token_id])
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
