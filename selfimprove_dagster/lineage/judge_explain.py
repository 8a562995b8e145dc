"""Why a response or a preference stands in the training set, or why not, where a model or people judge.

What the filters choose from is a *candidate*: of Constitutional AI a revision of some round, a first response
or a person's (which goes by the id of its prompt), of RLAIF a preference, of RLHF and PIT a comparison.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import polars as pl

from selfimprove_dagster import judge_tables as t
from selfimprove_dagster.lake import Lake
from selfimprove_dagster.lineage.explanation import (
    Explanation,
    by_rule,
    count,
    dropped_verdict,
    explanation,
    training_verdict,
    uses_of,
)
from selfimprove_dagster.lineage.iteration import (
    UNDECIDED,
    Fate,
    Iteration,
    Neighbour,
    Step,
    all_revoked,
)
from selfimprove_dagster.lineage.judge_records import (
    CANDIDATES,
    COMPARED,
    MADE_FROM,
    NOUNS,
    OF_EXAMPLE,
    POOLS,
    candidates_of,
    chain_to,
)
from selfimprove_dagster.lineage.judge_words import preference_words, revision_words, said_of, sentence
from selfimprove_dagster.lineage.task_records import method_of
from selfimprove_dagster.lineage.task_words import quoted
from selfimprove_dagster.lineage.walk import Lineage, Place
from selfimprove_dagster.records import Row

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
    what = "a comparison" if place.table == t.SEED_COMPARISONS.name else "a prompt"
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
        if candidate["table_name"] == t.CAI_SEED_POOL.name:
            return "a person's response"
        if candidate["table_name"] == t.CAI_RAW_GENERATIONS.name:
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
