"""Candidates a second of Toolformer's filter, and texts a second of finding positions.

    python benchmarks/toolformer_scoring.py                       the embedded model
    python benchmarks/toolformer_scoring.py --model DIRECTORY     another model
    python benchmarks/toolformer_scoring.py --threads 1 --processor-time      where others use the machine
    python benchmarks/toolformer_scoring.py --home .selfimprove               the calls of a round

Texts are the embedded pool's questions, alone or several in one text. Scoring: at `--positions` places of
each text `--calls` different calls of the calculator with their results (the paper has 20 and 10 at most),
each under three prefixes. In one workload no two calls of a text are the same; in the other they are drawn
from `--distinct` calls a text, since samples at neighbouring places often agree. With `--home`, candidates
are instead those of an experiment's round: what its model drew in `--texts` of its texts, with what
the tools gave. Contenders:

- `a forward a prefix`: prefix and whole text in one `model(...)`, batch of one, as first scripts do;
- `padded batches`: the same sequences, padded to the longest of `--batch`, in the order of the candidates;
- `padded batches by length`: the same, sorted by length first;
- `this library`: `tool_use.score_calls`;
- `this library, τ_f ≥ 0.5`: the same, which leaves unread what cannot lower the loss by 0.5, the least of the
  paper's thresholds; the calls that pass are the same.

All read the log-probabilities of the window's tokens only. Finding positions: p(<API>) at every position of a
text after its prompt, by `tool_use.position_probabilities` against one forward a position.

With `--processor-time` seconds are those that the process spent computing, not waiting for a core; on one
thread of an idle machine they are the clock's.

The contenders take turns and the median of the rounds counts; the first runs over a share of the candidates.
Only ours is timed with the tokenizer. Losses are compared with each other, and some of them with float64.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import transformers
from generation_speed import machine

from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.language_model import open_language_model
from selfimprove_dagster.language_model.prompting import TEXT
from selfimprove_dagster.language_model.transformers_engine import TransformersLanguageModel
from selfimprove_dagster.methods.toolformer import tables as t
from selfimprove_dagster.methods.toolformer import tool_use
from selfimprove_dagster.methods.toolformer.loss import WINDOW, Losses, prefixes, weighted_loss
from selfimprove_dagster.prompts import load_prompts
from selfimprove_dagster.tools.base import Context
from selfimprove_dagster.tools.calculator import Calculator
from selfimprove_dagster.tools.calls import Call, PlacedCall
from selfimprove_dagster.tools.prompts import PROMPTS, annotating
from selfimprove_dagster.tools.writing import opening_token

EMBEDDED = Path(__file__).parents[1] / "selfimprove_dagster" / "embedded"
LEAST = 0.5
"""The lowest τ_f of the paper, in nats."""
EXACT = 600
"""Losses that are compared with float64, at most."""
Candidates = list[tuple[int, PlacedCall]]
Sequences = list[tuple[list[int], int]]
"""Token ids of prefix and text, and the index of the window's first token in them."""


def candidates_of(
    engine: TransformersLanguageModel, texts: Sequence[str], positions: int, calls: int, distinct: int | None
) -> Candidates:
    """Different calls of the calculator at random places, drawn from `distinct` a text, or never the same."""
    draw = random.Random(0)
    found: Candidates = []
    for index, text in enumerate(texts):
        unused = some_sums(draw, positions * calls)
        shared = unused[:distinct]
        starts = tool_use.token_starts(engine, text, engine.encode_continuation(text))
        places = [start for start in starts if start is not None]
        for position in sorted(draw.sample(places, min(positions, len(places)))):
            if distinct is None:
                chosen, unused = unused[:calls], unused[calls:]
            else:
                chosen = draw.sample(shared, calls)
            found += [(index, PlacedCall(position, call)) for call in chosen]
    return found


