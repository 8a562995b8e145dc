"""Stand-ins of a stage's model and trainer in a pilot: the model counts its tokens, the trainer stops early."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from selfimprove_dagster.estimating.forecast import Range
from selfimprove_dagster.experiment.sections import ModelSection
from selfimprove_dagster.language_model.base import LanguageModel, Scores
from selfimprove_dagster.language_model.characters import CHARACTERS_PER_TOKEN
from selfimprove_dagster.language_model.paid import cost
from selfimprove_dagster.stage import OpensModels
from selfimprove_dagster.training.rows import write_some

STEPS = 6
"""Training steps of a pilot. A checkpoint is saved before the last two."""

_CHECKPOINTS_AT_ONCE = 3
"""The trainer keeps two, and deletes an old one after it has written the next."""


@dataclass
class CountingModels:
    """Opens models like `models`, and adds up the `money` that they cost; None without prices.

    `fullness` is the number of rows of the largest call to generate since it was last set to 0, as a share of those
    that the engine has in memory at once: 0 where the engine does not say, and over 1 where it took them in turn.
    """

    models: OpensModels
    money: float | None = None
    fullness: float = 0.0

    def options(self, section: ModelSection, path: str | Path | None = None) -> dict[str, Any]:
        """Return the arguments of `open_language_model`, besides the path."""
        return self.models.options(section, path)

    @contextmanager
    def open(
        self, section: ModelSection, path: str | Path | None = None, scores: Scores = False
    ) -> Iterator[LanguageModel]:
        """Open the model at `path`, by default the section's own; nothing is sent in batches."""
        if in_batch := section.server.batch is not None:
            server = section.server.model_copy(update={"batch": None})
            section = section.model_copy(update={"server": server})
        with self.models.open(section, path, scores) as model:
            if section.prices is not None:
                self._count(section, model, in_batch)
            if hasattr(model, "rows_at_once"):
                self._measure(model, model.rows_at_once)
            yield model

    def _measure(self, model: LanguageModel, rows_at_once: Callable[..., int]) -> None:
        generate = model.generate

        def generated(
            prompts: Sequence[Sequence[int]],
            seeds: Sequence[Sequence[int]],
            parameters: Any,
            *rest: Any,
            **named: Any,
        ) -> Any:
            rows = sum(map(len, seeds))
            self.fullness = max(self.fullness, rows / rows_at_once(prompts, parameters.max_tokens))
            return generate(prompts, seeds, parameters, *rest, **named)

        model.generate = generated  # type: ignore[method-assign]

    def _count(self, section: ModelSection, model: LanguageModel, in_batch: bool) -> None:
        prices = section.prices.model_dump() if section.prices else {}

        def add(read: int, drawn: int) -> None:
            self.money = (self.money or 0.0) + cost(read, drawn, prices, in_batch)

        generate = model.generate

        def generated(
            prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int]], *rest: Any, **named: Any
        ) -> Any:
            found = generate(prompts, seeds, *rest, **named)
            for ids, some in zip(prompts, found, strict=True):
                for one in some:
                    add(one.usage.prompt if one.usage else len(ids), one.tokens)
            return found

        def scored(method: Callable[..., Any]) -> Callable[..., Any]:
            def call(contexts: Sequence[Sequence[int]], *rest: Any, **named: Any) -> Any:
                read = sum(map(len, contexts))
                if section.is_provided:  # contexts are characters, and options are asked for
                    answers = section.chat.answers
                    add(answers * read // CHARACTERS_PER_TOKEN, answers * len(contexts))
                else:
                    add(read, 0)
                return method(contexts, *rest, **named)

            return call

        model.generate = generated  # type: ignore[method-assign]
        for name in ("score", "option_probabilities", "next_token_probability", "among_likeliest"):
            setattr(model, name, scored(getattr(model, name)))


@dataclass(frozen=True)
class Training:
    """A training that a pilot cut short after `done` of `steps`.

    `tokens` and `more_seconds` are those of all steps, and of those that are left, with their checkpoints; `kept` and
    `scratch` are the bytes of the trained model and of checkpoints at one time. `money` is that of all steps, None
    where no reward is paid for.
    """

    steps: int
    done: int
    tokens: float
    more_seconds: Range
    kept: float
    scratch: float
    money: float | None = None

    @property
    def scale(self) -> float:
        """Return the factor from the pilot's steps to all steps."""
        return self.steps / self.done


@dataclass
class FewSteps:
    """Trains like `trainer`, for `STEPS` steps at most, and records each training."""

    trainer: Any
    trainings: list[Training] = field(default_factory=list)
    factor: float = 1.0
    """How many times more rows a training has than in the pilot, for those that count in epochs."""

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.trainer, name)
        if name == "device_of":
            return method

        def train(experiment: Any, section: Any, base: Any, rows: Path, output: Path, **more: Any) -> Any:
            return self._train(method, experiment, section, base, rows, output, **more)

        return train

    def _train(
        self,
        train: Callable[..., Any],
        experiment: Any,
        section: Any,
        base: Any,
        rows: Path,
        output: Path,
        *,
        on_log: Callable[[dict[str, float]], None] | None = None,
        **more: Any,
    ) -> Any:
        more.pop("watch", None)  # a pilot is shown nowhere
        steps, saves_at = min(section.steps or STEPS, STEPS), STEPS - 2
        changed = {
            **dict.fromkeys(("epochs", "validation", "mix")),
            **{"steps": steps, "watch": (), "save_every": saves_at},
        }
        few = section.model_copy(
            update={name: value for name, value in changed.items() if name in type(section).model_fields}
        )
        checkpoint = 0.0

        def watch(entry: dict[str, float]) -> None:
            nonlocal checkpoint
            checkpoint = max(checkpoint, bytes_of(output.with_name(f"{output.name}.partial")))
            if on_log is not None:
                on_log(entry)

        # The longest row decides the peak of memory, and few steps would often miss it.
        some = rows.with_name(f"{rows.name}.some")
        share = write_some(rows, some, max(_rows_of(few, steps), 1), getattr(section, "max_length", math.inf))
        outcome = train(experiment, few, base, some, output, on_log=watch, **more)
        some.unlink(missing_ok=True)
        money = outcome.log[-1].get("money")
        general = mix.share if (mix := getattr(section, "mix", None)) else 0.0
        every = section.steps or section.steps_of(outcome.examples / share * self.factor * (1 - general))
        saves = (every - 1) // getattr(section, "save_every", every)
        self.trainings.append(
            Training(
                every,
                steps,
                outcome.tokens * every / steps,
                _more_seconds(outcome.log, max(every - steps, 0), saves, saves_at),
                bytes_of(output),
                checkpoint * min(saves, _CHECKPOINTS_AT_ONCE) + bytes_of(output),
                None if money is None else money * every / steps,
            )
        )
        return outcome


