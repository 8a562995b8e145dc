"""Compute what other thresholds would have kept, by running an iteration's filter again on its tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import polars as pl
import yaml
from pydantic import BaseModel, ValidationError

from selfimprove_dagster import registry
from selfimprove_dagster.errors import ExperimentError, LakeError
from selfimprove_dagster.experiment.naming import PARTITION_KEY
from selfimprove_dagster.filtering.running import RECORDED
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lineage.iteration import (
    Iteration,
    dataset_table,
    holds_decisions,
    iteration_of_key,
)
from selfimprove_dagster.lineage.story import Story, declared
from selfimprove_dagster.lineage.walk import Lineage, Place
from selfimprove_dagster.table import Row


@dataclass(frozen=True)
class Refilter:
    """The way in which the filter of a method is run again with other settings.

    The activity of `stage` records the settings under `section`, in the form of `kind`; `decisions` is the
    stage of its decisions. `filter_again` recomputes the decisions from the iteration's tables. `thresholds`
    returns the settings under the names that may be changed, by default all fields; `fields` converts changed
    ones back to fields of the section. `aliases` are other names of thresholds; `noun` is the name of a
    candidate.
    """

    kind: type[BaseModel]
    filter_again: Callable[[Lake, Manifest, Any], pl.DataFrame]
    stage: str = "filtered_dataset"
    section: str = "filter"
    decisions: str = "decisions"
    thresholds: Callable[[Lake, Manifest, Any], Mapping[str, Any]] | None = None
    fields: Callable[[Mapping[str, Any], Any], Mapping[str, Any]] | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    noun: str = "candidate"


@dataclass(frozen=True)
class Outcome:
    """Whether a candidate passes the filter; `rule` and `reason` belong to the last decision on it."""

    kept: bool
    rule: str
    reason: str


@dataclass(frozen=True)
class Change:
    """The outcomes of one candidate under the recorded thresholds and under the changed ones."""

    path: str
    then: Outcome
    now: Outcome


@dataclass(frozen=True)
class WhatIf:
    """What changed thresholds keep of an iteration's candidates, which are called `noun`.

    `thresholds` maps the names of changed thresholds to (then, now). `gained` counts newly kept candidates by
    the rule that dropped them before, `lost` newly dropped ones by the rule that drops them now. `record`
    holds the candidates of the requested record. `note` states the limits of the answer.
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
    note: str = ""

    def to_json(self) -> Row:
        """Return plain data."""
        return asdict(self)


def what_if(lake: Lake, subject: str, settings: Sequence[str]) -> WhatIf:
    """Filter an iteration again with other thresholds, each as `name=value`; nothing is generated or written.

    `subject` is a partition key, or (the start of) the id of a candidate, or of a record that led to
    candidates or was made from some. The recorded thresholds and seed are those of the filter's activity. For
    a method without `what_if`, and for the filters that an experiment lists, the answer is derived from decisions:
    each rule with a recorded score and threshold may be changed. Raises ExperimentError for invalid settings and for a
    method without thresholds, and LakeError if the tables do not belong to one dataset.
    """
    iteration, story = _subject(lake, subject)
    method = registry.methods().get(iteration.method)
    refilter = method.what_if if method else None
    filtered = any(RECORDED in one.activity.parameters for one in iteration.manifests.values())
    if isinstance(refilter, str) and not filtered:
        raise ExperimentError(f"{iteration.method} has no thresholds: {refilter}")
    if refilter is None or isinstance(refilter, str):
        return _by_recorded_scores(lake, iteration, story, settings)
    if _names_filters_of_dataset(iteration, refilter, settings):
        return _by_recorded_scores(lake, iteration, story, settings)
    made = lake.manifest(f"{iteration.method}/{refilter.stage}", iteration.partition)
    section = _validated(refilter.kind, made.activity.parameters[refilter.section], "")
    thresholds = refilter.thresholds or (lambda lake, made, section: section.model_dump())
    recorded = thresholds(lake, made, section)
    decisions = lake.manifest(f"{iteration.method}/{refilter.decisions}", iteration.partition)
    then = _recorded_decisions(lake, made, decisions)
    filters = _of_filters(then, made, refilter)
    by_filter = {rule: threshold for rule, (threshold, _) in _numeric_rules(filters).items()}
    given = _given(settings, [*recorded, *by_filter], refilter.aliases)
    own = {name: value for name, value in given.items() if name in recorded}
    values = (
        refilter.fields({**recorded, **own}, section) if refilter.fields else {**section.model_dump(), **own}
    )
    proposed = _validated(refilter.kind, values, _known(list(recorded), refilter.aliases))
    asked = _asked(story, then, iteration)
    now = refilter.filter_again(lake, made, proposed)
    changed = {
        name: _number(name, value)
        for name, value in given.items()
        if name in by_filter and name not in recorded
    }
    if not filters.is_empty():
        now = _filtered_again(now, filters, changed)
    return _answer(
        iteration.key,
        {**by_filter, **recorded},
        {**by_filter, **changed, **thresholds(lake, made, proposed)},
        then,
        now,
        asked,
        refilter.noun,
        note=_NOTE if not filters.is_empty() else "",
    )


