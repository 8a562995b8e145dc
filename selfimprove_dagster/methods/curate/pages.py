"""The pages of curated data: the examples, what each filter dropped, and the card of the dataset."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from selfimprove_dagster.drawing import drawn_with
from selfimprove_dagster.evaluation.diversity import distinct_ngram_share
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.explorer.curves import Chart, Curve, Measured, curve, decided_by, held_out_accuracy
from selfimprove_dagster.explorer.declare import Pages
from selfimprove_dagster.explorer.funnel import Stages, Step, by_rule, counted, kept_share, step
from selfimprove_dagster.explorer.listings import FORMAT, HERE, Column, Facet, Listing, Range, dropped
from selfimprove_dagster.export_cards import Card, CardWords
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.table import Row

_CURVES = (
    Curve("kept_share", "Kept share", "Answers that every filter kept.", True),
    Curve("distinct", "Diversity", "Distinct 4-grams over all 4-grams of the dataset's answers.", True),
    Curve("perplexity", "Perplexity", "Mean over the answers, if a filter asks for it."),
    Curve("rating", "Rating", "Mean from 1 to 10 over the answers, if a filter asks for it."),
)


def _measure(lake: Lake, stages: Stages) -> Row:
    """Return the figures of one iteration; None where a stage is not committed or empty."""

    def column(stage: str, name: str) -> pl.Series | None:
        return lake.read_columns(stages[stage], [name])[name] if stage in stages else None

    said = column("filtered_dataset", "completion")
    perplexity, rating = column("perplexity_scores", "perplexity"), column("ratings", "rating")
    return {
        "kept_share": kept_share(lake, stages),
        "distinct": None if said is None else distinct_ngram_share(said.to_list()),
        "perplexity": None if perplexity is None else perplexity.mean(),
        "rating": None if rating is None else rating.mean(),
    }


def _charts(experiment: Experiment, rows: Sequence[Measured]) -> list[Chart]:
    return [held_out_accuracy(rows, decided_by(experiment)), *(curve(one, rows) for one in _CURVES)]


_RULES = {
    "readable": "could be read",
    "held_out": "not held out for evaluation",
    "banned": "banned by nobody",
    "empty_output": "say something",
}


def _funnel(lake: Lake, stages: Stages) -> list[Step]:
    """Return the steps from the lines of the file to training examples: one for each filter, in their order."""
    steps = counted(
        lake, stages, {"seed_pool": "prompts and examples", "raw_generations": "answers generated"}
    )
    total = 0
    if "candidate_answers" in stages:
        total = lake.live_rows(stages["candidate_answers"])
        steps.append(step("answers to judge", total, of=total))
    if "decisions" in stages:
        decided = lake.read_columns(stages["decisions"], ["rule", "kept"])
        rules = decided.group_by("rule").agg(pl.len(), pl.col("kept").sum())
        # A filter sees what those before it kept, so this is the order in which they ran.
        order = rules.sort("len", "kept", descending=True).select("rule")
        steps += by_rule(
            order.join(decided, on="rule", maintain_order="left_right"), "decisions", total, _RULES
        )
    if "filtered_dataset" in stages:
        steps.append(step("training examples", lake.live_rows(stages["filtered_dataset"]), of=total))
    return steps


_EXAMPLES = Listing(
    noun="example",
    about="",
    text="instruction and input",
    asks="instruction, input or output",
    needed=("filtered_dataset",),
    source=f'FROM "curate"."filtered_dataset" {HERE}',
    select='id, id AS link, "format", left(instruction, 400) AS title, left(input, 400) AS body, '
    "left(answer, 400) AS answer, perplexity, rating, vote_share",
    words=("instruction", "input", "answer"),
    facets=(Facet("format", '"format"'),),
    columns=(
        Column("output", "answer", "answer"),
        FORMAT,
        Column("perplexity", "perplexity", "perplexity", True),
        Column("rating", "rating", "rating", True),
        Column("vote share", "vote_share", "share", True),
    ),
    default="answer",
    between=Range("Rating", "rating", share=False),
)


_DROPPED = dropped(
    "curate",
    "decisions",
    "Answers that a filter dropped, each with its score, the threshold and the reason.",
    "answer",
    'SELECT id AS of, instruction AS title, output AS body FROM "curate"."candidate_answers" ' + HERE,
    ("candidate_answers",),
    "instruction and answer",
)


def _words(lake: Lake, dataset: Manifest) -> CardWords:
    drawn = lake.manifest("curate/raw_generations", dataset.partition)
    candidates = lake.manifest("curate/candidate_answers", dataset.partition)
    given = int(lake.read_columns(candidates, ["given"])["given"].sum())
    sampling = drawn_with(drawn.activity)
    own = f"{drawn.rows:,} answers were generated" if drawn.rows else "no answer was generated"
    return CardWords(
        truth=f"{given:,} answers came with the file, and {own}.",
        sources=lake.read_ungated(lake.manifest("curate/seed_pool", dataset.partition)),
        noun="lines",
        of_sources="Prompts and finished examples.\n\n",
        drawn=drawn if drawn.rows else None,
        sampling=f"temperature {sampling.temperature}, top_p {sampling.top_p}" if drawn.rows else "",
        decisions=("decisions",),
        made_by="filters selected",
    )


PAGES = Pages(
    examples=_EXAMPLES,
    dropped={"decisions": _DROPPED},
    funnel=_funnel,
    measure=_measure,
    charts=_charts,
)
CARD = Card(
    _words,
    ("id", "prompt", "completion", "format", "instruction", "input", pl.col("answer").alias("output")),
)
