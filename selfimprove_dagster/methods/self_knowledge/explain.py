"""The words of explanations of what measures how well a model judges its own answers."""

from __future__ import annotations

from selfimprove_dagster.lineage.story import Explain
from selfimprove_dagster.methods.self_knowledge.tables import TABLES

EXPLAIN = Explain(
    noun="candidate",
    aside=dict.fromkeys(
        (table.stage for table in TABLES),
        "it measures whether a model can judge itself, and none is trained on it: ",
    ),
    judgements=["discrimination_gap"],
)
WHAT_IF = "nothing is filtered, since nothing is trained on"
