"""What an explanation holds, and what a method declares so that its records are explained in its own words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from selfimprove_dagster.lineage.iteration import Fate, Step
from selfimprove_dagster.lineage.walk import Place
from selfimprove_dagster.table import Row
from selfimprove_dagster.words import count

if TYPE_CHECKING:
    from selfimprove_dagster.lineage.story import Story


@dataclass(frozen=True)
class Explain:
    """What a method declares about explanations of its records; every field has a generic default.

    `noun` is what people call a candidate, and `asked` what they call what the model is asked. `filters` names for
    each filter the stages whose rows it chooses from; without it, candidates are the records that decisions are
    about. `beside` are stages whose rows score or vote on candidates: the dataset may name them as parents, and they
    are told beside a candidate. `aside` are stages of whose rows no candidate is made, each with the beginning of its
    verdict, where `{key}` is the partition key. `judgements` are stages of which no example is made, so that they
    cannot be revoked. `shows`: rows of the pool are shown to the model as demonstrations. `unmade` says by stage what
    a row without a candidate waits for.

    The functions replace words: `tally` counts several candidates, `in_short` says what is to be known of a candidate
    beside the rules, `reason` words a decision whose nearest record is given, `answer` says what a candidate says,
    `place` words what is to be known of an ancestor of candidates, `also` gives the ids of more rows to tell beside a
    candidate, `undecided` says why no rule met it, `score` is the number of a row, `passed` whether it passed, and
    `verdict` is on a record that leads to no candidate.
    """

    noun: str = "record"
    asked: str = "question"
    filters: Sequence[Sequence[str]] = ()
    beside: Sequence[str] = ()
    aside: Mapping[str, str] = field(default_factory=dict)
    judgements: Sequence[str] = ()
    shows: bool = False
    unmade: Mapping[str, str] = field(default_factory=dict)
    tally: Callable[[Sequence[Row]], str] | None = None
    in_short: Callable[[Story, Row], str] | None = None
    reason: Callable[[Story, Row, Row | None], str] | None = None
    answer: Callable[[Story, Row], str | None] | None = None
    place: Callable[[Row, Sequence[Row]], str | None] | None = None
    also: Callable[[Story, Row], Sequence[str]] | None = None
    undecided: Callable[[Story, Row], str | None] | None = None
    score: Callable[[Row], float | None] | None = None
    passed: Callable[[Row], bool | None] | None = None
    verdict: Callable[[Story], str | None] | None = None


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
