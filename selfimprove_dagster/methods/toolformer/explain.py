"""Why a call of a tool stands in the training set, or why not; and what came of the texts that were tried.

Of a call every stage says what happened to it, and every rule what it said of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import polars as pl

from selfimprove_dagster.errors import ExperimentError, LakeError
from selfimprove_dagster.families.tasks.explain import drawn_sentence, quoted
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lineage.explanation import (
    Explanation,
    by_rule,
    count,
    dropped_verdict,
    explanation,
    training_verdict,
    uses_of,
)
from selfimprove_dagster.lineage.iteration import UNDECIDED, Fate, Iteration, Neighbour, Step, all_revoked
from selfimprove_dagster.lineage.walk import Lineage, Place
from selfimprove_dagster.methods.toolformer import tables as t
from selfimprove_dagster.methods.toolformer.loss import WINDOW, Losses
from selfimprove_dagster.methods.toolformer.rules import filter_calls
from selfimprove_dagster.methods.toolformer.settings import CallFilterSection
from selfimprove_dagster.methods.toolformer.tables import (
    TF_CALL_POSITIONS,
    TF_DECISIONS,
    TF_FILTERED_DATASET,
    TF_PERPLEXITY_SCORES,
    TF_RAW_GENERATIONS,
    TF_SEED_POOL,
    TF_TOOL_RESULTS,
)
from selfimprove_dagster.methods.toolformer.toolboxes import call_candidates, call_thresholds
from selfimprove_dagster.table import Row, Table
from selfimprove_dagster.tools.calls import Call, write_call

_TOLD = 3
"""Calls of an example that its verdict tells; the steps tell all."""


def explain_tool(lake: Lake, lineage: Lineage, place: Place) -> Explanation:
    """The explanation of a record of Toolformer, seed texts included."""
    row = lineage.rows([place.id], withdrawn=True)[place.id]
    if place.iteration is None:
        return _explain_seed(lake, lineage, place, row)
    iteration = Iteration(lake, place.experiment, place.iteration, METHOD)
    if place.table == t.TF_SEARCH_INDEX.name:
        step = _told(t.TF_SEARCH_INDEX, row)
        gone = all_revoked(lake, place.experiment, {place.id})
        return explanation(place, step.reason, steps=(step, *gone))
    story = _Story(lineage, iteration, place, row)
    if place.table in (t.TF_SEED_POOL.name, t.TF_CALL_POSITIONS.name):
        return story.of_text()
    return story.of_calls()


def calls_of(iteration: Iteration, row: Row) -> list[Row]:
    """The calls that a row of this iteration is, holds, is about, or was tried for."""
    stage, results = row["table_name"].split("/")[1], t.TF_TOOL_RESULTS
    if stage == "filtered_dataset":
        named = pl.col("id").is_in([call["id"] for call in row["calls"]])
    elif stage in ("perplexity_scores", "decisions"):
        named = pl.col("id") == row["candidate_id"]
    elif stage == "raw_generations":
        named = pl.col("generation_id") == row["id"]
    elif stage == "call_positions":
        named = (pl.col("text_id") == row["text_id"]) & (pl.col("tool") == row["tool"])
    else:
        named = pl.col({"seed_pool": "text_id"}.get(stage, "id")) == row["id"]
    return iteration.rows(results, named)


def losses_of(iteration: Iteration, calls: Iterable[Row]) -> dict[str, Row]:
    """The scores of calls, by the call's id; of equal calls at a place the first has one."""
    ids = [call["id"] for call in calls]
    rows = iteration.rows(t.TF_PERPLEXITY_SCORES, pl.col("candidate_id").is_in(ids))
    return {row["candidate_id"]: row for row in rows}


