"""Why a response or a preference stands in the training set, or why not, where a model or people judge.

What the filters choose from is a *candidate*: of Constitutional AI a revision of some round, a first response
or a person's (which goes by the id of its prompt), of RLAIF a preference, of RLHF and PIT a comparison.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import polars as pl

from selfimprove_dagster.errors import ExperimentError, LakeError
from selfimprove_dagster.families.dialogues.tables import SEED_COMPARISONS
from selfimprove_dagster.families.judging.prompts import OPTIONS
from selfimprove_dagster.families.preferences.filters import (
    compared_candidates,
    filter_preferences,
    judged_candidates,
)
from selfimprove_dagster.families.preferences.settings import PreferenceFilterSection
from selfimprove_dagster.families.refining.ways import EVALUATION, OUTCOME, REFLEXION, SELF_REFINE, STOPS
from selfimprove_dagster.families.tasks.explain import drawn_sentence, method_of, quoted
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
from selfimprove_dagster.methods.constitutional.constitutional import filter_revisions, revision_candidates
from selfimprove_dagster.methods.constitutional.settings import RevisionFilterSection
from selfimprove_dagster.methods.constitutional.tables import (
    CAI_CRITIQUES,
    CAI_RAW_GENERATIONS,
    CAI_REVISIONS,
    CAI_SEED_POOL,
)
from selfimprove_dagster.methods.pit.improving import PIT, UNTAUGHT
from selfimprove_dagster.methods.pit.pit import IMPROVEMENT
from selfimprove_dagster.methods.pit.tables import PIT_SEED_POOL
from selfimprove_dagster.methods.pit.tables import TABLES as PIT_TABLES
from selfimprove_dagster.methods.refinement.tables import METHOD as REFINEMENT
from selfimprove_dagster.methods.refinement.tables import TABLES as REFINEMENT_TABLES
from selfimprove_dagster.methods.rlaif.tables import (
    RLAIF_AI_PREFERENCES,
    RLAIF_RESPONSE_PAIRS,
    RLAIF_SEED_POOL,
)
from selfimprove_dagster.methods.rlhf.tables import RLHF_SEED_POOL
from selfimprove_dagster.table import Row, Table
from selfimprove_dagster.tables import JUDGE_METHODS, JUDGE_TABLES

_ASIDE = (
    *("judge_checks", "review_queue", "rollouts", "reward_model", "supervised_checkpoint"),
    *("improver_checkpoint", "gap_reward_model", "curriculum_checkpoint", "curriculum_rollouts"),
    *("improvement_rounds", "win_rates"),
)
"""Stages of which no candidate is made."""


def explain_judged(lake: Lake, lineage: Lineage, place: Place) -> Explanation:
    """The explanation of a record of Constitutional AI, RLAIF, RLHF or PIT, seeds included."""
    row = lineage.rows([place.id], withdrawn=True)[place.id]
    if place.iteration is None:
        return _explain_seed(lake, lineage, place, row)
    method, stage = place.table.split("/")
    iteration = Iteration(lake, place.experiment, place.iteration, method)
    if stage in _ASIDE:
        return _explain_aside(iteration, place, row)
    return Story(lineage, iteration, place, row).told()


def _explain_aside(iteration: Iteration, place: Place, row: Row) -> Explanation:
    """Of what measures a judge, or of what training made and wrote."""
    stage = place.table.split("/")[1]
    step = Step(place.table, sentence(row), place.id, passed=row.get("passed"))
    gone = all_revoked(iteration.lake, place.experiment, {place.id, row.get("prompt_id", "")})
    if stage == "judge_checks":
        verdict = f"it tells whether the judge of {iteration.key} can be trusted: {step.reason}"
        return explanation(place, verdict, steps=(step, *gone, *iteration.gates()))
    if stage == "review_queue":
        verdict = f"it is asked of people, and no dataset holds it: {step.reason}"
        return explanation(place, verdict, steps=(step, *gone))
    verdict = step.reason
    if stage in ("improvement_rounds", "win_rates"):
        verdict = f"of a held-out prompt, so that nothing is trained on it: {step.reason}"
    if stage.endswith("rollouts"):
        verdict = f"the policy wrote it while it was trained, and no dataset holds it: {step.reason}"
    return explanation(place, verdict, steps=(step, *gone, *iteration.training()))


def _explain_seed(lake: Lake, lineage: Lineage, place: Place, row: Row) -> Explanation:
    method = method_of(lake, place.table, place.experiment)
    accepted = Step(place.table, sentence(row), place.id, passed=True)
    gone = all_revoked(lake, place.experiment, {place.id})
    what = "a comparison" if place.table == SEED_COMPARISONS.name else "a prompt"
    if method is None:
        verdict = f"{what} of {row['source_file']}, line {row['source_line']}: no iteration has used it yet"
        return explanation(place, verdict, in_dataset=False, steps=(accepted, *gone))
    pool = POOLS[method]

    def fates(number: int, record: str) -> list[Fate]:
        iteration = Iteration(lake, place.experiment, number, method)
        here = Place(record, pool.name, place.experiment, number)
        return Story(lineage, iteration, here, lineage.rows([record], withdrawn=True)[record]).fates

    uses = tuple(uses_of(lake, place, pool, fates))
    total = sum((Counter(use.paths) for use in uses), Counter[str]())
    verdict = (
        f"{what} of {row['source_file']}, line {row['source_line']}: used in "
        f"{count(len(uses), 'iteration')}, {count(total.total(), NOUNS[method])}, {total['kept']:,} kept"
    )
    if gone:
        verdict = f"{gone[0].reason}; {verdict}"
    in_dataset = total["kept"] > 0 and not gone
    return explanation(place, verdict, in_dataset=in_dataset, steps=(accepted, *gone), uses=uses)


@dataclass(frozen=True)
class Story:
    """What the tables of one iteration say of one of its records."""

    lineage: Lineage
    iteration: Iteration
    place: Place
    row: Row

    @cached_property
    def candidates(self) -> list[Row]:
        """In the order of their rounds."""
        found = candidates_of(self.iteration, self.row)
        schema = CANDIDATES[self.iteration.method][0]
        return [{"table_name": schema.name, **row} for row in found]

    @cached_property
    def decisions(self) -> dict[str, list[Row]]:
        """What the rules said, by the candidate's id."""
        found: dict[str, list[Row]] = {}
        wanted = pl.col("candidate_id").is_in([row["id"] for row in self.candidates])
        for row in self.iteration.rows(self.iteration.table("decisions"), wanted):
            found.setdefault(row["candidate_id"], []).append(row)
        return found

    @cached_property
    def examples(self) -> dict[str, Row]:
        """The examples of the candidates' prompts, by the id of what they were made from."""
        prompts = {self._prompt_id, *(row.get("prompt_id") or row["id"] for row in self.candidates)}
        rows = self.iteration.rows(
            self.iteration.table("filtered_dataset"), pl.col("prompt_id").is_in(list(prompts))
        )
        made: dict[str, Row] = {}
        for row in rows:
            sources = [edge["id"] for edge in row["parents"] if edge["role"] in MADE_FROM]
            made[next(iter(sources), row["prompt_id"])] = row
        return made

    @property
    def _prompt_id(self) -> str:
        first = self.candidates[0] if self.candidates else self.row
        return str(self.row.get("prompt_id") or first.get("prompt_id") or first["id"])

    @cached_property
    def prompt(self) -> Row:
        return self.iteration.row(POOLS[self.iteration.method], "id", self._prompt_id)

    @cached_property
    def chain(self) -> list[Row]:
        """First response, critique, revision, critique, revision …, up to the record's own candidate."""
        if self.iteration.method != "constitutional" or not self.candidates:
            return []
        return chain_to(self.iteration, self.candidates[-1])

    @cached_property
    def fates(self) -> list[Fate]:
        """What became of each candidate."""
        return [self._fate(number, row) for number, row in enumerate(self.candidates)]

    def _fate(self, number: int, row: Row) -> Fate:
        decisions, example = self.decisions.get(row["id"]), self.examples.get(row["id"], {}).get("id")
        said = str(row["response"]).strip() if row.get("response") else said_of(row)
        if not decisions:
            return Fate(row["id"], number, said, UNDECIDED, "not filtered yet", example)
        last = decisions[-1]
        return Fate(
            row["id"], number, said, None if last["kept"] else last["rule"], self._reason(last), example
        )

    def told(self) -> Explanation:
        """Of one candidate every stage and every rule; of what several were made from, their fates."""
        several = len(self.candidates) > 1 and self.place.table.endswith(("/seed_pool", "/response_pairs"))
        steps = self.iteration.source(self.prompt)
        if several:
            kept = sum(fate.rule is None for fate in self.fates)
            noun = NOUNS[self.iteration.method]
            verdict = f"{count(len(self.fates), noun)}, {kept:,} kept{by_rule(self.fates)}"
            return self._settled(verdict, steps, tuple(self.fates))
        if not self.candidates:
            if self.place.table != POOLS[self.iteration.method].name:
                steps.append(self._step(self.row))
            verdict = f"not in the dataset of {self.iteration.key}: {self._unused()}"
            return self._settled(verdict, steps)
        (candidate,) = self.candidates
        steps += self._stages(candidate)
        rules = self._rules(candidate)
        return self._settled(self._verdict(candidate, rules), [*steps, *rules])

    def _unused(self) -> str:
        stage = self.place.table.split("/")[1]
        return {
            "seed_pool": "nothing was made of it yet",
            "response_pairs": "it was not judged yet",
            "comparisons": "no preference rests on it yet",
            "critiques": "nothing was revised by it yet",
        }.get(stage, "the filters have not seen it yet")

    def _stages(self, candidate: Row) -> Iterator[Step]:
        if self.iteration.method == "constitutional":
            for row in self.chain:
                yield self._step(row)
        elif self.iteration.method == "rlaif":
            wanted = [*candidate["response_ids"]]
            wanted += [edge["id"] for edge in candidate["parents"] if edge["role"] == "judged_by"]
            rows = self.lineage.rows(wanted, withdrawn=True)
            for record in wanted:
                if record in rows:
                    yield self._step(rows[record])
            yield replace(self._step(candidate), score=candidate["probability"])

    def _made_of(self) -> list[Step]:
        """The record itself, where it was made of an example."""
        return [self._step(self.row)] if self.place.table.endswith(OF_EXAMPLE) else []

    def _step(self, row: Row) -> Step:
        whole = row if "activity" in row else self.lineage.rows([row["id"]], withdrawn=True)[row["id"]]
        return Step(whole["table_name"], sentence(whole), whole["id"])

    def _rules(self, candidate: Row) -> list[Step]:
        rows = self.decisions.get(candidate["id"], [])
        return [
            Step(
                row["stage"],
                self._reason(row),
                row["id"],
                rule=row["rule"],
                passed=row["kept"],
                score=row["score"],
                threshold=row["threshold"],
                nearest=self._nearest(row["nearest_id"]),
            )
            for row in rows
        ]

    def _nearest(self, record: str | None) -> Neighbour | None:
        found = self.lineage.rows([record]) if record else {}
        return Neighbour(record, said_of(found[record])) if record and record in found else None

    def _reason(self, row: Row) -> str:
        """A rule's reason, with the words of the text that it names in place of its id."""
        near = self._nearest(row["nearest_id"])
        return str(row["reason"]).replace(near.id, quoted(near.text)) if near else str(row["reason"])

    def _in_short(self, candidate: Row) -> str:
        """What a candidate is, and what was said for it."""
        if self.iteration.method == "rlaif":
            return preference_words(candidate)
        if self.iteration.method in COMPARED:
            return (
                f"{self._chooser} chose {quoted(candidate['chosen'].strip())} over "
                f"{quoted(candidate['rejected'].strip())}"
            )
        if candidate["table_name"] == CAI_SEED_POOL.name:
            return "a person's response"
        if candidate["table_name"] == CAI_RAW_GENERATIONS.name:
            return "the first response"
        return revision_words(candidate, next((row for row in self.chain if _is_of(row, candidate)), {}))

    @property
    def _chooser(self) -> str:
        """Who preferred: people, or the experiment whose preferences are learnt from."""
        return next((str(row["labelled_by"]) for row in self.examples.values()), "people")

    def _verdict(self, candidate: Row, rules: list[Step]) -> str:
        key, short = self.iteration.key, self._in_short(candidate)
        example = self.examples.get(candidate["id"])
        dropped = next((step for step in rules if not step.passed), None)
        if example:
            form = "" if example["format"] == "preference" else f" as {example['format']}"
            margin = next((f"; {step.reason}" for step in rules if step.rule == "margin"), "")
            return f"in the dataset of {key}{form}: {short}{margin}"
        if dropped:
            return f"{dropped_verdict(key, dropped)} ({short})"
        if not rules and self.prompt.get("response"):
            return f"not in the dataset of {key}: a person's response to its prompt stands in its place"
        if not rules:
            return f"not in a dataset: the filters of {key} have not seen it yet ({short})"
        if self.iteration.manifest(self.iteration.table("filtered_dataset")) is None:
            return f"kept by every rule, but the dataset of {key} is not committed yet"
        return f"not in the dataset of {key}: kept by every rule, but no example holds it"

    def _settled(self, verdict: str, steps: list[Step], fates: tuple[Fate, ...] = ()) -> Explanation:
        """With the examples, what was revoked, closed gates and what was trained."""
        ids = [row["id"] for row in self.candidates]
        examples = [self.examples[record] for record in ids if record in self.examples]
        known = {self.place.id, self._prompt_id, *(edge["id"] for edge in self.prompt.get("parents", ()))}
        if not fates:
            known |= {*ids, *(row["id"] for row in [*self.chain, *examples])}
            known |= {record for row in self.candidates for record in row.get("response_ids") or ()}
        gone = all_revoked(self.iteration.lake, self.place.experiment, known)
        gates, training = [], []
        if examples:
            schema = self.iteration.table("filtered_dataset")
            for row in examples if not fates else ():
                said = sentence({**row, "table_name": schema.name})
                steps = [*steps, Step(schema.name, said, row["id"], passed=True), *self._made_of()]
            gates, training = self.iteration.gates(), self.iteration.training()
            verdict += training_verdict(self.iteration.number, training, gates)
        if gone:
            verdict = f"{gone[0].reason}, so it is no longer handed on; otherwise: {verdict}"
        return explanation(
            self.place,
            verdict,
            in_dataset=bool(examples) and not gone,
            steps=(*steps, *gone, *gates, *training),
            fates=fates,
        )


