"""Why a record of Self-Instruct or Unnatural Instructions is in the training set, or why not.

Every row of the main line says what happened at its stage, and every rule what it said of these rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from selfimprove_dagster import tables
from selfimprove_dagster.errors import ExperimentError, LakeError
from selfimprove_dagster.families.tasks.files import BannedInstruction
from selfimprove_dagster.families.tasks.tables import SEED_TASKS
from selfimprove_dagster.families.tasks.tasks import normalise_instruction
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lineage.explanation import (
    Explanation,
    Showing,
    by_rule,
    count,
    dropped_verdict,
    explanation,
    training_verdict,
)
from selfimprove_dagster.lineage.iteration import (
    UNDECIDED,
    Fate,
    Iteration,
    Neighbour,
    Step,
    all_revoked,
    rows_of,
)
from selfimprove_dagster.lineage.main_line import main_line, shown_to
from selfimprove_dagster.lineage.walk import Lineage, Place
from selfimprove_dagster.methods.self_instruct.admission import admit, apply_novelty, apply_rules
from selfimprove_dagster.methods.self_instruct.settings import TaskFilterSection
from selfimprove_dagster.methods.self_instruct.tables import (
    SI_CANDIDATE_TASKS,
    SI_PERPLEXITY_SCORES,
    SI_RAW_GENERATIONS,
    SI_SEED_POOL,
    SI_TASK_DECISIONS,
)
from selfimprove_dagster.table import Row
from selfimprove_dagster.tables import TASK_TABLES

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


TASK_METHODS = {schema.name.split("/")[0] for schema in TASK_TABLES} - {"seeds"}
"""The methods whose model writes tasks."""


OUTCOMES = ("task_instances", "task_outputs", "paraphrases")
"""The stages whose rows become examples of an accepted task, whichever a method has."""


@dataclass(frozen=True)
class TaskRecords:
    """The records of one experiment whose model writes tasks; withdrawn rows too."""

    lake: Lake
    lineage: Lineage
    experiment: str
    method: str

    def iteration(self, number: int) -> Iteration:
        """One of its iterations."""
        return Iteration(self.lake, self.experiment, number, self.method)

    def rows(self, iteration: int, stage: str, column: str, values: Iterable[str]) -> list[Row]:
        """The rows of a stage whose column has one of the values; none where a method lacks the stage."""
        manifest = self.iteration(iteration).manifests.get(f"{self.method}/{stage}")
        return rows_of(manifest, pl.col(column).is_in(list(values))) if manifest else []

    @cached_property
    def iterations(self) -> list[int]:
        """Those that have a pool."""
        found = self.lake.manifests(f"{self.method}/seed_pool", self.experiment)
        return [manifest.iteration for manifest in found]

    def examples(self, parents: Iterable[str]) -> list[Row]:
        """The examples of all iterations that name one of the records as what they were made from."""
        wanted, ids = list(parents), pl.element().struct.field("id")
        named = pl.col("parents").list.eval(ids.is_in(wanted)).list.any()
        return [
            {**row, "iteration": manifest.iteration}
            for manifest in self.lake.manifests(f"{self.method}/filtered_dataset", self.experiment)
            for row in (rows_of(manifest, named) if wanted else ())
        ]

    def accepted(self, iteration: int, candidates: Iterable[str]) -> list[str]:
        """The ids of the accepted tasks that candidates became."""
        return [row["id"] for row in self.rows(iteration, "accepted_tasks", "candidate_id", candidates)]

    def decisions(self, ids: Sequence[str], iterations: Iterable[int], at: int | None) -> list[Row]:
        """All decisions on the records, with `iteration` and in the order in which they were made.

        An instance is decided on again in every later iteration; then the decisions of `at` count, or else
        the last ones.
        """
        wanted = set(iterations)
        found: dict[tuple[str, str], list[Row]] = {}
        for manifest in self.lake.manifests(f"{self.method}/*decisions", self.experiment):
            if manifest.iteration not in wanted:
                continue
            made: dict[tuple[str, str], list[Row]] = {}
            for row in rows_of(manifest, pl.col("candidate_id").is_in(list(ids))):
                key = row["candidate_id"], manifest.table
                made.setdefault(key, []).append({**row, "iteration": manifest.iteration})
            for key, rows in made.items():
                if key not in found or found[key][0]["iteration"] != at:
                    found[key] = rows
        return [row for rows in found.values() for row in rows]

    def names(self, ids: Iterable[str]) -> dict[str, str]:
        """What people call tasks of a pool and accepted ones; others keep their ids.

        `the seed task of seeds.jsonl, line 12`, or `task 112 of iteration 2`: the 112th that it accepted.
        """
        rows = self.lineage.rows(ids, withdrawn=True)
        return {record: self._name(row) for record, row in rows.items()}

    def _name(self, row: Row) -> str:
        stage = row["table_name"].split("/")[1]
        if row.get("source_file"):
            return f"the seed task of {row['source_file']}, line {row['source_line']}"
        accepted = {
            "seed_pool": [edge["id"] for edge in row["parents"]],
            "accepted_tasks": [row["id"]],
            "candidate_tasks": self.accepted(row["iteration"], [row["id"]])
            if stage == "candidate_tasks"
            else [],
        }.get(stage, [])
        for record, place in self.lineage.rows(accepted, withdrawn=True).items():
            manifest = self.iteration(place["iteration"]).manifests[f"{self.method}/accepted_tasks"]
            number = self.lake.read_whole(manifest)["id"].to_list().index(record) + 1
            return f"task {number} of iteration {place['iteration']}"
        return str(row["id"])


def method_of(lake: Lake, table: str, experiment: str) -> str | None:
    """The method of a record's experiment: its table's, and for seeds that of the pools they went into."""
    method = table.split("/")[0]
    if method != "seeds":
        return method
    found = lake.manifests("*/seed_pool", experiment)
    return found[0].table.split("/")[0] if found else None


THRESHOLDS = ("maximum_rouge_l", "maximum_perplexity", "least_words", "most_words")
"""The fields of an experiment's `filter` section that decide which tasks join the pool."""


