"""Tokens a second of sampling: this engine against the loops that a script would otherwise have.

    python benchmarks/generation_speed.py                       a random Llama of 0.9M parameters
    python benchmarks/generation_speed.py --model DIRECTORY     another model
    python benchmarks/generation_speed.py --threads 1           on one core, where others use the machine
    python benchmarks/generation_speed.py --dtype bfloat16      in another number format
    python benchmarks/generation_speed.py --vllm                with vLLM as a third contender
    python benchmarks/generation_speed.py --model DIRECTORY --shots 4    questions after four worked examples

Several samples for each of many prompts of 40–60 random tokens; answers of varying length (50 tokens on
average with the random model, 128 at most). Every contender draws from the same model at temperature 1 with
the same limits. With `--shots` the prompts are those that the pipeline asks: questions of the embedded pool after
worked examples, in the model's chat template if it has one:

- `generate loop`: `model.generate` over batches of 16 prompts × the samples, left-padded, as scripts do;
- `this engine`;
- with `--vllm`: one call of vLLM's `LLM.generate` in a process of its own, with its prefix cache emptied before.

The contenders take turns and the median of the rounds counts, so that load from elsewhere hits all. Processor
seconds are those of this process and its children. Also printed: how often the same row came out differently in
a batch of its own than among all others.
transformers' continuous batching is compared in `continuous_batching.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from selfimprove_dagster.families.questions.prompts import PROMPTS
from selfimprove_dagster.language_model import open_language_model
from selfimprove_dagster.language_model.base import SamplingParameters
from selfimprove_dagster.language_model.transformers_engine import TransformersLanguageModel
from selfimprove_dagster.prompts import load_prompts

EMBEDDED = Path(__file__).parents[1] / "selfimprove_dagster" / "embedded"
MAX_TOKENS = 128
LOOP_PROMPTS = 16
END_TOKEN = 1
PROMPT = "Q: {question}\nA: Let's think step by step."


def write_tokenizer(directory: Path, vocabulary: int) -> None:
    """Write a tokenizer of `vocabulary` entries, bytes and pairs of bytes; the end token is END_TOKEN."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = ["<s>", "</s>", *alphabet, *(a + b for a in alphabet for b in alphabet)][:vocabulary]
    tokenizer = Tokenizer(models.BPE(vocab={text: index for index, text in enumerate(entries)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    ).save_pretrained(directory)


def random_model(directory: Path) -> None:
    """A random Llama of the embedded model's shape, whose end token comes with probability about 1/50."""
    write_tokenizer(directory, 640)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=640,
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            bos_token_id=0,
            eos_token_id=END_TOKEN,
            tie_word_embeddings=False,
            initializer_range=0.06,
        )
    ).eval()
    with torch.inference_mode():
        ids = torch.randint(2, 640, (64, 100))
        mean = model.model(ids).last_hidden_state.mean((0, 1))
        target = model(ids).logits.logsumexp(-1).mean() - np.log(55)
        model.lm_head.weight[END_TOKEN] = mean / mean.norm() ** 2 * target
    model.save_pretrained(directory)


def worked_prompts(engine: TransformersLanguageModel, count: int, shots: int) -> list[list[int]]:
    """Questions of the embedded pool after worked examples, as the pipeline asks this model."""
    pools = EMBEDDED / "pools"
    questions, worked = (
        [json.loads(line) for line in (pools / name).read_text().splitlines()]
        for name in ("seeds.jsonl", "word_problems.jsonl")
    )
    forms = load_prompts([PROMPTS], engine.prompting)
    return engine.encode_prompts(
        [
            forms.ask("few_shot_cot", question=row["question"], demonstrations=worked[:shots])
            for row in questions[:count]
        ]
    )


@dataclass
class Task:
    """What every contender is asked for."""

    prompts: list[list[int]]
    samples: int
    max_tokens: int = MAX_TOKENS

    def seeds(self) -> list[list[int]]:
        """A seed for each sample."""
        return [
            [prompt * self.samples + sample for sample in range(self.samples)]
            for prompt in range(len(self.prompts))
        ]


