"""How many labels a second: option probabilities against generating the answer as text and parsing it.

    python benchmarks/judging_speed.py --out benchmarks/results/judging_speed.md

The same pairs of responses, principles and orders, by the embedded dialogue model. `probabilities` is what
the pipeline does. `text` lets the model write its answer (the published prompts end in "The answer is:") with
this project's engine and reads (A) or (B) out of it; `model.generate` does so with transformers alone, in
padded batches and question by question. One answer is a hard label. What the pipeline trains on is a
probability: to read it off text, the answer is drawn SAMPLES times, which leaves a standard error of up to
1 / (2 √SAMPLES).
"""

from __future__ import annotations

import argparse
import os
import re
import time
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfimprove_dagster.embedded import DIALOGUE_COMPARISONS, DIALOGUE_MODEL
from selfimprove_dagster.families.dialogues.constitution import HOUSEHOLD, load_constitution
from selfimprove_dagster.families.dialogues.files import read_comparisons
from selfimprove_dagster.families.dialogues.settings import ComparisonFile
from selfimprove_dagster.families.judging.comparing import Pair, compare_pairs, questions_of
from selfimprove_dagster.families.judging.settings import JudgeSection
from selfimprove_dagster.language_model import open_language_model
from selfimprove_dagster.language_model.base import SamplingParameters

ANSWER_TOKENS = 8
SAMPLES = 16
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
    plain = AutoModelForCausalLM.from_pretrained(DIALOGUE_MODEL).eval()
    tokenizer = AutoTokenizer.from_pretrained(DIALOGUE_MODEL, padding_side="left")

    def by_probabilities() -> int:
        return len(compare_pairs(model, pairs, constitution, section, (0,)))

    def by_text(samples: int) -> int:
        temperature = 0.0 if samples == 1 else 1.0
        parameters = SamplingParameters(temperature, max_tokens=ANSWER_TOKENS, stop=("\n",))
        drawn = model.generate(encoded, [list(range(samples))] * len(encoded), parameters)
        return sum(any(re.search(r"\(([AB])\)", path.text) for path in paths) for paths in drawn)

    def by_generate(together: int, samples: int) -> int:
        read = 0
        for start in range(0, len(prompts), together):
            batch = tokenizer(prompts[start : start + together], return_tensors="pt", padding=True)
            with torch.inference_mode():
                written = plain.generate(
                    **{name: batch[name] for name in ("input_ids", "attention_mask")},
                    do_sample=samples > 1,
                    num_return_sequences=samples,
                    max_new_tokens=ANSWER_TOKENS,
                    pad_token_id=tokenizer.pad_token_id,
                )
            texts = tokenizer.batch_decode(written[:, batch["input_ids"].shape[1] :])
            found = [bool(re.search(r"\(([AB])\)", text)) for text in texts]
            read += sum(any(found[at : at + samples]) for at in range(0, len(found), samples))
        return read

    rows = {}
    for name, way in (
        ("probabilities of the options: soft label", by_probabilities),
        ("text, this project's engine: hard label", partial(by_text, 1)),
        (f"text, `model.generate`, {BATCH} together: hard label", partial(by_generate, BATCH, 1)),
        ("text, `model.generate`, one by one: hard label", partial(by_generate, 1, 1)),
        (f"text, this project's engine, {SAMPLES} samples: soft label", partial(by_text, SAMPLES)),
        (
            f"text, `model.generate`, {BATCH} × {SAMPLES} samples: soft label",
            partial(by_generate, BATCH, SAMPLES),
        ),
    ):
        taken, read = [], 0
        for _ in range(options.rounds):
            started = time.perf_counter()
            read = way()
            taken.append(time.perf_counter() - started)
        rows[name] = (min(taken), read)
    fastest = rows["probabilities of the options: soft label"][0]
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