def _explain_seed(lake: Lake, lineage: Lineage, place: Place, row: Row) -> Explanation:
    def fates(number: int, text: str) -> list[Fate]:
        iteration = Iteration(lake, place.experiment, number, METHOD)
        here = Place(text, t.TF_SEED_POOL.name, place.experiment, number)
        return _Story(lineage, iteration, here, lineage.rows([text], withdrawn=True)[text]).fates

    uses = tuple(uses_of(lake, place, t.TF_SEED_POOL, fates))
    total = sum((Counter(use.paths) for use in uses), Counter[str]())
    verdict = f"a text of {row['source_file']}, line {row['source_line']}: " + (
        f"read in {count(len(uses), 'iteration')}, {count(total.total(), 'call')} tried, "
        f"{total['kept']:,} kept"
        if uses
        else "no iteration has read it yet"
    )
    gone = all_revoked(lake, place.experiment, {place.id})
    if gone:
        verdict = f"{gone[0].reason}; {verdict}"
    accepted = replace(_told(t.SEED_TEXTS, row), passed=True)
    in_dataset = total["kept"] > 0 and not gone
    return explanation(place, verdict, in_dataset=in_dataset, steps=(accepted, *gone), uses=uses)


@dataclass(frozen=True)
class _Story:
    """What the tables of one iteration say of one of its records."""

    lineage: Lineage
    iteration: Iteration
    place: Place
    row: Row

    @cached_property
    def calls(self) -> list[Row]:
        return calls_of(self.iteration, self.row)

    @cached_property
    def losses(self) -> dict[str, Row]:
        return losses_of(self.iteration, self.calls)

    @cached_property
    def decisions(self) -> dict[str, list[Row]]:
        """What the rules said, by the call's id."""
        wanted = pl.col("candidate_id").is_in([call["id"] for call in self.calls])
        found: dict[str, list[Row]] = {}
        for row in self.iteration.rows(t.TF_DECISIONS, wanted):
            found.setdefault(row["candidate_id"], []).append(row)
        return found

    @cached_property
    def better(self) -> dict[str, Row]:
        """The calls that calls lost to, those that were revoked aside."""
        return self.lineage.rows(
            row["nearest_id"] for rows in self.decisions.values() for row in rows if row["nearest_id"]
        )

    @cached_property
    def generations(self) -> dict[str, Row]:
        return self.lineage.rows((call["generation_id"] for call in self.calls), withdrawn=True)

    @cached_property
    def example(self) -> Row:
        """The example that the record became or is; empty where there is none."""
        if self.place.table == t.TF_FILTERED_DATASET.name:
            return self.row
        rows = self.iteration.rows(t.TF_FILTERED_DATASET, pl.col("text_id") == self._text_id)
        ids = {call["id"] for call in self.calls}
        return next((row for row in rows if ids & {call["id"] for call in row["calls"]}), {})

    @property
    def _text_id(self) -> str:
        first = self.calls[0] if self.calls else self.row
        return str(self.row.get("text_id") or first.get("text_id") or first["id"])

    @cached_property
    def text(self) -> Row:
        return self.iteration.row(t.TF_SEED_POOL, "id", self._text_id)

    # ---- texts ----------------------------------------------------------------------------------------

    @cached_property
    def fates(self) -> list[Fate]:
        """What became of each call that was tried, in the order in which they stand in the text."""
        kept = {call["id"] for call in self.example.get("calls", ())}
        return [
            self._fate(number, call, kept)
            for number, call in enumerate(sorted(self.calls, key=lambda call: int(call["position"])))
        ]

    def _fate(self, number: int, call: Row, kept: set[str]) -> Fate:
        decisions = self.decisions.get(call["id"])
        generation = self.generations.get(call["generation_id"], {})
        said = written(call) or generation.get("text", "")
        example = self.example["id"] if call["id"] in kept else None
        if not decisions:
            return Fate(call["id"], number, said, UNDECIDED, "not filtered yet", example)
        last = decisions[-1]
        rule = None if last["kept"] else last["rule"]
        return Fate(call["id"], number, said, rule, self._reason(last), example)

    def of_text(self) -> Explanation:
        """Of a text, or of its places for one tool: what became of the calls that were tried."""
        tools = len({call["tool"] for call in self.calls})
        kept = sum(fate.rule is None for fate in self.fates)
        verdict = f"{count(len(self.calls), 'call')} of {count(tools, 'tool')} tried, {kept:,} kept"
        verdict += by_rule(self.fates)
        if self.example:
            verdict += f"; in the dataset of {self.iteration.key}"
        steps = self.iteration.source(self.text)
        rows = [self.row] if self.place.table == t.TF_CALL_POSITIONS.name else self._positions()
        steps += [_told(t.TF_CALL_POSITIONS, row) for row in rows]
        return self._settled(verdict, steps, tuple(self.fates))

    def _positions(self) -> list[Row]:
        return self.iteration.rows(t.TF_CALL_POSITIONS, pl.col("text_id") == self._text_id)

    # ---- calls ----------------------------------------------------------------------------------------

    def of_calls(self) -> Explanation:
        """Of one call or of an example: every stage and every rule, call by call."""
        steps = self.iteration.source(self.text)
        for call in sorted(self.calls, key=lambda call: int(call["position"])):
            steps += self._stages(call)
            steps += self._rules(call)
        if not self.calls and self.place.table == t.TF_RAW_GENERATIONS.name:
            steps.append(_told(t.TF_RAW_GENERATIONS, self.row))
        return self._settled(self._verdict(steps), steps)

    def _stages(self, call: Row) -> Iterator[Step]:
        places = next((row for row in self._positions() if row["tool"] == call["tool"]), {})
        if call["position"] in places.get("positions", ()):
            yield Step(t.TF_CALL_POSITIONS.name, place_sentence(places, call["position"]), places["id"])
        if generation := self.generations.get(call["generation_id"]):
            yield _told(t.TF_RAW_GENERATIONS, generation)
        for index in self.iteration.rows(t.TF_SEARCH_INDEX, pl.col("tool") == call["tool"]):
            yield _told(t.TF_SEARCH_INDEX, index)
        yield _told(t.TF_TOOL_RESULTS, call)
        if scored := self.losses.get(call["id"]):
            (row,) = self.lineage.rows([scored["id"]], withdrawn=True).values()
            yield replace(_told(t.TF_PERPLEXITY_SCORES, row), score=losses(row).reduction)

    def _rules(self, call: Row) -> Iterator[Step]:
        for row in self.decisions.get(call["id"], ()):
            near = self.better.get(row["nearest_id"])
            yield Step(
                row["stage"],
                self._reason(row),
                row["id"],
                rule=row["rule"],
                passed=row["kept"],
                score=row["score"],
                threshold=row["threshold"],
                nearest=Neighbour(near["id"], written(near)) if near else None,
            )

    def _reason(self, row: Row) -> str:
        """A rule's reason, with the call that it names in place of its id."""
        near = self.better.get(row["nearest_id"])
        if near is None:
            return str(row["reason"])
        said = str(row["reason"]).replace(near["id"], written(near))
        if row["rule"] == "repeated_call":
            return f"{said}, drawn at this place before"
        other = losses_of(self.iteration, [near]).get(near["id"])
        if row["rule"] != "best_at_position" or other is None or (more := losses(other).reduction) is None:
            return said
        return f"{said}: by {more:.2f} nats, this one by {row['score']:.2f}"

    def _verdict(self, steps: Sequence[Step]) -> str:
        key, rules = self.iteration.key, [step for step in steps if step.rule]
        if self.example:
            held = {call["id"] for call in self.example["calls"]}
            told = [self._savings(call) for call in self.calls if call["id"] in held]
            more = f"; and {len(told) - _TOLD:,} more" if len(told) > _TOLD else ""
            return f"in the dataset of {key}: {'; '.join(told[:_TOLD])}{more}"
        dropped = next((step for step in rules if not step.passed), None)
        if dropped and dropped.rule == "loss_reduction":
            return f"not in the dataset of {key}: dropped by the rule {dropped.rule}: " + "; ".join(
                self._savings(call) for call in self.calls
            )
        if dropped:
            return dropped_verdict(key, dropped)
        if not rules:
            return f"not in a dataset: the filters of {key} have not seen it yet"
        if self.iteration.manifest(t.TF_FILTERED_DATASET) is None:
            return f"kept by every rule, but the dataset of {key} is not committed yet"
        return f"not in the dataset of {key}: kept by every rule, but no example holds it"

    def _savings(self, call: Row) -> str:
        decisions = self.decisions.get(call["id"], ())
        threshold = next((row["threshold"] for row in decisions if row["rule"] == "loss_reduction"), None)
        return savings(call, self.losses.get(call["id"]), threshold)

    def _settled(self, verdict: str, steps: list[Step], fates: tuple[Fate, ...] = ()) -> Explanation:
        """With the example, what was revoked, closed gates and what was trained."""
        example, gates, training = self.example, [], []
        known = {self.place.id, self._text_id, example.get("id", "")}
        known |= {edge["id"] for edge in self.text.get("parents", ())}
        known |= {call[name] for call in self.calls for name in ("id", "generation_id") if not fates}
        gone = all_revoked(self.iteration.lake, self.place.experiment, known)
        if example:
            steps = [*steps, replace(_told(t.TF_FILTERED_DATASET, example), passed=True)]
            gates, training = self.iteration.gates(), self.iteration.training()
            verdict += training_verdict(self.iteration.number, training, gates)
        if gone:
            verdict = f"{gone[0].reason}, so it is no longer handed on; otherwise: {verdict}"
        return explanation(
            self.place,
            verdict,
            in_dataset=bool(example) and not gone,
            steps=(*steps, *gone, *gates, *training),
            fates=fates,
        )


