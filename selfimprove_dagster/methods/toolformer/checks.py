"""Checks on texts with calls of tools: positions, calls, losses, dataset, and what was held out."""

from __future__ import annotations

from functools import partial

import polars as pl

from selfimprove_dagster.families.tasks.checks import PARSED_CHECKS
from selfimprove_dagster.filters.contamination import text_keys
from selfimprove_dagster.methods.toolformer.exam import CHAT, PLAIN, WITH_TOOLS, WITHOUT
from selfimprove_dagster.methods.toolformer.settings import ToolformerExperiment
from selfimprove_dagster.methods.toolformer.statistics import plain_losses
from selfimprove_dagster.quality.completions import FINISHED, LOGPROBS_MATCH_TOKENS, NONE_FAILED
from selfimprove_dagster.quality.dataset import (
    LENGTH_DRIFT_CHECK,
    NOT_EMPTY,
    VOCABULARY_DRIFT_CHECK,
    decisions_complete,
)
from selfimprove_dagster.quality.outcomes import CHAMPION_AND_CHALLENGER, ROLES, roles_in
from selfimprove_dagster.quality.results import Evidence, Expect, NotApplicable, QualityCheck
from selfimprove_dagster.quality.subject import Subject, counted
from selfimprove_dagster.tools.calls import take_out

_AGAIN = "Materialise the stage again"


_ROUNDING = 1e-6


_PLACE = ["source_file", "source_line"]


def _experiment(subject: Subject) -> ToolformerExperiment:
    assert isinstance(subject.experiment, ToolformerExperiment)
    return subject.experiment


def _held_out(subject: Subject) -> pl.DataFrame:
    """The held-out texts with their `words`: of a plain one whole, of a beginning together with its answer."""
    rows = subject.evaluation_questions
    whole = rows.select(pl.concat_str("question", "answer", separator=" ", ignore_nulls=True)).to_series()
    return rows.with_columns(_words(whole))


def _words(texts: pl.Series) -> pl.Series:
    """The words of texts, with a space around each, so that a text is found in another by its words."""
    return pl.Series("words", [f" {key} " for key in text_keys(texts.fill_null(""))], dtype=pl.String)


def _has_text(subject: Subject) -> Evidence:
    return Evidence(
        subject.columns("id", "text", "source_file", "source_line"),
        (Expect("ExpectColumnValuesToMatchRegex", column="text", regex=r"\S"),),
        found="are empty",
        allowed="every one must have text",
        unit="texts",
    )


def _holds_nothing_held_out(subject: Subject) -> Evidence:
    column = "text" if "text" in subject.schema.content else "question"
    held_out = _held_out(subject)["words"]
    rows = subject.columns("id", column)
    found = _words(rows[column]).str.extract_many(held_out.implode()).list.first().str.strip_chars()
    return Evidence(
        rows.select("id", column, held_out=found.fill_null("nothing")),
        (Expect("ExpectColumnValuesToBeInSet", column="held_out", value_set=["nothing"]),),
        found="hold a text that is held out for evaluation",
        allowed=f"none of the {held_out.len():,} held-out texts may be learnt from",
        unit="texts",
    )


def _positions_follow(subject: Subject) -> Evidence:
    rows = subject.measured("id", "positions", "chosen", "probabilities")
    fine = pl.element().is_between(0, 1 + _ROUNDING)
    return Evidence(
        rows.select(
            "id",
            positions=pl.col("positions").list.len(),
            probabilities=pl.col("probabilities").list.len(),
            improbable=pl.col("probabilities").list.eval(~fine).list.any(),
            strays=pl.col("chosen").list.set_difference("positions").list.len(),
        ),
        (
            Expect("ExpectColumnPairValuesToBeEqual", column_A="positions", column_B="probabilities"),
            Expect("ExpectColumnValuesToBeInSet", column="improbable", value_set=[False]),
            Expect("ExpectColumnValuesToBeInSet", column="strays", value_set=[0]),
        ),
        found="have a position without a probability, one not between 0 and 1, or a place that is none",
        allowed="each position has one probability, and calls are sampled at some of them",
        unit="texts times tools",
        observed={"chosen": int(rows["chosen"].list.len().sum())},
    )


def _every_text_read(subject: Subject) -> Evidence:
    tools = subject.manifest.activity.parameters["tools"]
    found = subject.columns("text_id").group_by(id="text_id").agg(rows=pl.len())
    return Evidence(
        counted(subject.sibling("seed_pool", "id"), found, "rows"),
        (Expect("ExpectColumnValuesToBeInSet", column="rows", value_set=[len(tools)]),),
        found="were not read once for each tool, or are not in the seed pool",
        allowed=f"each text is read for {', '.join(tools)}",
        unit="texts",
    )


