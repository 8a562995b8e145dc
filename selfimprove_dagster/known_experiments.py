"""What an experiment is: the settings of each method, every field settled.

`experiment_files` reads them from YAML.
"""

from __future__ import annotations

from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.methods.constitutional.settings import (
    ConstitutionalExperiment,
)
from selfimprove_dagster.methods.lmsi.settings import (
    LmsiExperiment,
)
from selfimprove_dagster.methods.pit.settings import (
    PitExperiment,
)
from selfimprove_dagster.methods.refinement.settings import RefinementExperiment
from selfimprove_dagster.methods.rlaif.settings import (
    RlaifExperiment,
)
from selfimprove_dagster.methods.rlhf.settings import RlhfExperiment
from selfimprove_dagster.methods.self_instruct.settings import (
    SelfInstructExperiment,
)
from selfimprove_dagster.methods.self_knowledge.settings import (
    SelfKnowledgeExperiment,
)
from selfimprove_dagster.methods.toolformer.settings import (
    ToolformerExperiment,
)
from selfimprove_dagster.methods.unnatural_instructions.settings import (
    UnnaturalInstructionsExperiment,
)

EXPERIMENTS: dict[str, type[Experiment]] = {
    "lmsi": LmsiExperiment,
    "self_instruct": SelfInstructExperiment,
    "unnatural_instructions": UnnaturalInstructionsExperiment,
    "toolformer": ToolformerExperiment,
    "constitutional": ConstitutionalExperiment,
    "rlaif": RlaifExperiment,
    "rlhf": RlhfExperiment,
    "refinement": RefinementExperiment,
    "self_knowledge": SelfKnowledgeExperiment,
    "pit": PitExperiment,
}
"""What an experiment file of each method holds."""
