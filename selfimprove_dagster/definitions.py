"""The code location: what `workspace.yaml` loads. Imports no torch, vLLM or TRL."""

from __future__ import annotations

import dagster as dg

from assets.checks import all_checks
from assets.constitutional import constitutional_assets
from assets.lmsi import lmsi_assets
from assets.pit import pit_assets
from assets.refinement import refinement_assets
from assets.rlaif import rlaif_assets
from assets.rlhf import rlhf_assets
from assets.seeds import import_seeds_job
from assets.self_instruct import self_instruct_assets
from assets.self_knowledge import self_knowledge_assets
from assets.sensors import next_iteration_sensor, seed_inbox
from assets.toolformer import toolformer_assets
from assets.unnatural_instructions import unnatural_instructions_assets
from resources import HomeResource, LanguageModelResource, TrainerResource
from selfimprove_dagster.experiment import EXPERIMENTS

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
                description=f"One iteration, up to {EXPERIMENTS[method].ends_with}. A process a step, so "
                "that a model's memory is free when its step ends.",
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