def _names_filters_of_dataset(iteration: Iteration, refilter: Refilter, settings: Sequence[str]) -> bool:
    """Return whether all settings name filters of the dataset, and the method's thresholds are of another table."""
    dataset = iteration.manifests.get(dataset_table(iteration.method, iteration.manifests))
    if dataset is None or dataset.table == f"{iteration.method}/{refilter.stage}":
        return False
    steps = dataset.activity.parameters.get(RECORDED, {}).get("steps", [])
    rules = {step["rule"] for step in steps} - {*refilter.aliases}
    return bool(settings) and all(setting.partition("=")[0].strip() in rules for setting in settings)


def _of_filters(decisions: pl.DataFrame, made: Manifest, refilter: Refilter) -> pl.DataFrame:
    """Return the decisions of an experiment's filters, which came after those of the method's own rules.

    None of them where the method runs its filters again itself.
    """
    steps = made.activity.parameters.get(RECORDED, {}).get("steps", [])
    rules = [] if refilter.section == RECORDED else [step["rule"] for step in steps]
    return decisions.filter(pl.col("rule").is_in(rules))


def _filtered_again(now: pl.DataFrame, filters: pl.DataFrame, given: Mapping[str, float]) -> pl.DataFrame:
    """Return decisions of a method's rules with those of filters on the candidates that pass, by recorded scores."""
    dropped = now.filter(~pl.col("kept")).select("candidate_id")
    further = _again(filters.join(dropped, on="candidate_id", how="anti", maintain_order="left"), given)
    return pl.concat([now.select(further.columns), further])


def refuse_newer(made: Manifest, manifest: Manifest) -> None:
    """Raise LakeError if a table that the filter read was materialised again since."""
    if manifest.activity.id not in made.activity.inputs:
        raise LakeError(
            f"{manifest.table} was materialised again after the dataset {made.activity.id}; "
            f"materialise {made.table} again before applying other thresholds"
        )


def read_again(lake: Lake, made: Manifest, *tables: str) -> list[pl.DataFrame]:
    """Return the whole tables that a filter read. Raises LakeError if one was materialised again since."""
    frames = []
    for table in tables:
        manifest = lake.manifest(table, made.partition)
        refuse_newer(made, manifest)
        frames.append(lake.read_whole(manifest))
    return frames


def _subject(lake: Lake, subject: str) -> tuple[Iteration, Story | None]:
    """Return the requested iteration, and the story of the record if one was given."""
    if PARTITION_KEY.fullmatch(subject):
        return iteration_of_key(lake, subject), None
    lineage = Lineage(lake)
    place = lineage.find(subject)
    if place.iteration is None:
        raise ExperimentError(_refusal(place, place.experiment + "-000", "candidate"))
    story = Story(lineage, place, lineage.rows([place.id], withdrawn=True)[place.id])
    return story.iteration, story


def _refusal(place: Place, key: str, noun: str) -> str:
    return (
        f"{place.id} ({place.table}) was not judged by thresholds; give an iteration, e.g. {key}, or a "
        f"record that led to a {noun} or was made from one"
    )


def _asked(story: Story | None, then: pl.DataFrame, iteration: Iteration) -> list[str]:
    """Return the candidates of the requested record. Raises ExperimentError if it has none."""
    if story is None:
        return []
    decided = set(then["candidate_id"])
    near = [row["id"] for row in story.candidates]
    found = [one for one in near if one in decided]
    if not found:
        lines = [row["id"] for candidate in story.candidates for row in story.line(candidate)]
        found = list(dict.fromkeys(one for one in lines if one in decided))
    if not found:
        raise ExperimentError(_refusal(story.place, iteration.key, declared(iteration.method).noun))
    return found


def _recorded_decisions(lake: Lake, made: Manifest, decisions: Manifest) -> pl.DataFrame:
    if decisions.activity.parameters["decides"] != made.activity.id:
        raise LakeError(
            f"the decisions of {dict(made.partition)} belong to another dataset than {made.activity.id}; "
            f"materialise {made.table} again"
        )
    return lake.read_whole(decisions)


# ---- without a declaration ------------------------------------------------------------------------------

_NOTE = (
    "the recorded scores were compared with the new thresholds; rules that were not applied to a candidate "
    "before, and rules without a score, were not applied again"
)


def _by_recorded_scores(
    lake: Lake, iteration: Iteration, story: Story | None, settings: Sequence[str]
) -> WhatIf:
    """Apply other thresholds to the recorded decisions, rule by rule."""
    tables = [one for one in iteration.manifests.values() if holds_decisions(one)]
    dataset = iteration.manifests.get(dataset_table(iteration.method, iteration.manifests))
    of_dataset = [
        one for one in tables if dataset and one.activity.parameters.get("decides") == dataset.activity.id
    ]
    frames = [lake.read_whole(one) for one in of_dataset or tables]
    then = pl.concat(frames) if frames else pl.DataFrame()
    rules = {} if then.is_empty() else _numeric_rules(then)
    if not rules:
        raise ExperimentError(
            f"{iteration.method} has no thresholds: its decisions record no score with a threshold; "
            "`lineage explain` says which rule dropped a record"
        )
    recorded = {rule: threshold for rule, (threshold, _) in rules.items()}
    given = {name: _number(name, value) for name, value in _given(settings, list(recorded), {}).items()}
    asked = _asked(story, then, iteration)
    proposed = {**recorded, **given}
    again = _again(then, given)
    noun = declared(iteration.method).noun
    return _answer(iteration.key, recorded, proposed, then, again, asked, noun, note=_NOTE)


