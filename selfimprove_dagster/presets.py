"""What an experiment gets for the fields that its file leaves out, and how that departs from the paper."""

from __future__ import annotations

from selfimprove_dagster.experiment.preset import Preset
from selfimprove_dagster.methods.constitutional.settings import CONSTITUTIONAL
from selfimprove_dagster.methods.lmsi.settings import _LMSI
from selfimprove_dagster.methods.pit.settings import PIT
from selfimprove_dagster.methods.refinement.settings import REFINEMENT
from selfimprove_dagster.methods.rlaif.settings import RLAIF
from selfimprove_dagster.methods.rlhf.settings import RLHF
from selfimprove_dagster.methods.self_instruct.settings import _SELF_INSTRUCT
from selfimprove_dagster.methods.self_knowledge.settings import SELF_KNOWLEDGE
from selfimprove_dagster.methods.toolformer.settings import _TOOLFORMER
from selfimprove_dagster.methods.unnatural_instructions.settings import _UNNATURAL_INSTRUCTIONS

PRESETS: dict[str, dict[str, Preset]] = {
    "lmsi": _LMSI,
    "self_instruct": _SELF_INSTRUCT,
    "unnatural_instructions": _UNNATURAL_INSTRUCTIONS,
    "toolformer": _TOOLFORMER,
    "constitutional": CONSTITUTIONAL,
    "refinement": REFINEMENT,
    "rlaif": RLAIF,
    "rlhf": RLHF,
    "self_knowledge": SELF_KNOWLEDGE,
    "pit": PIT,
}
"""The presets of each method."""