def _is_of(critique: Row, revision: Row) -> bool:
    return bool(critique["id"] == revision.get("critique_id"))


NOUNS = {
    "constitutional": "candidate",
    "rlaif": "preference",
    "rlhf": "comparison",
    "pit": "comparison",
}
"""What people call what the filters of a method choose from."""


CANDIDATES = {
    "constitutional": (CAI_REVISIONS, CAI_RAW_GENERATIONS, CAI_SEED_POOL),
    "rlaif": (RLAIF_AI_PREFERENCES,),
    "rlhf": (RLHF_SEED_POOL,),
    "pit": (PIT_SEED_POOL,),
}


POOLS = {
    "constitutional": CAI_SEED_POOL,
    "rlaif": RLAIF_SEED_POOL,
    "rlhf": RLHF_SEED_POOL,
    "pit": PIT_SEED_POOL,
}


COMPARED = ("rlhf", "pit")
"""Methods whose seeds are comparisons, which are what their filters choose from."""


OF_EXAMPLE = ("improver_dataset", "gap_pairs", "policy_references")
"""Stages whose rows were made of an example, the pair `example_id`."""


MADE_FROM = ("completion", "preference", "comparison")
"""The roles of the candidate that an example was made from."""


def candidates_of(iteration: Iteration, row: Row) -> list[Row]:
    """The candidates that a row of this iteration is, is about, was made from or was used for."""
    stage, method = row["table_name"].split("/")[1], iteration.method
    if stage in ("decisions", "review_queue"):
        wanted = pl.col("id") == row["candidate_id" if stage == "decisions" else "item_id"]
    elif stage == "filtered_dataset":
        made = [edge["id"] for edge in row["parents"] if edge["role"] in MADE_FROM]
        wanted = pl.col("id").is_in(made or [row["prompt_id"]])
    elif stage in OF_EXAMPLE:
        example = iteration.row(iteration.table("filtered_dataset"), "id", row["example_id"])
        wanted = pl.col("id") == example.get("prompt_id", row["prompt_id"])
    elif stage == "critiques":
        wanted = pl.col("id").is_in(
            [one["id"] for one in iteration.rows(CAI_REVISIONS, pl.col("critique_id") == row["id"])]
        )
    elif stage == "response_pairs":
        return iteration.rows(RLAIF_AI_PREFERENCES, pl.col("response_ids").list.contains(row["id"]))
    elif stage == "comparisons":
        first, second = row["response_ids"]
        pair = pl.col("response_ids").list
        return iteration.rows(RLAIF_AI_PREFERENCES, (pair.get(0) == first) & (pair.get(1) == second))
    elif stage == "seed_pool" and method not in COMPARED:
        return _of_prompt(iteration, row["id"])
    else:
        wanted = pl.col("id") == row["id"]
    return [found for schema in CANDIDATES[method] for found in _tabled(iteration, schema, wanted)]


