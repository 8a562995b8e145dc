"""Tokens a second of scoring: `LanguageModel.score` against one forward pass a sample.

    python benchmarks/scoring_speed.py                       the embedded model
    python benchmarks/scoring_speed.py --model DIRECTORY     another model
    python benchmarks/scoring_speed.py --threads 1           on one core, where others use the machine
    python benchmarks/scoring_speed.py --shots 4             after four worked examples, in the chat template
    python benchmarks/scoring_speed.py --vllm                with the log-probabilities of vLLM's prompts as a third

Three workloads, all on the embedded pool's questions: one continuation a question, of 30–90 random tokens;
16 such a question; and 16 paths a question that the model samples itself at temperature 0.8, some of them
equal. The contenders take turns and the median of the rounds counts. `one forward a sample` reads context and
continuation in one `model(...)` and gathers the log-probabilities of the continuation's tokens from those
positions only; the tokens that it reads are those counted for both. Both are also compared with the same
forward passes in float64, over the first pairs: where they differ from each other, neither is the exact one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
import transformers
from generation_speed import EMBEDDED, PROMPT, VllmContender, machine, processor_seconds, worked_prompts

from selfimprove_dagster.language_model import open_language_model
from selfimprove_dagster.language_model.base import SamplingParameters
from selfimprove_dagster.language_model.transformers_engine import TransformersLanguageModel

EXACT = 256
"""Pairs whose scores are compared with float64."""
Pairs = tuple[list[list[int]], list[list[int]]]


@torch.inference_mode()
def one_forward_a_sample(
    model: Any, contexts: Sequence[list[int]], continuations: Sequence[list[int]]
) -> list[list[float]]:
    """The scores as a script computes them."""
    found = []
    for context, continuation in zip(contexts, continuations, strict=True):
        logits = model(input_ids=torch.tensor([context + continuation]).to(model.device)).logits
        logprobs = logits[0, len(context) - 1 : -1].log_softmax(-1)
        targets = torch.tensor(continuation, device=logprobs.device)
        found.append(logprobs.gather(-1, targets[:, None])[:, 0].tolist())
    return found


def random_pairs(engine: TransformersLanguageModel, questions: int, samples: int, shots: int | None) -> Pairs:
    """Questions as contexts, `samples` random continuations each."""
    random = np.random.default_rng(0)
    contexts = [context for context in prompts(engine, questions, shots) for _ in range(samples)]
    return contexts, [random.integers(2, 256, random.integers(30, 91)).tolist() for _ in contexts]


def sampled_pairs(
    engine: TransformersLanguageModel, questions: int, samples: int, shots: int | None
) -> Pairs:
    """Questions as contexts, each with the paths that the model samples of it."""
    contexts = prompts(engine, questions, shots)
    seeds = [list(range(at * samples, (at + 1) * samples)) for at in range(questions)]
    drawn = engine.generate(contexts, seeds, SamplingParameters(temperature=0.8, max_tokens=96))
    continuations = [path.token_ids for paths in drawn for path in paths]
    return [context for context in contexts for _ in range(samples)], continuations


def prompts(engine: TransformersLanguageModel, count: int, shots: int | None) -> list[list[int]]:
    """Token ids of the pool's first questions, after worked examples if `shots` says so."""
    if shots is not None:
        return worked_prompts(engine, count, shots)
    lines = (EMBEDDED / "pools" / "seeds.jsonl").read_text().splitlines()
    return [engine.encode(PROMPT.format(**json.loads(lines[at % len(lines)]))) for at in range(count)]


def compare(
    plain: Any, engine: TransformersLanguageModel, vllm: VllmContender | None, work: Pairs, rounds: int
) -> list[str]:
    """The table's rows and a line about the differences."""
    contexts, continuations = work
    contenders: dict[str, Callable[[], list[list[float]]]] = {
        "one forward a sample": lambda: one_forward_a_sample(plain, contexts, continuations),
        "this engine": lambda: engine.score(contexts, continuations),
    }
    if vllm is not None:
        contenders["vLLM's `prompt_logprobs`"] = lambda: vllm.score(contexts, continuations)
    tokens = sum(map(len, contexts)) + sum(map(len, continuations))
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    scores: dict[str, list[list[float]]] = {}
    for _ in range(rounds):
        for name, contend in contenders.items():
            wall, processor = time.perf_counter(), processor_seconds()
            scores[name] = contend()
            speeds[name].append(
                (tokens / (time.perf_counter() - wall), tokens / (processor_seconds() - processor))
            )
    different = len({(*context, -1, *text) for context, text in zip(contexts, continuations, strict=True)})
    lines = [
        f"{len(contexts):,} pairs ({different:,} different), {tokens:,} tokens\n",
        "| | tokens/s | ratio | tokens per CPU second | ratio |\n|---|---|---|---|---|",
    ]
    base = [statistics.median(column) for column in zip(*speeds["one forward a sample"], strict=True)]
    for name, found in speeds.items():
        wall, processor = (statistics.median(column) for column in zip(*found, strict=True))
        ratios = wall / base[0], processor / base[1]
        lines.append(f"| {name} | {wall:,.0f} | {ratios[0]:.1f}× | {processor:,.0f} | {ratios[1]:.1f}× |")
    exact = np.concatenate(
        one_forward_a_sample(deepcopy(plain).double(), contexts[:EXACT], continuations[:EXACT])
    )
    errors = [np.abs(np.concatenate(found[:EXACT]) - exact) for found in scores.values()]
    told = (
        f"{name} {error.max():.1e} at most, {np.median(error):.1e} in the median"
        for name, error in zip(scores, errors, strict=True)
    )
    return [*lines, f"\nNats from float64 ({exact.min():.0f} to {exact.max():.0f}): {'; '.join(told)}.\n"]


def main() -> None:
    """Run both in turn on every workload and print markdown tables."""
    parser = argparse.ArgumentParser(description="Tokens a second of scoring.")
    parser.add_argument("--model", default=str(EMBEDDED / "base"), help="a model directory")
    parser.add_argument("--questions", type=int, default=256)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32", help="number format of both: float32 or bfloat16")
    parser.add_argument("--threads", type=int, help="PyTorch's threads; default: its own choice")
    parser.add_argument(
        "--shots", type=int, help="questions after so many worked examples, as the pipeline asks"
    )
    parser.add_argument("--vllm", action="store_true", help="vLLM as well, in a process of its own")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    if options.threads:
        torch.set_num_threads(options.threads)
    engine = open_language_model(options.model, dtype=options.dtype)
    assert isinstance(engine, TransformersLanguageModel)
    plain = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=options.dtype).eval()
    plain.to(engine.device)
    vllm = VllmContender(options.model, options.dtype, options.threads, 1024) if options.vllm else None
    print(f"`python {' '.join(sys.argv)}`\n")
    print(
        f"{machine()}, {torch.get_num_threads()} threads; torch {torch.__version__}, {engine.engine}; "
        f"{plain.num_parameters():,} parameters in {options.dtype}\n"
    )
    several = f"{options.samples} continuations a question"
    for title, work in {
        "One continuation a question": random_pairs(
            engine, options.questions * options.samples // 2, 1, options.shots
        ),
        f"{several}, random": random_pairs(engine, options.questions, options.samples, options.shots),
        f"{several}, sampled by the model": sampled_pairs(
            engine, options.questions, options.samples, options.shots
        ),
    }.items():
        print(f"## {title}\n")
        print("\n".join(compare(plain, engine, vllm, work, options.rounds)), flush=True)
    if vllm is not None:
        vllm.close()


if __name__ == "__main__":
    main()
