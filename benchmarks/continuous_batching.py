"""Tokens a second of sampling with a model of real size: this engine and transformers' continuous batching.

    python benchmarks/continuous_batching.py                one thread, a random Llama of 134.5M parameters
    python benchmarks/continuous_batching.py --threads 2

The model has the shape of SmolLM2-135M (30 layers, width 576, 9 heads on 3, vocabulary 49,152, float32) and
random weights, which take the time that trained ones take. Several samples for each of a few prompts of
40–60 random tokens, all of one length: an end token has a probability of 1/49,152. The contenders take
turns and the median of the rounds counts; see `generation_speed.py`.

`generate_batch` runs on the CPU, with its paged attention through SDPA. Left to itself it takes 80–90% of
the machine's memory and plans batches of 8,192 tokens, for which it makes attention masks as wide as the
cache; `--own-settings` times that. Without, it has a cache that holds the task and batches that hold the
prompts.

Also printed: how often the same row, with the same seed, came out differently alone than among all others. In
`generate_batch` the seed is one of the batch: every step draws all rows from PyTorch's one generator.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from generation_speed import (
    END_TOKEN,
    Task,
    disagreement,
    generate_loop,
    machine,
    take_turns,
    this_engine,
    write_tokenizer,
)
from transformers.generation import ContinuousBatchingConfig

from selfimprove_dagster.language_model import open_language_model
from selfimprove_dagster.language_model.transformers_engine import TransformersLanguageModel

VOCABULARY = 49_152
PAGE = 32
"""Tokens of a page of the cache: prompts share whole pages only."""


def write_model(directory: Path) -> None:
    """A Llama of SmolLM2-135M's shape with random weights, and a tokenizer for it."""
    write_tokenizer(directory, VOCABULARY)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rope_theta=100_000.0,
        bos_token_id=0,
        eos_token_id=END_TOKEN,
        tie_word_embeddings=True,
        initializer_range=1 / math.sqrt(576),
    )
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(directory)


def settings_for(task: Task) -> ContinuousBatchingConfig:
    """A cache for all rows at once, and batches in which all prompts are read."""
    rows = len(task.prompts) * task.samples
    longest = max(map(len, task.prompts)) + task.max_tokens
    return ContinuousBatchingConfig(
        page_size=PAGE,
        num_blocks=rows * math.ceil(longest / PAGE) + 8,
        max_batch_tokens=max(512, rows),
        max_requests_per_batch=rows,
        seed=0,
    )


def batch_of(
    model: Any, task: Task, settings: ContinuousBatchingConfig | None, requests: list[list[int]]
) -> list[list[int]]:
    """The tokens that `generate_batch` draws for each request, in their order."""
    sampling = transformers.GenerationConfig(
        do_sample=True,
        top_k=0,
        temperature=1.0,
        max_new_tokens=task.max_tokens,
        eos_token_id=END_TOKEN,
        pad_token_id=END_TOKEN,
    )
    outputs = model.generate_batch(
        inputs=requests,
        generation_config=sampling,
        continuous_batching_config=settings,
        progress_bar=False,
    )
    if len(outputs) != len(requests):
        raise RuntimeError(f"generate_batch finished {len(outputs)} of {len(requests)} requests")
    return [output.generated_tokens for output in outputs.values()]


def requests_of(task: Task) -> list[list[int]]:
    """Each sample is a request of its own."""
    return [prompt for prompt in task.prompts for _ in range(task.samples)]


def continuous_batching(model: Any, own_settings: bool, task: Task) -> int:
    """Tokens drawn by transformers' continuous batching."""
    settings = None if own_settings else settings_for(task)
    return sum(map(len, batch_of(model, task, settings, requests_of(task))))


def batch_disagreement(model: Any, task: Task, rows: int) -> tuple[int, int]:
    """Requests that `generate_batch` answers differently alone than among all others, of so many compared."""
    together = batch_of(model, task, settings_for(task), requests_of(task))
    pairs = list(zip(requests_of(task), together, strict=True))[-rows:]
    different = sum(batch_of(model, task, settings_for(task), [one])[0] != drawn for one, drawn in pairs)
    return different, len(pairs)


def main() -> None:
    """Run the contenders in turn and print a markdown table."""
    parser = argparse.ArgumentParser(description="Tokens a second of sampling, a model of real size.")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=32, help="tokens of a sample")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's threads")
    parser.add_argument("--compared", type=int, default=4, help="rows generated alone as well")
    parser.add_argument(
        "--own-settings", action="store_true", help="leave memory and batches to `generate_batch`"
    )
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        write_model(Path(scratch))
        engine = open_language_model(scratch)
        assert isinstance(engine, TransformersLanguageModel)
        plain = transformers.AutoModelForCausalLM.from_pretrained(scratch, dtype="float32").eval()
    random = np.random.default_rng(0)
    lengths = random.integers(40, 61, options.prompts)
    prompts = [random.integers(2, VOCABULARY, length).tolist() for length in lengths]
    task = Task(prompts, options.samples, options.tokens)
    table = take_turns(
        {
            "`model.generate`, all rows at once": lambda part: generate_loop(plain, part, {END_TOKEN}),
            "transformers' continuous batching": partial(continuous_batching, plain, options.own_settings),
            "this engine": partial(this_engine, engine),
        },
        task,
        options.rounds,
    )
    print(f"`python {' '.join(sys.argv)}`\n")
    print(
        f"{machine()}, {torch.get_num_threads()} threads; torch {torch.__version__}, {engine.engine}; ",
        end="",
    )
    print(
        f"{plain.num_parameters():,} parameters, {options.prompts} prompts × {options.samples} samples, ",
        end="",
    )
    print(f"{options.tokens} tokens each\n\n{table}\n")
    different, compared, _ = disagreement(engine, task, options.compared)
    print(f"Alone against in the batch, this engine: {different} of {compared} rows differ")
    different, compared = batch_disagreement(plain, task, options.compared)
    print(f"Alone against in the batch, continuous batching: {different} of {compared} rows differ")


if __name__ == "__main__":
    main()
