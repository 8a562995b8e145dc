"""Define checks of the outcome: the checkpoint, its evaluation, and the decision to promote it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.experiment.base import GREEDY, TrainingExperiment
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.loop.promotion import passes
from selfimprove_dagster.quality.results import Evidence, Expect, NotApplicable, QualityCheck
from selfimprove_dagster.quality.subject import Subject, numbers, with_key
from selfimprove_dagster.table import PERPLEXITIES

ROLES = ("champion", "challenger")

_BASE = "base"
"""The role of the base model, which takes the exam too if the champion is another model."""


_NUMPY_TYPES = frozenset({"F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"})


# ---- fine_tuned_checkpoint -----------------------------------------------------------------------------


def _loads(subject: Subject) -> Evidence:
    rows = []
    for row in subject.columns("id", "path", "model_id").iter_rows(named=True):
        found, problem = _model_hash(subject.lake.model_at(row["path"]))
        rows.append((row["id"], row["path"], row["model_id"], found, problem or "none"))
    problems = "; ".join(row[-1] for row in rows if row[-1] != "none")
    return Evidence(
        pl.DataFrame(rows, schema=["id", "path", "model_id", "weights_hash", "problem"], orient="row"),
        (
            Expect("ExpectTableRowCountToEqual", value=1),
            Expect("ExpectColumnValuesToBeInSet", column="problem", value_set=["none"]),
            Expect("ExpectColumnPairValuesToBeEqual", column_A="model_id", column_B="weights_hash"),
        ),
        found="cannot be used"
        + (f" ({problems})" if problems else ": the weights differ from those that were trained"),
        allowed="config and weights must be readable, all numbers finite, and their hash the model_id",
        unit="checkpoints",
    )


def _model_hash(path: str) -> tuple[str, str | None]:
    """The hash of a model directory and what is wrong with it, if anything.

    Of a model whose weights were pruned since, it is the recorded one.
    """
    from selfimprove_dagster.language_model.weights import model_id
    from selfimprove_dagster.pruned import pruned

    folder = Path(path)
    if (before := pruned(folder)) is not None:
        return before.model_id, None
    try:
        found = model_id(folder)
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return found, _not_finite(folder)
    except ModelError as error:
        return "none", str(error)
    except (OSError, ValueError) as error:
        return "none", f"{type(error).__name__}: {error}"


def _not_finite(folder: Path) -> str | None:
    """Name the tensors with NaN or infinite numbers, with one tensor in memory at a time."""
    from safetensors import SafetensorError, safe_open

    bad: list[str] = []
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="numpy") as tensors:
                types = {name: tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
            # numpy supports neither bfloat16 nor 8-bit floats; torch is imported only for those.
            framework = "numpy" if set(types.values()) <= _NUMPY_TYPES else "pt"
            with safe_open(file, framework=framework) as tensors:
                bad += [name for name in types if not _all_finite(tensors.get_tensor(name), framework)]
        except SafetensorError as error:
            return f"{file.name} is not a safetensors file: {error}"
    return f"numbers in {', '.join(bad[:5])} are not finite" if bad else None


def _all_finite(tensor: Any, framework: str) -> bool:
    if framework == "numpy":
        import numpy

        return bool(numpy.isfinite(tensor).all())
    import torch

    if tensor.is_floating_point() and tensor.element_size() == 1:
        tensor = tensor.float()
    return bool(torch.isfinite(tensor).all())


def _loss_finite(subject: Subject) -> Evidence:
    rows = subject.columns("id", "first_loss", "final_loss", "log")
    ends = [rows.select("id", at=pl.lit(name), loss=name) for name in ("first_loss", "final_loss")]
    steps = (
        rows.select("id", "log")
        .explode("log", empty_as_null=False)
        .select(
            "id",
            at=pl.format("step {}", pl.col("log").struct.field("step")),
            loss=pl.col("log").struct.field("loss"),
        )
        .filter(pl.col("loss").is_not_null())  # log entries without a loss report something else
    )
    losses = pl.concat([*ends, steps]).with_columns(finite=pl.col("loss").is_finite())
    return Evidence(
        losses,
        (Expect("ExpectColumnValuesToBeInSet", column="finite", value_set=[True]),),
        found="are not finite numbers",
        allowed="a model whose loss is not finite has not been trained",
        unit="losses",
    )


def _loss_fell(subject: Subject) -> Evidence:
    rows = subject.columns("id", "first_loss", "final_loss")
    first, final = rows.row(0)[1:] if rows.height else (None, None)
    return Evidence(
        rows,
        (
            Expect("ExpectTableRowCountToEqual", value=1),
            Expect("ExpectColumnPairValuesAToBeGreaterThanB", column_A="first_loss", column_B="final_loss"),
        ),
        statement="the loss went from {} to {}".format(
            *("nothing" if one is None else f"{one:.4g}" for one in (first, final))
        ),
        allowed="it should fall",
        observed=numbers(first_loss=first, final_loss=final),
    )


WARNED_RISE = 0.1
"""The rise of a plain text's perplexity over that under the base model from which a check warns."""


