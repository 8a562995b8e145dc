"""The gate before stages in which a model judges: what the lake knows of its discrimination gap."""

from __future__ import annotations

from typing import Any

from selfimprove_dagster.errors import JudgeNotTrusted
from selfimprove_dagster.families.judging.gate import MeasuredGap, Verdict, decide
from selfimprove_dagster.families.judging.settings import PickedBy, SelfKnowledgeSection
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.stage import StageContext

MEASURED_GAPS = "discrimination_gap"
"""The stage that measures how well a model picks among its own answers, in whichever method has it."""


def measured_gaps(lake: Lake, model_id: str, by: PickedBy) -> list[MeasuredGap]:
    """The newest gap of a model on each task, by the way in which it is to judge, whichever experiment
    measured it; what failed a blocking check is passed over.
    """
    newest: dict[str, MeasuredGap] = {}
    measured = lake.manifests(f"*/{MEASURED_GAPS}")
    for manifest in sorted(measured, key=lambda one: one.committed_at):
        if _refused(lake, manifest):
            continue
        for row in lake.read_ungated(manifest).filter(model_id=model_id, by=by).iter_rows(named=True):
            numbers = (row[name] for name in ("gap", "gap_low", "gap_high", "questions"))
            newest[row["task"]] = MeasuredGap(row["task"], by, *numbers)
    return list(newest.values())


def _refused(lake: Lake, manifest: Manifest) -> bool:
    return any(check.blocking and not check.passed for check in lake.checks(manifest))


def gate(lake: Lake, section: SelfKnowledgeSection, model_id: str, by: PickedBy) -> Verdict:
    """Whether the model may judge: `by` probability where its options' probabilities are read, `by` text
    where what it writes is. Raises JudgeNotTrusted where it may not.
    """
    verdict = decide(
        measured_gaps(lake, model_id, by),
        least_gap=section.least_gap,
        on_failure=section.on_failure,
        on_missing=section.on_missing,
        tasks=section.tasks,
    )
    if verdict.action == "stop":
        raise JudgeNotTrusted(
            f"the model {model_id} is not trusted to judge: {verdict.reason}. Take another judge, measure "
            "this one by an experiment of the method self_knowledge, or set self_knowledge.on_failure or "
            "self_knowledge.on_missing to warn"
        )
    return verdict


def heed_measured_gap(
    context: StageContext[Any], section: SelfKnowledgeSection, model_id: str, by: PickedBy
) -> dict[str, str]:
    """The gate's verdict on the model that is to judge, for the activity's `about` and Dagster's metadata.

    Raises JudgeNotTrusted where the stage must stop.
    """
    verdict = gate(context.lake, section, model_id, by)
    line = f"{verdict.action}: {verdict.reason}"
    if verdict.action == "warn":
        context.warn(line)
    else:
        context.log(line)
    return {"self_knowledge": line}
