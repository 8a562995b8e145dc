"""What an explanation holds."""

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
    """One iteration that used a seed, as the record `question` of its pool; `paths` counts the candidates that were
    made of it by the rule that dropped them, those that were kept under `kept`."""

    iteration: int
    question: str
    paths: Mapping[str, int]


@dataclass(frozen=True)
class Showing:
    """One iteration whose pool holds a task, as the record `task`: how many prompts showed it, and how
    many candidates, accepted tasks and examples of that iteration came of those prompts."""

    iteration: int
    task: str
    prompts: int
    candidates: int
    accepted: int
    examples: int


@dataclass(frozen=True)
class Explanation:
    """Why a record is in the dataset of its iteration or why not, step by step in the pipeline's order.

    `in_dataset` is None for records of which that cannot be asked. `fates` are those of the candidates that a record
    led to, where there are several; `uses` and `showings` are those of a seed or of a task of a pool.
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
        """Plain data."""
        return asdict(self)


def explanation(place: Place, verdict: str, **more: Any) -> Explanation:
    """The explanation of the record at a place."""
    return Explanation(place.id, place.table, place.experiment, place.iteration, verdict, **more)


def dropped_verdict(key: str, step: Step) -> str:
    """The verdict on what a rule dropped, by the step that says so."""
    return f"not in the dataset of {key}: dropped by the rule {step.rule}: {step.reason}"


def by_rule(fates: Iterable[Fate]) -> str:
    """How many were dropped by which rule, to be put behind a verdict; nothing where none was."""
    dropped = Counter(fate.rule for fate in fates if fate.rule)
    said = ", ".join(f"{rule}: {number}" for rule, number in dropped.most_common())
    return f"; dropped by {said}" if said else ""


def training_verdict(iteration: int, training: list[Step], gates: list[Step]) -> str:
    """What follows a verdict of being in a dataset: checks that block it, and the checkpoint that learnt from it."""
    said = f"; but the check {gates[0].rule} of {gates[0].stage} blocks it" if gates else ""
    if not training:
        return f"{said}; no checkpoint was trained on it yet"
    said += f"; the checkpoint of iteration {iteration} was trained on it"
    if training[-1].passed is None:
        return said
    return f"{said} and was {'' if training[-1].passed else 'not '}promoted"


def shown_verdict(showings: Sequence[Showing]) -> str:
    """What came of the prompts that showed a record."""
    total = Counter[str]()
    for one in showings:
        total.update({name: getattr(one, name) for name in ("prompts", "candidates", "accepted", "examples")})
    return (
        f"shown in {count(total['prompts'], 'prompt')} of {count(len(showings), 'iteration')}, of which came "
        f"{count(total['candidates'], 'candidate')}, {count(total['accepted'], 'accepted task')} and "
        f"{count(total['examples'], 'example')}"
    )