def _of_prompt(iteration: Iteration, prompt: str) -> list[Row]:
    """The candidates of a prompt that were decided on, and those that may be."""
    of = pl.col("prompt_id") == prompt
    if iteration.method == "rlaif":
        return _tabled(iteration, RLAIF_AI_PREFERENCES, of)
    found = [
        *_tabled(iteration, CAI_SEED_POOL, pl.col("id") == prompt),
        *_tabled(iteration, CAI_RAW_GENERATIONS, of),
        *sorted(_tabled(iteration, CAI_REVISIONS, of), key=lambda row: int(row["round"])),
    ]
    known = _decided(iteration, found)
    return [row for row in found if row["id"] in known] if known else found[1:]


def _tabled(iteration: Iteration, schema: Table, wanted: pl.Expr) -> list[Row]:
    return [{**row, "table_name": schema.name} for row in iteration.rows(schema, wanted)]


def _decided(iteration: Iteration, candidates: Sequence[Row]) -> set[str]:
    ids = [row["id"] for row in candidates]
    rows = iteration.rows(iteration.table("decisions"), pl.col("candidate_id").is_in(ids))
    return {row["candidate_id"] for row in rows}


def chain_to(iteration: Iteration, candidate: Row) -> list[Row]:
    """First response, critique, revision …, in the order in which they were written, up to this one.

    Only what a person wrote has none. Rows have `table_name`.
    """
    found: list[Row] = []
    ahead = candidate["id"]
    while revised := next(iter(_tabled(iteration, CAI_REVISIONS, pl.col("id") == ahead)), None):
        critiques = _tabled(iteration, CAI_CRITIQUES, pl.col("id") == revised["critique_id"])
        found = [*critiques, revised, *found]
        ahead = revised["revises_id"]
    return [*_tabled(iteration, CAI_RAW_GENERATIONS, pl.col("id") == ahead), *found]


