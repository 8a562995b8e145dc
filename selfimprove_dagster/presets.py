"""What an experiment gets for the fields that its file leaves out, and how that departs from the paper."""

from __future__ import annotations

from selfimprove_dagster.experiment.preset import Preset
from selfimprove_dagster.methods.constitutional import settings as constitutional
from selfimprove_dagster.methods.lmsi import settings as lmsi
from selfimprove_dagster.methods.pit import settings as pit
from selfimprove_dagster.methods.refinement import settings as refinement
from selfimprove_dagster.methods.rlaif import settings as rlaif
from selfimprove_dagster.methods.rlhf import settings as rlhf
from selfimprove_dagster.methods.self_instruct import settings as self_instruct
from selfimprove_dagster.methods.self_knowledge import settings as self_knowledge
from selfimprove_dagster.methods.toolformer import settings as toolformer
from selfimprove_dagster.methods.unnatural_instructions import settings as unnatural_instructions

PRESETS: dict[str, dict[str, Preset]] = {
    "lmsi": lmsi.PRESETS,
    "self_instruct": self_instruct.PRESETS,
    "unnatural_instructions": unnatural_instructions.PRESETS,
    "toolformer": toolformer.PRESETS,
    "constitutional": constitutional.PRESETS,
    "refinement": refinement.PRESETS,
    "rlaif": rlaif.PRESETS,
    "rlhf": rlhf.PRESETS,
    "self_knowledge": self_knowledge.PRESETS,
    "pit": pit.PRESETS,
}
"""The presets of each method."""
