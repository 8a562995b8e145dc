"""The pages of the methods whose model writes tasks: the pool, what joins it, and the examples made of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from selfimprove_dagster.drawing import drawn_with
from selfimprove_dagster.evaluation.diversity import distinct_ngram_share
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.explorer.curves import (
    Chart,
    Curve,
    Measured,
    curve,
    decided_by,
    held_out_accuracy,
    series,
)
from selfimprove_dagster.explorer.declare import Block, Pages, RecordBlock
from selfimprove_dagster.explorer.funnel import Stages, Step, by_rule, kept_share, step
from selfimprove_dagster.explorer.listings import FORMAT, HERE, SO_FAR, Column, Facet, Listing, Range, dropped
from selfimprove_dagster.export_cards import Card, CardWords
from selfimprove_dagster.families.tasks.statistics import length_histogram, verb_noun_counts
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.table import Row


def pages(
    method: str,
    examples: Listing,
    shown: str,
    instances: Listing,
    kept: str,
    *curves: Curve,
    record: Sequence[RecordBlock] = (),
) -> Pages:
    """The pages of a method of this family.

    `shown` is the column of candidate tasks that is shown below the instruction, `instances` the list of dropped
    instances, and `kept` says what the kept share counts. `curves` are charts after the common ones, and
    `record` holds parts of a record's page.
    """
    return Pages(
        examples=examples,
        dropped={"tasks": candidates(method, shown), "instances": instances, "pool": left_pool(method)},
        funnel=_funnel,
        measure=_measure,
        charts=_charts(kept, curves),
        blocks=[Block(Path(__file__).with_name("pool.html"), pool_of)],
        follows_seed=False,
        record=record,
    )


# ---- an experiment -----------------------------------------------------------------------------------


_POOL = Curve("pool", "Pool", "Tasks that the iteration's prompts could show.")


_YIELD = Curve(
    "yield",
    "Yield",
    "Accepted tasks per candidate. Near zero the model repeats what is in the pool: below the dashed line "
    "the loop stops.",
    True,
)


_DISTINCT = Curve(
    "distinct", "Diversity", "Distinct 4-grams over all 4-grams of the accepted instructions.", True
)


def _charts(kept: str, more: Sequence[Curve]) -> Callable[[Experiment, Sequence[Measured]], list[Chart]]:
    share = Curve("kept_share", "Kept share", f"{kept} that no rule dropped, of all iterations so far.", True)

    def charts(experiment: Experiment, rows: Sequence[Measured]) -> list[Chart]:
        least = series("the loop stops below", [experiment.budget.minimum_yield] * len(rows))
        return [
            held_out_accuracy(rows, decided_by(experiment)),
            curve(_POOL, rows),
            curve(_YIELD, rows, least),
            *(curve(one, rows) for one in (share, _DISTINCT, *more)),
        ]

    return charts


def _measure(lake: Lake, stages: Stages) -> Row:
    """The figures of one iteration; None where a stage is not committed."""

    def rows(stage: str) -> int | None:
        return lake.live_rows(stages[stage]) if stage in stages else None

    def column(stage: str, name: str) -> pl.Series | None:
        return lake.read_columns(stages[stage], [name])[name] if stage in stages else None

    accepted, candidates = rows("accepted_tasks"), rows("candidate_tasks")
    said, perplexity = column("accepted_tasks", "instruction"), column("perplexity_scores", "perplexity")
    return {
        "pool": rows("seed_pool"),
        "yield": accepted / candidates if accepted is not None and candidates else None,
        "kept_share": kept_share(lake, stages),
        "distinct": None if said is None else distinct_ngram_share(said.to_list()),
        "perplexity": None if perplexity is None else perplexity.mean(),
    }


# ---- an iteration ------------------------------------------------------------------------------------


def _funnel(lake: Lake, stages: Stages) -> list[Step]:
    """The steps from the pool to accepted tasks, and from their instances to training examples."""
    steps: list[Step] = []
    if "pool_decisions" in stages:
        out = lake.read_columns(stages["pool_decisions"], ["kept"]).filter(~pl.col("kept"))
        pool = lake.live_rows(stages["seed_pool"]) if "seed_pool" in stages else 0
        steps.append(step("tasks in the pool", pool, len(out), "rejected?of=pool"))
    if "raw_generations" in stages:
        steps.append(step("prompts, each with a completion", lake.live_rows(stages["raw_generations"])))
    if "candidate_tasks" in stages:
        candidates = lake.live_rows(stages["candidate_tasks"])
        steps.append(step("candidates read out of them", candidates, of=candidates))
        if "task_decisions" in stages:
            decided = lake.read_columns(stages["task_decisions"], ["rule", "kept"])
            steps += by_rule(decided, "tasks", candidates, _TASK_RULES)
        if "accepted_tasks" in stages:
            accepted = lake.live_rows(stages["accepted_tasks"])
            steps.append(step("accepted tasks", accepted, of=candidates))
    examples = lake.live_rows(stages["filtered_dataset"]) if "filtered_dataset" in stages else None
    if "decisions" in stages:
        decided = lake.read_columns(stages["decisions"], ["candidate_id", "rule", "kept"])
        for tag, label, rules in _DRAWN:
            own = decided.filter(pl.col("candidate_id").str.starts_with(tag))
            read = own["candidate_id"].n_unique()
            if read:
                steps.append(step(f"{label}, of all iterations so far", read, of=read))
                steps += by_rule(own, "instances", read, rules)
    if examples is not None:
        steps.append(step("training examples", examples))
    return steps


_TASK_RULES = {
    "readable": "are a task",
    "fields": "have every field",
    "least_words": "long enough",
    "most_words": "short enough",
    "opening": "open with nothing forbidden",
    "opening_punctuation": "do not open with punctuation",
    "opening_non_ascii": "open in ASCII",
    "forbidden_word": "ask for nothing that a language model cannot do",
    "banned": "banned by nobody",
    "perplexity": "probable enough to the model",
    "novelty": "unlike every task of the pool",
    "copy": "copy no demonstration of their prompt",
    "duplicate": "not there before",
}


_INSTANCE_RULES = {
    "readable": "could be read",
    "held_out": "not held out for evaluation",
    "banned": "banned by nobody",
    "empty_output": "have an output",
    "output_is_input": "whose output is not the input",
    "trailing_colon": "end in no colon",
    "contradiction": "of tasks that do not contradict themselves",
    "duplicate": "not the same as another",
    "instances_per_task": "within the limit per task",
}


_PARAPHRASE_RULES = {
    "fields": "could be read",
    "copy": "say it in other words",
    "duplicate": "not the same as another",
    "same_example": "not the same as another example",
    "paraphrases_per_task": "within the limit per task",
}


_DRAWN = (
    ("inst:", "instances read", _INSTANCE_RULES),
    ("out:", "outputs drawn", _INSTANCE_RULES),
    ("para:", "paraphrases drawn", _PARAPHRASE_RULES),
)
"""The kinds of candidates: the tag of their ids, their name, and their rules."""


_PAIRS = 20
"""Pairs of a verb and its object that a page lists."""


def pool_of(lake: Lake, stages: Stages) -> Row | None:
    """The growth of the pool, and the verbs, objects and lengths of its instructions; None where none is committed."""
    pool, accepted = stages.get("seed_pool"), stages.get("accepted_tasks")
    if pool is None or "pool_decisions" not in stages:
        return None
    manifests = [
        one for one in lake.manifests(pool.table, pool.experiment) if one.iteration <= pool.iteration
    ]
    origins = [lake.read_columns(one, ["origin"])["origin"] for one in manifests]
    people = [int((origin == "human").sum()) for origin in origins]
    texts = lake.read_columns(pool, ["instruction"])["instruction"].to_list()
    if accepted is not None:
        texts += lake.read_columns(accepted, ["instruction"])["instruction"].to_list()
    pairs = verb_noun_counts(texts)
    lengths = length_histogram(texts)
    most = max((count for *_, count in lengths), default=1)
    return {
        "tasks": len(texts),
        "growth": {
            "id": "growth",
            "title": "Pool",
            "about": "Tasks that the prompts of each iteration could show, up to this one.",
            "percent": False,
            "x": [one.iteration for one in manifests],
            "xlabel": "iteration",
            "series": [
                {"name": series, "values": values, "intervals": [None] * len(values)}
                for series, values in (
                    ("by people", people),
                    ("all", [len(origin) for origin in origins]),
                )
            ],
        },
        "pairs": [(verb, noun, count) for (verb, noun), count in pairs.most_common(_PAIRS)],
        "distinct_pairs": len(pairs),
        "lengths": [(f"{least} to {last}", count, count / most) for least, last, count in lengths],
    }


# ---- lists -------------------------------------------------------------------------------------------


def examples(method: str, scores: tuple[Column, ...]) -> Listing:
    """The list of training examples; `scores` are columns besides the texts."""
    measured = "".join(f", {column.name}" for column in scores)
    return Listing(
        noun="example",
        about="",
        text="instruction and input",
        asks="instruction, input or output",
        needed=("filtered_dataset",),
        source=f'FROM "{method}"."filtered_dataset" {HERE}',
        select='id, id AS link, "format", left(instruction, 400) AS title, left(input, 400) AS body, '
        f"left(answer, 400) AS answer{measured}",
        words=("instruction", "input", "answer"),
        facets=(Facet("format", '"format"'),),
        columns=(Column("output", "answer", "answer"), FORMAT, *scores),
        default="answer",
        between=Range("ROUGE-L", "rouge_l") if scores else None,
    )


_LEFT_POOL = "Tasks that are out of the pool of this iteration: banned, or replaced by a later version."


_CANDIDATES = (
    "Tasks that were read from completions and did not join the pool, each with the rule that dropped it, its "
    "score and the threshold."
)


def left_pool(method: str) -> Listing:
    """The list of tasks that left the pool."""
    texts = (
        'SELECT id AS of, instruction AS title, NULL AS body FROM "seeds"."tasks" '
        "WHERE experiment = $experiment UNION ALL "
        f'SELECT id, instruction, NULL FROM "{method}"."accepted_tasks" {SO_FAR}'
    )
    return dropped(method, "pool_decisions", _LEFT_POOL, "task", texts, ("accepted_tasks",), "task")


def candidates(method: str, given: str) -> Listing:
    """The list of candidate tasks that did not join the pool; `given` is the column shown below the instruction."""
    texts = f'SELECT id AS of, instruction AS title, {given} AS body FROM "{method}"."candidate_tasks" {HERE}'
    needed = ("candidate_tasks",)
    return dropped(method, "task_decisions", _CANDIDATES, "candidate", texts, needed, "instruction")


# ---- export ------------------------------------------------------------------------------------------


_EXPORTED = (
    *("id", "prompt", "completion", "format", "instruction", "input"),
    pl.col("answer").alias("output"),
)


def card(method: str) -> Card:
    """How the dataset of a method of this family is exported."""

    def words(lake: Lake, dataset: Manifest) -> CardWords:
        pool = lake.read_ungated(lake.manifest(f"{method}/seed_pool", dataset.partition))
        drawn = lake.manifest(f"{method}/raw_generations", dataset.partition)
        sampling = drawn_with(drawn.activity)
        people = pool.filter(origin="human")
        accepted = lake.manifest(f"{method}/accepted_tasks", dataset.partition)
        machine = len(pool) - len(people) + lake.live_rows(accepted)
        own = lake.read_columns(dataset, ["parents"])["parents"].list.len() == 1
        truth = "Instructions, inputs and outputs are the model's own."
        if own.any():
            truth = (
                f"Of {int(own.sum()):,} of them people wrote instruction, input and output, with the seed "
                "tasks; the others are the model's own."
            )
        return CardWords(
            truth=truth,
            sources=people,
            noun="tasks",
            of_sources=f"Tasks that people wrote and the model was shown. The model added {machine:,} of its own.\n\n",
            drawn=drawn,
            sampling=f"temperature {sampling.temperature}, top_p {sampling.top_p},\n{drawn.rows:,} prompts "
            "in this iteration; answers were generated greedily",
            decisions=("task_decisions", "decisions"),
        )

    return Card(words, _EXPORTED)
