"""Judged responses on the pages: an iteration's figures, preferences in both orders, chains of revisions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from selfimprove_dagster import tables
from selfimprove_dagster.evaluation.measurement import Accuracy
from selfimprove_dagster.explorer.curves import MODELS, Chart
from selfimprove_dagster.explorer.listings import HERE, Column, Facet, Listing, dropped
from selfimprove_dagster.families.dialogues.exam import GREEDY, IMPROVED, REVISION, judged_rounds
from selfimprove_dagster.families.preferences.explain import (
    METHODS,
    candidates_of,
    chain_to,
    preference_words,
)
from selfimprove_dagster.families.preferences.tables import PREFERENCE_METHODS
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lineage.iteration import Iteration
from selfimprove_dagster.methods.pit.win_rates import win_rates
from selfimprove_dagster.methods.refinement.pages import refined_record, refining_of
from selfimprove_dagster.methods.refinement.tables import METHOD as REFINEMENT
from selfimprove_dagster.methods.rlaif.tables import RLAIF_COMPARISONS, RLAIF_DECISIONS
from selfimprove_dagster.table import Row

Stages = Mapping[str, Manifest]


SHARES = ("helpful", "harmless")


_EXAM = ["role", "mode", "question", *SHARES, "reward"]


_CHECKS = {
    "order_flip_agreement": "order_agreement",
    "position_balance": "position_balance",
    "undecided_share": "undecided",
}
"""By the name of a judge's measure: that of its curve."""


# ---- an experiment -----------------------------------------------------------------------------------


def measured_judging(lake: Lake, stages: Stages) -> dict[str, Any]:
    """What the curves of an experiment show of an iteration; None where it was not measured."""
    kept = None
    if "decisions" in stages:
        decided = lake.read_columns(stages["decisions"], ["candidate_id", "kept"])
        verdicts = decided.group_by("candidate_id").agg(pl.col("kept").all())["kept"]
        kept = int(verdicts.sum()) / len(verdicts) if len(verdicts) else None
    judged = dict.fromkeys(_CHECKS.values())
    if "judge_checks" in stages:
        checks = lake.read_columns(stages["judge_checks"], ["measure", "value"])
        judged |= {_CHECKS[name]: value for name, value in checks.iter_rows() if name in _CHECKS}
    answers = _answers(lake, stages)
    greedy = {} if answers is None else {role: answers.filter(role=role, mode="greedy") for role in MODELS}
    return {
        "kept_share": kept,
        **judged,
        **{
            share: {role: _share(rows, share) for role, rows in greedy.items() if len(rows)}
            for share in SHARES
        },
        "reward": {role: rows["reward"].mean() for role, rows in greedy.items()},
    }


def _answers(lake: Lake, stages: Stages) -> pl.DataFrame | None:
    return lake.read_columns(stages["evaluation"], _EXAM) if "evaluation" in stages else None


def _share(rows: pl.DataFrame, column: str) -> Accuracy:
    return Accuracy(int(rows[column].sum()), len(rows))


# ---- an iteration ------------------------------------------------------------------------------------


def judging_of(lake: Lake, stages: Stages, method: str) -> dict[str, Any] | None:
    """What the judge, the exam and the training of one iteration came to; None for other methods."""
    if method not in METHODS:
        return None
    if method == REFINEMENT:
        return refining_of(lake, stages)
    answers = _answers(lake, stages)
    trained = [
        (stage.replace("_", " "), row)
        for stage in tables.MODELS
        if stage in stages and stage != "fine_tuned_checkpoint"
        for row in lake.read_ungated(stages[stage]).iter_rows(named=True)
    ]
    return {
        "rounds": None if answers is None else rounds_chart(answers),
        "models": [] if answers is None else list(_exam(answers)),
        "checks": lake.read_ungated(stages["judge_checks"]).rows(named=True)
        if "judge_checks" in stages
        else [],
        "trained": trained,
        "rollouts": _rollouts(lake, stages),
        "contests": [
            *win_rates(lake.read_columns(stages["win_rates"], ["first", "second", "judge", "outcome"]))
        ]
        if "win_rates" in stages
        else [],
    }


def _exam(answers: pl.DataFrame) -> Iterator[Row]:
    for role, name in MODELS.items():
        rows = answers.filter(role=role, mode="greedy")
        if len(rows):
            shares = {share: _share(rows, share) for share in SHARES}
            yield {"name": name, **shares, "reward": rows["reward"].mean()}


def rounds_chart(answers: pl.DataFrame) -> Chart | None:
    """Harmlessness and helpfulness of the champion's responses by round, on the prompts that were revised.

    Round 0 is what it revised first. None where no revision was measured.
    """
    by_round = judged_rounds(answers, "champion", REVISION)
    if not by_round:
        return improvement_chart(answers)
    return {
        "id": "rounds",
        "title": "Harmlessness over revisions",
        "about": f"Responses of the {MODELS['champion']} to held-out prompts, by round of revision, with 95% "
        "intervals; round 0 is its first response.",
        "percent": True,
        "x": [*by_round],
        "xlabel": "round",
        "series": [_line(share, [*by_round.values()], share) for share in reversed(SHARES)],
    }


