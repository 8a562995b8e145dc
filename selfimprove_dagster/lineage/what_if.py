"""What another threshold would have kept: an iteration's filter, run again over what its tables hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import polars as pl
import yaml
from pydantic import ValidationError

from selfimprove_dagster import tables
from selfimprove_dagster.errors import ExperimentError, LakeError
from selfimprove_dagster.experiment.naming import PARTITION_KEY, experiment_of_key
from selfimprove_dagster.families.preferences import explain as judge_what_if
from selfimprove_dagster.families.preferences.explain import NOUNS
from selfimprove_dagster.families.tasks import explain as task_what_if
from selfimprove_dagster.families.tasks.explain import method_of
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest, partition_of
from selfimprove_dagster.lineage.explain import path_of
from selfimprove_dagster.lineage.iteration import Iteration
from selfimprove_dagster.lineage.walk import Lineage, Place
from selfimprove_dagster.methods.lmsi import lmsi
from selfimprove_dagster.methods.lmsi.settings import FilterSection
from selfimprove_dagster.methods.lmsi.tables import (
    DECISIONS,
    FILTERED_DATASET,
    PERPLEXITY_SCORES,
    RAW_GENERATIONS,
    SEED_POOL,
    VOTED_ANSWERS,
)
from selfimprove_dagster.methods.self_instruct.settings import TaskFilterSection
from selfimprove_dagster.methods.self_instruct.tables import SI_ACCEPTED_TASKS, SI_TASK_DECISIONS
from selfimprove_dagster.methods.toolformer import explain as tool_what_if
from selfimprove_dagster.methods.toolformer.explain import METHOD as TOOL_METHOD
from selfimprove_dagster.methods.toolformer.settings import CallFilterSection
from selfimprove_dagster.methods.toolformer.tables import TF_DECISIONS, TF_FILTERED_DATASET
from selfimprove_dagster.table import Row, Table

Filters = TypeVar(
    "Filters",
    FilterSection,
    TaskFilterSection,
    CallFilterSection,
    judge_what_if.JudgeFilter,
)


ALIASES = {"confidence": "minimum_vote_share"}
"""Names that people use beside those of the fields of an experiment's `filter` section."""


@dataclass(frozen=True)
class Outcome:
    """Whether a path passes the filter; `rule` and `reason` are those of the last decision on it."""

    kept: bool
    rule: str
    reason: str


@dataclass(frozen=True)
class Change:
    """One path under the recorded thresholds and under the others."""

    path: str
    then: Outcome
    now: Outcome


@dataclass(frozen=True)
class WhatIf:
    """What other thresholds keep of an iteration's paths, or of what `noun` says.

    `thresholds`: name → (then, now) of those that differ. `gained` counts the paths that would be kept by
    the rule that dropped them, `lost` those that would be dropped by the rule that would drop them.
    `record` holds the paths of the record that was asked about.
    """

    key: str
    thresholds: Mapping[str, tuple[Any, Any]]
    paths: int
    kept_then: int
    kept_now: int
    gained: Mapping[str, int]
    lost: Mapping[str, int]
    record: tuple[Change, ...]
    noun: str = "path"

    def to_json(self) -> Row:
        """Plain data."""
        return asdict(self)


def what_if(lake: Lake, subject: str, settings: Sequence[str]) -> WhatIf:
    """Filter an iteration again with other thresholds, each `name=value`; nothing is generated or written.

    `subject` is a partition key, or (the beginning of) the id of a path, or of a record that paths were made
    from or that was made of paths: example, vote, question, decision, score. The recorded thresholds and
    seed are those of the dataset's activity. Raises ExperimentError for settings that are none and for a
    method without thresholds, and LakeError where the tables do not belong to one dataset.
    """
    method, place = _method(lake, subject)
    if method == "unnatural_instructions":
        raise ExperimentError(
            "unnatural_instructions has no thresholds: its rules drop what cannot be read, what copies a "
            "demonstration and what was there before; `lineage explain` says which of them dropped a record"
        )
    if method == "self_instruct":
        return _what_if_of_tasks(lake, subject, place, settings)
    if method == TOOL_METHOD:
        return _what_if_of_calls(lake, subject, place, settings)
    if method in judge_what_if.SECTIONS:
        return _what_if_of_judged(lake, subject, method, place, settings)
    iteration, paths = _subject(lake, subject)
    dataset = lake.manifest(FILTERED_DATASET.name, iteration.partition)
    recorded = FilterSection.model_validate(dataset.activity.parameters["filter"])
    proposed = _changed(recorded, settings)
    then = _recorded_decisions(lake, dataset)
    now = filter_again(lake, dataset, proposed)
    return _answer(iteration.key, recorded.model_dump(), proposed.model_dump(), then, now, paths)


