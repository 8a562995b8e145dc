"""Why a record of Self-Instruct or Unnatural Instructions is in the training set, or why not.

Every row of the main line says what happened at its stage, and every rule what it said of these rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from selfimprove_dagster import tables
from selfimprove_dagster.lake import Lake
from selfimprove_dagster.lineage.explanation import (
    Explanation,
    Showing,
    by_rule,
    count,
    dropped_verdict,
    explanation,
    training_verdict,
)
from selfimprove_dagster.lineage.iteration import UNDECIDED, Fate, Neighbour, Step, all_revoked
from selfimprove_dagster.lineage.main_line import main_line
from selfimprove_dagster.lineage.task_records import OUTCOMES, TaskRecords, method_of
from selfimprove_dagster.lineage.task_words import quoted, score_of, sentence, text_of
from selfimprove_dagster.lineage.walk import Lineage, Place
from selfimprove_dagster.records import Row
from selfimprove_dagster.task_tables import SEED_TASKS

_ORDER = {table: position for position, table in enumerate(tables.TABLES)}
_SCORES = ("perplexity_scores", "similarity_scores")
_UNDECIDED: Row = {"kept": False, "rule": UNDECIDED, "reason": "not filtered yet", "nearest_id": None}


def explain_task(lake: Lake, lineage: Lineage, place: Place) -> Explanation:
    """The explanation of a record of these methods, seed tasks included."""
    line = main_line(lineage, place.id)
    method = method_of(lake, place.table, place.experiment)
    if method is None:
        steps = tuple(_told(line))
        verdict = f"a seed task of {line[0]['source_file']}, line {line[0]['source_line']}"
        return explanation(place, f"{verdict}: no iteration has shown it yet", steps=steps)
    records = TaskRecords(lake, lineage, place.experiment, method)
    return _Story(records, place, line).told()


@dataclass(frozen=True)
class _Story:
    records: TaskRecords
    place: Place
    line: Sequence[Row]

    @property
    def subject(self) -> Row:
        """The record itself; of a score or decision, what it was made of."""
        row = self.line[0]
        about = row.get("candidate_id") if self._stage(row).endswith((*_SCORES, "decisions")) else None
        return next((one for one in self.line if one["id"] == about), row)

    def told(self) -> Explanation:
        subject, place = self.subject, self.place
        pooled = self._pooled(subject)
        ids = [row["id"] for row in self.line] + [row["id"] for row in pooled]
        decided = self._decisions(ids, [row["iteration"] for row in pooled])
        examples = self.records.examples(self._makers(subject, pooled))
        if self._stage(subject) == "filtered_dataset":
            examples = [subject]
        here = [row for row in examples if place.iteration in (None, row["iteration"])]
        showings = tuple(self._showing(row) for row in pooled)
        fates = tuple(self._fates(subject))
        known = {place.id, *ids, *(row["id"] for row in here)}
        gone = all_revoked(self.records.lake, place.experiment, known)
        steps = sorted([*self._beside(), *decided], key=lambda step: step[0])
        in_story = [step for _, step in steps]
        gates, training = [], []
        if place.iteration is not None and here:
            iteration = self.records.iteration(place.iteration)
            gates, training = iteration.gates(), iteration.training()
            if self._stage(subject) != "filtered_dataset":
                in_story += _told(self._at(row) for row in here)
        dropped = next((step for step in in_story if step.passed is False), None)
        verdict = self._verdict(subject, dropped, in_story, examples, here, showings, fates)
        if here and place.iteration is not None:
            verdict += training_verdict(place.iteration, training, gates)
        if gone:
            verdict = f"{gone[0].reason}, so it is no longer handed on; otherwise: {verdict}"
        in_dataset: bool | None = bool(here) and not gone
        if pooled and not here and not dropped:
            in_dataset = None  # it is shown to the model, and none of its own instances is trained on
        return explanation(
            place,
            verdict,
            in_dataset=in_dataset,
            steps=(*in_story, *gone, *gates, *training),
            fates=fates,
            showings=showings,
        )

    # ---- what the record is, and where it went --------------------------------------------------------

    def _stage(self, row: Row) -> str:
        return str(row["table_name"]).split("/")[1]

    def _at(self, row: Row) -> Row:
        return {"table_name": f"{self.records.method}/filtered_dataset", **row}

    def _pooled(self, subject: Row) -> list[Row]:
        """The record in the pools of iterations: of a seed task in all, of a pool's task in its own."""
        if subject["table_name"].endswith("/seed_pool"):
            return [subject]
        if subject["table_name"] != SEED_TASKS.name:
            return []
        of_seed = pl.col("parents").list.eval(pl.element().struct.field("id")).list.contains(subject["id"])
        schema = tables.of(self.records.method, "seed_pool")
        return [
            {**row, "iteration": number, "table_name": schema.name}
            for number in self.records.iterations
            for row in self.records.iteration(number).rows(schema, of_seed)
        ]

    def _makers(self, subject: Row, pooled: Sequence[Row]) -> list[str]:
        """What the examples that came of the record name as their parents."""
        stage, records = self._stage(subject), self.records
        if pooled:
            return [row["id"] for row in pooled]
        if stage in OUTCOMES or stage == "accepted_tasks":
            return [subject["id"]]
        if stage == "candidate_tasks":
            return records.accepted(subject["iteration"], [subject["id"]])
        if stage == "raw_generations":
            read = records.rows(subject["iteration"], "candidate_tasks", "completion_id", [subject["id"]])
            return records.accepted(subject["iteration"], [row["id"] for row in read])
        return [subject["task_id"]] if "task_id" in subject else []

    def _fates(self, subject: Row) -> Iterable[Fate]:
        """What became of all that was read out of a completion, or made of an accepted task."""
        stage, number = self._stage(subject), subject.get("iteration")
        if number is None:
            return
        wanted = {
            "raw_generations": [("candidate_tasks", "completion_id", subject["id"])],
            "accepted_tasks": [(one, "task_id", subject["id"]) for one in OUTCOMES],
            "classified_tasks": [("task_instances", "task_id", subject.get("task_id"))],
            "instance_generations": [("task_instances", "task_id", subject.get("task_id"))],
        }.get(stage, [])
        rows = [row for key in wanted for row in self.records.rows(number, key[0], key[1], [str(key[2])])]
        last = {one["candidate_id"]: one for one in self.records.decisions(_ids(rows), [number], number)}
        called = self._called([one["nearest_id"] for one in last.values() if one["nearest_id"]])
        accepted = self.records.rows(number, "accepted_tasks", "candidate_id", _ids(rows))
        became = {row["candidate_id"]: row["id"] for row in accepted}
        examples = {
            edge["id"]: row["id"]
            for row in self.records.examples([*_ids(rows), *became.values()])
            if row["iteration"] == number
            for edge in row["parents"]
        }
        for row in rows:
            decided = last.get(row["id"], _UNDECIDED)
            rule = None if decided["kept"] else decided["rule"]
            example = examples.get(became.get(row["id"], row["id"]))
            reason = _reason(decided, *called)
            yield Fate(row["id"], row["sample_index"], text_of(row), rule, reason, example)

    def _showing(self, pooled: Row) -> Showing:
        """What came of the prompts of an iteration that showed a task of its pool."""
        iteration, records = self.records.iteration(pooled["iteration"]), self.records
        shown = pl.col("parents").list.eval(pl.element().struct.field("id")).list.contains(pooled["id"])
        prompts = _ids(iteration.rows(iteration.table("raw_generations"), shown))
        candidates = _ids(records.rows(iteration.number, "candidate_tasks", "completion_id", prompts))
        accepted = records.accepted(iteration.number, candidates)
        examples = [row for row in records.examples(accepted) if row["iteration"] == iteration.number]
        counts = (len(found) for found in (prompts, candidates, accepted, examples))
        return Showing(iteration.number, pooled["id"], *counts)

    # ---- steps ----------------------------------------------------------------------------------------

    def _beside(self) -> Iterable[tuple[tuple[int, int, int], Step]]:
        """The rows of the main line, and the scores of the candidates in it."""
        rows = {row["id"]: row for row in self.line if not self._stage(row).endswith("decisions")}
        for candidate in [row for row in self.line if self._stage(row) == "candidate_tasks"]:
            for stage in _SCORES:
                for row in self.records.rows(
                    candidate["iteration"], stage, "candidate_id", [candidate["id"]]
                ):
                    place = {"table_name": f"{self.records.method}/{stage}"}
                    rows.setdefault(row["id"], {**row, **place, "iteration": candidate["iteration"]})
        for row, step in zip(rows.values(), _told(rows.values()), strict=True):
            yield (row.get("iteration", -1), _ORDER[row["table_name"]], 1), step

    def _decisions(self, ids: Sequence[str], pools: Sequence[int]) -> list[tuple[tuple[int, int, int], Step]]:
        numbers = {row["iteration"] for row in self.line if "iteration" in row} | set(pools)
        if self.place.iteration is not None:
            numbers.add(self.place.iteration)
        rows = self.records.decisions(ids, numbers, self.place.iteration)
        near = [row["nearest_id"] for row in rows if row["nearest_id"]]
        names, texts = self._called(near)
        return [
            (
                (row["iteration"], _ORDER[row["stage"]], 0),
                Step(
                    row["stage"],
                    _reason(row, names, texts),
                    row["id"],
                    rule=row["rule"],
                    passed=row["kept"],
                    score=row["score"],
                    threshold=row["threshold"],
                    nearest=Neighbour(row["nearest_id"], texts[row["nearest_id"]])
                    if row["nearest_id"] in texts
                    else None,
                ),
            )
            for row in rows
        ]

    def _called(self, records: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
        """The names of records and what they say; what was revoked is named, not quoted."""
        quotable = self.records.lineage.rows(records)
        return self.records.names(records), {record: text_of(row) for record, row in quotable.items()}

    # ---- the verdict ----------------------------------------------------------------------------------

    def _verdict(
        self,
        subject: Row,
        dropped: Step | None,
        steps: Sequence[Step],
        examples: Sequence[Row],
        here: Sequence[Row],
        showings: Sequence[Showing],
        fates: Sequence[Fate],
    ) -> str:
        number = self.place.iteration
        key = self.records.iteration(number).key if number is not None else ""
        rules = count(sum(step.rule is not None for step in steps), "rule")
        if self._stage(subject) == "filtered_dataset":
            said = f"in the dataset of {key} as {subject['format']}"
            return said if rules.startswith("0 ") else f"{said}: it passed {rules}"
        if dropped and not showings:
            return dropped_verdict(key, dropped)
        if showings:
            return _of_pool(subject, dropped, here, showings)
        later = sorted({row["iteration"] for row in examples} - {number})
        also = (
            f", and in that of {', '.join(self.records.iteration(one).key for one in later)}" if later else ""
        )
        if self._stage(subject) == "raw_generations":
            kept = sum(fate.rule is None for fate in fates)
            said = f"{count(len(fates), 'candidate')} read out of it, {kept:,} accepted{by_rule(fates)}; "
            return f"{said}{count(len(here), 'example')} in the dataset of {key}{also}"
        if here:
            return f"{count(len(here), 'example')} in the dataset of {key} came of it{also}"
        if not any(step.rule for step in steps):
            return f"not in a dataset: the filters of {key} have not seen it yet"
        if (
            self.records.iteration(number or 0).manifest(tables.of(self.records.method, "filtered_dataset"))
            is None
        ):
            return f"kept by every rule, but the dataset of {key} is not committed yet"
        return f"not in the dataset of {key}: no example was made of it{by_rule(fates)}"


def _of_pool(subject: Row, dropped: Step | None, here: Sequence[Row], showings: Sequence[Showing]) -> str:
    by = f"a task of {subject['source_file']}, line {subject['source_line']}"
    said = by if subject.get("source_file") else "a task that the model added"
    if dropped:
        said += f", out of the pool by the rule {dropped.rule}: {dropped.reason}"
    total = Counter[str]()
    for one in showings:
        total.update({name: getattr(one, name) for name in ("prompts", "candidates", "accepted", "examples")})
    said += (
        f"; shown in {count(total['prompts'], 'prompt')} of {count(len(showings), 'iteration')}, of which "
        f"came {count(total['candidates'], 'candidate')}, {count(total['accepted'], 'accepted task')} and "
        f"{count(total['examples'], 'example')}"
    )
    if here:
        said += f"; {count(len(here), 'example')} of its own instances"
    return said


def _told(rows: Iterable[Row]) -> list[Step]:
    accepted = ("tasks", "seed_pool", "accepted_tasks", "filtered_dataset")
    return [
        Step(
            row["table_name"],
            sentence(row),
            row["id"],
            passed=True if row["table_name"].split("/")[1] in accepted else None,
            score=score_of(row),
        )
        for row in rows
    ]


def _reason(row: Row, names: dict[str, str], texts: dict[str, str]) -> str:
    near = row["nearest_id"]
    if near not in names:
        return str(row["reason"])
    said = str(row["reason"]).replace(near, names[near])
    if names[near] != near and near in texts:
        said += f": {quoted(texts[near])}"
    return said if row["threshold"] is None else f"{said}, against at most {row['threshold']:g}"


def _ids(rows: Iterable[Row]) -> list[str]:
    return [row["id"] for row in rows]