ALIASES = {"novelty": "maximum_rouge_l", "perplexity": "maximum_perplexity"}


def candidates_of(lake: Lake, place: Place) -> tuple[int, list[str]]:
    """The iteration whose candidates a record is, was made from, or holds; and their ids.

    Raises ExperimentError for a record that no candidate stands behind.
    """
    lineage = Lineage(lake)
    for row in main_line(lineage, place.id):
        if row["table_name"] == SI_CANDIDATE_TASKS.name:
            return row["iteration"], [row["id"]]
        if row["table_name"] == SI_RAW_GENERATIONS.name:
            records = TaskRecords(lake, lineage, place.experiment, "self_instruct")
            read = records.rows(row["iteration"], "candidate_tasks", "completion_id", [row["id"]])
            return row["iteration"], [one["id"] for one in read]
    raise ExperimentError(
        f"{place.id} ({place.table}) was not judged by thresholds; give an iteration, as "
        f"{place.experiment}-000, or a candidate, accepted task, instance or example"
    )


def filter_again(lake: Lake, accepted: Manifest, section: TaskFilterSection) -> pl.DataFrame:
    """Every decision on the candidates of an iteration, under other thresholds, novelty last.

    Raises LakeError where the tables that the rules read were made again since.
    """

    frames = {}
    for schema in (SI_CANDIDATE_TASKS, SI_PERPLEXITY_SCORES):
        manifest = lake.manifest(schema.name, accepted.partition)
        if manifest.activity.id not in accepted.activity.inputs:
            raise LakeError(
                f"{schema.name} was made again after the accepted tasks {accepted.activity.id}; materialise "
                f"{accepted.table} again before asking what other thresholds would keep"
            )
        frames[schema.name] = lake.read_whole(manifest)
    pool = lake.manifest(SI_SEED_POOL.name, accepted.partition)
    ruled, decisions = apply_rules(
        frames[SI_CANDIDATE_TASKS.name],
        frames[SI_PERPLEXITY_SCORES.name],
        section,
        _bans(lake, accepted, pool),
    )
    _, on_novelty = apply_novelty(ruled, admit(lake.read_whole(pool), ruled, section), section)
    return pl.concat([decisions, on_novelty])


def _bans(lake: Lake, accepted: Manifest, pool: Manifest) -> dict[str, BannedInstruction]:
    """What was banned then: the pool's activity names the instructions, the decisions who said so."""
    decisions = lake.read_whole(lake.manifest(SI_TASK_DECISIONS.name, accepted.partition))
    told = decisions.filter(pl.col("rule") == "banned", ~pl.col("kept"))
    candidates = lake.read_whole(lake.manifest(SI_CANDIDATE_TASKS.name, accepted.partition))
    reasons = {
        normalise_instruction(text): reason.removeprefix("banned by ")
        for text, reason in told.join(candidates, left_on="candidate_id", right_on="id")
        .select("instruction", "reason")
        .iter_rows()
    }
    bans = {}
    for key in pool.activity.parameters["banned"]:
        by, _, why = reasons.get(key, "a person: in the file of bans").partition(": ")
        bans[key] = BannedInstruction(key, by, why, "", 0)
    return bans


