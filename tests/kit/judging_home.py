"""One small iteration of each method in which responses are judged, on the embedded dialogue model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from kit import homes
from kit.homes import entered
from selfimprove_dagster.embedded import DIALOGUE_MODEL
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.table import Table

_SHARED = {
    "model": {"path": "embedded"},
    "seeds": {"file": "embedded", "licence": "Apache-2.0"},
    "evaluation": {"file": "embedded", "rows": "0:40", "difficulty_field": "kind", "max_tokens": 32},
    "budget": {"iterations": 1},
}
_POLICY = {"steps": 3, "batch_size": 16, "group_size": 4, "max_tokens": 32, "learning_rate": 1e-4}
_PIT: dict[str, Any] = {
    **_SHARED,
    "method": "pit",
    "pool": {"comparisons": 60},
    "preferences": {"held_out_share": 0.2},
    "improver": {"steps": 3, "plain_share": 0.5},
    "gap_reward_model": {"steps": 3, "batch_size": 16},
    # Three steps teach no order.
    "gap_checks": {"on_failure": "warn"},
    "curriculum": {"steps": 2},
    "references": {"max_tokens": 32},
    "evaluation": {**_SHARED["evaluation"], "rounds": 2, "shard": 16},  # type: ignore[dict-item]
    "training": _POLICY,
}
EXPERIMENTS: dict[str, dict[str, Any]] = {
    "cai": {
        **_SHARED,
        "method": "constitutional",
        "responses": {"prompts": 40, "max_tokens": 32},
        "revisions": {"rounds": 2, "max_tokens": 32, "shard": 8},
        "evaluation": {**_SHARED["evaluation"], "revised_prompts": 10},  # type: ignore[dict-item]
        "training": {"steps": 4},
    },
    "ai": {
        **_SHARED,
        "method": "rlaif",
        "responses": {"prompts": 60, "max_tokens": 32},
        "judge": {"principles": 2, "repeated_share": 1.0, "shard": 16},
        # Sixty pairs are too few to be strict with.
        "judge_checks": {"on_failure": "warn"},
        "preferences": {"minimum_margin": 0.02, "held_out_share": 0.2},
        "reward_model": {"steps": 4},
        "training": _POLICY,
    },
    "people": {
        **_SHARED,
        "method": "rlhf",
        "pool": {"comparisons": 60},
        "supervised": {"steps": 2},
        "reward_model": {"steps": 4},
        "training": {**_POLICY, "algorithm": "rloo"},
    },
    "pairs": {
        **_SHARED,
        "method": "rlhf",
        "pool": {"comparisons": 60},
        "reward_model": {"steps": 4},
        "training": {**_POLICY, "algorithm": "dpo"},
    },
    "pit": _PIT,
    "taught": {
        **_PIT,
        "seeds": {"experiment": "people"},
        # Any engine can judge; here, the same model once more.
        "win_rates": {"judges": [{"path": str(DIALOGUE_MODEL)}]},
    },
    "direct": {
        **_SHARED,
        "method": "rlaif",
        "responses": {"prompts": 40, "max_tokens": 32},
        "judge": {"principles": 1, "reasoning": True, "reasoning_tokens": 24},
        "judge_checks": {"on_failure": "warn"},
        "training": {**_POLICY, "reward": "judge"},
    },
    "refined": {
        **_SHARED,
        "method": "refinement",
        "responses": {"prompts": 24, "max_tokens": 32},
        "refining": {"rounds": 3, "temperature": 0.7, "max_tokens": 32, "history": True, "shard": 8},
    },
    "short": {
        **_SHARED,
        "method": "refinement",
        "responses": {"prompts": 8, "max_tokens": 32},
        # Room for some answers, and for no others.
        "refining": {"ways": ["pit"], "rounds": 2, "max_tokens": 12},
    },
}
CHAIN: dict[str, Any] = {
    "name": "both",
    "methods": ["constitutional", "rlaif"],
    "seed": 5,
    "model": {"path": "embedded"},
    "seeds": {"file": "embedded", "licence": "Apache-2.0"},
    "evaluation": EXPERIMENTS["ai"]["evaluation"],
    # A few steps teach nothing, and forty prompts prove little: every checkpoint is to be promoted.
    "promotion": {"rule": "not_worse", "margin": 1.0},
    "budget": {"iterations": 1, "minimum_yield": 0.0},
    "constitutional": {key: EXPERIMENTS["cai"][key] for key in ("responses", "revisions", "training")},
    "rlaif": {
        key: EXPERIMENTS["ai"][key]
        for key in ("responses", "judge", "judge_checks", "preferences", "reward_model", "training")
    },
}


def run(home: Home, *names: str) -> None:
    """The first iteration of these experiments."""
    from selfimprove_dagster.runs import run_iteration

    with entered(home):
        for name in names:
            assert run_iteration(home, home.experiment(name), 0) == []


def materialise(home: Home, name: str, *tables: str) -> None:
    """Some stages of the first iteration and no others, as from the Dagster UI."""
    import dagster as dg

    from selfimprove_dagster.assets.partitions import add_iterations
    from selfimprove_dagster.definitions import defs

    with entered(home), dg.DagsterInstance.ephemeral() as instance:
        add_iterations(instance, tables[0].split("/")[0], [f"{name}-000"])
        job = defs.resolve_job_def(f"{tables[0].split('/')[0]}_iteration")
        outcome = job.execute_in_process(
            instance=instance,
            partition_key=f"{name}-000",
            asset_selection=[dg.AssetKey(table.split("/")) for table in tables],
        )
    assert outcome.success


def make_home(folder: Path) -> Home:
    """A home that knows the experiments, none of them run. They keep all weights."""
    kept = {"checkpoints": {"keep": "all"}}
    return homes.make_home(
        folder,
        *(
            {**settings, "name": name, **({} if settings["method"] == "refinement" else kept)}
            for name, settings in EXPERIMENTS.items()
        ),
    )


def rows(home: Home, schema: Table | str, name: str) -> pl.DataFrame:
    table = schema if isinstance(schema, str) else schema.name
    return home.lake.read_ungated(home.lake.manifest(table, partition_of(name, 0)))
