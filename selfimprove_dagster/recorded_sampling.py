"""How the completions of a table were drawn, from the settings that their activity records.

What draws them and what draws them again ask here, so that a replay cannot differ in a stop string.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from selfimprove_dagster import judge_tables, pit_tables, tables, tool_tables
from selfimprove_dagster import task_tables as t
from selfimprove_dagster.generation import sampling_parameters
from selfimprove_dagster.language_model.base import SamplingParameters
from selfimprove_dagster.methods import unnatural_instructions
from selfimprove_dagster.methods.dialogues import TURN_STOPS
from selfimprove_dagster.methods.self_instruct import prompts
from selfimprove_dagster.methods.toolformer.calls import CALL_STOPS
from selfimprove_dagster.refinement_tables import REFINEMENTS, RF_RAW_GENERATIONS
from selfimprove_dagster.sections import SamplingSection
from selfimprove_dagster.self_knowledge_tables import SK_CANDIDATES

Settings = Mapping[str, Any]

_DRAWN: dict[str, tuple[str, Callable[[Settings], tuple[str, ...]]]] = {
    t.SI_RAW_GENERATIONS.name: ("generation", lambda given: prompts.generation_stops(given["tasks"])),
    t.SI_INSTANCE_GENERATIONS.name: ("instances", lambda given: prompts.INSTANCE_STOPS),
    t.UI_RAW_GENERATIONS.name: ("generation", lambda given: unnatural_instructions.EXAMPLE_STOPS),
    t.UI_TASK_OUTPUTS.name: ("outputs", lambda given: unnatural_instructions.OUTPUT_STOPS),
    t.UI_PARAPHRASES.name: ("paraphrases", lambda given: unnatural_instructions.PARAPHRASE_STOPS),
    tool_tables.TF_RAW_GENERATIONS.name: ("annotation", lambda given: CALL_STOPS),
    judge_tables.CAI_RAW_GENERATIONS.name: ("responses", lambda given: TURN_STOPS),
    judge_tables.CAI_CRITIQUES.name: ("revisions", lambda given: TURN_STOPS),
    judge_tables.CAI_REVISIONS.name: ("revisions", lambda given: TURN_STOPS),
    judge_tables.RLAIF_RESPONSE_PAIRS.name: ("responses", lambda given: TURN_STOPS),
    RF_RAW_GENERATIONS.name: ("responses", lambda given: TURN_STOPS),
    REFINEMENTS.name: ("refining", lambda given: TURN_STOPS),
    SK_CANDIDATES.name: ("candidates", lambda given: tuple(given["stop"])),
    pit_tables.PIT_POLICY_REFERENCES.name: ("references", lambda given: TURN_STOPS),
}
"""By table: the section of the experiment whose settings its activity records, and where completions end."""

COMPLETIONS = (tables.RAW_GENERATIONS.name, *_DRAWN)
"""The tables whose rows a model drew and can draw again, in the order in which they are made; rows without a
seed were not drawn.
"""


def recorded_sampling(table: str, parameters: Settings) -> SamplingParameters:
    """The sampling of an activity with these parameters that made `table`, one of COMPLETIONS.

    A section without a temperature is of a stage that draws greedily.
    """
    if table == tables.RAW_GENERATIONS.name:
        section = SamplingSection(**parameters["sampling"])
        return replace(sampling_parameters(section, improved=False), temperature=parameters["temperature"])
    name, stops = _DRAWN[table]
    given = parameters[name]
    return SamplingParameters(
        temperature=given.get("temperature", 0.0),
        top_p=given.get("top_p", 1.0),
        top_k=given.get("top_k", 0),
        max_tokens=given["max_tokens"],
        stop=stops(given),
    )