_FORMS = {"input_first": "inputs first", "output_first": "labels first"}


EXCERPT = 160
"""Characters of a text that a sentence quotes."""


def quoted(text: str) -> str:
    """The beginning of a text in quotation marks."""
    return f"“{text if len(text) <= EXCERPT else text[: EXCERPT - 1] + '…'}”"


def text_of(row: Row) -> str:
    """What a row of any stage says, in short; empty for scores and decisions."""
    if row.get("output") is not None and "input" in row:
        return f"{row['input']} → {row['output']}" if row["input"] else str(row["output"])
    said = (row.get(name) for name in ("paraphrase", "instruction", "text", "question"))
    return next((text for text in said if text), "")


def sentence(row: Row) -> str:
    """What happened at the stage of this row (one of `Lineage.rows`), as a sentence."""
    describe = _SENTENCES.get(row["table_name"].split("/")[1])
    return describe(row) if describe else quoted(text_of(row))


def score_of(row: Row) -> float | None:
    """The number that a row of scores holds."""
    if row["table_name"].endswith("/perplexity_scores"):
        return float(row["perplexity"])
    if row["table_name"].endswith("/similarity_scores") and row["neighbours"]:
        return float(row["neighbours"][0]["rouge_l"])
    return None


def _seed(row: Row) -> str:
    place = f"{row['source_file']}, line {row['source_line']} (licence: {row['licence']})"
    return f"accepted from {place}: {quoted(row['instruction'])}"


def _in_pool(row: Row) -> str:
    by = "a person" if row["origin"] == "human" else "the model in an earlier iteration"
    return f"in the pool of {_key(row)}, written by {by}: {quoted(row['instruction'])}"


def drawn_sentence(row: Row) -> str:
    """By whom and how a completion was drawn, and its text."""
    activity: Mapping[str, Any] = row["activity"]
    sampled = [one for one in activity["parameters"].values() if isinstance(one, dict)]
    temperature = next((one["temperature"] for one in sampled if "temperature" in one), None)
    how = f"at temperature {temperature}, seed {row['seed']}" if temperature else "greedily"
    shown = shown_to(row)
    after = f" after {shown} demonstration{'' if shown == 1 else 's'}" if shown else ""
    form = f", {_FORMS[row['form']]}" if row.get("form") in _FORMS else ""
    by = f"{activity['about'].get('champion', 'the model')} {activity['model_id']}"
    return f"drawn {how} from {by}{after}{form}; ended by {row['finish_reason']}: {quoted(row['text'])}"


def _read(row: Row) -> str:
    return f"not a task: {row['problem']}" if row["problem"] else f"read out of it: {quoted(text_of(row))}"


def _perplexity(row: Row) -> str:
    return f"perplexity {row['perplexity']:.4g} over {row['tokens']} tokens of the instruction"


def _similarity(row: Row) -> str:
    near = row["neighbours"]
    highest = f"the nearest at ROUGE-L {near[0]['rouge_l']:.2f}" if near else "nothing to compare it with"
    return f"compared with the {row['pool']:,} tasks of the pool as it then was: {highest}"


def _classified(row: Row) -> str:
    answer = "has a few labels to choose from" if row["is_classification"] else "is no classification"
    return f"{answer}: probability of Yes {row['yes']:.2f}"


def _key(row: Row) -> str:
    return f"{row['experiment']}-{row['iteration']:03d}"


_SENTENCES: dict[str, Callable[[Row], str]] = {
    "tasks": _seed,
    "seed_pool": _in_pool,
    "raw_generations": drawn_sentence,
    "candidate_tasks": _read,
    "perplexity_scores": _perplexity,
    "similarity_scores": _similarity,
    "accepted_tasks": lambda row: f"accepted in {_key(row)}: {quoted(row['instruction'])}",
    "classified_tasks": _classified,
    "instance_generations": drawn_sentence,
    "task_instances": _read,
    "task_outputs": drawn_sentence,
    "paraphrases": lambda row: f"not used: {row['problem']}" if row["problem"] else drawn_sentence(row),
    "filtered_dataset": lambda row: f"in the dataset as {row['format']}",
}