def _what_if_of_tasks(lake: Lake, subject: str, place: Place | None, settings: Sequence[str]) -> WhatIf:
    if place is None:
        experiment, number = experiment_of_key(subject)
        asked: list[str] = []
    else:
        experiment = place.experiment
        number, asked = task_what_if.candidates_of(lake, place)
    partition = partition_of(experiment, number)
    accepted = lake.manifest(SI_ACCEPTED_TASKS.name, partition)
    recorded = {name: accepted.activity.parameters["filter"][name] for name in task_what_if.THRESHOLDS}
    whole = TaskFilterSection.model_validate(accepted.activity.parameters["filter"])
    proposed = _changed(whole, settings, task_what_if.THRESHOLDS, task_what_if.ALIASES)
    then = _recorded_decisions(lake, accepted, SI_TASK_DECISIONS)
    now = task_what_if.filter_again(lake, accepted, proposed)
    new = {name: getattr(proposed, name) for name in task_what_if.THRESHOLDS}
    key = Iteration(lake, experiment, number).key
    return _answer(key, recorded, new, then, now, asked, noun="candidate")


def _what_if_of_calls(lake: Lake, subject: str, place: Place | None, settings: Sequence[str]) -> WhatIf:
    asked = tool_what_if.calls_asked(lake, place) if place else []
    where = (place.experiment, place.iteration or 0) if place else experiment_of_key(subject)
    dataset = lake.manifest(TF_FILTERED_DATASET.name, partition_of(*where))
    section = CallFilterSection.model_validate(dataset.activity.parameters["filter"])
    recorded = tool_what_if.thresholds(lake, dataset, section)
    given = _given(settings, list(recorded))
    values = tool_what_if.as_section({**recorded, **given}, section)
    proposed = _validated(CallFilterSection, values, ", ".join(recorded))
    then = _recorded_decisions(lake, dataset, TF_DECISIONS)
    now = tool_what_if.filter_again(lake, dataset, proposed)
    new = tool_what_if.thresholds(lake, dataset, proposed)
    return _answer(Iteration(lake, *where).key, recorded, new, then, now, asked, noun="call")


def _what_if_of_judged(
    lake: Lake, subject: str, method: str, place: Place | None, settings: Sequence[str]
) -> WhatIf:
    asked = judge_what_if.asked(lake, place) if place else []
    where = (place.experiment, place.iteration or 0) if place else experiment_of_key(subject)
    dataset = lake.manifest(tables.of(method, "filtered_dataset").name, partition_of(*where))
    name, kind = judge_what_if.SECTIONS[method]
    section = kind.model_validate(dataset.activity.parameters[name])
    recorded = judge_what_if.thresholds(lake, dataset, section)
    given = _given(settings, list(recorded), judge_what_if.aliases(method))
    proposed = _validated(kind, {**section.model_dump(), **given}, ", ".join(recorded))
    then = _recorded_decisions(lake, dataset, tables.of(method, "decisions"))
    now = judge_what_if.filter_again(lake, dataset, proposed)
    decided = set(then["candidate_id"])
    return _answer(
        Iteration(lake, *where).key,
        recorded,
        judge_what_if.thresholds(lake, dataset, proposed),
        then,
        now,
        [candidate for candidate in asked if candidate in decided],
        noun=NOUNS[method],
    )


def _answer(
    key: str,
    recorded: Mapping[str, Any],
    proposed: Mapping[str, Any],
    then: pl.DataFrame,
    now: pl.DataFrame,
    asked: Sequence[str],
    noun: str = "path",
) -> WhatIf:
    before, after = _outcomes(then), _outcomes(now)
    changed = [(before[path], after[path]) for path in before if before[path].kept != after[path].kept]
    return WhatIf(
        key=key,
        thresholds={name: (old, proposed[name]) for name, old in recorded.items() if proposed[name] != old},
        paths=len(before),
        kept_then=sum(outcome.kept for outcome in before.values()),
        kept_now=sum(outcome.kept for outcome in after.values()),
        gained=_by_rule(old for old, new in changed if new.kept),
        lost=_by_rule(new for old, new in changed if old.kept),
        record=tuple(Change(path, before[path], after[path]) for path in asked),
        noun=noun,
    )