def _perplexity_kept(subject: Subject) -> Evidence | NotApplicable:
    assert isinstance(subject.experiment, TrainingExperiment)
    section = subject.experiment.training.perplexity
    if section is None:
        return NotApplicable("training.perplexity names no text")
    rows = subject.columns(PERPLEXITIES)[PERPLEXITIES].to_list()
    measured = {one["role"]: one["perplexity"] for row in rows for one in row or ()}
    if not {"base", "challenger"} <= measured.keys():
        return NotApplicable("the checkpoint was trained before training.perplexity was set")
    rise = measured["challenger"] / measured["base"] - 1
    most = WARNED_RISE if section.maximum_rise is None else section.maximum_rise
    return Evidence.of_number(
        "rise",
        rise,
        most=most,
        statement=f"the perplexity of the text is {measured['challenger']:.3f}, and {measured['base']:.3f} under the "
        f"base model: a rise of {rise:+.1%}",
        allowed=f"it may rise by {most:.0%}",
        evaluated=1,
        observed=numbers(**{f"{role}_perplexity": value for role, value in measured.items()}),
        blocking=section.maximum_rise is not None,
    )


# ---- evaluation ----------------------------------------------------------------------------------------


def _answers(role: str, mode: pl.Expr) -> pl.Expr:
    return ((pl.col("role") == role) & mode).sum().cast(pl.Int64)


def roles_in(answers: pl.DataFrame) -> tuple[str, ...]:
    """Return the roles of those who had to take the exam: the base model's only if it took it."""
    return (*ROLES, _BASE) if (answers["role"] == _BASE).any() else ROLES


def all_questions_answered(subject: Subject, alike: bool = True) -> Evidence:
    """Check that all models answered each question greedily; `alike`: and equally often in other modes."""
    place = ["source_file", "source_line"]
    greedy = pl.col("mode") == GREEDY
    answers = subject.columns(*place, "role", "mode").filter(~pl.col("mode").str.starts_with("judge"))
    roles = roles_in(answers)
    counts = answers.group_by(place).agg(
        *(_answers(role, greedy).alias(role) for role in roles),
        *(_answers(role, ~greedy).alias(f"{role}_by_vote") for role in roles),
    )
    questions = subject.evaluation_questions.select("id", *place, "question")
    frame = questions.join(counts, on=place, how="full", coalesce=True).with_columns(
        pl.col("id").fill_null(pl.format("{}:{} (not in the file)", *place)),
        pl.col("question").fill_null("none"),
        *(pl.col(f"{role}{how}").fill_null(0) for role in roles for how in ("", "_by_vote")),
    )
    once = {"min_value": 1, "max_value": 1}
    equal = [
        Expect("ExpectColumnPairValuesToBeEqual", column_A="champion_by_vote", column_B=f"{role}_by_vote")
        for role in roles[1:]
    ]
    return Evidence(
        frame.sort(place).drop(place),
        (
            *(Expect("ExpectColumnValuesToBeBetween", column=role, **once) for role in roles),
            Expect("ExpectColumnValuesToNotBeInSet", column="question", value_set=["none"]),
            *(equal if alike else []),
        ),
        found="were not answered exactly once by each model, or are not in the evaluation file",
        allowed="champion and challenger must answer all questions",
        unit="evaluation questions",
        observed={"questions": questions.height},
    )


