"""The words of explanations of elicited tasks, their outputs and their paraphrases."""

from __future__ import annotations

from selfimprove_dagster.families.tasks.explain import OF_EXAMPLES, UNMADE, reason, score
from selfimprove_dagster.lineage.story import Explain

EXPLAIN = Explain(
    noun="candidate",
    asked="instruction",
    filters=[["candidate_tasks"], ["task_outputs", "paraphrases"]],
    beside=OF_EXAMPLES,
    shows=True,
    unmade=UNMADE,
    reason=reason,
    score=score,
)
WHAT_IF = (
    "its rules drop what cannot be read, what copies a demonstration and what was there before; `lineage explain` "
    "says which of them dropped a record"
)
