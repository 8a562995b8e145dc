"""Run all checks of a table on one partition."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from selfimprove_dagster import registry
from selfimprove_dagster.errors import SelfImproveError
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.lake.lake import CheckOutcome, Lake
from selfimprove_dagster.quality.common import COMMON_CHECKS
from selfimprove_dagster.quality.results import NotApplicable, QualityCheck, QualityResult
from selfimprove_dagster.quality.structure import MATCHES_STRUCTURE
from selfimprove_dagster.quality.subject import Subject
from selfimprove_dagster.table import Table

if TYPE_CHECKING:
    from selfimprove_dagster.quality.expectations import Validator


def checks_of(table: Table) -> tuple[QualityCheck, ...]:
    """Return the checks of a table in the order in which they run: those of every table, then its own.

    A table that a model generated is also checked against the structure that was asked for.
    """
    return (*COMMON_CHECKS, *((MATCHES_STRUCTURE,) if table.draw else ()), *table.checks)


def run_suite(
    table: str, lake: Lake, experiment: Experiment, iteration: int, only: Collection[str] | None = None
) -> list[QualityResult]:
    """Run the checks of a table on one iteration and record the results in the lake.

    `only` selects checks; the foundation checks always run. Afterwards `Lake.read` refuses the partition as
    long as one of its blocking checks has failed. A check whose reference data is missing counts as failed.
    Raises PartitionMissing if there is no partition.
    """
    from selfimprove_dagster.quality.expectations import Validator

    checks = checks_of(registry.table(table))
    subject = Subject(registry.table(table), lake, experiment, iteration)
    validator = Validator()
    results: list[QualityResult] = []
    broken: str | None = None
    for check in checks:
        if only is not None and check.name not in only and not check.foundation:
            continue
        if broken:
            result = _failed(check, f"not evaluated, since {broken} failed. Fix that first")
        else:
            result = _run(check, subject, validator)
        if check.foundation and not result.passed:
            broken = broken or check.name
        results.append(result)
    outcomes = [
        CheckOutcome(result.name, result.passed, result.blocking, result.reason) for result in results
    ]
    lake.record_checks(subject.manifest, outcomes, known={check.name for check in checks})
    return results


def _run(check: QualityCheck, subject: Subject, validator: Validator) -> QualityResult:
    try:
        evidence = check.gather(subject)
    except SelfImproveError as error:
        return _failed(check, f"cannot be checked: {error}")
    if isinstance(evidence, NotApplicable):
        return QualityResult(check.name, True, check.blocking, evidence.reason)
    return validator.judge(check, evidence)


def _failed(check: QualityCheck, reason: str) -> QualityResult:
    return QualityResult(check.name, False, check.blocking, reason)