def improvement_chart(answers: pl.DataFrame) -> Chart | None:
    """The same by round of improvement, of both models; both improve the champion's greedy responses.

    None where no improvement was measured.
    """
    original = answers.filter(role="champion", mode=GREEDY)
    by_model = {
        name: {0: original, **judged_rounds(answers, role, IMPROVED)} for role, name in MODELS.items()
    }
    rounds = max(by_model.values(), key=len)
    if len(rounds) == 1:
        return None
    return {
        "id": "rounds",
        "title": "Improvement over rounds",
        "about": f"Held-out responses of the {MODELS['champion']} (round 0), improved in turn by the "
        f"{MODELS['challenger']} and, asked alike, by the {MODELS['champion']} itself, with 95% intervals.",
        "percent": True,
        "x": [*rounds],
        "xlabel": "round",
        "series": [
            _line(f"{share}, {name}", [*by_round.values()], share)
            for name, by_round in by_model.items()
            for share in reversed(SHARES)
        ],
    }


def _line(name: str, parts: Sequence[pl.DataFrame], share: str) -> dict[str, Any]:
    measured = [_share(part, share) for part in parts]
    return {
        "name": name,
        "values": [one.value for one in measured],
        "intervals": [one.interval for one in measured],
    }


def _rollouts(lake: Lake, stages: Stages) -> dict[str, Any] | None:
    if "rollouts" not in stages:
        return None
    rows = lake.read_columns(stages["rollouts"], ["step", "reward"])
    by_step = rows.group_by("step").agg(pl.col("reward").mean()).sort("step")
    chart = {
        "id": "reward",
        "title": "Reward",
        "about": "Mean reward of what the policy wrote, by optimiser step.",
        "percent": False,
        "x": by_step["step"].to_list(),
        "xlabel": "step",
        "series": [
            {"name": "reward", "values": by_step["reward"].to_list(), "intervals": [None] * len(by_step)}
        ],
    }
    return {"count": len(rows), "chart": chart if len(rows) else None}


# ---- a record ----------------------------------------------------------------------------------------


def judged_record(lake: Lake, row: Mapping[str, Any], withdrawn: set[str]) -> dict[str, Any] | None:
    """The one preference that a record belongs to, or its chain of revisions; None for other records.

    Of a chain that holds something that was revoked, the rest is shown.
    """
    method, stage = row["table_name"].split("/")
    if method == REFINEMENT:
        return refined_record(lake, row, withdrawn)
    if method not in ("constitutional", "rlaif") or stage in _WITHOUT:
        return None
    iteration = Iteration(lake, row["experiment"], row["iteration"], method)
    candidates = [one for one in candidates_of(iteration, dict(row)) if one["id"] not in withdrawn]
    if not candidates:
        return None
    if method == "constitutional":
        chain = [one for one in chain_to(iteration, candidates[-1]) if one["id"] not in withdrawn]
        steps = [_step(one, row) for one in chain]
        return {"chain": steps, "preference": None} if len(steps) > 1 else None
    if len(candidates) > 1 or set(candidates[0]["response_ids"]) & withdrawn:
        return None
    return {"chain": [], "preference": _preference(iteration, candidates[0], row, withdrawn)}


_WITHOUT = (
    *("judge_checks", "reward_model", "rollouts"),
    *("fine_tuned_checkpoint", "evaluation", "promotion"),
)


def _step(one: Row, row: Mapping[str, Any]) -> Row:
    stage = one["table_name"].split("/")[1]
    label = {"critiques": "Critique", "revisions": "Revision"}.get(stage, "First response")
    by = f", round {one['round']}, by principle {one['principle']}" if "round" in one else ""
    return {"label": label + by, "id": one["id"], "text": one["text"], "here": one["id"] == row["id"]}


def _preference(
    iteration: Iteration, preference: Row, row: Mapping[str, Any], withdrawn: set[str]
) -> dict[str, Any]:
    first, second = preference["response_ids"]
    probability, as_first, as_second = (preference[name] for name in _SCORES)
    decided = iteration.rows(RLAIF_DECISIONS, pl.col("candidate_id") == preference["id"])
    margin = next((one for one in decided if one["rule"] == "margin"), None)
    judged = [edge["id"] for edge in preference["parents"] if edge["role"] == "judged_by"]
    comparisons = iteration.rows(RLAIF_COMPARISONS, pl.col("id").is_in(judged))
    return {
        "id": preference["id"],
        "here": preference["id"] == row["id"],
        "words": preference_words(preference),
        "prompt": preference["prompt"],
        "responses": [
            _response("(A)", first, preference["first"], (probability, as_first, as_second)),
            # Where the second response of the pair is shown as (B), the first is (A).
            _response(
                "(B)",
                second,
                preference["second"],
                tuple(None if one is None else 1 - one for one in (probability, as_second, as_first)),
            ),
        ],
        "margin": abs(2 * probability - 1),
        "threshold": margin["threshold"] if margin else None,
        "decision": decided[-1] if decided else None,
        "comparisons": [one for one in comparisons if one["id"] not in withdrawn],
    }


