"""The pages of RLAIF: a judge's preferences in both orders, how far it can be trusted, and what is learnt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from selfimprove_dagster.drawing import drawn_with
from selfimprove_dagster.explorer.curves import Curve
from selfimprove_dagster.explorer.declare import AboutRecord, Pages, RecordBlock
from selfimprove_dagster.explorer.funnel import Stages
from selfimprove_dagster.explorer.listings import HERE, dropped
from selfimprove_dagster.export_cards import CardWords
from selfimprove_dagster.families.dialogues.pages import charts, funnel, judging, measure
from selfimprove_dagster.families.preferences.pages import (
    AFTER_PAIRS,
    PAIR_RULES,
    TRAIN_ON,
    card,
    pairs,
    rollouts,
)
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lineage.iteration import Iteration
from selfimprove_dagster.lineage.story import Story
from selfimprove_dagster.methods.rlaif import words
from selfimprove_dagster.methods.rlaif.tables import (
    RLAIF_COMPARISONS,
    RLAIF_DECISIONS,
    RLAIF_RESPONSE_PAIRS,
    RLAIF_SEED_POOL,
)
from selfimprove_dagster.table import Row
from selfimprove_dagster.text import code_span

# ---- an experiment -----------------------------------------------------------------------------------


_JUDGE = (
    Curve("order_agreement", "Order agreement", "Pairs that the judge decides alike in both orders.", True),
    Curve(
        "position_balance",
        "Position balance",
        "Comparisons in which the response shown first is preferred; a judge without bias has half.",
        True,
    ),
    Curve("undecided", "Undecided share", "Labels between 0.45 and 0.55, which say nothing.", True),
)


_CHECKS = {
    "order_flip_agreement": "order_agreement",
    "position_balance": "position_balance",
    "undecided_share": "undecided",
}
"""The key of each judge check in the measured row."""


def _measure(lake: Lake, stages: Stages) -> Row:
    judged: Row = dict.fromkeys(_CHECKS.values())
    if "judge_checks" in stages:
        checks = lake.read_columns(stages["judge_checks"], ["measure", "value"])
        judged |= {_CHECKS[name]: value for name, value in checks.iter_rows() if name in _CHECKS}
    return {**measure(lake, stages), **judged}


# ---- a record ----------------------------------------------------------------------------------------


def preference_of_record(about: AboutRecord) -> Row | None:
    """The one preference that a record belongs to; None for other records, and where a response was revoked."""
    row, withdrawn = about.row, about.withdrawn
    if row["table_name"].split("/")[1] in _WITHOUT:
        return None
    story = Story(about.lineage, about.place, row)
    candidates = [one for one in story.candidates if one["id"] not in withdrawn]
    if len(candidates) != 1 or set(candidates[0]["response_ids"]) & withdrawn:
        return None
    return _preference(story.iteration, candidates[0], row, withdrawn)


_WITHOUT = (
    *("judge_checks", "reward_model", "rollouts"),
    *("fine_tuned_checkpoint", "evaluation", "promotion"),
)
"""Stages whose rows belong to no preference."""


def _preference(iteration: Iteration, preference: Row, row: Row, withdrawn: set[str]) -> Row:
    first, second = preference["response_ids"]
    probability, as_first, as_second = (preference[name] for name in _SCORES)
    decided = iteration.rows(RLAIF_DECISIONS, pl.col("candidate_id") == preference["id"])
    margin = next((one for one in decided if one["rule"] == "margin"), None)
    judged = [edge["id"] for edge in preference["parents"] if edge["role"] == "judged_by"]
    comparisons = iteration.rows(RLAIF_COMPARISONS, pl.col("id").is_in(judged))
    return {
        "id": preference["id"],
        "here": preference["id"] == row["id"],
        "words": words.preference(preference),
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
        "margin": None if probability is None else abs(2 * probability - 1),
        "threshold": margin["threshold"] if margin else None,
        "decision": decided[-1] if decided else None,
        "comparisons": [one for one in comparisons if one["id"] not in withdrawn],
    }


_SCORES = ("probability", "as_first", "as_second")


def _response(letter: str, record: str, text: str, scores: Sequence[float | None]) -> Row:
    probability, shown_first, shown_second = scores
    return {
        "letter": letter,
        "id": record,
        "text": text,
        "shown_first": shown_first,
        "shown_second": shown_second,
        "probability": probability,
        "preferred": probability is not None
        and (probability > 0.5 or (letter == "(A)" and probability == 0.5)),
    }


_PAIR = "(A) ' || trim(first) || '\n(B) ' || trim(second)"


# ---- export ------------------------------------------------------------------------------------------


def _words(lake: Lake, dataset: Manifest) -> CardWords:
    drawn = lake.manifest(RLAIF_RESPONSE_PAIRS.name, dataset.partition)
    sampling = drawn_with(drawn.activity)
    judge = lake.manifest(RLAIF_COMPARISONS.name, dataset.partition)
    return CardWords(
        truth=f"A model gave the labels: {code_span(judge.activity.model_id or 'unknown')} was asked "
        f"{judge.rows:,} times which response is the better. No person and no true answer judged.",
        sources=lake.read_ungated(lake.manifest(RLAIF_SEED_POOL.name, dataset.partition)),
        noun="prompts",
        of_sources="",
        drawn=drawn,
        sampling=f"temperature {sampling.temperature}, top_p {sampling.top_p},\n"
        f"{drawn.rows:,} responses in all",
        decisions=("decisions",),
        made_by="are pairs of responses that a language model wrote and judged",
        columns=TRAIN_ON,
    )


PAGES = Pages(
    examples=pairs("rlaif"),
    dropped={
        "preferences": dropped(
            "rlaif",
            "decisions",
            "Pairs of responses that are not trained on, each with the rule that dropped it. The score of the rule "
            "margin is |2p − 1|.",
            "preference",
            f'SELECT id AS of, prompt AS title, \'{_PAIR} AS body FROM "rlaif"."ai_preferences" {HERE}',
            ("ai_preferences",),
            "prompt and responses",
        )
    },
    more={"rollouts": rollouts("rlaif")},
    funnel=funnel(
        {
            "seed_pool": "prompts",
            "response_pairs": "responses, two per prompt",
            "comparisons": "comparisons that the judge was asked",
        },
        "preferences",
        "preferences",
        PAIR_RULES,
        AFTER_PAIRS,
    ),
    measure=_measure,
    charts=charts(*_JUDGE),
    blocks=[judging()],
    record=[RecordBlock(Path(__file__).with_name("preference.html"), preference_of_record)],
)
CARD = card(_words)
