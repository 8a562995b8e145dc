"""Define what a method declares: its tables and stages, its settings, and deviations from generic defaults.

A method is a package with an attribute `METHOD`. The registry finds it, and everything else (assets, checks,
jobs, the sensor, commands, pages) is built from its declaration. Only `name`, `experiment`, `presets` and
`stages` are required. Every other field has a default that suits any method.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from selfimprove_dagster.errors import MethodError
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.experiment.preset import Preset
from selfimprove_dagster.experiment.sizes import with_sizes
from selfimprove_dagster.table import Table, dataset_of, is_decisions, is_measured
from selfimprove_dagster.text import plural

if TYPE_CHECKING:
    from selfimprove_dagster.evaluation.exam import Exams
    from selfimprove_dagster.evaluation.results import Results
    from selfimprove_dagster.prompts import Prompts
    from selfimprove_dagster.seeds.kind import Seeds

E = TypeVar("E", bound=Experiment)

Use = Literal["language_model", "trainer"]

Grows = Callable[[Any, float], float]
"""Returns by which factor the rows of a stage's table grow if its input grows by a factor; see `Stage.grows`."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_TAG = re.compile(r"[a-z][a-z0-9]{0,5}")


@dataclass(frozen=True)
class Paper:
    """A paper that a method follows."""

    title: str
    arxiv: str


@dataclass(frozen=True)
class Ask:
    """The shortest request of a kind that a method makes of its model, which is checked before a run.

    `field` names the setting with the most tokens of the answer, `max_tokens`. `prompt` is what `Prompts.ask` returns
    for an empty item. `shown` are the answers of the demonstrations in the prompt, which no string of `stop` may end.
    """

    field: str
    prompt: str
    max_tokens: int
    stop: Sequence[str] = ()
    shown: Sequence[str] = ()


@dataclass(frozen=True)
class Stage:
    """A step that fills one or more tables; `stage.stage` makes one from a function.

    `writes` lists the tables in the order of commits; the last one is the stage's own table and gives it its
    name. `run` takes a `stage.StageContext` and returns a `stage.Result`, or one for each table that it
    writes. `description` has one text for each of its assets. `after` names the dependencies: stages of the
    same method by stage name, tables of other methods as `<method>/<stage>`. `uses` states whether it needs a
    model or the trainer. `grows` takes the `stage.StageContext` of a pilot that ran the stage on a few rows, and the
    factor by which there are more rows in an iteration, and returns the factor for the stage's own table; without it
    both are equal. `sampled_by` is a column of the rows that a model works on: a pilot takes all of those with the same
    value or none, as a later stage makes one row of them.
    """

    writes: Sequence[Table]
    run: Callable[[Any], Any]
    after: Sequence[str] = ()
    description: str | Sequence[str] = ""
    version: str = "1"
    uses: frozenset[Use] = frozenset()
    kinds: frozenset[str] = frozenset({"parquet", "polars"})
    grows: Grows | None = None
    sampled_by: str = ""

    @property
    def table(self) -> Table:
        """Return the stage's own table."""
        return self.writes[-1]

    @property
    def name(self) -> str:
        """Return the name of the stage within its method."""
        return self.table.stage

    @property
    def assets(self) -> list[Table]:
        """Return the tables that are assets in Dagster."""
        return [table for table in self.writes if table.is_asset]


@dataclass(frozen=True)
class Yield:
    """The stages that count what a method generates and what it keeps, with names for the two."""

    generated: str
    kept: str
    words: tuple[str, str]


