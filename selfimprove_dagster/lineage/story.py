"""Collect the story of a record: the candidates that it is, was made from or led to, and all decisions on
them.

It is derived from the rows. A *candidate* is a record that a filter selects from: a record with decisions, or
a row of a stage that the method declares. An example or a score reaches its candidates up along the parents,
a seed or a completion down along the children. Demonstrations in prompts are not walked.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import polars as pl

from selfimprove_dagster import registry, words
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lineage.explanation import (
    Explanation,
    Showing,
    by_rule,
    dropped_verdict,
    explanation,
    shown_verdict,
    training_verdict,
)
from selfimprove_dagster.lineage.iteration import (
    UNDECIDED,
    Fate,
    Iteration,
    Neighbour,
    Step,
    all_revoked,
    dataset_table,
    holds_decisions,
    position,
    rows_of,
)
from selfimprove_dagster.lineage.walk import Lineage, Place
from selfimprove_dagster.table import Row, said_of, sentence_of
from selfimprove_dagster.words import SHOWN, count, quoted, source_of

_LISTED = 3
"""Maximum number of candidates in the verdict on an example; the steps list all."""


@dataclass(frozen=True)
class Explain:
    """The declarations of a method about explanations of its records; every field has a generic default.

    `noun` is the name of a candidate, and `asked` the name of the model's input. `filters` lists, for each
    filter, the stages whose rows it selects from; without it, candidates are the records that have decisions.
    `beside` lists stages whose rows score or vote on candidates: the dataset may name them as parents, and
    they are reported with their candidate. `aside` lists stages whose rows never become candidates, each with
    the start of its verdict, in which `{key}` is the partition key. `judgements` lists stages whose rows
    never lead to examples, so they cannot be revoked. `shows`: rows of the pool are shown to the model as
    demonstrations. `unmade` gives by stage the reason why a row has no candidate yet.

    The functions replace generic texts: `tally` counts several candidates, `in_short` summarises a candidate
    apart from the rules, `reason` describes a decision and its nearest record, `answer` returns the content
    of a candidate, `place` describes an ancestor of candidates, `also` returns the ids of more rows to report
    with a candidate, `undecided` explains why no rule was applied to it, `score` returns the number of a row,
    `passed` whether it passed, and `verdict` the verdict on a record that leads to no candidate.
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


def declared(method: str) -> Explain:
    """Return what a method declares about explanations, or the generic defaults."""
    found = registry.methods().get(method)
    return (found.explain if found else None) or Explain()


def is_decision(row: Row) -> bool:
    """Return whether a row is a decision of a filter on a candidate."""
    return {"candidate_id", "rule", "kept"} <= row.keys()


