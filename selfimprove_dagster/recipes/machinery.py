"""What the recipes of the embedded models share: tokenizer, model, training and command line."""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import tokenizers
import torch
import transformers

END, PAD = "<|end|>", "<|pad|>"


RESERVED = tuple(f"<|reserved_{i}|>" for i in range(6))
"""Ids without a meaning yet: a method that needs a token of its own renames one, no embedding is added."""


Progress = Callable[[int, float], None]


AnyRecipe = TypeVar("AnyRecipe", bound="ModelRecipe")


@dataclass(frozen=True)
class ModelRecipe:
    """The model and its training. `easy_steps` open the `steps`; `late_steps` follow them."""

    seed: int = 0
    steps: int = 2_600
    easy_steps: int = 300
    decay_share: float = 0.45
    late_steps: int = 200
    late_rate: float = 0.4
    late_decay_share: float = 0.3
    batch: int = 32
    matrix_learning_rate: float = 0.02
    vector_learning_rate: float = 5e-3
    initial_deviation: float = 0.05
    vocabulary: int = 640
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    key_value_heads: int = 2
    intermediate: int = 384
    positions: int = 1024
    longest: int = 256


def make_tokenizer(recipe: ModelRecipe, texts: Sequence[str], pieces: str) -> Any:
    """Byte-level BPE: any text can be read; every digit is a token; nothing is added at the beginning.

    `pieces` is the pattern of the parts of a text within which tokens are made.
    """
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(pieces), "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[END, PAD, *RESERVED],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        model_max_length=recipe.positions,
        clean_up_tokenization_spaces=False,
    )


def make_model(recipe: ModelRecipe, tokenizer: Any) -> Any:
    """A Llama with random weights."""
    torch.manual_seed(recipe.seed)
    vocabulary = -(-len(tokenizer) // 64) * 64  # rows in whole multiples of 64 multiply faster
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=recipe.hidden,
            intermediate_size=recipe.intermediate,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.key_value_heads,
            max_position_embeddings=recipe.positions,
            initializer_range=recipe.initial_deviation,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            attn_implementation="sdpa",
        )
    )


Example = tuple[list[int], list[float]]
"""Token ids, and the weight of each in the loss."""


Text = list[tuple[str, float]]
"""A training text in parts, each with its weight in the loss."""


def encode_parts(recipe: ModelRecipe, tokenizer: Any, wanted: Sequence[Text]) -> list[Example]:
    """Every part tokenised separately, the end with weight 1; too long texts are dropped."""
    parts = tokenizer([part for text in wanted for part, _ in text])["input_ids"]
    examples, at = [], 0
    for text in wanted:
        ids: list[int] = []
        weights: list[float] = []
        for (_, weight), tokens in zip(text, parts[at : at + len(text)], strict=True):
            ids += tokens
            weights += [weight] * len(tokens)
        at += len(text)
        if len(ids) < recipe.longest:
            examples.append(([*ids, tokenizer.eos_token_id], [*weights, 1.0]))
    return examples


def batches(recipe: ModelRecipe, rng: Random, examples: Sequence[Example], steps: int) -> list[list[Example]]:
    """`steps` batches of examples of about the same length, in random order."""
    size = recipe.batch
    examples = sorted(examples[: steps * size], key=lambda example: (len(example[0]), rng.random()))
    groups = [examples[i : i + size] for i in range(0, len(examples), size)]
    rng.shuffle(groups)
    return groups


def loss_of(model: Any, batch: Sequence[Example], pad: int) -> tuple[torch.Tensor, float]:
    """Weighted mean cross-entropy to minimise, and the mean over tokens of weight 1 to report (nats)."""
    width = max(len(ids) for ids, _ in batch)
    tokens = torch.full((len(batch), width), pad)
    weights = torch.zeros(len(batch), width)
    for row, (ids, weighted) in enumerate(batch):
        tokens[row, : len(ids)] = torch.tensor(ids)
        weights[row, : len(ids)] = torch.tensor(weighted)
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
    )
    weights = weights[:, 1:].flatten()
    completion = (weights == 1.0).float()
    reported = (losses.detach() * completion).sum() / completion.sum()
    return (losses * weights).sum() / weights.sum(), float(reported)


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """Roughly the nearest semi-orthogonal matrix, by five Newton-Schulz steps: Muon's update."""
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(5):
        gram = wide @ wide.T
        wide = 3.4445 * wide + (2.0315 * gram @ gram - 4.7750 * gram) @ wide
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide


def pretrain(
    recipe: ModelRecipe, model: Any, groups: Sequence[Sequence[Example]], pad: int, progress: Progress
) -> float:
    """Train in place; returns the completion loss over the last 50 steps.

    Muon for the matrices of the layers, AdamW for embeddings and norms. With AdamW alone the model learns to
    copy numbers from the question several times later.
    """
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    momenta = [torch.zeros_like(p) for p in matrices]
    vectors = [p for name, p in named if p.ndim != 2 or "embed" in name]
    adam = torch.optim.AdamW(vectors, lr=recipe.vector_learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    model.train()
    recent: list[float] = []
    for step, group in enumerate(groups, 1):
        loss, reported = loss_of(model, group, pad)
        loss.backward()
        # Up over 30 steps, level, then down to zero.
        rate = min(1.0, step / 30, (len(groups) + 1 - step) / (recipe.decay_share * len(groups)))
        with torch.no_grad():
            for matrix, momentum in zip(matrices, momenta, strict=True):
                momentum.mul_(0.95).add_(matrix.grad)
                scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                update = orthogonalised(matrix.grad + 0.95 * momentum)
                matrix.add_(update, alpha=-rate * recipe.matrix_learning_rate * scale)
        adam.param_groups[0]["lr"] = rate * recipe.vector_learning_rate
        adam.step()
        model.zero_grad()
        recent = [*recent[-49:], reported]
        progress(step, sum(recent) / len(recent))
    model.eval()
    return sum(recent) / len(recent)


def late_recipe(recipe: ModelRecipe) -> ModelRecipe:
    """The recipe of the last steps: a lower learning rate, and its own way down."""
    return replace(
        recipe,
        matrix_learning_rate=recipe.matrix_learning_rate * recipe.late_rate,
        vector_learning_rate=recipe.vector_learning_rate * recipe.late_rate,
        decay_share=recipe.late_decay_share,
    )


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def save(
    recipe: ModelRecipe,
    folder: Path,
    model: Any,
    tokenizer: Any,
    groups: Sequence[Sequence[Example]],
    loss: float,
    began: float,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the model with its `recipe.json`, which is returned and holds `about` too."""
    model.generation_config = transformers.GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    report = {
        "recipe": asdict(recipe),
        **about,
        "parameters": model.num_parameters(),
        "training_tokens": sum(len(ids) for group in groups for ids, _ in group),
        "completion_loss_nats": round(loss, 4),
        "seconds": round(time.monotonic() - began),
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
    }
    (folder / "recipe.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def command_line(
    program: str,
    about: str | None,
    kind: type[AnyRecipe],
    make: Callable[[AnyRecipe, Path, Progress], dict[str, Any]],
    threads: int,
) -> None:
    """Read the command line of a recipe, make everything, and print what `recipe.json` holds."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=about)
    parser.add_argument("--out", type=Path, required=True, help="folder for the model and pools/")
    parser.add_argument("--seed", type=int, default=kind.seed)
    parser.add_argument("--steps", type=int, default=kind.steps, help="training steps")
    parser.add_argument("--threads", type=int, default=threads, help="1 where others use the cores too")
    arguments = parser.parse_args()
    recipe = kind(seed=arguments.seed, steps=arguments.steps)
    began, total = time.monotonic(), recipe.steps + recipe.late_steps

    def progress(step: int, loss: float) -> None:
        if step % 20 == 0:
            seconds = time.monotonic() - began
            print(f"step {step}/{total}  completion loss {loss:.4f}  {seconds:.0f} s", flush=True)

    torch.set_num_threads(arguments.threads)
    print(json.dumps(make(recipe, arguments.out, progress), indent=2))