@dataclass(frozen=True)
class Method(Generic[E]):
    """A self-improvement method.

    `inputs` are tables that its stages read and no stage writes (seeds, demonstrations). `counts` maps
    columns of the results table to the stages whose rows they count. `yields` defines the share of generated
    rows that is kept; the loop stops if it becomes too low, and a method without `yields` is never stopped by
    it. `embedded` maps the fields that may be `embedded` to files of the package. `seeds`, `exam` and
    `results` define the seeds of an iteration, the evaluation of models, and further columns of the results table.
    `asks` returns the requests with demonstrations, which are checked before a run. `is_default`: experiment files that
    name no method use this one.
    """

    name: str
    experiment: type[E]
    presets: Mapping[str, Preset]
    stages: Sequence[Stage]
    title: str = ""
    papers: Sequence[Paper] = ()
    inputs: Sequence[Table] = ()
    is_default: bool = False
    embedded: Mapping[tuple[str, ...], Path] = field(default_factory=dict)
    counts: Mapping[str, str] = field(default_factory=dict)
    yields: Yield | None = None
    prompts: Sequence[Path] = ()
    """YAML files with the prompts of its stages (see `prompts`); of prompts with one name the last counts."""
    seeds: Seeds[Any] | None = None
    exam: Exams[E] | None = None
    explain: Any = None
    what_if: Any = None
    pages: Any = None
    card: Any = None
    results: Results | None = None
    asks: Callable[[Any, Prompts], Iterable[Ask]] | None = None
    distribution: str = ""
    """Name and version of the method's package; empty for methods of this package."""

    @cached_property
    def tables(self) -> dict[str, Table]:
        """Return the tables that its stages write, by name, in pipeline order."""
        return {table.name: table for one in self.stages for table in one.writes}

    @cached_property
    def all_presets(self) -> dict[str, Preset]:
        """Return the presets by name, with those for models of three sizes where the method trains."""
        return with_sizes(self.experiment, self.presets)

    @cached_property
    def counted(self) -> Mapping[str, str]:
        """Return the columns of the results table, each with the stage whose rows it counts.

        By default there is one for each table except decisions, models and measurements.
        """
        if self.counts:
            return self.counts
        rows = [
            one
            for one in self.tables.values()
            if not (is_decisions(one) or one.holds_model or is_measured(one))
        ]
        return {plural(one.noun): one.stage for one in rows}

    @property
    def dataset(self) -> Table | None:
        """Return the table of training examples, or else the last table of rows that the method makes."""
        return dataset_of({table.stage: table for table in self.tables.values()})

    @property
    def promotes(self) -> bool:
        """Return whether an iteration ends with a promotion decision."""
        return f"{self.name}/promotion" in self.tables

    def code_version(self, stage: Stage) -> str:
        """Return the version of a stage that rows record; for an external method it includes its distribution."""
        return f"{stage.version} of {self.distribution}" if self.distribution else stage.version

    def table(self, stage: str) -> Table:
        """Return the table of a stage. Raises MethodError if there is no stage with that name."""
        try:
            return self.tables[f"{self.name}/{stage}"]
        except KeyError:
            raise MethodError(
                f"the method {self.name} has no stage {stage}; it has "
                f"{', '.join(table.stage for table in self.tables.values())}"
            ) from None

    def check(self) -> None:
        """Raise MethodError that names the first error in the declaration."""
        for problem in self._problems():
            raise MethodError(f"method {self.name!r}: {problem}")

    def _problems(self) -> Iterator[str]:
        if not _NAME.fullmatch(self.name):
            yield "its name must consist of lower-case letters, digits and underscores, and start with a letter"
        if not self.stages:
            yield "it declares no stages"
        seen: dict[str, str] = {}
        for one in self.stages:
            for table in one.writes:
                if table.method != self.name or not _NAME.fullmatch(table.stage):
                    yield f"the table {table.name!r} must be named `{self.name}/<stage>`, in lower-case letters"
                if not _TAG.fullmatch(table.tag):
                    yield f"the tag {table.tag!r} of {table.name} must be one to six lower-case letters or digits"
                if table.name in seen:
                    yield f"two stages write {table.name}"
                seen[table.name] = one.name
        for one in self.stages:
            for name in one.after:
                if "/" not in name and f"{self.name}/{name}" not in seen:
                    yield f"the stage {one.name} depends on {name}, which no stage writes"
        yield from self._cycles(seen)
        yields = (self.yields.generated, self.yields.kept) if self.yields else ()
        named = {"ends_with": [self.experiment.ends_with], "counts": self.counts.values(), "yields": yields}
        for what, stages in named.items():
            for name in stages:
                if f"{self.name}/{name}" not in seen:
                    yield f"{what} names {name}, which no stage writes"
        if missing := {"paper", "practical"} - {*self.presets}:
            yield f"it has no preset {', '.join(sorted(missing))}"

    def _cycles(self, stage_of: Mapping[str, str]) -> Iterator[str]:
        before = {
            one.name: {stage_of.get(f"{self.name}/{name}", "") for name in one.after if "/" not in name}
            - {""}
            for one in self.stages
        }
        left = dict(before)
        while ready := [name for name, needed in left.items() if not needed & left.keys()]:
            for name in ready:
                del left[name]
        if left:
            yield f"the stages {', '.join(sorted(left))} depend on each other"
