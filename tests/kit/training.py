"""A tiny model to train, what to train it on, and what came of it."""

from __future__ import annotations

import hashlib
import math
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfimprove_dagster.training.comparisons import Comparison
from selfimprove_dagster.training.rewards import TokenisedPrompt
from selfimprove_dagster.training.supervised import SupervisedSettings, TokenisedExample

END = 2


ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    "OMP_NUM_THREADS": "1",
}


def make_base(folder: Path, *, tied: bool = True) -> Path:
    """A Llama of some 20,000 random weights with a tokenizer of bytes."""
    import tokenizers
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=259,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=END,
        pad_token_id=None,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": END} | {c: i + 3 for i, c in enumerate(alphabet)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)
    return folder


def weights(folder: Path) -> str:
    """Return the hash of the weights in a folder, a whole model's or an adapter's."""
    (file,) = folder.glob("*.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


GOOD, BAD = 40, 41


def make_comparisons(count: int = 40, seed: int = 5) -> list[Comparison]:
    """Completions with one GOOD token are preferred to those with a BAD one, whichever comes first."""
    chooser = random.Random(seed)

    def completion(token: int) -> list[int]:
        filler = [chooser.randrange(3, 30) for _ in range(chooser.randint(2, 8))]
        return [*filler, token, END]

    comparisons = []
    for _ in range(count):
        prompt = [1] + [chooser.randrange(3, 30) for _ in range(chooser.randint(1, 6))]
        good, bad = completion(GOOD), completion(BAD)
        probability = chooser.choice((0.8, 0.9, 1.0))
        comparisons.append(
            Comparison(prompt, good, bad, probability)
            if chooser.random() < 0.5
            else Comparison(prompt, bad, good, 1 - probability)
        )
    return comparisons


def cross_entropy(margin: float, probability: float) -> float:
    """In plain double precision: −[p · ln σ(m) + (1 − p) · ln σ(−m)]."""
    return probability * math.log1p(math.exp(-margin)) + (1 - probability) * math.log1p(math.exp(margin))


SETTINGS = SupervisedSettings(steps=24, learning_rate=3e-3, batch_size=4, warmup_fraction=0.1, save_every=5)


def make_examples(count: int = 30) -> list[TokenisedExample]:
    """A prompt of random bytes; the completion repeats its last one, four to nine times."""
    chooser = random.Random(5)
    examples = []
    for _ in range(count):
        prompt = [1] + [chooser.randrange(3, 30) for _ in range(chooser.randint(2, 12))]
        examples.append(TokenisedExample(prompt, [prompt[-1]] * chooser.randint(4, 9) + [END]))
    return examples


class Interrupted(Exception):
    pass


def interrupt_at(step: int) -> Any:
    def on_log(entry: dict[str, float]) -> None:
        if entry["step"] >= step:
            raise Interrupted

    return on_log


def completion_loss(base: Path, examples: list[TokenisedExample]) -> float:
    """Mean negative log-likelihood of the completion tokens, one example at a time, without the trainer."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    total, count = 0.0, 0
    for example in examples:
        ids = torch.tensor([example.prompt_token_ids + example.completion_token_ids])
        with torch.no_grad():
            logprobs = model(ids).logits[0].log_softmax(-1)
        start = len(example.prompt_token_ids)
        for position in range(start, ids.shape[1]):
            total -= logprobs[position - 1, ids[0, position]].item()
            count += 1
    return total / count


WANTED = range(100, 180)
PROMPTS = [TokenisedPrompt([1, *range(3 + index, 6 + 2 * index)]) for index in range(7)]


def share_wanted(_: Sequence[TokenisedPrompt], completions: Sequence[list[int]]) -> list[float]:
    """Share of a completion's tokens that are WANTED."""
    return [sum(token in WANTED for token in one) / len(one) for one in completions]
