"""The funnel of one iteration: how many are left after each step, and where those that were dropped are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest

Step = dict[str, Any]


Stages = Mapping[str, Manifest]


def funnel(lake: Lake, stages: Stages, method: str) -> list[Step]:
    """The steps of a method, as far as its stages are committed."""
    return _FUNNELS[method](lake, stages)


def _step(label: str, count: int, dropped: int | None = None, link: str | None = None, of: int = 0) -> Step:
    """`of` is the number of which `count` is a share; 0 where it is none."""
    share = count / of if of else None
    return {"label": label, "count": count, "dropped": dropped, "link": link, "share": share}


# ---- questions and paths -----------------------------------------------------------------------------


def _of_paths(lake: Lake, stages: Stages) -> list[Step]:
    """From questions to examples."""
    steps = []
    paths = 0
    if "seed_pool" in stages:
        steps.append(_step("questions", lake.live_rows(stages["seed_pool"])))
    if "raw_generations" in stages:
        paths = lake.live_rows(stages["raw_generations"])
        steps.append(_step("paths drawn", paths, of=paths))
    readable = None
    if "voted_answers" in stages:
        readable = int(lake.read_columns(stages["voted_answers"], ["n_valid"])["n_valid"].sum())
        label = "paths whose answer can be read"
        steps.append(_step(label, readable, paths - readable, "rejected?readable=no", paths))
    if "decisions" in stages:
        decided = lake.read_columns(stages["decisions"], ["rule", "kept"])
        rules = decided.group_by("rule").agg(pl.len().alias("reached"), pl.col("kept").sum())
        # A rule sees what those before it kept, so this is the order in which they ran.
        for rule, reached, kept in rules.sort("reached", "kept", descending=True).iter_rows():
            dropped, link = reached - kept, f"rejected?rule={rule}"
            if rule == "agrees_with_vote" and readable is not None:
                dropped, link = readable - kept, link + "&readable=yes"
            steps.append(_step(_PATH_RULES.get(rule, f"pass the rule {rule}"), kept, dropped, link, paths))
    if "filtered_dataset" in stages:
        steps.append(_step("training examples", lake.live_rows(stages["filtered_dataset"]), of=paths))
    return steps


_PATH_RULES = {
    "agrees_with_vote": "agree with the vote",
    "vote_share": "of questions with a clear enough vote",
    "valid_votes": "of questions with votes enough",
    "perplexity": "probable enough to the model",
    "duplicate": "not the same as another path",
    "paths_per_question": "within the most of a question",
}


# ---- tasks -------------------------------------------------------------------------------------------


def _of_tasks(lake: Lake, stages: Stages) -> list[Step]:
    """From the pool to accepted tasks, and from what was drawn for these to examples."""
    steps = []
    if "pool_decisions" in stages:
        out = lake.read_columns(stages["pool_decisions"], ["kept"]).filter(~pl.col("kept"))
        pool = lake.live_rows(stages["seed_pool"]) if "seed_pool" in stages else 0
        steps.append(_step("tasks in the pool", pool, len(out), "rejected?of=pool"))
    if "raw_generations" in stages:
        steps.append(_step("prompts, each with a completion", lake.live_rows(stages["raw_generations"])))
    if "candidate_tasks" in stages:
        candidates = lake.live_rows(stages["candidate_tasks"])
        steps.append(_step("candidates read out of them", candidates, of=candidates))
        if "task_decisions" in stages:
            decided = lake.read_columns(stages["task_decisions"], ["rule", "kept"])
            steps += _by_rule(decided, "tasks", candidates, _TASK_RULES)
        if "accepted_tasks" in stages:
            accepted = lake.live_rows(stages["accepted_tasks"])
            steps.append(_step("accepted tasks", accepted, of=candidates))
    examples = lake.live_rows(stages["filtered_dataset"]) if "filtered_dataset" in stages else None
    if "decisions" in stages:
        decided = lake.read_columns(stages["decisions"], ["candidate_id", "rule", "kept"])
        for tag, label, rules in _DRAWN:
            own = decided.filter(pl.col("candidate_id").str.starts_with(tag))
            read = own["candidate_id"].n_unique()
            if read:
                steps.append(_step(f"{label}, of all iterations so far", read, of=read))
                steps += _by_rule(own, "instances", read, rules)
    if examples is not None:
        steps.append(_step("training examples", examples))
    return steps


def _by_rule(decided: pl.DataFrame, kind: str, total: int, labels: Mapping[str, str]) -> list[Step]:
    """One step a rule, in the order in which they ran."""
    rules = decided.group_by("rule", maintain_order=True).agg(pl.len().alias("reached"), pl.col("kept").sum())
    return [
        _step(
            labels.get(rule, f"pass the rule {rule}"),
            kept,
            reached - kept,
            f"rejected?of={kind}&rule={rule}",
            total,
        )
        for rule, reached, kept in rules.iter_rows()
    ]


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
    "instances_per_task": "within the most of a task",
}


_PARAPHRASE_RULES = {
    "fields": "could be read",
    "copy": "say it in other words",
    "duplicate": "not the same as another",
    "same_example": "not the same as another example",
    "paraphrases_per_task": "within the most of a task",
}


_DRAWN = (
    ("inst:", "instances read", _INSTANCE_RULES),
    ("out:", "outputs drawn", _INSTANCE_RULES),
    ("para:", "paraphrases drawn", _PARAPHRASE_RULES),
)
"""What examples are made of: the tag of its ids, what it is called, and its rules."""


# ---- calls of tools ------------------------------------------------------------------------------------


def _of_calls(lake: Lake, stages: Stages) -> list[Step]:
    """From texts to the places where calls are tried, to calls that pay, to texts with calls."""
    steps = []
    if "seed_pool" in stages:
        steps.append(_step("texts", lake.live_rows(stages["seed_pool"])))
    if "call_positions" in stages:
        chosen = lake.read_columns(stages["call_positions"], ["chosen"])["chosen"]
        steps.append(_step("places where a call is likely enough", int(chosen.list.len().sum())))
    if "raw_generations" in stages:
        drawn = lake.live_rows(stages["raw_generations"])
        steps.append(_step("calls sampled there", drawn, of=drawn))
        if "decisions" in stages:
            decided = lake.read_columns(stages["decisions"], ["rule", "kept"])
            steps += _by_rule(decided, "calls", drawn, _CALL_RULES)
    if "filtered_dataset" in stages:
        steps.append(_step("texts with calls: training examples", lake.live_rows(stages["filtered_dataset"])))
    return steps


_CALL_RULES = {
    "has_result": "with a result",
    "repeated_call": "not there before at their place: scored",
    "loss_reduction": "lower the loss by the threshold of their tool",
    "best_at_position": "the most helpful at their place",
    "drawn_by_lot": "drawn by lot",
    "texts_per_tool": "in a text that its tool may have",
}


# ---- judged responses ----------------------------------------------------------------------------------


def _rows(lake: Lake, stages: Stages, labels: Mapping[str, str]) -> list[Step]:
    """How many rows each stage has, of those that are committed."""
    return [_step(label, lake.live_rows(stages[stage])) for stage, label in labels.items() if stage in stages]


def _of_judged(
    before: Mapping[str, str], candidates: str, kind: str, rules: Mapping[str, str], after: Mapping[str, str]
) -> Callable[[Lake, Stages], list[Step]]:
    """From what was given and drawn, by way of `candidates`, of which rules drop some, to examples."""

    def steps(lake: Lake, stages: Stages) -> list[Step]:
        found = _rows(lake, stages, before)
        if "decisions" in stages:
            decided = lake.read_columns(stages["decisions"], ["candidate_id", "rule", "kept"])
            total = decided["candidate_id"].n_unique()
            found.append(_step(candidates, total, of=total))
            found += _by_rule(decided, kind, total, rules)
        return found + _rows(lake, stages, after)

    return steps


def _of_refinements(lake: Lake, stages: Stages) -> list[Step]:
    """From prompts to first answers, to texts written on the way, to the outcome of each way."""
    steps = _rows(lake, stages, {"seed_pool": "prompts", "raw_generations": "first answers"})
    if "refinements" in stages:
        rows = lake.read_columns(stages["refinements"], ["way", "kind", "stopped", "seed"])
        steps.append(_step("texts written while refining", int(rows["seed"].count())))
        done = rows.filter(kind="outcome")
        for (way,), part in done.group_by("way", maintain_order=True):
            failed = int((part["stopped"] == "failed").sum())
            label = f"refined by {str(way).replace('_', '-')} without a failure"
            steps.append(_step(label, len(part) - failed, failed, f"rejected?way={way}", len(part)))
    return steps


def _of_picks(lake: Lake, stages: Stages) -> list[Step]:
    """From questions to candidates, to picks, to those that are right."""
    found = _rows(lake, stages, {"questions": "questions", "candidates": "candidates"})
    if "discrimination_score" in stages:
        right = lake.read_columns(stages["discrimination_score"], ["right"])["right"]
        found.append(_step("picks among them", len(right), of=len(right)))
        found.append(_step("picks that are right", int(right.sum()), of=len(right)))
    return found


_REVISION_RULES = {
    "round": "of the round that is learnt, or helpful",
    "finished": "not cut off",
    "not_empty": "say something",
    "duplicate": "not there before",
    "helpful_share": "within the share of helpful responses",
}


_PAIR_RULES = {
    "empty": "of two responses that say something",
    "unfinished": "of responses that were not cut off",
    "equal": "of responses that differ",
    "margin": "decided clearly enough",
}


_AFTER_PAIRS = {"filtered_dataset": "pairs: training examples", "rollouts": "rollouts of the policy"}


_FUNNELS: dict[str, Callable[[Lake, Stages], list[Step]]] = {
    "lmsi": _of_paths,
    "self_instruct": _of_tasks,
    "unnatural_instructions": _of_tasks,
    "toolformer": _of_calls,
    "constitutional": _of_judged(
        {
            "seed_pool": "prompts",
            "raw_generations": "first responses",
            "critiques": "critiques",
            "revisions": "revisions",
        },
        "responses to choose from, of every round",
        "candidates",
        _REVISION_RULES,
        {"filtered_dataset": "training examples"},
    ),
    "rlaif": _of_judged(
        {
            "seed_pool": "prompts",
            "response_pairs": "responses, two a prompt",
            "comparisons": "comparisons that the judge was asked",
        },
        "preferences",
        "preferences",
        _PAIR_RULES,
        _AFTER_PAIRS,
    ),
    "self_knowledge": _of_picks,
    "rlhf": _of_judged({}, "comparisons of people", "comparisons", _PAIR_RULES, _AFTER_PAIRS),
    "refinement": _of_refinements,
    "pit": _of_judged(
        {},
        "comparisons",
        "comparisons",
        _PAIR_RULES,
        {
            "filtered_dataset": "pairs: training examples",
            "improver_dataset": "examples of improving and responding",
            "gap_pairs": "comparisons of gaps, five a pair",
            "curriculum_rollouts": "rollouts on references from the data",
            "policy_references": "the policy's own references",
            "rollouts": "rollouts on these",
            "improvement_rounds": "held-out responses and their improvements",
        },
    ),
}