def round_of(home: Path, experiment: str, count: int) -> tuple[list[str], Candidates]:
    """Texts of the experiment's first round, and the calls in them that it has scored."""
    lake, partition = Lake(home / "lake"), partition_of(experiment, 0)
    pool = dict(lake.read(t.TF_SEED_POOL.name, partition).select("id", "text").iter_rows())
    scored = lake.read(t.TF_PERPLEXITY_SCORES.name, partition)["candidate_id"]
    calls = lake.read(t.TF_TOOL_RESULTS.name, partition).filter(pl.col("id").is_in(scored.implode()))
    chosen = sorted(set(calls["text_id"]))[:count]
    candidates = [
        (
            chosen.index(row["text_id"]),
            PlacedCall(row["position"], Call(row["tool"], row["arguments"], row["result"])),
        )
        for row in calls.filter(pl.col("text_id").is_in(chosen)).iter_rows(named=True)
    ]
    return [pool[one] for one in chosen], candidates


def some_sums(draw: random.Random, count: int) -> list[Call]:
    """So many different calls."""
    sums: dict[str, str] = {}
    while len(sums) < count:
        expression = f"{draw.randint(2, 99)} {draw.choice('+-*/')} {draw.randint(2, 99)}"
        sums[expression] = str(Calculator().run(expression, Context()))
    return [Call("Calculator", expression, result) for expression, result in sums.items()]


def sequences_of(
    engine: TransformersLanguageModel, texts: Sequence[str], candidates: Candidates
) -> Sequences:
    """The three sequences of each candidate, one after the other."""
    begin = engine.encode("") or [engine.end_token_id]
    found: Sequences = []
    for index, placed in candidates:
        ids = engine.encode_continuation(texts[index])
        starts = tool_use.token_starts(engine, texts[index], ids)
        first = starts.index(placed.position)
        for prefix in prefixes(placed.call):
            opened = engine.encode_continuation(prefix + tool_use.SEPARATOR) if prefix else []
            found.append(([*begin, *opened, *ids], len(begin) + len(opened) + first))
    return found


def window_loss(logits: Any, ids: list[int], first: int) -> float:
    """L_i from the logits [positions, vocabulary] of one sequence."""
    targets = torch.tensor(ids[first : first + WINDOW], device=logits.device)
    logprobs = logits[first - 1 : first - 1 + len(targets)].float().log_softmax(-1)
    return weighted_loss(logprobs.gather(-1, targets[:, None])[:, 0].tolist())


@torch.inference_mode()
def one_forward_a_prefix(model: Any, sequences: Sequences) -> list[float]:
    """The losses as a script computes them."""
    return [
        window_loss(model(input_ids=torch.tensor([ids], device=model.device)).logits[0], ids, first)
        for ids, first in sequences
    ]