def _result_or_problem(subject: Subject) -> Evidence:
    rows = subject.columns("id", "tool", "arguments", "result", "problem")
    either = pl.col("result").is_not_null() != pl.col("problem").is_not_null()
    return Evidence(
        rows.with_columns(either=either).select("id", "tool", "arguments", "either"),
        (Expect("ExpectColumnValuesToBeInSet", column="either", value_set=[True]),),
        found="have both a result and a problem, or neither",
        allowed="a call has a result, or a reason why it has none",
        unit="calls",
    )


def _one_score_a_call(subject: Subject) -> Evidence:
    results = subject.sibling("tool_results", "id", "text_id", "position", "tool", "arguments", "problem")
    place = ["text_id", "position", "tool", "arguments"]
    asked = results.filter(pl.col("problem").is_null()).unique(place, keep="first", maintain_order=True)
    scored = subject.columns("candidate_id").group_by(id="candidate_id").agg(scores=pl.len())
    return Evidence(
        counted(asked.select("id"), scored, "scores"),
        (Expect("ExpectColumnValuesToBeInSet", column="scores", value_set=[1]),),
        found="have no score, several, or are no calls with a result",
        allowed="of equal calls at a place the first has one",
        unit="calls",
    )


def _losses_are_losses(subject: Subject) -> Evidence:
    losses = ("loss_no_call", "loss_call", "loss_call_with_result")
    rows = subject.measured("id", *losses)
    wrong = [(~(pl.col(name).is_finite() & (pl.col(name) >= -_ROUNDING))).fill_null(False) for name in losses]
    return Evidence(
        rows.select("id", wrong=pl.any_horizontal(*wrong) | pl.col("loss_no_call").is_null()),
        (Expect("ExpectColumnValuesToBeInSet", column="wrong", value_set=[False]),),
        found="have a loss below 0 or one that is no finite number",
        allowed="a loss is finite and at least 0 nats",
        unit="calls",
    )


def _text_is_whole(subject: Subject) -> Evidence:
    rows = subject.columns("id", "question", "completion", "calls")
    plain = [
        take_out(row["completion"], {call["tool"] for call in row["calls"]})[0]
        for row in rows.iter_rows(named=True)
    ]
    return Evidence(
        rows.select("id", "question").with_columns(pl.Series("without_calls", plain, dtype=pl.String)),
        (Expect("ExpectColumnPairValuesToBeEqual", column_A="question", column_B="without_calls"),),
        found="say something else than their text once the calls are taken out",
        allowed="calls may be added to a text, and nothing else",
        unit="examples",
    )


def _calls_pay(subject: Subject) -> Evidence | NotApplicable:
    section = _experiment(subject).filter
    if section.chosen_by == "lot":
        return NotApplicable("filter.chosen_by is `lot`: calls were not chosen by their loss")
    columns = ("calls", "loss_reductions")
    rows = subject.columns(*columns).explode(columns, empty_as_null=False)
    calls = rows.rename({"loss_reductions": "loss_reduction"}).unnest("calls")
    calls = calls.select("id", "tool", "loss_reduction")
    least = pl.col("tool").replace_strict(
        section.loss_reduction, default=section.other_tools, return_dtype=pl.Float64
    )
    return Evidence(
        calls.with_columns(over=pl.col("loss_reduction") - least),
        (Expect("ExpectColumnValuesToBeBetween", column="over", min_value=-_ROUNDING),),
        found="save less than their tool's threshold",
        allowed="each lowers the loss by at least τ_f (filter.loss_reduction)",
        unit="calls",
    )


def _all_texts_answered(subject: Subject) -> Evidence:
    chat = [CHAT] if _experiment(subject).evaluation.chat_tools else []
    modes = (WITH_TOOLS, WITHOUT, PLAIN, *chat)
    answers = subject.columns(*_PLACE, "role", "mode")
    roles = roles_in(answers)
    counts = answers.group_by(_PLACE).agg(
        ((pl.col("role") == role) & (pl.col("mode") == mode)).sum().cast(pl.Int64).alias(f"{role}_{mode}")
        for role in roles
        for mode in modes
    )
    held_out = subject.evaluation_questions.select("id", *_PLACE, plain=pl.col("answer").is_null())
    frame = held_out.join(counts, on=_PLACE, how="full", coalesce=True).with_columns(
        pl.col("id").fill_null(pl.format("{}:{} (not in the files)", *_PLACE))
    )
    wanted = {mode: pl.col("plain") == (mode == PLAIN) for mode in modes}
    right = [pl.col(f"{role}_{mode}") == wanted[mode].cast(pl.Int64) for role in roles for mode in modes]
    return Evidence(
        frame.select("id", once=pl.all_horizontal(*right).fill_null(False)),
        (Expect("ExpectColumnValuesToBeInSet", column="once", value_set=[True]),),
        found="were not put once to each model in each mode, or are not in the evaluation files",
        allowed="champion and challenger must sit the same exam, all of it",
        unit="held-out texts",
    )