def generate_loop(model: Any, task: Task, end_tokens: set[int]) -> int:
    """Tokens drawn by `model.generate` over fixed batches."""
    end, drawn = min(end_tokens), 0
    for at in range(0, len(task.prompts), LOOP_PROMPTS):
        batch = task.prompts[at : at + LOOP_PROMPTS]
        width = max(map(len, batch))
        ids = torch.tensor([[end] * (width - len(prompt)) + prompt for prompt in batch])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch])
        output = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            max_new_tokens=task.max_tokens,
            num_return_sequences=task.samples,
            pad_token_id=end,
        )[:, width:]
        ended = torch.isin(output, torch.tensor(sorted(end_tokens), device=output.device)).int()
        # Tokens up to and including the first end token.
        drawn += int((ended.cumsum(-1) - ended == 0).sum())
    return drawn


def this_engine(engine: TransformersLanguageModel, task: Task) -> int:
    """Tokens drawn by the engine."""
    generations = engine.generate(task.prompts, task.seeds(), SamplingParameters(max_tokens=task.max_tokens))
    return sum(len(row.token_ids) for group in generations for row in group)


class VllmContender:
    """vLLM's own interface, without this project's engine; `close` ends its process."""

    def __init__(self, directory: str, dtype: str, threads: int | None, length: int) -> None:
        """Start an engine for sequences of at most `length` tokens."""
        os.environ.update(VLLM_CPU_KVCACHE_SPACE="2", VLLM_LOGGING_LEVEL="ERROR", VLLM_NO_USAGE_STATS="1")
        if threads:
            os.environ.update(OMP_NUM_THREADS=str(threads), VLLM_CPU_OMP_THREADS_BIND="nobind")
        from vllm import LLM, SamplingParams

        self.sampling = SamplingParams
        self.llm = LLM(model=directory, dtype=dtype, max_model_len=length, enforce_eager=True)

    def draw(self, task: Task) -> int:
        """Tokens drawn of the task."""
        self.llm.reset_prefix_cache()
        settings = self.sampling(
            n=task.samples, temperature=1.0, max_tokens=task.max_tokens, detokenize=False
        )
        outputs = self.llm.generate(
            [{"prompt_token_ids": ids} for ids in task.prompts], settings, use_tqdm=False
        )
        return sum(len(path.token_ids) for output in outputs for path in output.outputs)

    def score(self, contexts: Sequence[list[int]], continuations: Sequence[list[int]]) -> list[list[float]]:
        """The natural log-probability of each token of the continuations."""
        self.llm.reset_prefix_cache()
        settings = self.sampling(max_tokens=1, prompt_logprobs=0, detokenize=False)
        asked = [
            {"prompt_token_ids": [*pair[0], *pair[1]]} for pair in zip(contexts, continuations, strict=True)
        ]
        return [
            [
                place[token].logprob
                for place, token in zip(output.prompt_logprobs[len(context) :], text, strict=True)
            ]
            for output, context, text in zip(
                self.llm.generate(asked, settings, use_tqdm=False), contexts, continuations, strict=True
            )
        ]

    def close(self) -> None:
        """End the engine's process."""
        self.llm.llm_engine.engine_core.shutdown()


def processor_seconds() -> float:
    """Processor seconds of this process and its living children so far."""
    this = psutil.Process()
    times = [one.cpu_times() for one in (this, *this.children(recursive=True))]
    return float(sum(one.user + one.system for one in times))


def take_turns(contenders: dict[str, Callable[[Task], int]], task: Task, rounds: int) -> str:
    """The medians over the rounds as a markdown table; ratios are to the first contender."""
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for contend in contenders.values():
        contend(Task(task.prompts[:2], 2, min(8, task.max_tokens)))
    for _ in range(rounds):
        for name, contend in contenders.items():
            wall, processor = time.perf_counter(), processor_seconds()
            drawn = contend(task)
            speeds[name].append(
                (drawn / (time.perf_counter() - wall), drawn / (processor_seconds() - processor))
            )
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)]
        for name, rows in speeds.items()
    }
    base = next(iter(medians.values()))
    lines = ["| | tokens/s | ratio | tokens per CPU second | ratio |", "|---|---|---|---|---|"]
    for name, (wall, processor) in medians.items():
        ratios = wall / base[0], processor / base[1]
        lines.append(f"| {name} | {wall:,.0f} | {ratios[0]:.1f}× | {processor:,.0f} | {ratios[1]:.1f}× |")
    return "\n".join(lines)