_SCORES = ("probability", "as_first", "as_second")


def _response(letter: str, record: str, text: str, scores: Sequence[float | None]) -> Row:
    probability, shown_first, shown_second = scores
    assert probability is not None
    return {
        "letter": letter,
        "id": record,
        "text": text,
        "shown_first": shown_first,
        "shown_second": shown_second,
        "probability": probability,
        "preferred": probability > 0.5 or (letter == "(A)" and probability == 0.5),
    }


_FORMAT = Column("format", "format", "format")


_PAIR = "(A) ' || trim(first) || '\n(B) ' || trim(second)"


_CAI_EXAMPLES = Listing(
    noun="example",
    about="",
    text="prompt and response",
    asks="prompts and responses",
    needed=("filtered_dataset",),
    source=f'FROM "constitutional"."filtered_dataset" {HERE}',
    select='id, id AS link, "format", left(question, 400) AS title, left(completion, 400) AS body, round',
    words=("question", "completion"),
    facets=(Facet("format", '"format"'),),
    columns=(_FORMAT, Column("round", "round", "round", True)),
    default="format",
)


_CAI_TEXTS = f"""SELECT said.id AS of, pool.prompt AS title, said.text AS body FROM (
    SELECT id, prompt_id, text FROM "constitutional"."revisions" {HERE}
    UNION ALL SELECT id, prompt_id, text FROM "constitutional"."raw_generations" {HERE}
    UNION ALL SELECT id, id, response FROM "constitutional"."seed_pool" {HERE}
) AS said LEFT JOIN (FROM "constitutional"."seed_pool" {HERE}) AS pool ON pool.id = said.prompt_id"""


def _pairs(method: str) -> Listing:
    return Listing(
        noun="example",
        about="",
        text="prompt, and which response is preferred to which",
        asks="prompts and responses",
        needed=("filtered_dataset",),
        source=f'FROM "{method}"."filtered_dataset" {HERE}',
        select="id, id AS link, left(question, 400) AS title, "
        "left('✓ ' || trim(chosen) || '\n✗ ' || trim(rejected), 400) AS body, probability, labelled_by",
        words=("question", "chosen", "rejected"),
        facets=(Facet("by", "labelled_by"),),
        columns=(
            Column("probability", "probability", "probability", True),
            Column("labelled by", "labelled_by"),
        ),
        default="-probability",
        between=("Probability", "probability"),
    )


def _rollout_rows(method: str) -> Listing:
    return Listing(
        noun="rollout",
        about="What the policy wrote while it was trained, and how it was rewarded.",
        text="prompt and what was written",
        asks="prompts and texts",
        needed=("rollouts",),
        source=f'FROM "{method}"."rollouts" {HERE}',
        select="id, id AS link, left(prompt, 400) AS title, left(text, 400) AS body, step, reward, advantage",
        words=("prompt", "text"),
        facets=(),
        columns=(
            Column("step", "step", "step", True),
            Column("reward", "reward", "reward", True),
            Column("advantage", "advantage", "advantage", True),
        ),
        default="-step",
    )


def _compared(method: str, what: str) -> Listing:
    return dropped(
        method,
        "decisions",
        f"{what} that are not trained on, each with the rule that dropped it.",
        "comparison",
        "SELECT id AS of, prompt AS title, '✓ ' || trim(chosen) || '\n✗ ' || trim(rejected) AS body "
        f'FROM "{method}"."seed_pool" {HERE}',
        ("seed_pool",),
        "prompt and responses",
    )


JUDGE_EXAMPLES: Mapping[str, Listing] = {
    "constitutional": _CAI_EXAMPLES,
    "rlaif": _pairs("rlaif"),
    "rlhf": _pairs("rlhf"),
    "pit": _pairs("pit"),
}


JUDGE_DROPPED: Mapping[str, Mapping[str, Listing]] = {
    "constitutional": {
        "candidates": dropped(
            "constitutional",
            "decisions",
            "Revisions of every round, first responses and helpful responses that are not trained on, each "
            "with the rule that dropped it.",
            "candidate",
            _CAI_TEXTS,
            ("seed_pool", "raw_generations", "revisions"),
            "prompt and response",
        )
    },
    "rlaif": {
        "preferences": dropped(
            "rlaif",
            "decisions",
            "Pairs of responses that are not trained on, each with the rule that dropped it; of the rule "
            "margin the score is |2p − 1|.",
            "preference",
            f'SELECT id AS of, prompt AS title, \'{_PAIR} AS body FROM "rlaif"."ai_preferences" {HERE}',
            ("ai_preferences",),
            "prompt and responses",
        )
    },
    "rlhf": {"comparisons": _compared("rlhf", "Comparisons of people")},
    "pit": {"comparisons": _compared("pit", "Comparisons")},
}


ROLLOUTS: Mapping[str, Listing] = {method: _rollout_rows(method) for method in PREFERENCE_METHODS}
"""What the policy wrote while it was trained, by method."""