JudgeFilter = RevisionFilterSection | PreferenceFilterSection


SECTIONS: dict[str, tuple[str, type[JudgeFilter]]] = {
    "constitutional": ("filter", RevisionFilterSection),
    "rlaif": ("preferences", PreferenceFilterSection),
    "rlhf": ("preferences", PreferenceFilterSection),
    "pit": ("preferences", PreferenceFilterSection),
}
"""By method: the section of the experiment that says what is kept, and how it is read."""


THRESHOLDS = {
    "constitutional": ("round", "helpful_share"),
    "rlaif": ("minimum_margin",),
    "rlhf": ("minimum_margin",),
    "pit": ("minimum_margin",),
}
"""Those settings of the section by which candidates are kept."""


_READ: dict[str, tuple[Table, ...]] = {
    "constitutional": (CAI_SEED_POOL, CAI_RAW_GENERATIONS, CAI_REVISIONS),
    "rlaif": (RLAIF_AI_PREFERENCES, RLAIF_RESPONSE_PAIRS),
    "rlhf": (RLHF_SEED_POOL,),
    "pit": (PIT_SEED_POOL,),
}


def aliases(method: str) -> dict[str, str]:
    """The thresholds under the names that they have in an experiment's file."""
    return {f"{SECTIONS[method][0]}.{name}": name for name in THRESHOLDS[method]}