def _rows_of(section: Any, steps: int) -> int:
    """Return how many rows a training of some steps takes, each once; a policy's completions share their prompt."""
    examples: int = steps * section.batch_size * getattr(section, "gradient_accumulation", 1)
    samples = getattr(section, "algorithm", "dpo") != "dpo"
    return examples // section.group_size if samples else examples


def _more_seconds(log: Sequence[dict[str, float]], left: int, saves: int, saves_at: int) -> Range:
    """Return the seconds of the steps that are `left`, and of all `saves` of checkpoints but the pilot's own.

    The first steps of a process are slow, so the range goes from the mean of the faster half to that of all.
    """
    after = {int(now["step"]): now["seconds"] - before["seconds"] for before, now in pairwise(log)}
    saving = after.pop(saves_at + 1, None)  # a checkpoint is saved after its step is logged
    times = sorted(after.values()) or [log[-1]["seconds"]]
    half = max(len(times) // 2, 1)
    fast, slow = fmean(times[:half]), fmean(times)
    checkpoint = max((saving or 0.0) - fmean(times), 0.0) * max(saves - 1, 0)
    return Range(fast * left + checkpoint, slow * left + checkpoint)


def bytes_of(folder: Path) -> float:
    """Return the size of all files in a folder; 0 if it is missing."""
    return float(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))