def _told(schema: Table, row: Row) -> Step:
    return Step(schema.name, sentence({**row, "table_name": schema.name}), row["id"])


_JUDGED = {
    schema.name
    for schema in (
        *(TF_SEED_POOL, TF_CALL_POSITIONS, TF_RAW_GENERATIONS, TF_TOOL_RESULTS),
        *(TF_PERPLEXITY_SCORES, TF_DECISIONS, TF_FILTERED_DATASET),
    )
}
"""The tables whose rows are calls, hold some, or are what these were made from."""


def calls_asked(lake: Lake, place: Place) -> list[str]:
    """The ids of the calls that a record is, holds or was tried for.

    Raises ExperimentError for a record that no call of one iteration stands behind.
    """
    if place.iteration is None or place.table not in _JUDGED:
        raise ExperimentError(
            f"{place.id} ({place.table}) was not judged by thresholds; give an iteration, as "
            f"{place.experiment}-000, or a call, text or example of it"
        )
    row = Lineage(lake).rows([place.id], withdrawn=True)[place.id]
    return [call["id"] for call in calls_of(Iteration(lake, place.experiment, place.iteration, METHOD), row)]


def thresholds(lake: Lake, dataset: Manifest, section: CallFilterSection) -> dict[str, Any]:
    """The settings of a filter by name, τ_f under the name of each tool that was called."""
    results = lake.manifest(TF_TOOL_RESULTS.name, dataset.partition)
    tools = results.activity.parameters["tools"]
    by_tool = {tool: section.loss_reduction.get(tool, section.other_tools) for tool in tools}
    return {**by_tool, **section.model_dump(exclude={"loss_reduction", "other_tools"})}