def asked(lake: Lake, place: Place) -> list[str]:
    """The ids of the candidates that a record is, is about, was made from or was used for.

    Raises ExperimentError for a record that no candidate of one iteration stands behind.
    """
    method, stage = place.table.split("/")
    if place.iteration is None or method not in SECTIONS or stage in _AFTER:
        raise ExperimentError(
            f"{place.id} ({place.table}) was not judged by thresholds; give an iteration, as "
            f"{place.experiment}-000, or a prompt, response, preference or example of it"
        )
    row = Lineage(lake).rows([place.id], withdrawn=True)[place.id]
    iteration = Iteration(lake, place.experiment, place.iteration, method)
    return [candidate["id"] for candidate in candidates_of(iteration, row)]


_AFTER = (
    *("judge_checks", "reward_model", "rollouts", "supervised_checkpoint"),
    *("improver_checkpoint", "gap_reward_model", "curriculum_checkpoint", "curriculum_rollouts"),
    *("improvement_rounds", "win_rates", "fine_tuned_checkpoint", "evaluation", "promotion"),
)


def thresholds(lake: Lake, dataset: Manifest, section: JudgeFilter) -> dict[str, Any]:
    """The thresholds by name; the round that is meant where the section leaves it open."""
    method = dataset.table.split("/")[0]
    values = {name: getattr(section, name) for name in THRESHOLDS[method]}
    if "round" in values and values["round"] is None:
        values["round"] = _rounds(lake, dataset)
    return values


