"""Two whole iterations of Self-Instruct and of Unnatural Instructions by a scripted model.

The jobs are those that run in Dagster; the model says what a script says, so that every rule has something to
drop, and the trainer writes a small file of weights.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.homes import entered, make_home
from kit.models import ByteModel
from kit.small_lake import write_lines
from selfimprove_dagster.embedded import BASE_MODEL
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.language_model.base import FinishReason, Generation, SamplingParameters
from selfimprove_dagster.language_model.weights import weights_hash
from selfimprove_dagster.lots import seed_of

HOSTILE = "Explain <script>window.hacked = 1</script> \x1b[31mto\x1b[0m a ‮{{ 7 * 7 }} goat."
SEED_TASKS = (
    ("Name the capital of the country.", False, [("France", "Paris"), ("Japan", "Tokyo")]),
    ("Decide whether the animal can fly.", True, [("sparrow", "yes"), ("dog", "no")]),
    ("Give the opposite of the word.", False, [("hot", "cold"), ("early", "late")]),
    ("Sort the fruit by weight, lightest first.", False, [("melon, cherry", "cherry, melon")]),
    ("Is this number even?", True, [("4", "yes"), ("7", "no")]),
    ("Count how many letters stand before the comma.", False, [("abc, d", "3")]),
    ("Write one line that greets a neighbour.", False, [("", "Good morning, Ada!")]),
    ("Tell me which season comes after the given one.", False, [("spring", "summer")]),
)
"""Instruction, whether it is classification, and instances."""
UNNATURAL_SEEDS = (
    ("Name the colour of the thing.", "grass", "One word.", "green"),
    ("Say what the tool is for.", "a saw", "None.", "cutting wood"),
    ("Give a synonym of the adjective.", "quick", "Lower case.", "fast"),
    ("Which month comes next?", "May", "None.", "June"),
    ("Add up both numbers.", "2 and 3", "Digits only.", "5"),
)
_DEEDS = ("Describe", "Praise", "Summarise", "Compare", "Rename", "Translate", "Decide about", "Rank")
_THINGS = (
    *("an old lighthouse", "the quarterly report", "every noisy engine", "two village bakers"),
    *("a broken umbrella", "her latest invention", "some forgotten songs", "that winding staircase"),
    *("our northern harbour", "nine paper lanterns", "his grandmother's atlas", "the marching band"),
)
_ENDS = (
    *("for a curious child.", "without using adjectives.", "in exactly six words.", "as a pirate would."),
    *("before breakfast is served.", "so nobody feels offended.", "by weight and price."),
)
_HELD_OUT = [
    (f"Repeat the syllable {syllable}.", syllable)
    for syllable in ("ba", "be", "bi", "bo", "du", "da", "de", "di")
]


@dataclass(frozen=True)
class ScriptedModel(ByteModel):
    """A model of tasks whose tokens are bytes; what it says follows from prompt and seed alone.

    A checkpoint knows all held-out outputs, the base model every other.
    """

    model_id: str
    improved: bool
    engine: str = "scripted 1"

    def encode(self, text: str) -> list[int]:
        return [1, *self.encode_continuation(text)]

    def decode(self, token_ids: Sequence[int]) -> str:
        return super().decode([token for token in token_ids if token > 1])

    def path(self, prompt: Sequence[int], seed: int, parameters: SamplingParameters) -> Generation:
        return self._drawn(self.decode(prompt), seed, parameters)

    def _drawn(self, prompt: str, seed: int, parameters: SamplingParameters) -> Generation:
        text = self._said(prompt, seed if parameters.temperature else 0)
        places = [at for stop in parameters.stop if (at := text.find(stop)) >= 0]
        text = text[: min(places, default=len(text))]
        ids = self.encode_continuation(text)
        finish: FinishReason = "stop"
        if len(ids) > parameters.max_tokens:
            ids, finish = ids[: parameters.max_tokens], "length"
            text = bytes(ids).decode(errors="ignore")
        else:
            ids = [*ids, self.end_token_id]
        return Generation(ids, [-0.25 - (token % 7) / 10 for token in ids], text, finish)

    def _said(self, prompt: str, seed: int) -> str:
        if prompt.startswith("Here is a series of tasks."):
            return _listed(prompt, seed)
        if prompt.startswith("Write examples for each task"):
            return _instances(prompt, "label first" in prompt)
        if prompt.startswith("Example 1\n"):
            return _elicited(prompt, seed)
        instruction = re.findall(r"^Instruction: (.*)$", prompt, re.MULTILINE)[-1]
        if prompt.endswith("Rephrased:"):
            return ("", f" {instruction}", f" Please do this: {instruction}", " In short,")[seed % 4]
        if prompt.endswith("Output:"):
            return "" if "staircase" in instruction else f" done: {instruction[:20]}\n\nInput: more"
        known = dict(_HELD_OUT)
        right = self.improved or list(known).index(instruction) % 2 == 0
        return f" {known[instruction]}" if right else " no idea"

    def score(
        self, contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        return [[-0.5 - (token % 5) / 8 for token in ids] for ids in continuations]

    def option_probabilities(
        self, contexts: Sequence[Sequence[int]], options: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        yes = [0.9 if "\nTask: Decide" in self.decode(ids)[-80:] else 0.2 for ids in contexts]
        return [[one, 1 - one] for one in yes]


def _task(lot: int) -> str:
    deed, thing, end = (list(words) for words in (_DEEDS, _THINGS, _ENDS))
    return f"{deed[lot % 8]} {thing[lot // 8 % 12]} {end[lot // 96 % 7]}"


def _listed(prompt: str, seed: int) -> str:
    first = int(re.findall(r"^(\d+)\.", prompt, re.MULTILINE)[-1])
    shown = re.findall(r"^1\. (.*)$", prompt, re.MULTILINE)[0]
    bad = ("Hi there.", "Write a program that sorts.", "Draw a red house for me.", shown, HOSTILE, "- Do it.")
    said = [_task(seed), bad[seed % len(bad)], _task(seed >> 12), _task(seed >> 24)]
    if seed % 5 == 0:
        said.append("Go on and on " + "and on " * 80)
    return f" {said[0]}" + "".join(
        f"\n{number}. {text}" for number, text in enumerate(said[1:], start=first + 1)
    )


def _instances(prompt: str, label_first: bool) -> str:
    instruction = re.findall(r"^Task: (.*)$", prompt, re.MULTILINE)[-1]
    lot = seed_of(instruction)
    if label_first:
        return f"Label: yes\nInput: case {lot % 100}\nLabel: no\nInput: case {lot % 100 + 1}\n\nTask: more"
    said = [(f"part {lot % 50}", "well done"), (f"part {lot % 50 + 1}", "a second answer")]
    said.append((("same", "same"), ("odd", "this:"), ("part x", ""), said[0])[lot % 4])
    if lot % 5 == 0:
        said += [("twin", "left"), ("twin", "right")]
    return "\n".join(
        f"Example {number}\nInput: {given}\nOutput: {output}"
        for number, (given, output) in enumerate(said, start=1)
    )


def _elicited(prompt: str, seed: int) -> str:
    if seed % 7 == 0:
        return f"Instruction: {_task(seed)}\nInput: something"
    if seed % 7 == 1:
        return prompt.split("\n\n")[0].removeprefix("Example 1\n")
    constraints = ("None.", "Be brief.")[seed % 2]
    lot = seed_of("elicited", seed % 40)
    task = HOSTILE if seed % 11 == 0 else _task(lot)
    return f"Instruction: {task}\nInput: item {seed_of(task) % 30}\nConstraints: {constraints}\n\nExample 5\n"


def scripted(path: str | Path) -> ScriptedModel:
    """The model that stands for the weights at `path`."""
    return ScriptedModel(weights_hash(path), improved=Path(path).resolve() != BASE_MODEL.resolve())


@contextmanager
def _open(
    self: Any, section: Any, path: str | Path | None = None, scores: bool = False
) -> Iterator[ScriptedModel]:
    yield scripted(path or section.path)


def _fine_tune(
    self: Any,
    experiment: Any,
    section: Any,
    base: Any,
    rows: Path,
    output: Path,
    *,
    seed: int,
    on_log: Any,
) -> Any:
    import numpy as np
    from safetensors.numpy import save_file

    from selfimprove_dagster.training.rows import RowFile
    from selfimprove_dagster.training.settings import TrainingOutcome
    from selfimprove_dagster.training.supervised import TokenisedExample

    examples = len(RowFile(rows, TokenisedExample))
    output.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BASE_MODEL / name, output / name)
    save_file({"seed": np.array([seed, examples])}, output / "model.safetensors")
    (output / "loss.png").write_bytes(b"\x89PNG")
    log: list[Any] = [{"step": 1.0, "loss": 2.0, "learning_rate": 0.1, "tokens": 9}]
    return TrainingOutcome(output, 1, 9, examples, 0, 0.1, 2.0, 1.0, log)


def make_task_home(folder: Path) -> Home:
    """A home with the experiments `si` and `ui`, two iterations of each in its lake."""
    from selfimprove_dagster.resources.language_model import LanguageModelResource
    from selfimprove_dagster.resources.trainer import TrainerResource
    from selfimprove_dagster.runs import run_iteration

    write_lines(
        folder / "tasks.jsonl",
        [
            {
                "id": f"seed_{number}",
                "instruction": instruction,
                "is_classification": label,
                "instances": [{"input": given, "output": output} for given, output in instances],
            }
            for number, (instruction, label, instances) in enumerate(SEED_TASKS)
        ],
    )
    names = ("instruction", "input", "constraints", "output")
    write_lines(folder / "rare.jsonl", [dict(zip(names, row, strict=True)) for row in UNNATURAL_SEEDS])
    held_out = [{"instruction": text, "output": output} for text, output in _HELD_OUT]
    write_lines(folder / "heldout.jsonl", held_out)
    banned = {"instruction": _task(seed_of("banned")), "by": "Ada", "why": "too silly"}
    (folder / "banned.jsonl").write_text(json.dumps(banned) + "\n")
    common: dict[str, Any] = {
        "model": {"path": str(BASE_MODEL)},
        "evaluation": {"file": str(folder / "heldout.jsonl")},
        "budget": {"iterations": 3},
        "promotion": {"rule": "not_worse", "margin": 1.0},
    }
    si = {
        "name": "si",
        "method": "self_instruct",
        "seeds": {
            "file": str(folder / "tasks.jsonl"),
            "licence": "CC-BY-4.0",
            "banned": str(folder / "banned.jsonl"),
        },
        "generation": {
            "prompts": 12,
            "drawn_by": "champion",
            "human": 3,
            "machine": 2,
            "tasks": 16,
            "top_p": 1.0,
            "max_tokens": 400,
            "shard": 5,
        },
        "classification": {"shots": 4},
        "instances": {"shots": 2, "most": 2, "max_tokens": 200},
        "filter": {"maximum_rouge_l": 0.7, "maximum_perplexity": 2.12, "seed_instances": True},
    }
    ui = {
        "name": "ui",
        "method": "unnatural_instructions",
        "seeds": {"file": str(folder / "rare.jsonl"), "licence": "MIT"},
        "generation": {"prompts": 30, "drawn_by": "champion", "max_tokens": 200},
        "outputs": {"max_tokens": 60},
        "paraphrases": {"most": 2, "max_tokens": 90},
    }
    home = make_home(folder, common | si, common | ui)
    with entered(home) as patch:
        patch.setattr(LanguageModelResource, "open", _open)
        patch.setattr(TrainerResource, "fine_tune", _fine_tune)
        for name in ("si", "ui"):
            for iteration in range(2):
                problems = run_iteration(home, home.experiment(name), iteration)
                assert problems == []
    return home