def _not_trained_on(subject: Subject) -> Evidence:
    """Earlier iterations count too, since a champion has learnt from them."""
    learnt = [
        subject.lake.read_columns(manifest, ["question"])
        for manifest in subject.lake.manifests(f"{subject.method}/filtered_dataset", subject.experiment.name)
        if manifest.iteration <= subject.iteration
    ]
    texts = _words(pl.concat([pl.DataFrame(schema={"question": pl.String}), *learnt]).unique()["question"])
    held_out = _held_out(subject)
    known = texts.str.extract_many(held_out["words"].implode(), overlapping=True).explode().drop_nulls()
    places = held_out.filter(pl.col("words").is_in(known.unique().implode()))
    rows = subject.columns("id", "question", "role", *_PLACE)
    return Evidence(
        rows.join(places.select(*_PLACE, learnt=pl.lit(True)), on=_PLACE, how="left").select(
            "id", "question", "role", pl.col("learnt").fill_null(False)
        ),
        (Expect("ExpectColumnValuesToBeInSet", column="learnt", value_set=[False]),),
        found="are on a text that a model was trained on",
        allowed="what is measured must not have been learnt",
        unit="answers",
        observed={"texts_learnt_from": texts.len()},
    )


def _plain_texts_cost_no_more(subject: Subject) -> Evidence | NotApplicable:
    losses = plain_losses(subject.columns("role", "mode", "nats", "tokens"))
    if len(losses) < len(ROLES):
        return NotApplicable("no plain texts are held out: evaluation.plain_file names none")
    before, after = (losses[role] for role in ROLES)
    most = _experiment(subject).evaluation.plain_tolerance
    return Evidence.of_number(
        "rise",
        after - before,
        most=most,
        statement=f"plain texts cost {after:.3f} nats a token, {before:.3f} before",
        allowed=f"they may cost at most {most:g} more (evaluation.plain_tolerance)",
        evaluated=int(subject.columns("mode").filter(mode=PLAIN).height / len(losses)),
    )


_NOTHING_HELD_OUT = QualityCheck(
    "no_overlap_with_evaluation",
    True,
    "No text holds a held-out text or its beginning; case, punctuation and Unicode forms make no difference.",
    "Take these texts out of the seed file or out of the evaluation files, then start a new experiment",
    _holds_nothing_held_out,
)


TEXT_POOL_CHECKS = (
    QualityCheck("no_empty_text", True, "Every one has text.", "Fix the lines of the seed file", _has_text),
    _NOTHING_HELD_OUT,
)


POSITION_CHECKS = (
    QualityCheck(
        "consistent",
        True,
        "Each position has one probability, and the places chosen are among the positions.",
        _AGAIN,
        _positions_follow,
    ),
    QualityCheck("every_text_read", True, "Each text was read once for each tool.", _AGAIN, _every_text_read),
)


SAMPLED_CALL_CHECKS = (LOGPROBS_MATCH_TOKENS, FINISHED, NONE_FAILED)


TOOL_RESULT_CHECKS = (
    QualityCheck("result_or_problem", True, "A call has a result or a problem.", _AGAIN, _result_or_problem),
    *PARSED_CHECKS,
)


LOSS_CHECKS = (
    QualityCheck(
        "one_score_a_call", True, "Each call with a result has one score.", _AGAIN, _one_score_a_call
    ),
    QualityCheck("losses", True, "Losses are finite and not below 0.", _AGAIN, _losses_are_losses),
)


CALL_DATASET_CHECKS = (
    NOT_EMPTY,
    QualityCheck(
        "text_is_whole", True, "Without its calls each example is its text.", _AGAIN, _text_is_whole
    ),
    QualityCheck(
        "calls_pay",
        True,
        "Each call lowers the loss by its tool's threshold.",
        "The experiment file was changed since: materialise filtered_dataset again",
        _calls_pay,
    ),
    _NOTHING_HELD_OUT,
    LENGTH_DRIFT_CHECK,
    VOCABULARY_DRIFT_CHECK,
    QualityCheck(
        "decisions_complete",
        True,
        "Every call has a decision, and no dropped call is in the dataset.",
        _AGAIN,
        partial(decisions_complete, candidates="tool_results"),
    ),
)


TOOL_EVALUATION_CHECKS = (
    QualityCheck(
        "all_texts_answered",
        True,
        "Champion and challenger have taken the whole exam once.",
        "Materialise evaluation again; the files may have been changed since",
        _all_texts_answered,
    ),
    CHAMPION_AND_CHALLENGER,
    QualityCheck(
        "not_trained_on",
        True,
        "No held-out text was trained on, in this or an earlier iteration.",
        "Take these texts out of the evaluation files, then start a new experiment",
        _not_trained_on,
    ),
    QualityCheck(
        "plain_perplexity",
        False,
        "Plain texts are as easy to predict for the challenger as for the champion.",
        "Train for fewer steps, or raise filter.loss_reduction, so that fewer texts have calls",
        _plain_texts_cost_no_more,
    ),
)
