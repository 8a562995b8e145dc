"""Peak memory and processor time of trainings by setting, on a real model.

    python benchmarks/training_memory.py MODEL [--only KIND …] [--settings NAME …] [--adapter] [--out FILE.md]

MODEL is the folder of a chat model, such as SmolLM2-135M-Instruct. Each training runs in a process of its own, for
two steps of 4 rows of 256 tokens (GRPO: 4 completions of up to 128 tokens after prompts of 128). The peak is the
resident memory of that process, its imports included. `--adapter` adds rows that train LoRA's parameters only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "training_memory.md"
KINDS = ("supervised", "reward", "preference", "grpo")
STEPS, ROWS, LENGTH = 2, 4, 256
ADAPTER = {"rank": 16}

EVERYTHING = {"checkpointing": True, "weights": "bfloat16", "optimiser": "adamw_8bit"}
SETTINGS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "`logits: 256`": {},
    "`checkpointing`": {"checkpointing": True, "logits": None},
    "`checkpointing`, `logits: 256`": {"checkpointing": True},
    "… and `optimiser: adamw_8bit`": {"checkpointing": True, "optimiser": "adamw_8bit"},
    "… and `weights: bfloat16`": EVERYTHING,
}
PACKING: dict[str, dict[str, Any] | None] = {
    "16 examples of 32 to 96 tokens": {"logits": None},
    "the same with `packing`": {"packing": True, "logits": None},
}


def train(
    kind: str, model: str, memory: dict[str, Any] | None, adapter: bool, packed: bool
) -> dict[str, float]:
    """Train in this process; return the peak in bytes, processor seconds per step, and losses."""
    import torch

    from selfimprove_dagster.training import (
        Comparison,
        PolicySettings,
        PreferenceSettings,
        RewardSettings,
        SupervisedSettings,
        TokenisedExample,
        fine_tune,
        optimise_policy,
        optimise_preferences,
        train_reward_model,
    )
    from selfimprove_dagster.training.rewards import TokenisedPrompt
    from selfimprove_dagster.training.settings import TrainingSettings
    from selfimprove_dagster.work.memory import peak_memory

    torch.set_num_threads(1)
    chooser = random.Random(1)

    def tokens(count: int) -> list[int]:
        return [chooser.randrange(100, 40_000) for _ in range(count)]

    more: dict[str, Any] = {} if memory is None else {"memory": memory}
    if adapter:
        if "adapter" not in {field.name for field in fields(TrainingSettings)}:
            raise SystemExit("This version trains no adapters: leave out --adapter.")
        more["adapter"] = ADAPTER
    times: list[float] = []

    def on_log(entry: dict[str, float]) -> None:
        times.append(time.process_time())

    def settings(of: Any, rows: int = ROWS, **own: Any) -> Any:
        return of(
            steps=STEPS,
            learning_rate=1e-5,
            batch_size=rows,
            max_length=512 if packed else LENGTH,
            **more,
            **own,
        )

    with tempfile.TemporaryDirectory() as folder:
        output, how = Path(folder) / "model", {"seed": 0, "device": "cpu", "on_log": on_log}
        if kind == "supervised":
            lengths = [chooser.randint(32, 96) for _ in range(64)] if packed else [LENGTH] * 16
            examples = [TokenisedExample(tokens(size // 4), tokens(size - size // 4)) for size in lengths]
            chosen = settings(SupervisedSettings, 16 if packed else ROWS)
            outcome = fine_tune(model, examples, output, chosen, **how)
        elif kind == "grpo":
            prompts = [TokenisedPrompt(tokens(LENGTH // 2)) for _ in range(4)]
            chosen = settings(PolicySettings, group_size=ROWS, max_completion_tokens=LENGTH // 2)

            def reward(_: Any, completions: list[list[int]]) -> list[float]:
                return [float(completion[0] % 7) for completion in completions]

            outcome = optimise_policy(model, prompts, reward, output, chosen, reward_id="first", **how)
        else:
            # Two sides of a comparison are two rows.
            pairs = [
                Comparison(tokens(LENGTH // 2), tokens(LENGTH // 2), tokens(LENGTH // 2), 1.0)
                for _ in range(8)
            ]
            if kind == "reward":
                outcome = train_reward_model(model, pairs, output, settings(RewardSettings, ROWS // 2), **how)
            else:
                chosen = settings(PreferenceSettings, ROWS // 2)
                outcome = optimise_preferences(model, pairs, output, chosen, **how)
        return {
            "peak": peak_memory()["peak_memory"],
            "seconds": (times[-1] - times[0]) / (len(times) - 1),
            "first": outcome.first_loss,
            "last": outcome.final_loss,
        }


def measured(
    kind: str, model: str, memory: dict[str, Any] | None, adapter: bool, packed: bool
) -> dict[str, float]:
    """Return what `train` returns, from a process of its own."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        asked = json.dumps([kind, model, memory, adapter, packed])
        variables = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "ignore", __file__, model, "--one", asked, "--out", out.name]
        subprocess.run(command, env=variables, check=True, stderr=subprocess.DEVNULL)
        found: dict[str, float] = json.loads(Path(out.name).read_text())
    return found


def main() -> None:
    """Measure, and write the table after each row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--only", nargs="*", choices=KINDS, default=KINDS)
    parser.add_argument(
        "--settings", nargs="*", type=int, help="indices of the settings, from 0; by default all"
    )
    parser.add_argument("--adapter", action="store_true", help="add the rows with LoRA")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        asked.out.write_text(json.dumps(train(*json.loads(asked.one))))
        os._exit(0)
    cases: list[tuple[str, str, dict[str, Any] | None, bool, bool]] = []
    for kind in asked.only:
        chosen = [*SETTINGS.items()]
        if asked.settings is not None:
            chosen = [chosen[at] for at in asked.settings]
        cases += [(kind, name, memory, False, False) for name, memory in chosen]
        if asked.adapter:
            cases.append((kind, "LoRA", None, True, False))
            cases.append((kind, "LoRA, `checkpointing`, `logits: 256`", {"checkpointing": True}, True, False))
        if kind == "supervised":
            cases += [(kind, name, memory, False, True) for name, memory in PACKING.items()]
    lines = [
        "# Memory of trainings by setting",
        "",
        f"`python benchmarks/training_memory.py {asked.model}{' --adapter' if asked.adapter else ''}`",
        "",
        "| training | `training.memory` | peak, GB | processor seconds per step | loss of step 1 | of the last |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for kind, name, memory, adapter, packed in cases:
        found = measured(kind, asked.model, memory, adapter, packed)
        lines.append(
            f"| {kind} | {name} | {found['peak'] / 1e9:.2f} | {found['seconds']:.1f} | {found['first']:.5f} "
            f"| {found['last']:.5f} |"
        )
        print(lines[-1], flush=True)
        tail = f"Two steps of {ROWS} rows of {LENGTH} tokens, one thread. Python {platform.python_version()}."
        asked.out.write_text("\n".join([*lines, "", tail, ""]))


if __name__ == "__main__":
    main()