def _champion_and_challenger(subject: Subject) -> Evidence:
    rows = subject.columns("role", "model_id")
    found = rows.group_by(id="role").agg(models=pl.col("model_id").n_unique().cast(pl.Int64)).sort("id")
    named = [f"{role} ({models} model{'s' * (models != 1)})" for role, models in found.rows()]
    return Evidence(
        found,
        (
            Expect("ExpectColumnDistinctValuesToContainSet", column="id", value_set=list(ROLES)),
            Expect("ExpectColumnValuesToBeInSet", column="id", value_set=[*ROLES, _BASE]),
            Expect("ExpectColumnValuesToBeBetween", column="models", min_value=1, max_value=1),
        ),
        statement=f"roles found: {', '.join(named) or 'none'}",
        allowed="there must be one champion and one challenger, and at most one base model besides",
        evaluated=rows.height,
    )


def not_trained_on(subject: Subject, shown: Sequence[str] = ()) -> Evidence:
    """Check that no evaluation question was trained on or shown in prompts, which use the tables named in
    `shown`.

    Earlier iterations count, too, since the champion was trained in them.
    """
    experiment = subject.experiment.name
    learnt = [pl.DataFrame(schema={"key": pl.String, "learnt_from": pl.String})]
    for manifest in subject.lake.manifests(f"{subject.method}/filtered_dataset", experiment):
        if manifest.iteration <= subject.iteration:
            learnt.append(_keys(subject.lake, manifest, f"iteration {manifest.iteration}"))
    for table in shown:
        for manifest in subject.lake.manifests(table, experiment):
            learnt.append(_keys(subject.lake, manifest, table.split("/")[1]))
    trained = pl.concat(learnt).unique("key", keep="first", maintain_order=True)
    rows = with_key(subject.columns("id", "question", "role")).join(
        trained, on="key", how="left", maintain_order="left"
    )
    return Evidence(
        rows.select("id", "question", "role", pl.col("learnt_from").fill_null("nothing")),
        (Expect("ExpectColumnValuesToBeInSet", column="learnt_from", value_set=["nothing"]),),
        found="have a question that a model was trained on"
        if not shown
        else "have a question that a model was trained on or shown as a demonstration",
        allowed="evaluation questions must not be in the training data",
        unit="answers",
        observed={"questions_learnt_from": trained.height},
    )


def _keys(lake: Lake, manifest: Manifest, source: str) -> pl.DataFrame:
    questions = lake.read_columns(manifest, ["question"]).unique(maintain_order=True)
    return with_key(questions).select("key", learnt_from=pl.lit(source))


# ---- promotion -----------------------------------------------------------------------------------------


_DECIDED_BY = (
    *("promoted", "champion_accuracy", "challenger_accuracy", "difference", "difference_low"),
    *("questions", "gained", "lost", "p_worse"),
)

_LATER = ("rule", "bound", "base_model_id", "base_accuracy", "base_difference", "base_difference_low")


def _consistent(subject: Subject) -> Evidence:
    assert isinstance(subject.experiment, TrainingExperiment)
    level = subject.experiment.promotion.level
    rows = subject.columns("id", *_DECIDED_BY, *_LATER)
    problems = [_contradiction(row, level) or "none" for row in rows.iter_rows(named=True)]
    stated = "; ".join(problem for problem in problems if problem != "none")
    if rows.height != 1:
        stated = f"there are {rows.height} rows"
    return Evidence(
        rows.with_columns(pl.Series("problem", problems, dtype=pl.String)),
        (
            Expect("ExpectTableRowCountToEqual", value=1),
            Expect("ExpectColumnValuesToBeInSet", column="problem", value_set=["none"]),
        ),
        statement=stated or "the decision is consistent with its numbers",
        allowed="there must be one row, promoted only if its intervals meet its rule",
        observed=numbers(**rows.select("difference", "p_worse").row(0, named=True)) if rows.height else {},
    )


