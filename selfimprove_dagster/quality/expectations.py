"""Validate the evidence of checks with Great Expectations and describe the result.

This is the only module that uses the library. The library is imported on the first validation, since that
takes seconds, with telemetry and progress bars turned off. It validates pandas frames, so evidence is
converted to pandas: only the few columns that it names, and some rows at a time where each row is judged by itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import polars as pl

from selfimprove_dagster.quality.results import (
    MOST_FAILING_IDS,
    MOST_SAMPLE_ROWS,
    Evidence,
    Expect,
    QualityCheck,
    QualityResult,
)

_ROWS = 100_000
"""Rows that are converted to pandas together."""


class Validator:
    """Validates evidence in its own in-memory context."""

    def __init__(self) -> None:
        os.environ["GX_ANALYTICS_ENABLED"] = "false"
        import great_expectations as gx
        from great_expectations.data_context.types.base import ProgressBarsConfig

        self._gx = gx
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
        # One definition serves all frames: creating another costs more than most validations.
        asset = context.data_sources.add_pandas("lake").add_dataframe_asset("evidence")
        self._definition = asset.add_batch_definition_whole_dataframe("all")

    def judge(self, check: QualityCheck, evidence: Evidence) -> QualityResult:
        """Return whether the evidence meets the expectations of the check."""
        outcomes = self._validate(check.name, evidence.frame, evidence.expectations)
        failing_ids: dict[str, None] = {}
        broken = 0
        for outcome in outcomes:
            rows = outcome["result"].get("unexpected_index_list")
            if rows is None:  # an expectation about a whole column or table
                broken += not outcome["success"]
                continue
            failing_ids.update((str(row["id"]), None) for row in rows)
        statistic = evidence.statement is not None
        passed = all(outcome["success"] for outcome in outcomes)
        evaluated = evidence.frame.height if evidence.evaluated is None else evidence.evaluated
        unexpected = broken + len(failing_ids)
        shown = [] if statistic and passed else list(failing_ids)
        return QualityResult(
            name=check.name,
            passed=passed,
            blocking=check.blocking if evidence.blocking is None else evidence.blocking,
            reason=_reason(check, evidence, passed, evaluated, unexpected),
            evaluated=evaluated,
            unexpected=unexpected,
            failing_ids=[] if statistic else shown[:MOST_FAILING_IDS],
            table=_sample(evidence.frame, shown[:MOST_FAILING_IDS]),
            observed=dict(evidence.observed),
        )

    def _validate(
        self, name: str, frame: pl.DataFrame, expectations: tuple[Expect, ...]
    ) -> list[dict[str, Any]]:
        """Return one outcome per expectation, including those that are added because of nulls."""
        expected = [*expectations, *_against_nulls(frame, expectations)]
        by_row = [one for one in expected if _judges_rows(one)] if frame.height > _ROWS else []
        whole = [one for one in expected if one not in by_row]
        outcomes = self._outcomes(name, frame, whole) if whole else []
        parts = [self._outcomes(name, rows, by_row) for rows in frame.iter_slices(_ROWS)] if by_row else []
        return outcomes + [_merged(expect, one) for expect, *one in zip(by_row, *parts, strict=True)]

    def _outcomes(
        self, name: str, frame: pl.DataFrame, expectations: Sequence[Expect]
    ) -> list[dict[str, Any]]:
        """Return one outcome per expectation."""
        # The other columns are for readers only: Great Expectations would hash every value in them.
        looked_at = frame.select(list(dict.fromkeys(["id", *_columns_named(expectations)])))
        batch = self._definition.get_batch({"dataframe": looked_at.to_pandas()})
        suite = self._gx.ExpectationSuite(
            name=name,
            expectations=[
                getattr(self._gx.expectations, expect.name)(**expect.arguments) for expect in expectations
            ],
        )
        result = batch.validate(
            suite, result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["id"]}
        )
        outcomes = [outcome.to_json_dict() for outcome in result.results]
        for outcome in outcomes:
            problem = outcome["exception_info"]
            if not outcome["result"] and not outcome["success"] and problem:
                raise RuntimeError(f"check {name} could not be computed: {problem}")
        return outcomes


def _judges_rows(expect: Expect) -> bool:
    """Return whether an expectation judges each row by itself, so that rows may be validated in parts."""
    return (
        expect.name.startswith(("ExpectColumnValues", "ExpectColumnPairValues"))
        and "Unique" not in expect.name
    )


def _merged(expect: Expect, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the outcome over all rows, given those over parts of them. A share (`mostly`) is one of all rows."""
    results = [part["result"] for part in parts]
    rows = sum(one["element_count"] - one.get("missing_count", 0) for one in results)
    unexpected = sum(one["unexpected_count"] for one in results)
    return {
        "success": rows == 0 or (rows - unexpected) / rows >= expect.arguments.get("mostly", 1),
        "result": {"unexpected_index_list": [row for one in results for row in one["unexpected_index_list"]]},
    }


def _against_nulls(frame: pl.DataFrame, expectations: Sequence[Expect]) -> list[Expect]:
    """Return expectations that make nulls and NaN count, which Great Expectations and pandas skip."""
    return [
        Expect("ExpectColumnValuesToNotBeNull", column=column)
        for column in _columns_named(expectations)
        if _has_nulls(frame[column])
    ]


def _columns_named(expectations: Sequence[Expect]) -> list[str]:
    """Return the columns that expectations refer to, each once."""
    named = (
        column
        for expect in expectations
        for key, value in expect.arguments.items()
        if key in ("column", "column_A", "column_B", "column_list")
        for column in ([value] if isinstance(value, str) else value)
    )
    return list(dict.fromkeys(named))


def _has_nulls(series: pl.Series) -> bool:
    return series.null_count() > 0 or (series.dtype.is_float() and bool(series.is_nan().any()))


def _sample(frame: pl.DataFrame, ids: list[str]) -> list[dict[str, Any]]:
    rows = frame.filter(pl.col("id").cast(pl.String).is_in(ids)).head(MOST_SAMPLE_ROWS)
    return rows.to_dicts()


def _reason(check: QualityCheck, evidence: Evidence, passed: bool, evaluated: int, unexpected: int) -> str:
    if evidence.statement is not None:
        found = evidence.statement
    elif unexpected == 0:
        found = f"{evaluated:,} {evidence.unit} checked"
    else:
        found = f"{unexpected:,} of {evaluated:,} {evidence.unit} {evidence.found}"
    reason = f"{found}; {evidence.allowed}"
    return reason if passed else f"{reason}. {check.remedy}"
