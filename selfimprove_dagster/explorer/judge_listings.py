"""The tables of examples, dropped candidates and rollouts, where a model or people judge."""

from __future__ import annotations

from collections.abc import Mapping

from selfimprove_dagster.explorer.listings import HERE, Column, Facet, Listing, dropped
from selfimprove_dagster.judge_tables import PREFERENCE_METHODS

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


def _rollouts(method: str) -> Listing:
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
ROLLOUTS: Mapping[str, Listing] = {method: _rollouts(method) for method in PREFERENCE_METHODS}
"""What the policy wrote while it was trained, by method."""
