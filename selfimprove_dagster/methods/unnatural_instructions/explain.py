"""The words of explanations of elicited tasks, their outputs and their paraphrases."""

from __future__ import annotations

from selfimprove_dagster.families.tasks.explain import UNMADE, reason
from selfimprove_dagster.lineage.story import Explain

EXPLAIN = Explain(
    noun="candidate",
    asked="instruction",
    filters=[["candidate_tasks"], ["task_outputs", "paraphrases"]],
    shows=True,
    unmade=UNMADE,
    reason=reason,
)
WHAT_IF = (
    "its rules drop what cannot be read, what copies a demonstration and what was there before; `lineage explain` "
    "says which of them dropped a record"
)