def as_section(values: Mapping[str, Any], recorded: CallFilterSection) -> dict[str, Any]:
    """Named thresholds as the fields of an experiment's `filter` section."""
    fields = {name: value for name, value in values.items() if name in CallFilterSection.model_fields}
    by_tool = {name: value for name, value in values.items() if name not in fields}
    return {**fields, "loss_reduction": by_tool, "other_tools": recorded.other_tools}


def filter_again(lake: Lake, dataset: Manifest, section: CallFilterSection) -> pl.DataFrame:
    """Every decision on the calls of an iteration under other thresholds.

    Raises LakeError where the tables were made again since, or were not scored for so low a threshold.
    """
    frames = []
    for schema in (TF_TOOL_RESULTS, TF_PERPLEXITY_SCORES):
        manifest = lake.manifest(schema.name, dataset.partition)
        if manifest.activity.id not in dataset.activity.inputs:
            raise LakeError(
                f"{schema.name} was made again after the dataset {dataset.activity.id}; "
                f"materialise {dataset.table} again before asking what other thresholds would keep"
            )
        frames.append(lake.read_whole(manifest))
    try:
        return filter_calls(call_candidates(*frames), call_thresholds(section), dataset.activity.seed)[1]
    except ValueError as error:
        raise LakeError(f"{error}; materialise {TF_PERPLEXITY_SCORES.name} with it") from error


