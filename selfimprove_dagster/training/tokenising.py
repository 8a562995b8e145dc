"""Text to token ids for training: prompt and completion apart, exactly as generation joins them.

Rows are tokenised a batch at a time, as they are asked for. Raises TrainingError if the model's chat template does not
render a prompt alike in training and generation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfimprove_dagster.language_model.base import RefusedPrompt
from selfimprove_dagster.language_model.prompting import Prompting, Thinking
from selfimprove_dagster.training.rewards import TokenisedPrompt
from selfimprove_dagster.training.rows import batched

if TYPE_CHECKING:
    from selfimprove_dagster.language_model.rendering import Renderer
    from selfimprove_dagster.seeds.general import GeneralExample
    from selfimprove_dagster.training.supervised import TokenisedExample


def tokenise_prompts(
    base: str | Path, prompts: Iterable[tuple[str, str]], prompting: Prompting
) -> Iterator[TokenisedPrompt]:
    """Yield (prompt, question) pairs with the tokenizer of `base`, as a model that is asked so reads them."""
    renderer = _renderer(base, prompting)
    for batch in batched(prompts):
        ids = renderer.encode([prompt for prompt, _ in batch])
        for one, (_, question) in zip(ids, batch, strict=True):
            yield TokenisedPrompt(one, question, problem_of(one))


def turn_end(base: str | Path, prompting: Prompting) -> int | None:
    """Return the token that ends a turn of a conversation with `base`; None where the model is asked in text."""
    return _renderer(base, prompting).end_token_id if prompting.chat else None


def decoder(base: str | Path, thinking: Thinking) -> Callable[[Sequence[list[int]]], list[str]]:
    """Return what turns completions into text, special tokens and thoughts left out, with the tokenizer of `base`."""
    tokenizer = _tokenizer(base)

    def decode(completions: Sequence[list[int]]) -> list[str]:
        return [*map(thinking.said, tokenizer.batch_decode(list(completions), skip_special_tokens=True))]

    return decode


def tokenise_examples(
    base: str | Path, pairs: Iterable[tuple[str, ...]], prompting: Prompting
) -> Iterator[TokenisedExample]:
    """Yield (prompt, completion) pairs with the tokenizer of `base`, as a model that is asked so reads them.

    A third part is the group of the example.
    A completion ends with the token that ends a turn, or the sequence, so that the model learns to stop.
    """
    from selfimprove_dagster.training.supervised import TokenisedExample

    renderer = _renderer(base, prompting)
    for batch in batched(pairs):
        prompts = renderer.encode([pair[0] for pair in batch])
        completions = renderer.encode_completions([pair[1] for pair in batch])
        for prompt, completion, pair in zip(prompts, completions, batch, strict=True):
            ids = [*completion, renderer.end_token_id]
            yield TokenisedExample(prompt, ids, problem_of(prompt), pair[2] if len(pair) > 2 else "")


def tokenise_general(
    base: str | Path, examples: Iterable[GeneralExample], prompting: Prompting
) -> Iterator[TokenisedExample]:
    """Yield general examples with the tokenizer of `base`: dialogues as it is asked, and plain text as it stands.

    Plain text has no prompt, and ends with the token that ends a sequence.
    """
    from selfimprove_dagster.training.supervised import TokenisedExample

    renderer = _renderer(base, prompting)
    for batch in batched(examples):
        for one in batch:
            if one.prompt is None:
                ids = [*renderer.encode_texts([one.completion])[0], int(renderer.tokenizer.eos_token_id)]
                yield TokenisedExample([], ids, general=True)
                continue
            prompt = renderer.encode([one.prompt])[0]
            (completion,) = renderer.encode_completions([one.completion])
            ids = [*completion, renderer.end_token_id]
            yield TokenisedExample(prompt, ids, problem_of(prompt), general=True)


def problem_of(prompt: Sequence[int]) -> str:
    """Return why a prompt cannot be asked; empty if it can."""
    return prompt.problem if isinstance(prompt, RefusedPrompt) else ""


def _renderer(base: str | Path, prompting: Prompting) -> Renderer:
    from selfimprove_dagster.language_model.rendering import Renderer

    renderer = Renderer(_tokenizer(base), prompting, str(base))
    renderer.check_trainable()
    return renderer


def _tokenizer(base: str | Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base)
