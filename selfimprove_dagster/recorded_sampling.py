"""How the completions of a table were drawn, from the settings that their activity records.

What draws them and what draws them again ask here, so that a replay cannot differ in a stop string.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from selfimprove_dagster.families.dialogues.prompts import TURN_STOPS
from selfimprove_dagster.language_model.base import SamplingParameters
from selfimprove_dagster.methods.constitutional.tables import (
    CAI_CRITIQUES,
    CAI_RAW_GENERATIONS,
    CAI_REVISIONS,
)
from selfimprove_dagster.methods.lmsi.sampling import sampling_parameters
from selfimprove_dagster.methods.lmsi.settings import SamplingSection
from selfimprove_dagster.methods.lmsi.tables import RAW_GENERATIONS
from selfimprove_dagster.methods.pit import tables as pit_tables
from selfimprove_dagster.methods.refinement.tables import REFINEMENTS, RF_RAW_GENERATIONS
from selfimprove_dagster.methods.rlaif.tables import RLAIF_RESPONSE_PAIRS
from selfimprove_dagster.methods.self_instruct import prompts
from selfimprove_dagster.methods.self_instruct.tables import SI_INSTANCE_GENERATIONS, SI_RAW_GENERATIONS
from selfimprove_dagster.methods.self_knowledge.tables import SK_CANDIDATES
from selfimprove_dagster.methods.toolformer import tables as tool_tables
from selfimprove_dagster.methods.unnatural_instructions import unnatural_instructions
from selfimprove_dagster.methods.unnatural_instructions.tables import (
    UI_PARAPHRASES,
    UI_RAW_GENERATIONS,
    UI_TASK_OUTPUTS,
)
from selfimprove_dagster.tools.calls import CALL_STOPS

Settings = Mapping[str, Any]


_DRAWN: dict[str, tuple[str, Callable[[Settings], tuple[str, ...]]]] = {
    SI_RAW_GENERATIONS.name: ("generation", lambda given: prompts.generation_stops(given["tasks"])),
    SI_INSTANCE_GENERATIONS.name: ("instances", lambda given: prompts.INSTANCE_STOPS),
    UI_RAW_GENERATIONS.name: ("generation", lambda given: unnatural_instructions.EXAMPLE_STOPS),
    UI_TASK_OUTPUTS.name: ("outputs", lambda given: unnatural_instructions.OUTPUT_STOPS),
    UI_PARAPHRASES.name: ("paraphrases", lambda given: unnatural_instructions.PARAPHRASE_STOPS),
    tool_tables.TF_RAW_GENERATIONS.name: ("annotation", lambda given: CALL_STOPS),
    CAI_RAW_GENERATIONS.name: ("responses", lambda given: TURN_STOPS),
    CAI_CRITIQUES.name: ("revisions", lambda given: TURN_STOPS),
    CAI_REVISIONS.name: ("revisions", lambda given: TURN_STOPS),
    RLAIF_RESPONSE_PAIRS.name: ("responses", lambda given: TURN_STOPS),
    RF_RAW_GENERATIONS.name: ("responses", lambda given: TURN_STOPS),
    REFINEMENTS.name: ("refining", lambda given: TURN_STOPS),
    SK_CANDIDATES.name: ("candidates", lambda given: tuple(given["stop"])),
    pit_tables.PIT_POLICY_REFERENCES.name: ("references", lambda given: TURN_STOPS),
}
"""By table: the section of the experiment whose settings its activity records, and where completions end."""


COMPLETIONS = (RAW_GENERATIONS.name, *_DRAWN)
"""The tables whose rows a model drew and can draw again, in the order in which they are made; rows without a
seed were not drawn.
"""


def recorded_sampling(table: str, parameters: Settings) -> SamplingParameters:
    """The sampling of an activity with these parameters that made `table`, one of COMPLETIONS.

    A section without a temperature is of a stage that draws greedily.
    """
    if table == RAW_GENERATIONS.name:
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