METHOD = "toolformer"


_LOSSES = (
    ("loss_no_call", "without a call"),
    ("loss_call", "with the call alone"),
    ("loss_call_with_result", "with its result"),
)


def written(call: Row) -> str:
    """A call as it stands in a text: of a row of tool_results, or of an example's calls.

    Empty for what could not be read.
    """
    if call["arguments"] is None:
        return ""
    return write_call(Call(call["tool"], call["arguments"], call["result"]))


def said_of(row: Row) -> str:
    """What a row says, in short: its call, or its text; empty for scores and decisions."""
    stage = row["table_name"].split("/")[1]
    if stage == "tool_results":
        return written(row) or str(row["problem"])
    if stage == "search_index":
        return str(row["corpus"])
    said = (row.get(name) for name in ("completion", "text"))
    return next((text for text in said if text), "")


def sentence(row: Row) -> str:
    """What happened at the stage of this row (one of `Lineage.rows`), as a sentence."""
    describe = _SENTENCES.get(row["table_name"].split("/")[1])
    return describe(row) if describe else quoted(said_of(row))


def place_sentence(row: Row, position: int) -> str:
    """How probable a call was at a place, and its rank among those that were tried."""
    likely = dict(zip(row["positions"], row["probabilities"], strict=True))
    own = likely[position]
    rank = 1 + sum(likely[tried] > own for tried in row["chosen"])
    return (
        f"p(<API>) = {own:.2g} for {row['tool']} before character {position}, {_ordinal(rank)} of "
        f"{len(row['chosen'])} tried, of {len(likely)} places in the text"
    )


def losses(row: Row) -> Losses:
    """What a row of scores holds."""
    return Losses(*(row[name] for name, _ in _LOSSES))


def savings(call: Row, score: Row | None, threshold: float | None) -> str:
    """What a call saves: by how much it lowers the loss of what follows it, against the threshold."""
    said = f"{written(call)} before character {call['position']}"
    if score is None:
        return said
    found = losses(score)
    most = found.most_reduction
    by = f"lowers the weighted loss of the next {WINDOW} tokens by"
    by = f"{by} {most:.2f} nats" if found.reduction is not None else f"{by} at most {most:.2f} nats"
    against = "" if threshold is None else f" against at least {threshold:g}"
    return f"{said}: {by} ({_in_words(score)}){against}"


def _in_words(row: Row) -> str:
    return ", ".join(f"{row[name]:.2f} {words}" for name, words in _LOSSES if row[name] is not None)


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _text(row: Row) -> str:
    written_on = f", written on {row['date']}" if row["date"] else ""
    of = f", of {row['source']}" if row["source"] else ""
    place = f"{row['source_file']}, line {row['source_line']} (licence: {row['licence']})"
    return f"accepted from {place}{of}{written_on}: {quoted(row['text'])}"


def _answered(row: Row) -> str:
    by = f"{row['tool']} (version {row['tool_version']})"
    if row["arguments"] is None:
        return f"no call of {by}: {row['problem']}"
    asked = written({**row, "result": None})
    return f"{by} to {asked}: {row['problem'] or row['result']}"


def _scored(row: Row) -> str:
    by = f"{row['activity']['about'].get('champion', 'the model')} {row['activity']['model_id']}"
    return f"weighted loss of the next {WINDOW} tokens in nats, by {by}: {_in_words(row)}"


_SENTENCES: dict[str, Callable[[Row], str]] = {
    "texts": _text,
    "seed_pool": _text,
    "search_index": lambda row: f"{row['tool']} searches {row['passages']:,} passages of {row['corpus']}",
    "call_positions": lambda row: (
        f"{row['tool']}: calls tried at {len(row['chosen'])} of {len(row['positions'])} places"
    ),
    "raw_generations": lambda row: f"before character {row['position']}, {drawn_sentence(row)}",
    "tool_results": _answered,
    "perplexity_scores": _scored,
    "filtered_dataset": lambda row: f"in the dataset: {quoted(row['completion'])}",
}


EXPLAIN = None
WHAT_IF = None