def filter_again(lake: Lake, dataset: Manifest, section: JudgeFilter) -> pl.DataFrame:
    """Every decision of the dataset's filter under other settings, with the seed of its activity.

    Raises LakeError where tables were made again since, and ExperimentError for a round that was not made.
    """
    method = dataset.table.split("/")[0]
    frames = [_read(lake, dataset, schema) for schema in _READ[method]]
    if isinstance(section, RevisionFilterSection):
        made = _rounds(lake, dataset)
        chosen = made if section.round is None else section.round
        if chosen > made:
            raise ExperimentError(f"round {chosen} was not made; {dataset.table} has rounds 0 to {made}")
        pool, responses, revisions = frames
        candidates = revision_candidates(pool, responses, revisions, section.human_responses)
        return filter_revisions(
            candidates,
            chosen_round=chosen,
            helpful_share=section.helpful_share,
            seed=dataset.activity.seed,
        )[1]
    find = judged_candidates if method == "rlaif" else compared_candidates
    return filter_preferences(find(*frames), section.minimum_margin)[1]


def _rounds(lake: Lake, dataset: Manifest) -> int:
    revisions = lake.manifest(CAI_REVISIONS.name, dataset.partition)
    return int(revisions.activity.parameters["revisions"]["rounds"])


def _read(lake: Lake, dataset: Manifest, schema: Table) -> pl.DataFrame:
    manifest = lake.manifest(schema.name, dataset.partition)
    if manifest.activity.id not in dataset.activity.inputs:
        raise LakeError(
            f"{schema.name} was made again after the dataset {dataset.activity.id}; "
            f"materialise {dataset.table} again before asking what other thresholds would keep"
        )
    return lake.read_whole(manifest)


METHODS = (*JUDGE_METHODS, REFINEMENT)


TABLES = {schema.name for schema in (*JUDGE_TABLES, *REFINEMENT_TABLES, *PIT_TABLES)}


_LETTERS = tuple(option.strip() for option in OPTIONS)


_KINDS = {"red_team": "a red-team prompt", "helpful": "a prompt for help"}