def disagreement(engine: TransformersLanguageModel, task: Task, rows: int) -> tuple[int, int, int]:
    """Rows that differ between the full batch and a batch of one, of so many compared, and their tokens."""
    parameters = SamplingParameters(max_tokens=task.max_tokens)
    together = engine.generate(task.prompts, task.seeds(), parameters)
    pairs = [(at, sample) for sample in range(task.samples) for at in range(len(task.prompts))][:rows]
    different = tokens = 0
    for at, sample in pairs:
        seed = task.seeds()[at][sample]
        alone = engine.generate([task.prompts[at]], [[seed]], parameters)[0][0]
        different += alone.token_ids != together[at][sample].token_ids
        tokens += len(alone.token_ids)
    return different, len(pairs), tokens


def machine() -> str:
    """CPU model and cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def main() -> None:
    """Run the contenders in turn and print a markdown table."""
    parser = argparse.ArgumentParser(description="Tokens a second of sampling.")
    parser.add_argument("--model", help="a model directory; default: a random Llama of 0.9M parameters")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="PyTorch's threads; default: its own choice")
    parser.add_argument("--dtype", default="float32", help="number format of both: float32 or bfloat16")
    parser.add_argument("--max-tokens", type=int, default=MAX_TOKENS)
    parser.add_argument("--token-budget", type=int, default=65_536)
    parser.add_argument("--compared", type=int, default=64, help="rows generated alone as well")
    parser.add_argument("--questions", type=Path, help="a JSON Lines file with a `question` in each line")
    parser.add_argument(
        "--shots", type=int, help="questions of the embedded pool after so many worked examples"
    )
    parser.add_argument("--vllm", action="store_true", help="vLLM as well, in a process of its own")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        if options.model is None:
            random_model(Path(scratch))
        directory = options.model or scratch
        engine = open_language_model(directory, dtype=options.dtype, token_budget=options.token_budget)
        assert isinstance(engine, TransformersLanguageModel)
        plain = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=options.dtype).eval()
    ends = {int(token) for token in engine.end_tokens}
    random = np.random.default_rng(0)
    vocabulary = plain.get_input_embeddings().weight.shape[0]
    if options.shots is not None:
        prompts = worked_prompts(engine, options.prompts, options.shots)
    elif options.questions:
        lines = options.questions.read_text().splitlines()[: options.prompts]
        prompts = [engine.encode(PROMPT.format(**json.loads(line))) for line in lines]
    else:
        lengths = random.integers(40, 61, options.prompts)
        prompts = [random.integers(2, vocabulary, length).tolist() for length in lengths]
    task = Task(prompts, options.samples, options.max_tokens)
    contenders: dict[str, Callable[[Task], int]] = {
        f"`model.generate`, {min(LOOP_PROMPTS, len(prompts))} prompts × {options.samples} at a time": lambda part: (
            generate_loop(plain, part, ends)
        ),
        "this engine": lambda part: this_engine(engine, part),
    }
    vllm = None
    if options.vllm:
        longest = max(map(len, prompts)) + options.max_tokens
        vllm = VllmContender(directory, options.dtype, options.threads, longest)
        contenders["vLLM's `LLM.generate`"] = vllm.draw
    table = take_turns(contenders, task, options.rounds)
    if vllm is not None:
        vllm.close()
    print(f"`python {' '.join(sys.argv)}`\n")
    print(
        f"{machine()}, {torch.get_num_threads()} threads; torch {torch.__version__}, {engine.engine}; ",
        end="",
    )
    print(
        f"{plain.num_parameters():,} parameters in {options.dtype}, {options.prompts} prompts × {options.samples} "
        "samples\n"
    )
    print(table)
    different, compared, tokens = disagreement(engine, task, options.compared)
    print(f"\nAlone against in the batch: {different} of {compared} rows differ, {tokens:,} tokens")


if __name__ == "__main__":
    main()
