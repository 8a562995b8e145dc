"""The code location: what `workspace.yaml` loads. Imports no torch, vLLM or TRL."""

from __future__ import annotations

import dagster as dg

from selfimprove_dagster import registry
from selfimprove_dagster.assets.checks import all_checks
from selfimprove_dagster.assets.seeds import import_seeds_job
from selfimprove_dagster.assets.sensors import next_iteration_sensor, seed_inbox
from selfimprove_dagster.methods.constitutional.stages import constitutional_assets
from selfimprove_dagster.methods.lmsi.stages import lmsi_assets
from selfimprove_dagster.methods.pit.stages import pit_assets
from selfimprove_dagster.methods.refinement.stages import refinement_assets
from selfimprove_dagster.methods.rlaif.stages import rlaif_assets
from selfimprove_dagster.methods.rlhf.stages import rlhf_assets
from selfimprove_dagster.methods.self_instruct.stages import self_instruct_assets
from selfimprove_dagster.methods.self_knowledge.stages import self_knowledge_assets
from selfimprove_dagster.methods.toolformer.stages import toolformer_assets
from selfimprove_dagster.methods.unnatural_instructions.stages import unnatural_instructions_assets
from selfimprove_dagster.resources.home import HomeResource
from selfimprove_dagster.resources.language_model import LanguageModelResource
from selfimprove_dagster.resources.trainer import TrainerResource

METHODS = {
    "lmsi": lmsi_assets,
    "self_instruct": self_instruct_assets,
    "unnatural_instructions": unnatural_instructions_assets,
    "toolformer": toolformer_assets,
    "constitutional": constitutional_assets,
    "rlaif": rlaif_assets,
    "rlhf": rlhf_assets,
    "refinement": refinement_assets,
    "self_knowledge": self_knowledge_assets,
    "pit": pit_assets,
}


defs = dg.Definitions(
    assets=[asset for assets in METHODS.values() for asset in assets],
    asset_checks=all_checks,
    jobs=[
        *(
            dg.define_asset_job(
                f"{method}_iteration",
                selection=dg.AssetSelection.groups(method),
                description=f"One iteration, up to {registry.method(method).experiment.ends_with}. "
                "A process a step, so that a model's memory is free when its step ends.",
            )
            for method in METHODS
        ),
        import_seeds_job,
    ],
    sensors=[*map(next_iteration_sensor, METHODS), seed_inbox],
    resources={
        "home": HomeResource(),
        "language_model": LanguageModelResource(),
        "trainer": TrainerResource(),
    },
)