def said_of(row: Row) -> str:
    """What a row says, in short; empty for scores, decisions and models."""
    if row.get("chosen") is not None:
        return str(row["chosen"])
    if "first_kind" in row:
        return gap_words(row)
    if "probability_a" in row:
        return comparison_words(row)
    if "outcome" in row:
        return _contest(row)
    if "first" in row:
        return preference_words(row)
    said = (row.get(name) for name in ("completion", "text", "statement", "prompt"))
    return next((text.strip() for text in said if text), row.get("error") or "")


def sentence(row: Row) -> str:
    """What happened at the stage of this row (one of `Lineage.rows`), as a sentence."""
    describe = _SENTENCES.get(row["table_name"].split("/")[1])
    return describe(row) if describe else quoted(said_of(row))


def revision_words(revision: Row, critique: Row) -> str:
    """A revision with the critique that it answers; `critique` is empty where that was revoked."""
    said = f": critique {quoted(critique['text'].strip())}" if critique else ""
    return f"{_round(revision)}{said}"


def preference_words(row: Row) -> str:
    """Which response is preferred, how sure, and what it got in each order: `(B) by 0.71: 0.64 as second, …`.

    (A) is the first response of the pair and (B) the second, whichever was shown first.
    """
    second = row["probability"] < 0.5
    own = _of_preferred(row["probability"], second)
    # `as_first` is of the first response as (A); then the second is (B).
    places = ("second", "first") if second else ("first", "second")
    shown = zip(places, (row["as_first"], row["as_second"]), strict=True)
    orders = [f"{_of_preferred(value, second):.2f} as {place}" for place, value in shown if value is not None]
    return f"{_LETTERS[second]} by {own:.2f}: {', '.join([*orders, _principles(row['principles'])])}"


def comparison_words(row: Row) -> str:
    """What a judge said of one pair in one order."""
    preferred_a = row["probability_a"] >= 0.5
    # In order 1 the second response of the pair is shown as (A).
    of_pair = _LETTERS[(row["order"] == 1) == preferred_a]
    sure = max(row["probability_a"], 1 - row["probability_a"])
    shown = "first" if preferred_a else "second"
    asked = "asked again at another seed: " if row["repeat"] else ""
    thought = f", after the thought {quoted(row['reasoning'].strip())}" if row["reasoning"] else ""
    return f"{asked}{of_pair} by {sure:.2f}, shown {shown}, {_principles([row['principle']])}{thought}"


def _of_preferred(probability: float, second: bool) -> float:
    return 1 - probability if second else probability


def _principles(names: Sequence[str]) -> str:
    return f"principle{'' if len(names) == 1 else 's'} {', '.join(names)}"


def _round(row: Row) -> str:
    return f"round {row['round']} by principle {row['principle']}"


def _source(row: Row) -> str:
    return f"accepted from {row['source_file']}, line {row['source_line']} (licence: {row['licence']})"


def _given(row: Row) -> str:
    if "chosen" in row:
        chose = f"{quoted(row['chosen'].strip())} over {quoted(row['rejected'].strip())}"
        return f"{_source(row)}: to {quoted(row['prompt'])} people chose {chose}"
    answered = f", answered by a person: {quoted(row['response'].strip())}" if row["response"] else ""
    return f"{_source(row)}, {_KINDS[row['kind']]}: {quoted(row['prompt'])}{answered}"


def gap_words(row: Row) -> str:
    """A term of the gap loss: which response is above which, each against its reference."""
    sides = (f"r({row[f'{which}_kind']}), {quoted(row[which].strip())}" for which in ("first", "second"))
    return f"{' above '.join(sides)}, probability {row['probability']:.2f}"


def _improver_example(row: Row) -> str:
    after = "the worse response" if row["format"] == IMPROVEMENT else "the prompt alone"
    return f"learnt after {after}: {quoted(row['completion'].strip())}"


def _round_of_improvement(row: Row) -> str:
    if row["round"] == 0:
        return f"the champion's response to a held-out prompt: {quoted(row['text'].strip())}"
    by = _IMPROVED_BY.get(row["way"], row["way"])
    gap = (
        ""
        if row["gap_reward"] is None
        else f", gap reward {row['gap_reward']:.3g} against {row['tie_reward']:.3g}"
    )
    return f"improved {by} in round {row['round']}{gap}: {quoted(row['text'].strip())}"