class Story:
    """The information in the tables of one iteration about one of its records."""

    def __init__(self, lineage: Lineage, place: Place, row: Row) -> None:
        self.lineage, self.place, self.row = lineage, place, row
        self.method = place.table.split("/")[0]
        self.words = declared(self.method)
        self.iteration = Iteration(lineage.lake, place.experiment, place.iteration or 0, self.method)
        self._known: dict[str, Row] = {row["id"]: row}
        self._edges: dict[str, list[Row]] = {}

    # ---- rows and edges -------------------------------------------------------------------------------

    def rows(self, ids: Iterable[str]) -> list[Row]:
        """Return the rows of the ids that are records, including revoked ones."""
        wanted = dict.fromkeys(ids)
        self._known |= self.lineage.rows([one for one in wanted if one not in self._known], withdrawn=True)
        return [self._known[one] for one in wanted if one in self._known]

    def parents(self, rows: Iterable[Row]) -> list[Row]:
        """Return the parents of rows, without demonstrations in prompts."""
        return self.rows(edge["id"] for row in rows for edge in row["parents"] if edge["role"] != SHOWN)

    def children(self, rows: Iterable[Row], *, shown: bool = False) -> list[Row]:
        """Return the children of rows in the experiment; with `shown`, those whose prompts showed a row."""
        ids = [row["id"] for row in rows]
        new = [one for one in ids if one not in self._edges]
        self._edges |= {one: [] for one in new}
        for edge in self.lineage.children(new).iter_rows(named=True) if new else ():
            self._edges[edge["parent"]].append(edge)
        wanted = [
            edge["child"] for one in ids for edge in self._edges[one] if (edge["role"] == SHOWN) == shown
        ]
        return sorted((row for row in self.rows(wanted) if self._is_own(row)), key=self._order)

    def line(self, row: Row) -> list[Row]:
        """Return the row and its ancestors within its experiment, nearest first."""
        found, ahead = {row["id"]: row}, [row]
        while ahead:
            ahead = [one for one in self.parents(ahead) if one["id"] not in found and self._is_own(one)]
            found |= {one["id"]: one for one in ahead}
        return list(found.values())

    def _is_own(self, row: Row) -> bool:
        return bool(row["experiment"] == self.place.experiment)

    def _is_here(self, row: Row) -> bool:
        return self._is_own(row) and row.get("iteration") == self.place.iteration

    def stage(self, row: Row) -> str:
        """Return the stage of a row."""
        return str(row["table_name"]).split("/")[1]

    @cached_property
    def _dataset(self) -> str:
        return dataset_table(self.method, self.iteration.manifests)

    def _is_pool(self, row: Row) -> bool:
        return self.stage(row) == "seed_pool"

    def is_example(self, row: Row) -> bool:
        """Return whether a row belongs to the method's dataset."""
        return bool(row["table_name"] == self._dataset)

    # ---- candidates -----------------------------------------------------------------------------------

    def _filter_of(self, row: Row) -> int | str | None:
        """Return the filter of a candidate: its declared index, or the table of its decisions."""
        if row["table_name"].split("/")[0] != self.method:
            return None
        for number, stages in enumerate(self.words.filters):
            if self.stage(row) in stages:
                return number
        tables = [one["table_name"] for one in self.decisions([row["id"]])]
        return tables[-1] if tables else None

    @cached_property
    def candidates(self) -> list[Row]:
        """Return the candidates that the record is, is about, was made from, or led to."""
        stage = self.stage(self.row)
        if stage in self.words.aside:
            return []
        if self.row["table_name"].startswith(f"{self.method}/") and self._is_about():
            return self._nearest_above()
        if self.is_example(self.row) or self._is_of_example:
            return self._nearest_above()
        own = [self.row] if self._filter_of(self.row) is not None or self._is_shown_pool else []
        if own and not self._is_pool(self.row):
            return own
        found = [*own, *self._below([self.row])]
        if self._is_pool(self.row) and not self._is_shown_pool:
            self._load([row["id"] for row in found])
            return [row for row in found if self.decisions([row["id"]])] or found
        makers = [row for row in self.parents([self.row]) if not self._is_pool(row)]
        return found or self._nearest_above() or (self._below(makers) if makers else [])

    def _is_about(self) -> bool:
        """Return whether the record is a decision on a candidate, or a score of or vote on some."""
        return is_decision(self.row) or self.stage(self.row) in self.words.beside

    @property
    def _is_shown_pool(self) -> bool:
        return self.words.shows and self._is_pool(self.row)

    @cached_property
    def _is_of_example(self) -> bool:
        """Return whether the record was made from an example of the dataset."""
        return any(map(self.is_example, self.parents([self.row])))

    def _nearest_above(self) -> list[Row]:
        seen, ahead = {self.row["id"]}, self.parents([self.row])
        while ahead:
            self._load([row["id"] for row in ahead])
            found = [row for row in ahead if self._filter_of(row) is not None]
            declared = [row for row in found if isinstance(self._filter_of(row), int)]
            if found:
                return declared or found
            seen |= {row["id"] for row in ahead}
            ahead = [row for row in self.parents(ahead) if row["id"] not in seen and self._is_own(row)]
        return []

    def _below(self, rows: Sequence[Row]) -> list[Row]:
        """Return the candidates that rows led to, in pipeline order, of the first filter on each path."""
        found: dict[str, Row] = {}
        seen, ahead = {row["id"] for row in rows}, [(row, None) for row in rows]
        while ahead:
            ahead_now: list[tuple[Row, Any]] = []
            self._load([row["id"] for row in self.children([row for row, _ in ahead])])
            for row, met in ahead:
                for child in self.children([row]):
                    if child["id"] in seen or not self._is_here(child) or self._is_end(child):
                        continue
                    own = self._filter_of(child)
                    if own is not None and met not in (None, own):
                        continue
                    seen.add(child["id"])
                    if own is not None:
                        found[child["id"]] = child
                    ahead_now.append((child, own if own is not None else met))
            ahead = ahead_now
        return sorted(found.values(), key=self._order)

    def _is_end(self, row: Row) -> bool:
        stage = self.stage(row)
        return (
            self.is_example(row)
            or stage in self.words.beside
            or stage in self.words.aside
            or is_decision(row)
        )

    @staticmethod
    def _order(row: Row) -> tuple[Any, ...]:
        return (
            position(row["table_name"]),
            row.get("round") or 0,
            row.get("position") or 0,
            row["sample_index"],
        )

    # ---- examples and decisions -----------------------------------------------------------------------

    def examples(self, candidate: Row) -> list[Row]:
        """Return the examples, of any iteration, that were made from a candidate."""
        found: dict[str, Row] = {}
        own, seen = self._filter_of(candidate), {candidate["id"]}
        ahead = [candidate]
        while ahead:
            children = [row for row in self.children(ahead) if row["id"] not in seen]
            seen |= {row["id"] for row in children}
            found |= {row["id"]: row for row in children if self.is_example(row) and self._is_own(row)}
            ahead = [
                row
                for row in children
                if self._is_here(row)
                and not self._is_end(row)
                and self._filter_of(row) in (None, *self._later(own))
            ]
        if isinstance(own, int) or not self.words.filters:
            return list(found.values())
        return [row for row in found.values() if not self._has_other_makers(row)]

    def _later(self, own: Any) -> range:
        return range(own + 1, len(self.words.filters)) if isinstance(own, int) else range(0)

    def _has_other_makers(self, example: Row) -> bool:
        return any(isinstance(self._filter_of(row), int) for row in self.parents([example]))

    @cached_property
    def _decision_tables(self) -> list[Manifest]:
        return [
            manifest
            for manifest in self.lineage.lake.manifests(f"{self.method}/*", self.place.experiment)
            if holds_decisions(manifest)
        ]

    @cached_property
    def _decided(self) -> dict[str, list[Row]]:
        return {}

    def decisions(self, ids: Sequence[str], iterations: Iterable[int] | None = None) -> list[Row]:
        """Return the decisions on records, with `table_name` and `iteration`, in the order in which they were
        made.

        If a record was decided on in several iterations, the decisions of its own iteration count, or else
        the latest.
        """
        numbers = {self.place.iteration} if iterations is None else {*iterations}
        if iterations is None:
            self._load(ids)
            return [row for one in dict.fromkeys(ids) for row in self._decided.get(one, ())]
        found: dict[tuple[str, str], list[Row]] = {}
        for manifest in self._decision_tables:
            if manifest.iteration not in numbers:
                continue
            made: dict[tuple[str, str], list[Row]] = {}
            for row in rows_of(manifest, pl.col("candidate_id").is_in(list(ids))):
                key = row["candidate_id"], manifest.table
                made.setdefault(key, []).append(self._of(manifest, row))
            for key, rows in made.items():
                if key not in found or found[key][0]["iteration"] != self.place.iteration:
                    found[key] = rows
        return [row for rows in found.values() for row in rows]

    def _load(self, ids: Sequence[str]) -> None:
        new = [one for one in ids if one not in self._decided]
        self._decided.update({one: [] for one in new})
        for manifest in self._decision_tables if new else ():
            if manifest.iteration == self.place.iteration:
                for row in rows_of(manifest, pl.col("candidate_id").is_in(new)):
                    self._decided[row["candidate_id"]].append(self._of(manifest, row))

    @staticmethod
    def _of(manifest: Manifest, row: Row) -> Row:
        return {**row, "table_name": manifest.table, "iteration": manifest.iteration}

    # ---- what it reports ------------------------------------------------------------------------------

    @cached_property
    def beside(self) -> dict[str, list[Row]]:
        """Return the scores of and the votes on each candidate, by the candidate's id."""
        stages, also = self.words.beside or self._scores, self.words.also
        self.children(self.candidates)
        return {
            one["id"]: [
                *(row for row in self.children([one]) if self.stage(row) in stages and self._is_here(row)),
                *(self.rows(also(self, one)) if also else ()),
            ]
            for one in self.candidates
        }

    @property
    def _scores(self) -> list[str]:
        """Return the stages whose rows hold only measures, for methods without a declaration."""
        tables = registry.tables()
        return [
            name.split("/")[1]
            for name in self.iteration.manifests
            if name in tables and name != self._dataset and name.split("/")[1] not in self.words.aside
            if any(dtype == pl.Float64 for dtype in tables[name].measures.values())
            if not {"candidate_id", "rule"} <= tables[name].content.keys()
            and tables[name].method == self.method
        ]

    def said(self, row: Row) -> str:
        """Return the content of a row in short."""
        return said_of(registry.tables().get(row["table_name"]), row)

    def sentence(self, row: Row) -> str:
        """Return a sentence on what happened at the stage of a row."""
        return sentence_of(registry.tables().get(row["table_name"]), row)

    @cached_property
    def fates(self) -> list[Fate]:
        """Return the outcome of each candidate."""
        self._read_ahead()
        self._load([one["id"] for one in self.candidates])
        return [self._fate(number, one) for number, one in enumerate(self.candidates)]

    def _read_ahead(self) -> None:
        """Read the children of all candidates at once."""
        ahead = self.candidates
        while ahead:
            ahead = [row for row in self.children(ahead) if self._is_here(row) and not self._is_end(row)]

    def _fate(self, number: int, row: Row) -> Fate:
        decisions = self.decisions([row["id"]])
        example = next((one["id"] for one in self.examples(row) if self._is_here(one)), None)
        answer = self.words.answer(self, row) if self.words.answer else self.said(row)
        index = row["sample_index"] if self.stage(row) == self.stage(self.candidates[0]) else number
        if not decisions:
            return Fate(row["id"], index, answer, UNDECIDED, "not filtered yet", example)
        last = decisions[-1]
        rule = None if last["kept"] else last["rule"]
        return Fate(row["id"], index, answer, rule, self.reason(last), example)

    def reason(self, decision: Row) -> str:
        """Return the reason of a decision, in which the text of the nearest record replaces its id.

        A revoked record is named by its id, not quoted.
        """
        near = self._nearest(decision)
        if self.words.reason:
            return self.words.reason(self, decision, near)
        if near is None:
            return str(decision["reason"])
        return str(decision["reason"]).replace(near["id"], quoted(self.said(near)))

    def _nearest(self, decision: Row) -> Row | None:
        record = decision.get("nearest_id")
        return self.lineage.rows([record]).get(record) if record else None

    def explained(self) -> Explanation:
        """Return the explanation."""
        if self.stage(self.row) in self.words.aside:
            return self._aside()
        if not self.candidates:
            return self._without_candidates()
        if len(self.candidates) > 1 and not self.is_example(self.row):
            return self._of_several()
        return self._of_candidates()

    def _aside(self) -> Explanation:
        step = self._step(self.row)
        gone = self._revoked({self.place.id, *(row["id"] for row in self.parents([self.row]))})
        prefix = self.words.aside[self.stage(self.row)].format(key=self.iteration.key)
        return explanation(
            self.place,
            f"{prefix}{step.reason}",
            in_dataset=False,
            steps=(step, *gone, *self.iteration.gates(), *self.iteration.decisions()),
        )

    def _without_candidates(self) -> Explanation:
        """Explain models, measurements, undecided records, and records of methods without filters."""
        gates: list[Step] = []
        training, stage = self.iteration.training(), self.stage(self.row)
        line, gone = self.line(self.row), self._revoked({row["id"] for row in self.line(self.row)})
        if self.words.verdict and (verdict := self.words.verdict(self)):
            steps = self._steps_of([*line, *self.after])
            return self._settled(verdict, steps, gone)
        if "dataset_activity_id" in self.row or "promoted" in self.row:
            is_told = self.place.id in {step.record for step in training}
            verdict, own = (
                (training[-1].reason, []) if is_told else (self.sentence(self.row), [self._step(self.row)])
            )
            return explanation(self.place, verdict, steps=(*own, *gone, *training))
        if stage == "evaluation":
            verdict = "a held-out answer: it is used for evaluation only, never for training"
            steps = [self._step(self.row), *gone, *self.iteration.decisions()]
            return explanation(self.place, verdict, steps=tuple(steps))
        if not self._decision_tables and self.iteration.dataset is None:
            return self._settled(
                f"{self.sentence(self.row)}; nothing is trained on it", self._steps_of(line), gone
            )
        why = self.words.unmade.get(stage, f"no {self.words.noun} was made from it yet")
        verdict = f"not in the dataset of {self.iteration.key}: {why}"
        return self._settled(verdict, self._steps_of(line), gone, gates, in_dataset=False)

    @cached_property
    def after(self) -> list[Row]:
        """Return all descendants of the record in its iteration."""
        found: dict[str, Row] = {}
        ahead = [self.row]
        while ahead:
            ahead = [row for row in self.children(ahead) if row["id"] not in found and self._is_here(row)]
            found |= {row["id"]: row for row in ahead}
        return list(found.values())

    def _of_several(self) -> Explanation:
        line = [row for row in self.line(self.row) if row["id"] not in {one["id"] for one in self.candidates}]
        examples = {row["id"]: row for one in self.candidates for row in self.examples(one)}
        here = [row for row in examples.values() if self._is_here(row)]
        kept = sum(fate.rule is None for fate in self.fates)
        tally = self.words.tally or (lambda rows: count(len(rows), self.words.noun))
        verdict = f"{tally(self.candidates)}, {kept:,} kept{by_rule(self.fates)}"
        verdict += f"; {count(len(here), 'example')} in the dataset of {self.iteration.key}"
        verdict += self._also(examples.values())
        beside = {row["id"]: row for rows in self.beside.values() for row in rows if self._covers(row)}
        steps = self._steps_of([*line, *beside.values()])
        gone = self._revoked({self.place.id, *(row["id"] for row in [*line, *beside.values()])})
        gates = self.iteration.gates() if here else []
        training = self.iteration.training([row["id"] for row in here]) if here else []
        if here:
            verdict += training_verdict(self.iteration.number, training, gates)
        return self._settled(
            verdict, steps, gone, [*gates, *training], in_dataset=bool(here), fates=tuple(self.fates)
        )

    def _covers(self, row: Row) -> bool:
        """Return whether a row is about several candidates at once, like a vote."""
        return sum(edge["role"] != SHOWN for edge in row["parents"]) > 1

    def _of_candidates(self) -> Explanation:
        examples: dict[str, Row] = {}
        for one in self.candidates:
            examples |= {row["id"]: row for row in self.examples(one)}
        if self.is_example(self.row):
            examples = {self.row["id"]: self.row}
        here = [row for row in examples.values() if self._is_here(row)]
        reported: dict[str, Row] = {}
        for one in self.candidates:
            line = self.line(one)
            judged = [row for row in line if isinstance(self._filter_of(row), int) and row is not one]
            scores = [row for row in self.children(judged) if self.stage(row) in self.words.beside]
            reported |= {row["id"]: row for row in [*line, *scores, *self.beside[one["id"]]]}
        steps = self._steps_of(reported.values())
        ending = [row for row in here if row["id"] not in reported]
        if self.row["id"] not in reported and not self._is_about() and not self.is_example(self.row):
            ending.append(self.row)
        steps += [self._step(row) for row in ending]
        every = [*reported.values(), *ending]
        gone = self._revoked(
            {*(row["id"] for row in every), *(edge["id"] for row in every for edge in row["parents"])}
        )
        gates = self.iteration.gates() if here else []
        training = self.iteration.training([row["id"] for row in here]) if here else []
        showings = tuple(self.showings) if self._is_shown_pool else ()
        verdict = self._verdict(steps, list(examples.values()), here, showings)
        if here:
            verdict += training_verdict(self.iteration.number, training, gates)
        dropped = any(step.passed is False for step in steps)
        in_dataset = None if showings and not here and not dropped else bool(here)
        return self._settled(
            verdict, steps, gone, [*gates, *training], in_dataset=in_dataset, showings=showings
        )

    def _settled(
        self,
        verdict: str,
        steps: Sequence[Step],
        gone: Sequence[Step],
        last: Sequence[Step] = (),
        in_dataset: bool | None = None,
        **more: Any,
    ) -> Explanation:
        """Return the explanation, with revocations first."""
        if gone:
            verdict = f"{gone[0].reason}, so it is excluded from later reads; otherwise: {verdict}"
            in_dataset = False if in_dataset is not None else None
        return explanation(self.place, verdict, in_dataset=in_dataset, steps=(*steps, *gone, *last), **more)

    def _verdict(
        self,
        steps: Sequence[Step],
        examples: Sequence[Row],
        here: Sequence[Row],
        showings: Sequence[Showing],
    ) -> str:
        key, candidate = self.iteration.key, self.candidates[0]
        dropped = next((step for step in steps if step.passed is False), None)
        rules = [step for step in steps if step.rule]
        if showings:
            return self._pool_verdict(dropped, here, showings)
        if here:
            form = here[0].get("format")
            made = "" if len(here) == 1 else f"{count(len(here), 'example')} "
            said = f"{made}in the dataset of {key}" + (f" as {form}" if form else "")
            in_short = [text for one in self.candidates if (text := self._in_short(one))]
            more = f"; and {len(in_short) - _LISTED:,} more" if len(in_short) > _LISTED else ""
            reported = f"{'; '.join(in_short[:_LISTED])}{more}"
            passed = f"it passed {count(len(rules), 'rule')}" if rules else ""
            return f"{said}{self._also(examples)}" + (f": {reported or passed}" if reported or passed else "")
        reported = f" ({short})" if (short := self._in_short(candidate)) else ""
        if dropped:
            return dropped_verdict(key, dropped) + reported
        if not rules:
            if self.words.undecided and (why := self.words.undecided(self, candidate)):
                return f"not in the dataset of {key}: {why}"
            return f"not in a dataset: the filters of {key} have not been applied to it yet{reported}"
        if self.iteration.dataset is None:
            return f"kept by every rule, but the dataset of {key} is not committed yet"
        return f"not in the dataset of {key}: kept by every rule, but no example was made from it"

    def _in_short(self, candidate: Row) -> str:
        return self.words.in_short(self, candidate) if self.words.in_short else ""

    def _also(self, examples: Iterable[Row]) -> str:
        """Name the other iterations whose datasets contain the examples."""
        later = sorted({row["iteration"] for row in examples} - {self.place.iteration})
        keys = (f"{self.place.experiment}-{number:03d}" for number in later)
        return f"and in that of {', '.join(keys)}" if later else ""

    def _pool_verdict(self, dropped: Step | None, here: Sequence[Row], showings: Sequence[Showing]) -> str:
        row = self.row
        by = f"a task of {row['source_file']}, line {row['source_line']}" if row.get("source_file") else ""
        said = by or "a task that the model added"
        if dropped:
            said += f", removed from the pool by the rule {dropped.rule}: {dropped.reason}"
        said += f"; {shown_verdict(showings)}"
        return f"{said}; {count(len(here), 'example')} of its own instances" if here else said

    @property
    def showings(self) -> list[Showing]:
        """Return the results of the iteration's prompts that showed the record and asked for something new.

        A prompt that shows it next to the task that the prompt is about, e.g. one for instances, is not
        counted.
        """
        shown = self.children([self.row], shown=True)
        prompts = [
            row
            for row in shown
            if self._is_here(row)
            and not self.is_example(row)
            and all(edge["role"] == SHOWN for edge in row["parents"])
        ]
        below = self._below(prompts) if prompts else []
        kept = [row for row in below if (made := self.decisions([row["id"]])) and made[-1]["kept"]]
        examples = {one["id"] for row in kept for one in self.examples(row) if self._is_here(one)}
        figures = (len(prompts), len(below), len(kept), len(examples))
        return [Showing(self.iteration.number, self.row["id"], *figures)]

    def on_parents(self) -> list[Step]:
        """Return the decisions of this iteration on the ancestors of the record."""
        made = self.decisions([row["id"] for row in self.parents([self.row])])
        return [step for row in made for step in self._steps(row)]

    # ---- steps ----------------------------------------------------------------------------------------

    def _steps_of(self, rows: Iterable[Row]) -> list[Step]:
        """Return the steps of rows and of the decisions on them: ancestors first, then in pipeline order."""
        known = {row["id"]: row for row in rows if not is_decision(row)}
        numbers = {row["iteration"] for row in known.values() if row.get("iteration") is not None}
        decisions = self._of_interest(self.decisions(list(known), numbers | {self.iteration.number}))
        waits: dict[str, set[str]] = {
            one: {edge["id"] for edge in row["parents"]} & known.keys() - {one} for one, row in known.items()
        }
        waits |= {row["id"]: {row["candidate_id"]} & known.keys() for row in decisions}
        ranks = {one: self._rank(row, row["table_name"], 1) for one, row in known.items()}
        ranks |= {row["id"]: self._rank(row, row["stage"], 0) for row in decisions}
        every = {**known, **{row["id"]: row for row in decisions}}
        order = {one: number for number, one in enumerate(every)}
        ready = [(ranks[one], order[one], one) for one in every if not waits[one]]
        heapq.heapify(ready)
        after: dict[str, list[str]] = {}
        for one, before in waits.items():
            for other in before:
                after.setdefault(other, []).append(one)
        steps: list[Step] = []
        while ready:
            *_, one = heapq.heappop(ready)
            steps += self._steps(every[one])
            for next_one in after.get(one, ()):
                waits[next_one].discard(one)
                if not waits[next_one]:
                    heapq.heappush(ready, (ranks[next_one], order[next_one], next_one))
        return steps

    def _of_interest(self, decisions: Sequence[Row]) -> list[Row]:
        """Return the decisions on the candidates, and those of other filters on their ancestors."""
        own = {row["id"] for row in self.candidates}
        if not self.words.shows:  # a response in the pool is an alternative to the model's response
            pooled = (
                {row["id"] for row in self.line(self.candidates[0]) if self._is_pool(row)} if own else set()
            )
            decisions = [row for row in decisions if row["candidate_id"] not in pooled - own]
        tables = {row["table_name"] for row in decisions if row["candidate_id"] in own}
        return [row for row in decisions if row["candidate_id"] in own or row["table_name"] not in tables]

    @staticmethod
    def _rank(row: Row, table: str, last: int) -> tuple[int, int, int]:
        iteration = row.get("iteration")
        return (-1 if iteration is None else iteration, position(table), last)

    def _steps(self, row: Row) -> Iterator[Step]:
        if is_decision(row):
            near = self._nearest(row)
            yield Step(
                row["stage"],
                self.reason(row),
                row["id"],
                rule=row["rule"],
                passed=row["kept"],
                score=row["score"],
                threshold=row["threshold"],
                nearest=Neighbour(near["id"], self.said(near)) if near else None,
            )
        elif self._is_pool(row) and row.get("source_file") and not self.words.shows:
            yield from self.source(row)
        elif row["table_name"].startswith("seeds/") and not self.words.shows:
            return  # reported with the row of the pool
        else:
            yield self._step(row)

    def _step(self, row: Row) -> Step:
        reason = self.words.place(row, self.candidates) if self.words.place else None
        return Step(
            row["table_name"],
            reason or self.sentence(row),
            row["id"],
            passed=self._passed(row),
            score=self.words.score(row) if self.words.score else None,
        )

    def _passed(self, row: Row) -> bool | None:
        if self.words.passed and (passed := self.words.passed(row)) is not None:
            return passed
        stage = row["table_name"]
        entered = (
            self.is_example(row)
            or self._is_pool(row)
            or stage.startswith("seeds/")
            or stage in self._admitted
        )
        return True if entered else row.get("passed")

    @cached_property
    def _admitted(self) -> set[str]:
        """Return the tables whose rows passed a filter."""
        decides = {one.activity.parameters.get("decides") for one in self._decision_tables}
        return {name for name, one in self.iteration.manifests.items() if one.activity.id in decides}

    def source(self, pooled: Row) -> list[Step]:
        """Return the steps of a pool row: its seed, and its sampling."""
        parent = pooled["parents"][0]["id"] if pooled["parents"] else None
        giver = next(iter(self.rows([parent])), {}) if parent else {}
        accepted, given_by = f"accepted from {source_of(pooled)}", giver.get("table_name")
        if giver and not str(given_by).startswith("seeds/"):
            accepted = (
                f"taken from the dataset of {words.key_of(giver)}, which took it from {source_of(pooled)}"
            )
        if pooled.get("date"):
            accepted += f", written on {pooled['date']}"
        key = words.key_of(pooled)
        given = pooled["activity"]["parameters"]
        chosen = f"sampled for {key} at random"
        drawn = next(
            (value for name, value in given.items() if name != "pool" and isinstance(value, int)), None
        )
        if "pool" in given and drawn is not None:
            chosen += f": {drawn:,} of {given['pool']:,} seeds, least used first"
        declared = registry.methods().get(self.method)
        fallback = declared.inputs[0].name if declared and declared.inputs else pooled["table_name"]
        return [
            Step(given_by or fallback, accepted, parent, passed=True),
            Step(pooled["table_name"], chosen, pooled["id"], passed=True),
        ]

    def _revoked(self, ids: set[str]) -> list[Step]:
        return all_revoked(self.lineage.lake, self.place.experiment, ids)