def _again(then: pl.DataFrame, given: Mapping[str, float]) -> pl.DataFrame:
    """Return recorded decisions with other thresholds, given by rule."""
    rules = _numeric_rules(then)
    now = [
        decision
        for _, rows in then.group_by("candidate_id", maintain_order=True)
        for decision in _decided_again(rows.rows(named=True), rules, given)
    ]
    return pl.DataFrame(
        now, schema={"candidate_id": pl.String, "kept": pl.Boolean, "rule": pl.String, "reason": pl.String}
    )


def _numeric_rules(decisions: pl.DataFrame) -> dict[str, tuple[float, bool]]:
    """Return, by rule with one threshold, the threshold and whether it is a minimum for scores."""
    rules = {}
    scored = decisions.drop_nulls(["score", "threshold"])
    for (rule,), rows in scored.group_by("rule", maintain_order=True):
        thresholds = rows["threshold"].unique()
        differing = rows.filter(pl.col("score") != pl.col("threshold"))
        above = (differing["score"] > differing["threshold"]) == differing["kept"]
        if len(thresholds) == 1 and len(above) and (above.all() or not above.any()):
            rules[str(rule)] = (float(thresholds[0]), bool(above.all()))
    return rules


def _decided_again(
    rows: Sequence[Row], rules: Mapping[str, tuple[float, bool]], given: Mapping[str, float]
) -> Iterable[Row]:
    """Yield the decisions on one candidate up to the first that drops it now."""
    for row in rows:
        rule, kept, reason = row["rule"], row["kept"], row["reason"]
        if rule in given and row["score"] is not None:
            _, at_least = rules[rule]
            kept = row["score"] >= given[rule] if at_least else row["score"] <= given[rule]
            reason = f"{row['score']:g} against at {'least' if at_least else 'most'} {given[rule]:g}"
        yield {"candidate_id": row["candidate_id"], "kept": kept, "rule": rule, "reason": reason}
        if not kept:
            return


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ExperimentError(f"{name}: a threshold must be a number, not {value!r}")
    return float(value)


# ---- settings and answers -------------------------------------------------------------------------------


def _answer(
    key: str,
    recorded: Mapping[str, Any],
    proposed: Mapping[str, Any],
    then: pl.DataFrame,
    now: pl.DataFrame,
    asked: Sequence[str],
    noun: str,
    note: str = "",
) -> WhatIf:
    before, after = _outcomes(then), _outcomes(now)
    changed = [(before[one], after[one]) for one in before if before[one].kept != after[one].kept]
    return WhatIf(
        key=key,
        thresholds={name: (old, proposed[name]) for name, old in recorded.items() if proposed[name] != old},
        paths=len(before),
        kept_then=sum(outcome.kept for outcome in before.values()),
        kept_now=sum(outcome.kept for outcome in after.values()),
        gained=_by_rule(old for old, new in changed if new.kept),
        lost=_by_rule(new for old, new in changed if old.kept),
        record=tuple(Change(one, before[one], after[one]) for one in asked),
        noun=noun,
        note=note,
    )


def _known(names: Sequence[str], aliases: Mapping[str, str]) -> str:
    return ", ".join([*names, *(f"{alias} (= {name})" for alias, name in aliases.items())])


def _given(settings: Sequence[str], names: Sequence[str], aliases: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of `name=value` settings by name."""
    values, known = {}, _known(names, aliases)
    for setting in settings:
        given, equals, text = setting.partition("=")
        name = aliases.get(given.strip(), given.strip())
        if not equals or name not in names:
            raise ExperimentError(
                f"{setting!r} is not a threshold: write name=value, name being one of {known}"
            )
        try:
            values[name] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ExperimentError(f"{setting!r} has no value: write a number, true, false or null") from None
    return values


def _validated(kind: Any, values: Mapping[str, Any], known: str) -> Any:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        wrong = "; ".join(
            f"{detail['loc'][-1]}: {detail['msg']}, not {detail['input']!r}" for detail in error.errors()
        )
        raise ExperimentError(f"{wrong}. The thresholds are: {known}") from None


def _outcomes(decisions: pl.DataFrame) -> dict[str, Outcome]:
    """Return the last decision on each candidate, in the order of the candidates."""
    rows = decisions.select("candidate_id", "kept", "rule", "reason").iter_rows()
    return {one: Outcome(kept, rule, reason) for one, kept, rule, reason in rows}


def _by_rule(outcomes: Iterable[Outcome]) -> dict[str, int]:
    return dict(Counter(outcome.rule for outcome in outcomes).most_common())
