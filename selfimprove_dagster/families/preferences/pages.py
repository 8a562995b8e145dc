"""The pages and exports of methods that train on pairs of responses."""

from __future__ import annotations

from collections.abc import Callable

from selfimprove_dagster.explorer.listings import HERE, Column, Facet, Listing, Range, dropped
from selfimprove_dagster.export_cards import Card, CardWords
from selfimprove_dagster.families.dialogues.export import asked
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.text import code_span

# ---- an iteration ------------------------------------------------------------------------------------


PAIR_RULES = {
    "empty": "of two responses that say something",
    "unfinished": "of responses that were not cut off",
    "equal": "of responses that differ",
    "margin": "decided clearly enough",
}


AFTER_PAIRS = {"filtered_dataset": "pairs: training examples", "rollouts": "rollouts of the policy"}


# ---- lists -------------------------------------------------------------------------------------------


def pairs(method: str) -> Listing:
    """The list of pairs that are trained on."""
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
        between=Range("Probability", "probability"),
    )


def rollouts(method: str) -> Listing:
    """The list of texts that the policy wrote during training."""
    return Listing(
        noun="rollout",
        about="Texts that the policy wrote during training, with their rewards.",
        text="prompt and text",
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
        waiting="The policy of this iteration is not trained yet.",
    )


def compared(method: str, what: str) -> Listing:
    """The list of comparisons that a rule dropped; `what` names them."""
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


# ---- export ------------------------------------------------------------------------------------------


TRAIN_ON = (
    "`chosen` is preferred to `rejected` as a response to `prompt`, with `probability` by the judgement of "
    "`labelled_by`: the input of DPO"
)


def card(words: Callable[[Lake, Manifest], CardWords]) -> Card:
    """How pairs of responses are exported."""
    return Card(
        words,
        ("id", "prompt", "chosen", "rejected", "format", "question", "labelled_by"),
        asks=asked,
    )


def card_of_comparisons(method: str) -> Card:
    """How pairs are exported that people, or an experiment's judge, chose from."""

    def words(lake: Lake, dataset: Manifest) -> CardWords:
        by = [*lake.read_ungated(dataset)["labelled_by"].unique().sort()]
        people = by in ([], ["people"])
        return CardWords(
            truth="The responses and the labels are those of the files."
            if people
            else f"The responses and the labels are those of {', '.join(map(code_span, by))}.",
            sources=lake.read_ungated(lake.manifest(f"{method}/seed_pool", dataset.partition)),
            noun="comparisons",
            of_sources="",
            drawn=None,
            sampling="",
            decisions=("decisions",),
            made_by=f"are pairs of responses between which {'people' if people else ', '.join(by)} chose",
            columns=TRAIN_ON,
        )

    return card(words)