@torch.inference_mode()
def padded_batches(model: Any, sequences: Sequences, batch: int, *, by_length: bool = False) -> list[float]:
    """The same, `batch` sequences at once."""
    order = list(range(len(sequences)))
    if by_length:
        order.sort(key=lambda index: len(sequences[index][0]))
    found: dict[int, float] = {}
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        width = max(len(sequences[index][0]) for index in chosen)
        ids = torch.zeros((len(chosen), width), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, index in enumerate(chosen):
            ids[row, : len(sequences[index][0])] = torch.tensor(sequences[index][0])
            mask[row, : len(sequences[index][0])] = 1
        logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
        for row, index in enumerate(chosen):
            found[index] = window_loss(logits[row], *sequences[index])
    return [found[index] for index in range(len(sequences))]


@torch.inference_mode()
def one_forward_a_position(
    model: Any, engine: TransformersLanguageModel, prompts: Sequence[str], texts: Sequence[str], opening: int
) -> list[list[float]]:
    """p(<API>) before each token of each text."""
    found = []
    for prompt, text in zip(prompts, texts, strict=True):
        context, ids = engine.encode(prompt), engine.encode_continuation(f" {text}")
        row = []
        for index in range(len(ids)):
            read = torch.tensor([[*context, *ids[:index]]], device=model.device)
            row.append(float(model(input_ids=read).logits[0, -1].float().softmax(-1)[opening]))
        found.append(row)
    return found


def timed(
    contenders: dict[str, Callable[[], Any]], options: argparse.Namespace
) -> tuple[dict[str, float], dict[str, Any]]:
    """Median seconds of each contender, which take turns, and what each returned last."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    results = {}
    now = time.process_time if options.processor_time else time.perf_counter
    for _ in range(options.rounds):
        for name, contend in contenders.items():
            start = now()
            results[name] = contend()
            seconds[name].append(now() - start)
    return {name: statistics.median(found) for name, found in seconds.items()}, results


def flat(losses: Sequence[Losses]) -> list[float]:
    return [float(value or 0.0) for one in losses for value in (one.no_call, one.call, one.call_with_result)]


def compare_scoring(
    plain: Any,
    engine: TransformersLanguageModel,
    texts: Sequence[str],
    candidates: Candidates,
    options: argparse.Namespace,
) -> None:
    """Print the table of scoring."""
    some = candidates[:: options.share]
    sequences, all_sequences = (sequences_of(engine, texts, chosen) for chosen in (some, candidates))
    contenders: dict[str, Callable[[], Any]] = {
        "a forward a prefix": lambda: one_forward_a_prefix(plain, sequences),
        "padded batches": lambda: padded_batches(plain, all_sequences, options.batch),
        "padded batches by length": lambda: padded_batches(
            plain, all_sequences, options.batch, by_length=True
        ),
        "this library": lambda: flat(tool_use.score_calls(engine, texts, candidates)),
        f"this library, τ_f ≥ {LEAST}": lambda: tool_use.score_calls(
            engine, texts, candidates, least_reduction=LEAST
        ),
    }
    seconds, results = timed(contenders, options)
    counts = dict.fromkeys(contenders, len(candidates)) | {"a forward a prefix": len(some)}
    speeds = {name: counts[name] / taken for name, taken in seconds.items()}
    tokens = sum(len(ids) for ids, _ in all_sequences)
    print(f"{len(candidates):,} candidates, {tokens:,} tokens in their three sequences\n")
    print("| | candidates/s | against the first |\n|---|---|---|")
    for name, speed in speeds.items():
        print(f"| {name} | {speed:,.0f} | {speed / speeds['a forward a prefix']:.1f}× |")
    padded = np.array(results["padded batches"])
    ours = np.array(results["this library"])
    single = np.array(results["a forward a prefix"])
    at = np.arange(len(candidates) * 3).reshape(-1, 3)[:: options.share].ravel()
    whole = [Losses(*row).reduction or 0.0 for row in padded.reshape(-1, 3).tolist()]
    passing = {index for index, reduction in enumerate(whole) if reduction >= LEAST}
    short = results[f"this library, τ_f ≥ {LEAST}"]
    ours_passing = {index for index, one in enumerate(short) if (one.reduction or 0.0) >= LEAST}
    print(
        f"\n{len(ours_passing)} calls lower the loss by {LEAST} or more; "
        f"{len(passing ^ ours_passing)} differ from those by padded batches.",
    )
    every = slice(None, None, max(1, len(sequences) // EXACT))
    exact = np.array(one_forward_a_prefix(deepcopy(plain).double(), sequences[every]))
    print(
        f"\nNats apart at most: ours and a forward a prefix {np.abs(ours[at] - single).max():.1e}, "
        f"padded batches and a forward a prefix {np.abs(padded[at] - single).max():.1e}; "
        f"from float64 over {len(exact)} losses of {exact.min():.1f} to {exact.max():.1f}: "
        f"ours {np.abs(ours[at][every] - exact).max():.1e}, "
        f"a forward a prefix {np.abs(single[every] - exact).max():.1e}.\n",
        flush=True,
    )


def compare_positions(
    plain: Any, engine: TransformersLanguageModel, texts: Sequence[str], options: argparse.Namespace
) -> None:
    """Print the table of finding positions."""
    opening = opening_token(engine)
    asked = load_prompts([PROMPTS], TEXT)
    prompts = [asked.ask("annotation", **annotating(Calculator(), text)) for text in texts]
    annotated = [tool_use.Annotated(*pair, f" {pair[1]}") for pair in zip(prompts, texts, strict=True)]
    few = slice(0, max(1, len(texts) // 16))
    contenders: dict[str, Callable[[], Any]] = {
        "a forward a position": lambda: one_forward_a_position(
            plain, engine, prompts[few], texts[few], opening
        ),
        "this library": lambda: tool_use.position_probabilities(engine, annotated, opening),
    }
    seconds, results = timed(contenders, options)
    speeds = {name: len(results[name]) / taken for name, taken in seconds.items()}
    print("| | texts/s | ratio |\n|---|---|---|")
    for name, speed in speeds.items():
        print(f"| {name} | {speed:,.2f} | {speed / speeds['a forward a position']:.1f}× |")
    apart = 0.0
    for text, row, ours in zip(texts[few], *results.values(), strict=False):
        ids = engine.encode_continuation(f" {text}")
        for start, probability in zip(tool_use.token_starts(engine, f" {text}", ids), row, strict=True):
            position = -1 if start is None else max(0, start - 1)
            if position > 0:
                apart = max(apart, abs(probability - ours.probabilities[ours.positions.index(position)]))
    print(f"\nProbabilities apart at most: {apart:.1e}.\n")


def main() -> None:
    """Run both comparisons and print markdown tables."""
    parser = argparse.ArgumentParser(description="Candidates a second of Toolformer's filter.")
    parser.add_argument("--model", default=str(EMBEDDED / "base"), help="a model directory")
    parser.add_argument("--texts", type=int, default=32)
    parser.add_argument("--joined", type=int, default=4, help="questions in a text of the second kind")
    parser.add_argument("--positions", type=int, default=10)
    parser.add_argument("--calls", type=int, default=5)
    parser.add_argument("--distinct", type=int, default=10, help="calls a text to draw from")
    parser.add_argument("--batch", type=int, default=32, help="sequences in a padded batch")
    parser.add_argument("--share", type=int, default=8, help="one in so many goes a forward a prefix")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="PyTorch's threads; default: its own choice")
    parser.add_argument("--processor-time", action="store_true", help="seconds of computing, not of waiting")
    parser.add_argument("--home", type=Path, help="a folder with a round of Toolformer, such as .selfimprove")
    parser.add_argument("--experiment", default="toolformer", help="whose round")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    if options.threads:
        torch.set_num_threads(options.threads)
    engine = open_language_model(options.model)
    assert isinstance(engine, TransformersLanguageModel)
    plain = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype="float32").eval()
    plain.to(engine.device)
    lines = (EMBEDDED / "pools" / "seeds.jsonl").read_text().splitlines()
    questions = [json.loads(line)["question"] for line in lines[: options.texts * options.joined]]
    texts = questions[: options.texts]
    joined = [
        " ".join(questions[at : at + options.joined]) for at in range(0, len(questions), options.joined)
    ]
    print(f"`python {' '.join(sys.argv)}`\n")
    print(
        f"{machine()}, {torch.get_num_threads()} threads, "
        f"{'processor time' if options.processor_time else 'wall clock'}; "
        f"torch {torch.__version__}, {engine.engine}; "
        f"{plain.num_parameters():,} parameters\n"
    )
    if options.home:
        read, calls = round_of(options.home, options.experiment, options.texts)
        print(f"## Scoring calls: {len(read)} texts of a round of the experiment {options.experiment}\n")
        compare_scoring(plain, engine, read, calls, options)
        return
    for title, chosen in {"one question": texts, f"{options.joined} questions": joined}.items():
        for distinct in (None, options.distinct):
            calls = "all calls different" if distinct is None else f"{distinct} different calls a text"
            print(f"## Scoring calls: {title} a text, {calls}\n")
            candidates = candidates_of(engine, chosen, options.positions, options.calls, distinct)
            compare_scoring(plain, engine, chosen, candidates, options)
    print("## Finding positions\n")
    compare_positions(plain, engine, texts, options)


if __name__ == "__main__":
    main()
