"""The pages of self-consistency: paths, votes, and the training examples that the votes teach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import polars as pl

from selfimprove_dagster.conversation import Message
from selfimprove_dagster.evaluation.diversity import distinct_ngram_share
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.explorer.curves import Chart, Curve, Measured, curve, held_out_accuracy
from selfimprove_dagster.explorer.declare import AboutRecord, Pages, RecordBlock
from selfimprove_dagster.explorer.funnel import Stages, Step, step
from selfimprove_dagster.explorer.listings import (
    FORMAT,
    HERE,
    RULE,
    SCORES,
    UNFILTERED,
    Column,
    Facet,
    Listing,
    Range,
)
from selfimprove_dagster.export_cards import Card, CardWords
from selfimprove_dagster.families.questions.prompts import DIRECT_FORMATS
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lineage.story import Story
from selfimprove_dagster.lineage.walk import Place
from selfimprove_dagster.methods.lmsi.tables import RAW_GENERATIONS, SEED_POOL, VOTED_ANSWERS
from selfimprove_dagster.table import Row

# ---- an experiment -----------------------------------------------------------------------------------


_CURVES = (
    Curve("margin", "Vote margin", "Mean lead of the voted answer over the next, as a share of all paths."),
    Curve("kept_share", "Kept share", "Training examples per path.", True),
    Curve("distinct", "Diversity", "Distinct 4-grams over all 4-grams of the dataset.", True),
    Curve("perplexity", "Perplexity", "Mean over all paths, under the model that generated them."),
)


def _measure(lake: Lake, stages: Stages) -> Row:
    """The figures of one iteration; None where a stage is not committed."""

    def column(stage: str, name: str) -> pl.Series | None:
        return lake.read_columns(stages[stage], [name])[name] if stage in stages else None

    said, paths = column("filtered_dataset", "completion"), column("raw_generations", "id")
    margin, perplexity = column("voted_answers", "margin"), column("perplexity_scores", "perplexity")
    return {
        "margin": None if margin is None else margin.mean(),
        "kept_share": len(said) / len(paths)
        if said is not None and paths is not None and len(paths)
        else None,
        "distinct": None if said is None else distinct_ngram_share(said.to_list()),
        "perplexity": None if perplexity is None else perplexity.mean(),
    }


def _charts(experiment: Experiment, rows: Sequence[Measured]) -> list[Chart]:
    return [held_out_accuracy(rows), *(curve(one, rows) for one in _CURVES)]


# ---- an iteration ------------------------------------------------------------------------------------


def _funnel(lake: Lake, stages: Stages) -> list[Step]:
    """The steps from questions to training examples."""
    steps: list[Step] = []
    paths = 0
    if "seed_pool" in stages:
        steps.append(step("questions", lake.live_rows(stages["seed_pool"])))
    if "raw_generations" in stages:
        paths = lake.live_rows(stages["raw_generations"])
        steps.append(step("paths drawn", paths, of=paths))
    readable = None
    if "voted_answers" in stages:
        readable = int(lake.read_columns(stages["voted_answers"], ["n_valid"])["n_valid"].sum())
        label = "paths whose answer can be read"
        steps.append(step(label, readable, paths - readable, "rejected?readable=no", paths))
    if "decisions" in stages:
        decided = lake.read_columns(stages["decisions"], ["rule", "kept"])
        rules = decided.group_by("rule").agg(pl.len().alias("reached"), pl.col("kept").sum())
        # A rule sees what those before it kept, so this is the order in which they ran.
        for rule, reached, kept in rules.sort("reached", "kept", descending=True).iter_rows():
            dropped, link = reached - kept, f"rejected?rule={rule}"
            if rule == "agrees_with_vote" and readable is not None:
                dropped, link = readable - kept, link + "&readable=yes"
            steps.append(step(_PATH_RULES.get(rule, f"pass the rule {rule}"), kept, dropped, link, paths))
    if "filtered_dataset" in stages:
        steps.append(step("training examples", lake.live_rows(stages["filtered_dataset"]), of=paths))
    return steps


_PATH_RULES = {
    "agrees_with_vote": "agree with the vote",
    "vote_share": "of questions with a clear enough vote",
    "valid_votes": "of questions with enough votes",
    "perplexity": "probable enough to the model",
    "duplicate": "not the same as another path",
    "paths_per_question": "within the limit per question",
}


# ---- lists -------------------------------------------------------------------------------------------


_SHARE = Column("vote share", "vote_share", "share", True)


_PERPLEXITY = Column("perplexity", "perplexity", "perplexity", True)


_ANSWER = Column("answer", "answer", "answer")


_RANGE = Range("Vote share", "vote_share")


_EXAMPLES = Listing(
    noun="example",
    about="",
    text="question and completion",
    asks="prompt or completion",
    needed=("filtered_dataset",),
    source=f'FROM "lmsi"."filtered_dataset" {HERE}',
    select='id, id AS link, "format", question AS title, left(completion, 400) AS body, answer, vote_share, '
    "perplexity",
    words=("prompt", "completion"),
    facets=(Facet("format", '"format"'),),
    columns=(_ANSWER, FORMAT, _SHARE, _PERPLEXITY),
    default="-share",
    between=_RANGE,
    answer=True,
)


_DROPPED = Listing(
    noun="path",
    about="Paths that did not become training examples, each with the rule that dropped it, its score and "
    "the threshold.",
    text="question and path",
    asks="question or path",
    needed=("decisions", "raw_generations", "voted_answers"),
    source=f"""FROM "lmsi"."decisions" AS decided
