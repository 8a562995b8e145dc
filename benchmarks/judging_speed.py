"""How many labels a second: option probabilities against generating the answer as text and parsing it.

    python benchmarks/judging_speed.py --out benchmarks/results/judging_speed.md

The same pairs of responses, principles and orders, by the embedded dialogue model. `probabilities` is what
the pipeline does. `text` lets the model write its answer (the published prompts end in "The answer is:") with
this project's engine and reads (A) or (B) out of it; `model.generate` does so with transformers alone, in
padded batches. Text also gives no probability: where it must be a soft label, it has to be drawn many times.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfimprove_dagster.comparing import Pair, compare_pairs, questions_of
from selfimprove_dagster.constitution import HOUSEHOLD, load_constitution
from selfimprove_dagster.dialogue_files import read_comparisons
from selfimprove_dagster.embedded import DIALOGUE_COMPARISONS, DIALOGUE_MODEL
from selfimprove_dagster.judge_sections import ComparisonFile, JudgeSection
from selfimprove_dagster.language_model import open_language_model
from selfimprove_dagster.language_model.base import SamplingParameters

ANSWER_TOKENS = 8
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3, help="the best of so many is reported")
    parser.add_argument("--out", type=Path, help="write the table here too")
    options = parser.parse_args()
    compared, _ = read_comparisons(ComparisonFile(file=str(DIALOGUE_COMPARISONS)))
    pairs = [
        Pair(str(number), one.prompt, (f"{number}a", f"{number}b"), (one.chosen, one.rejected))
        for number, one in enumerate(compared[: options.pairs])
    ]
    constitution = load_constitution(HOUSEHOLD)
    section = JudgeSection(principles=1, repeated_share=0.0)
    model = open_language_model(DIALOGUE_MODEL, engine="transformers", device="cpu")
    prompts = [
        draft.content["question"] for draft in compare_pairs(model, pairs, constitution, section, (0,))
    ]
    assert len(prompts) == sum(len(questions_of(pair, constitution, section, (0,))) for pair in pairs)
    encoded = [model.encode(prompt) for prompt in prompts]
    parameters = SamplingParameters(temperature=0.0, max_tokens=ANSWER_TOKENS, stop=("\n",))
    plain = AutoModelForCausalLM.from_pretrained(DIALOGUE_MODEL).eval()
    tokenizer = AutoTokenizer.from_pretrained(DIALOGUE_MODEL, padding_side="left")

    def by_probabilities() -> int:
        return len(compare_pairs(model, pairs, constitution, section, (0,)))

    def by_text() -> int:
        drawn = model.generate(encoded, [[0]] * len(encoded), parameters)
        return sum(bool(re.search(r"\(([AB])\)", path.text)) for (path,) in drawn)

    def by_generate() -> int:
        read = 0
        for start in range(0, len(prompts), BATCH):
            batch = tokenizer(prompts[start : start + BATCH], return_tensors="pt", padding=True)
            with torch.inference_mode():
                written = plain.generate(
                    **{name: batch[name] for name in ("input_ids", "attention_mask")},
                    do_sample=False,
                    max_new_tokens=ANSWER_TOKENS,
                    pad_token_id=tokenizer.pad_token_id,
                )
            texts = tokenizer.batch_decode(written[:, batch["input_ids"].shape[1] :])
            read += sum(bool(re.search(r"\(([AB])\)", text)) for text in texts)
        return read

    rows = {}
    for name, way in (
        ("probabilities of the options", by_probabilities),
        ("text, this project's engine", by_text),
        ("text, `model.generate`", by_generate),
    ):
        taken, read = [], 0
        for _ in range(options.rounds):
            started = time.perf_counter()
            read = way()
            taken.append(time.perf_counter() - started)
        rows[name] = (min(taken), read)
    fastest = rows["probabilities of the options"][0]
    lines = [
        f"{len(pairs):,} pairs in both orders, {len(prompts):,} questions; best of {options.rounds} rounds.",
        "",
        "| way | answers read | labels a second | time against probabilities |",
        "|---|---:|---:|---:|",
        *(
            f"| {name} | {read:,} | {len(prompts) / seconds:,.0f} | {seconds / fastest:.1f} |"
            for name, (seconds, read) in rows.items()
        ),
        "",
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, load average {os.getloadavg()[0]:.1f}. "
        f"Command: `python benchmarks/judging_speed.py --pairs {len(pairs)}`",
    ]
    print("\n".join(lines))
    if options.out:
        options.out.write_text("# Labels a second\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