_IMPROVED_BY = {
    PIT: "by the new checkpoint",
    UNTAUGHT: "by the champion, asked alike",
    SELF_REFINE: "by the champion with feedback of its own",
    REFLEXION: "by the champion with reflections of its own",
}


def _contest(row: Row) -> str:
    said = {"win": "wins against", "loss": "loses to", "tie": "ties with"}[row["outcome"]]
    first, second = (row[name].replace("_", "-") for name in ("first", "second"))
    return (
        f"{first} {said} {second} by {row['judge']} ({row['preferred']:.2f}): "
        f"{quoted(row['first_text'].strip())} against {quoted(row['second_text'].strip())}"
    )


def _example(row: Row) -> str:
    if "chosen" not in row:
        return f"in the dataset as {row['format']}: {quoted(row['completion'].strip())}"
    pair = f"{quoted(row['chosen'].strip())} over {quoted(row['rejected'].strip())}"
    return f"in the dataset: {pair}, probability {row['probability']:.2f}"


def _model(what: str) -> Callable[[Row], str]:
    def words(row: Row) -> str:
        said = f"{what} {row['model_id']}, trained on {row['examples']:,} examples in {row['steps']:,} steps"
        accuracy = row.get("held_out_accuracy")
        if accuracy is None:
            return said
        return f"{said}; {accuracy:.1%} of {row['held_out_pairs']:,} held-out pairs right"

    return words


def _rollout(row: Row) -> str:
    advantage = "" if row["advantage"] is None else f", advantage {row['advantage']:.3g}"
    return (
        f"written at step {row['step']}, reward {row['reward']:.3g}{advantage}: {quoted(row['text'].strip())}"
    )


def _check(row: Row) -> str:
    outcome = "passed" if row["passed"] else "failed" if row["passed"] is False else "noted"
    return f"{row['measure']} {outcome}: {row['statement']}"


def step_words(row: Row) -> str:
    """What was said or found in a step of a refinement."""
    if row["kind"] == OUTCOME:
        text = quoted((row["text"] or "").strip()) if row["text"] else "no answer"
        why = row["error"] or STOPS[row["stopped"]]
        return f"stopped, {why}: {text}"
    if row["error"]:
        return f"failed: {row['error']}"
    if row["kind"] == EVALUATION:
        sure = "" if row["score"] is None else f" by {row['score']:.2f}"
        return f"{'content' if row['is_fine'] else 'not content'}{sure}"
    return quoted(row["text"].strip())


def _refinement(row: Row) -> str:
    way = row["way"].replace("_", "-")
    return f"{way}, round {row['round']}, {row['kind']}: {step_words(row)}"


def _of_pair(row: Row) -> str:
    return f"response {_LETTERS[row['sample_index']]} of the pair, {drawn_sentence(row)}"


_SENTENCES: Mapping[str, Callable[[Row], str]] = {
    "prompts": _given,
    "comparisons": lambda row: comparison_words(row) if "probability_a" in row else _given(row),
    "seed_pool": _given,
    "raw_generations": drawn_sentence,
    "critiques": lambda row: f"{_round(row)}: critique {quoted(row['text'].strip())}",
    "revisions": lambda row: f"{_round(row)}: {quoted(row['text'].strip())}",
    "response_pairs": _of_pair,
    "ai_preferences": preference_words,
    "review_queue": lambda row: f"uncertain by {row['uncertainty']:.2f}: {row['reason']}",
    "judge_checks": _check,
    "filtered_dataset": _example,
    "supervised_checkpoint": _model("supervised model"),
    "improver_dataset": _improver_example,
    "improver_checkpoint": _model("improver"),
    "gap_pairs": gap_words,
    "gap_reward_model": _model("gap reward model"),
    "curriculum_checkpoint": _model("policy of the first phase"),
    "curriculum_rollouts": _rollout,
    "policy_references": lambda row: f"a reference of the second phase, {drawn_sentence(row)}",
    "improvement_rounds": _round_of_improvement,
    "win_rates": _contest,
    "reward_model": _model("reward model"),
    "rollouts": _rollout,
    "refinements": _refinement,
}