LEFT JOIN (SELECT id, text FROM "lmsi"."raw_generations" {HERE}) AS path ON path.id = decided.candidate_id
LEFT JOIN (
    SELECT ballot.id AS path_id, ballot.answer AS answer, * EXCLUDE (ballot)
    FROM (
        SELECT question, voted_answer, vote_share, unnest(paths) AS ballot
        FROM "lmsi"."voted_answers" {HERE}
    )
) AS vote ON vote.path_id = decided.candidate_id
{HERE} AND NOT kept""",
    select="decided.id AS id, candidate_id AS link, rule, reason, score, threshold, nearest_id, answer, "
    "vote_share, left(question, 400) AS title, left(text, 400) AS body",
    words=("text", "question"),
    facets=(RULE,),
    columns=(_ANSWER, *SCORES, _SHARE),
    default="rule",
    between=_RANGE,
    answer=True,
    readable=True,
    waiting=UNFILTERED,
    called="what was dropped",
)


# ---- a record ----------------------------------------------------------------------------------------


def _votes(about: AboutRecord) -> Row | None:
    """The vote on the question that a record belongs to: its answers, and the paths behind each."""
    place, withdrawn = about.place, about.withdrawn
    questions = about.ancestors.nodes.filter(table_name=SEED_POOL.name)["id"].to_list()
    if len(questions) != 1 or place.iteration is None:
        return None
    asked = Place(questions[0], SEED_POOL.name, place.experiment, place.iteration)
    rows = about.lineage.rows(questions, withdrawn=True)
    story = Story(about.lineage, asked, rows[asked.id])
    vote = story.iteration.row(VOTED_ANSWERS, "question_id", asked.id)
    if not vote or vote["id"] in withdrawn:
        return None
    candidates = Story(about.lineage, place, about.row).candidates
    own = candidates[0]["id"] if len(candidates) == 1 else None
    answers: dict[str | None, list[Row]] = {entry["answer"]: [] for entry in vote["votes"]}
    for fate in story.fates:
        if fate.path not in withdrawn:
            answers.setdefault(fate.answer, []).append(asdict(fate) | {"this": fate.path == own})
    return {
        "vote": vote,
        "answers": [
            {
                "answer": answer,
                "paths": paths,
                "share": len(paths) / max(1, vote["n_paths"]),
                "voted": answer is not None and answer == vote["voted_answer"],
            }
            for answer, paths in answers.items()
        ],
    }


def _names(rows: Mapping[str, Row]) -> Mapping[str, str]:
    """The words for paths: their answers, which only the vote knows."""
    return {
        ballot["id"]: f"path {rows[ballot['id']]['sample_index']}: "
        + ("no answer" if ballot["answer"] is None else ballot["answer"])
        for row in rows.values()
        if row["table_name"] == VOTED_ANSWERS.name
        for ballot in row["paths"]
        if ballot["id"] in rows
    }


# ---- export ------------------------------------------------------------------------------------------


def _words(lake: Lake, dataset: Manifest) -> CardWords:
    drawn = lake.manifest(RAW_GENERATIONS.name, dataset.partition)
    sampling = drawn.activity.parameters
    paths = f"{sampling['sampling']['paths']} paths per question, {drawn.rows:,} paths in all"
    return CardWords(
        truth="No true answer was used.",
        sources=lake.read_ungated(lake.manifest(SEED_POOL.name, dataset.partition)),
        noun="questions",
        of_sources="",
        drawn=drawn,
        sampling=f"temperature {sampling['temperature']},\n{paths}",
        decisions=("decisions",),
    )


def _said(row: Row) -> str:
    """The answer of an example. Text prompts of direct formats end within its sentence, which is whole here."""
    return f"The answer is {row['answer']}." if row["format"] in DIRECT_FORMATS else row["completion"].strip()


PAGES = Pages(
    examples=_EXAMPLES,
    dropped={"paths": _DROPPED},
    funnel=_funnel,
    measure=_measure,
    charts=_charts,
    record=[RecordBlock(Path(__file__).with_name("votes.html"), _votes, shows_fates=True)],
    names=_names,
)
CARD = Card(
    _words,
    ("id", "prompt", "completion", "format", "question", "answer"),
    asks=lambda row: [Message("user", row["question"])],
    says=_said,
)
