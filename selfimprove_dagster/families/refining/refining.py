"""Self-Refine, Reflexion and PIT's rounds over the language-model interface.

    model = open_language_model(path, prompting={"path": path})
    for one in improve(model, [Task("1", "How do I …?")], "self_refine", Refining(rounds=4, max_tokens=64)):
        print(one.answer, one.stopped, one.error)

Tasks of a round are asked in one batch, which those that are done leave. A task that fails keeps its error
and its last good answer. What is drawn follows from `seeds_from`, the way (not of first answers), the kind of
step, the round and the task's key, and from no other task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.families.dialogues.prompts import PROMPTS, spoken
from selfimprove_dagster.families.refining.trajectories import Evaluate, Refining, Step, Task, Trajectory
from selfimprove_dagster.families.refining.ways import (
    ANSWER,
    CONTENT,
    EVALUATION,
    FAILED,
    FEEDBACK,
    FINE,
    PIT,
    REFLECTION,
    REFLEXION,
    ROUNDS,
    SELF_REFINE,
    UNCHANGED,
    WAYS,
    fault,
    is_unchanged,
    prompt_of,
    remembered,
    says_fine,
)
from selfimprove_dagster.language_model.base import LanguageModel, Progress
from selfimprove_dagster.language_model.options import Unscored, scored_options
from selfimprove_dagster.lots import seed_of
from selfimprove_dagster.prompts import Prompts, load_prompts

Seeds = Sequence[str | int]


Fields = Callable[[Trajectory], Mapping[str, Any]]
"""Returns the fields of a prompt besides the dialogue."""


def _silent(tasks: int, tokens: int) -> None:
    """Report nothing."""


def improve(
    model: LanguageModel,
    tasks: Sequence[Task],
    way: str,
    settings: Refining,
    seeds_from: Seeds = (0,),
    advance: Progress = _silent,
    evaluate: Evaluate | None = None,
    prompts: Prompts | None = None,
) -> list[Trajectory]:
    """Return the trajectories of the tasks, in order, by one of the ways; `evaluate` is for Reflexion alone.

    `advance` is called with the numbers of finished tasks and generated tokens. `prompts` are those of the package
    unless they are given. Raises ExperimentError for an unknown way, and ModelError if the model fails, not a task.
    """
    if way == SELF_REFINE:
        return self_refine(model, tasks, settings, seeds_from, advance, prompts)
    if way == REFLEXION:
        return reflexion(model, tasks, settings, seeds_from, advance, evaluate, prompts)
    if way == PIT:
        return improve_silently(model, tasks, settings, seeds_from, advance, prompts)
    raise ExperimentError(f"there is no way {way!r} to refine an answer: use one of {', '.join(WAYS)}")


def self_refine(
    model: LanguageModel,
    tasks: Sequence[Task],
    settings: Refining,
    seeds_from: Seeds = (0,),
    advance: Progress = _silent,
    prompts: Prompts | None = None,
) -> list[Trajectory]:
    """Feedback and a better answer by turns, until the feedback is that it is fine (2303.17651, 2)."""
    batch = _Batch(model, tasks, SELF_REFINE, settings, seeds_from, advance, prompts)
    for number in batch.rounds():
        batch.draw(FEEDBACK, number, batch.judged)
        batch.stop(FINE, _is_fine)
        batch.draw(ANSWER, number, lambda one: {"tried": _tried(one, settings)})
        batch.stop(UNCHANGED, _repeats_itself)
    return batch.trajectories


def reflexion(
    model: LanguageModel,
    tasks: Sequence[Task],
    settings: Refining,
    seeds_from: Seeds = (0,),
    advance: Progress = _silent,
    evaluate: Evaluate | None = None,
    prompts: Prompts | None = None,
) -> list[Trajectory]:
    """Trial, evaluation and a reflection that is remembered, until the evaluator is content (2303.11366,
    section 3, algorithm 1).

    The last trial is shown with the reflections (as the authors' code may), and is not evaluated once the
    rounds are used up. Without `evaluate` the model itself is asked, as the settings say.
    """
    batch = _Batch(model, tasks, REFLEXION, settings, seeds_from, advance, prompts)

    def reflecting(one: Trajectory) -> dict[str, Any]:
        return {**remembering(one), "evaluation": one.steps[-1].text}

    def remembering(one: Trajectory) -> dict[str, Any]:
        return {"response": one.answer, "memory": remembered(one.texts(REFLECTION), settings.memory)}

    for number in batch.rounds():
        if evaluate is not None:
            batch.evaluate(number, evaluate)
        elif settings.evaluator == "feedback":
            batch.draw(EVALUATION, number, batch.judged)
        else:
            batch.score_fine(number)
        batch.stop(CONTENT, _is_fine)
        batch.draw(REFLECTION, number, reflecting)
        batch.draw(ANSWER, number, remembering)
    return batch.trajectories


def improve_silently(
    model: LanguageModel,
    tasks: Sequence[Task],
    settings: Refining,
    seeds_from: Seeds = (0,),
    advance: Progress = _silent,
    prompts: Prompts | None = None,
) -> list[Trajectory]:
    """A better answer than the last, round after round, without a word of how (2310.00898, section 3.4)."""
    batch = _Batch(model, tasks, PIT, settings, seeds_from, advance, prompts)
    for number in batch.rounds():
        batch.draw(ANSWER, number, lambda one: {"response": one.answer})
        batch.stop(UNCHANGED, _repeats_itself)
    return batch.trajectories


class _Batch:
    """The tasks of one way, of which those that are not done are asked together."""

    def __init__(
        self,
        model: LanguageModel,
        tasks: Sequence[Task],
        way: str,
        settings: Refining,
        seeds_from: Seeds,
        advance: Progress,
        prompts: Prompts | None,
    ) -> None:
        self.model, self.settings, self.advance = model, settings, advance
        self.prompts = prompts or load_prompts([PROMPTS], model.prompting)
        self.trajectories = [Trajectory(task, way) for task in tasks]
        self.seeds_from, self.way = seeds_from, way

    @property
    def active(self) -> list[Trajectory]:
        return [one for one in self.trajectories if not one.stopped]

    def rounds(self) -> Iterator[int]:
        """1, 2, …, once first answers are there; what is left after the last has used up its rounds."""
        for one in self.active:
            if one.task.answer is not None and not one.task.answer.strip():
                self._fail(one, "the first answer is empty")
        self.draw(ANSWER, 0, lambda one: {}, lambda one: one.task.answer is None)
        for number in range(1, self.settings.rounds + 1):
            if not self.active:
                return
            yield number
        self.stop(ROUNDS, lambda one: True)

    def ask(self, name: str, one: Trajectory, fields: Fields) -> str:
        """Return a prompt about the dialogue of a task."""
        return self.prompts.ask(name, **spoken(one.task.prompt), **fields(one))

    def judged(self, one: Trajectory) -> dict[str, Any]:
        """Return the fields of the prompt for feedback on the last answer."""
        return {"response": one.answer, "fine": self.settings.fine}

    def stop(self, why: str, holds: Callable[[Trajectory], bool]) -> None:
        """Those of which it holds are done."""
        for one in self.active:
            if holds(one):
                one.stopped = why
                self.advance(1, 0)

    def draw(
        self,
        kind: str,
        number: int,
        fields: Fields,
        wanted: Callable[[Trajectory], bool] = lambda one: True,
    ) -> None:
        """Let the model write a text of this kind for each active task that is wanted."""
        drawn = [one for one in self.active if wanted(one)]
        if not drawn:
            return
        name = prompt_of(self.way, kind) if number else "response"
        prompts = [self.ask(name, one, fields) for one in drawn]
        read = self.model.encode_prompts(prompts)
        sampling = self.settings.sampling(self.prompts.stops(name), self.prompts.structure(name))
        # Ways that draw first answers draw the same.
        named = (*self.seeds_from, *([self.way] if number else []), kind, number)
        seeds = [seed_of(*named, one.task.key) for one in drawn]

        drawn_paths = self.model.generate(
            read, [[seed] for seed in seeds], sampling, lambda finished, tokens: self.advance(0, tokens)
        )
        for one, prompt, ids, seed, (path,) in zip(drawn, prompts, read, seeds, drawn_paths, strict=True):
            if path.problem is not None:
                self._add(one, Step(kind, number, prompt, ids, error=path.problem, problem=path.problem))
                continue
            judges = kind in (FEEDBACK, EVALUATION)
            step = Step(
                kind=kind,
                round=number,
                prompt=prompt,
                prompt_token_ids=ids,
                text=path.text,
                token_ids=path.token_ids,
                usage=path.usage,
                logprobs=path.logprobs,
                finish_reason=path.finish_reason,
                seed=seed,
                is_fine=says_fine(path.text, self.settings.fine) if judges else None,
                error=fault(kind, path.text, path.finish_reason),
            )
            self._add(one, step)

    def score_fine(self, number: int) -> None:
        """Evaluate by how probable feedback that the answer is fine is, against feedback that finds fault."""
        scored = self.active
        if not scored:
            return
        verdicts = [self.prompts.completion(FEEDBACK, said) for said in self.settings.verdicts]
        prompts = [self.ask(FEEDBACK, one, self.judged) for one in scored]
        read = self.model.encode_prompts(prompts)

        found = scored_options(self.model, read, verdicts)
        for one, prompt, ids, likely in zip(scored, prompts, read, found, strict=True):
            if isinstance(likely, Unscored):
                problem = likely.problem
                self._add(one, Step(EVALUATION, number, prompt, ids, error=problem, problem=problem))
                continue
            value = likely[0]
            is_fine = value >= self.settings.fine_from
            self._add(one, Step(EVALUATION, number, prompt, ids, score=value, is_fine=is_fine))

    def evaluate(self, number: int, evaluate: Evaluate) -> None:
        """The same by what somebody else finds."""
        told = self.active
        found = evaluate([one.task for one in told], [one.answer or "" for one in told]) if told else []
        for one, verdict in zip(told, found, strict=True):
            step = Step(
                EVALUATION,
                number,
                prompt="",
                prompt_token_ids=(),
                text=verdict.text.strip(),
                score=verdict.score,
                is_fine=verdict.is_fine,
            )
            self._add(one, step)

    def _add(self, one: Trajectory, step: Step) -> None:
        one.steps.append(step)
        if step.error:
            self._fail(one, f"round {step.round}: {step.error}")

    def _fail(self, one: Trajectory, error: str) -> None:
        one.stopped, one.error = FAILED, error
        self.advance(1, 0)


def _tried(one: Trajectory, settings: Refining) -> list[dict[str, str]]:
    """The answers so far with the feedback on each; without `history` the last alone."""
    tried = [
        {"response": answer, "feedback": said}
        for answer, said in zip(one.answers.values(), one.texts(FEEDBACK), strict=True)
    ]
    return tried if settings.history else tried[-1:]


def _is_fine(one: Trajectory) -> bool:
    return bool(one.steps[-1].is_fine)


def _repeats_itself(one: Trajectory) -> bool:
    before, after = [*one.answers.values()][-2:]
    return is_unchanged(before, after)
