"""A tiny model to train, what to train it on, and what came of it."""

from __future__ import annotations

import hashlib
import math
import os
import random
import sys
from pathlib import Path

from selfimprove_dagster.training.comparisons import Comparison

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
