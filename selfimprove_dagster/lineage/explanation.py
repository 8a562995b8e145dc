"""Define the content of an explanation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from selfimprove_dagster.lineage.iteration import Fate, Step
from selfimprove_dagster.lineage.walk import Place
from selfimprove_dagster.table import Row
from selfimprove_dagster.words import count


@dataclass(frozen=True)
class Use:
    """An iteration that used a seed as the record `question` of its pool.

    `paths` counts the candidates made from it by the rule that dropped them, or under `kept`.
    """

    iteration: int
    question: str
    paths: Mapping[str, int]


@dataclass(frozen=True)
class Showing:
    """An iteration whose pool holds a task as the record `task`.

    It counts the prompts that showed the task, and the candidates, accepted tasks and examples of the
    iteration that these prompts led to.
    """

    iteration: int
    task: str
    prompts: int
    candidates: int
    accepted: int
    examples: int


@dataclass(frozen=True)
class Explanation:
    """The reasons why a record is in the dataset of its iteration or not, step by step in pipeline order.

    `in_dataset` is None for records to which the question does not apply. `fates` are the outcomes of the
    candidates that a record led to, if there are several. `uses` and `showings` belong to a seed or to a task
    of a pool.
    """

    id: str
    table: str
    experiment: str
    iteration: int | None
    verdict: str
    in_dataset: bool | None = None
    steps: tuple[Step, ...] = ()
    fates: tuple[Fate, ...] = ()
    uses: tuple[Use, ...] = ()
    showings: tuple[Showing, ...] = ()

    def to_json(self) -> Row:
        """Return plain data."""
        return asdict(self)


def explanation(place: Place, verdict: str, **more: Any) -> Explanation:
    """Return the explanation of the record at a place."""
    return Explanation(place.id, place.table, place.experiment, place.iteration, verdict, **more)


def dropped_verdict(key: str, step: Step) -> str:
    """Return the verdict on a record that a rule dropped, from the step of that rule."""
    return f"not in the dataset of {key}: dropped by the rule {step.rule}: {step.reason}"


def by_rule(fates: Iterable[Fate]) -> str:
    """Return how many candidates each rule dropped, as the end of a verdict; empty if none was dropped."""
    dropped = Counter(fate.rule for fate in fates if fate.rule)
    said = ", ".join(f"{rule}: {number}" for rule, number in dropped.most_common())
    return f"; dropped by {said}" if said else ""


def training_verdict(iteration: int, training: list[Step], gates: list[Step]) -> str:
    """Return the end of the verdict on an example: checks that block it, and the checkpoint trained on it."""
    said = f"; but the check {gates[0].rule} of {gates[0].stage} blocks it" if gates else ""
    if not training:
        return f"{said}; no checkpoint was trained on it yet"
    if training[0].passed is False:
        return f"{said}; {training[0].reason}"
    said += f"; the checkpoint of iteration {iteration} was trained on it"
    if training[-1].passed is None:
        return said
    return f"{said} and was {'' if training[-1].passed else 'not '}promoted"


def shown_verdict(showings: Sequence[Showing]) -> str:
    """Describe the results of the prompts that showed a record."""
    total = Counter[str]()
    for one in showings:
        total.update({name: getattr(one, name) for name in ("prompts", "candidates", "accepted", "examples")})
    return (
        f"shown in {count(total['prompts'], 'prompt')} of {count(len(showings), 'iteration')}, which led to "
        f"{count(total['candidates'], 'candidate')}, {count(total['accepted'], 'accepted task')} and "
        f"{count(total['examples'], 'example')}"
    )
