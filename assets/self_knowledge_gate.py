"""The gate before a stage in which a model judges itself, as Dagster shows it."""

from __future__ import annotations

from typing import Any

from assets.stage import Stage
from selfimprove_dagster.self_knowledge import gate
from selfimprove_dagster.self_knowledge_sections import PickedBy, SelfKnowledgeSection


def heed_self_knowledge(
    stage: Stage[Any], section: SelfKnowledgeSection, model_id: str, by: PickedBy
) -> dict[str, str]:
    """The gate's verdict on the model that is to judge, for the activity's `about` and Dagster's metadata.

    Raises JudgeNotTrusted where the stage must stop.
    """
    verdict = gate(stage.lake, section, model_id, by)
    line = f"{verdict.action}: {verdict.reason}"
    if verdict.action == "warn":
        stage.context.log.warning(line)
    else:
        stage.log(line)
    return {"self_knowledge": line}