def _method(lake: Lake, subject: str) -> tuple[str | None, Place | None]:
    """The method of what is asked about, and the record if it is one."""
    if PARTITION_KEY.fullmatch(subject):
        pools = lake.manifests("*/seed_pool", experiment_of_key(subject)[0])
        return (pools[0].table.split("/")[0] if pools else None), None
    place = Lineage(lake).find(subject)
    return method_of(lake, place.table, place.experiment), place


def filter_again(lake: Lake, dataset: Manifest, section: FilterSection) -> pl.DataFrame:
    """Every decision of the dataset's filter under other thresholds, with the seed of its activity."""
    frames = []
    for schema in (RAW_GENERATIONS, PERPLEXITY_SCORES, VOTED_ANSWERS):
        manifest = lake.manifest(schema.name, dataset.partition)
        if manifest.activity.id not in dataset.activity.inputs:
            raise LakeError(
                f"{schema.name} was made again after the dataset {dataset.activity.id}; "
                f"materialise {dataset.table} again before asking what other thresholds would keep"
            )
        frames.append(lake.read_whole(manifest))
    thresholds = lmsi.FilterThresholds(**section.model_dump())
    _, decisions = lmsi.filter_paths(lmsi.candidates(*frames), thresholds, dataset.activity.seed)
    return decisions


def _recorded_decisions(lake: Lake, dataset: Manifest, schema: Table = DECISIONS) -> pl.DataFrame:
    manifest = lake.manifest(schema.name, dataset.partition)
    if manifest.activity.parameters["decides"] != dataset.activity.id:
        raise LakeError(
            f"the decisions of {dict(dataset.partition)} are of another dataset than {dataset.activity.id}; "
            f"materialise {dataset.table} again"
        )
    return lake.read_whole(manifest)


def _subject(lake: Lake, subject: str) -> tuple[Iteration, list[str]]:
    """The iteration that is asked about, and the paths of the record if one was named."""
    if PARTITION_KEY.fullmatch(subject):
        return Iteration(lake, *experiment_of_key(subject)), []
    place = Lineage(lake).find(subject)
    if place.iteration is None:
        raise ExperimentError(
            f"{place.id} is used in any number of iterations; give one, as {place.experiment}-000, "
            "or a question, path, vote or example of it"
        )
    iteration = Iteration(lake, place.experiment, place.iteration)
    row = iteration.row(tables.TABLES[place.table], "id", place.id)
    if path := path_of(place.table, row):
        return iteration, [path]
    question = place.id if place.table == SEED_POOL.name else row.get("question_id")
    if question is None:
        raise ExperimentError(f"{place.id} ({place.table}) comes after the filter; give {iteration.key}")
    return iteration, [fate.path for fate in iteration.fates(question)]


def _changed(
    recorded: Filters,
    settings: Sequence[str],
    thresholds: Sequence[str] = (),
    aliases: Mapping[str, str] = ALIASES,
) -> Filters:
    """The section with `name=value` settings laid over it, validated as an experiment file is."""
    values = recorded.model_dump()
    names: Sequence[str] = thresholds or list(values)
    given = _given(settings, names, aliases)
    return _validated(type(recorded), {**values, **given}, _known(names, aliases))


def _known(names: Sequence[str], aliases: Mapping[str, str]) -> str:
    return ", ".join([*names, *(f"{alias} (= {name})" for alias, name in aliases.items())])


def _given(
    settings: Sequence[str], names: Sequence[str], aliases: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The values of `name=value` settings by name."""
    aliases = aliases or {}
    values, known = {}, _known(names, aliases)
    for setting in settings:
        given, equals, text = setting.partition("=")
        name = aliases.get(given.strip(), given.strip())
        if not equals or name not in names:
            raise ExperimentError(f"{setting!r} is no threshold: write name=value, name being one of {known}")
        try:
            values[name] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ExperimentError(f"{setting!r} has no value: write a number, true, false or null") from None
    return values


def _validated(kind: type[Filters], values: Mapping[str, Any], known: str) -> Filters:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        wrong = "; ".join(
            f"{detail['loc'][-1]}: {detail['msg']}, not {detail['input']!r}" for detail in error.errors()
        )
        raise ExperimentError(f"{wrong}. The thresholds are: {known}") from None


def _outcomes(decisions: pl.DataFrame) -> dict[str, Outcome]:
    """The last decision on each path, in the order of the paths."""
    rows = decisions.select("candidate_id", "kept", "rule", "reason").iter_rows()
    return {path: Outcome(kept, rule, reason) for path, kept, rule, reason in rows}


def _by_rule(outcomes: Iterable[Outcome]) -> dict[str, int]:
    return dict(Counter(outcome.rule for outcome in outcomes).most_common())