def _contradiction(row: dict[str, Any], level: float) -> str | None:
    """Return the contradiction in a row of the promotion table, if any.

    A row without a rule is of an earlier version, which promoted unless the test found the challenger worse.
    """
    given = [*_DECIDED_BY, *(["bound"] if row["rule"] else []), *(_LATER if row["base_model_id"] else [])]
    if any(row[name] is None for name in given):
        return "a number is missing: " + ", ".join(name for name in given if row[name] is None)
    # The comparisons are written so that NaN does not pass.
    if row["promoted"] and row["rule"] is None and not row["p_worse"] > level:
        return f"promoted although p(worse) is {row['p_worse']:.3g}"
    against = {"champion": "", "base model": "base_"} if row["base_model_id"] else {"champion": ""}
    for model, prefix in against.items():
        before, difference = row[f"{prefix or 'champion_'}accuracy"], row[f"{prefix}difference"]
        low = row[f"{prefix}difference_low"]
        if row["promoted"] and row["rule"] and not passes(row["rule"], row["bound"], low):
            return f"promoted although the interval against the {model} starts at {low:+.1%}"
        if not abs(row["challenger_accuracy"] - before - difference) < 1e-6:
            return f"the difference is {difference} but the accuracies differ by another number"
    if not 0 <= row["p_worse"] <= 1:
        return f"p(worse) is {row['p_worse']}"
    if not abs(row["gained"] - row["lost"] - row["difference"] * row["questions"]) < 1e-3:
        return f"{row['gained']} gained and {row['lost']} lost do not make the difference {row['difference']}"
    return None


FINE_TUNED_CHECKPOINT_CHECKS = (
    QualityCheck(
        "loads",
        True,
        "The checkpoint can be read, all its numbers are finite, and the hash of its weights is its id.",
        "Materialise fine_tuned_checkpoint again",
        _loads,
    ),
    QualityCheck(
        "loss_finite",
        True,
        "Every logged loss is a finite number.",
        "Lower training.learning_rate, or train in float32",
        _loss_finite,
    ),
    QualityCheck(
        "loss_fell",
        False,
        "The last loss is below the first.",
        "Train longer, or change the learning rate",
        _loss_fell,
    ),
)


PERPLEXITY_KEPT = QualityCheck(
    "perplexity_kept",
    True,
    "The perplexity of a plain text (training.perplexity) rises little over that under the base model; where "
    "training.perplexity.maximum_rise is not set, a rise only warns.",
    "Mix in general examples (training.mix), lower training.learning_rate, or train fewer steps",
    _perplexity_kept,
)


CHAMPION_AND_CHALLENGER = QualityCheck(
    "champion_and_challenger",
    True,
    "There is one champion and one challenger.",
    "Materialise evaluation again",
    _champion_and_challenger,
)


NOT_TRAINED_ON = QualityCheck(
    "not_trained_on",
    True,
    "No evaluation question was trained on, in this or an earlier iteration.",
    "Remove these questions from the evaluation file, then start a new experiment",
    not_trained_on,
)


ALL_QUESTIONS_ANSWERED = QualityCheck(
    "all_questions_answered",
    True,
    "Champion and challenger answered every question of the evaluation file once.",
    "Materialise evaluation again; the evaluation file may have changed",
    all_questions_answered,
)


EVALUATION_CHECKS = (ALL_QUESTIONS_ANSWERED, CHAMPION_AND_CHALLENGER, NOT_TRAINED_ON)


PROMOTION_CHECKS = (
    QualityCheck(
        "consistent",
        True,
        "There is one decision, and it is consistent with its numbers.",
        "Materialise promotion again",
        _consistent,
    ),
)
