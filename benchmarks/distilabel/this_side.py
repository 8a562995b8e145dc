"""The same job through this project's pipeline: seed pool, generation and vote as Dagster assets.

Run by `compare.py` in a home of its own; seconds of loading and generating go to `<out>/seconds.jsonl`.
"""

import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg

import selfimprove_dagster.resources.language_model as opener
from selfimprove_dagster.assets.partitions import iterations
from selfimprove_dagster.definitions import defs
from selfimprove_dagster.families.questions.prompts import PROMPTS
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.language_model.prompting import TEXT
from selfimprove_dagster.methods.lmsi.tables import RAW_GENERATIONS, SEED_POOL, VOTED_ANSWERS
from selfimprove_dagster.prompts import load_prompts
from selfimprove_dagster.runs import prepare_dagster_home

JOB = json.loads(Path(sys.argv[1]).read_text())
OUT = Path(JOB["out"])
STAGES = (SEED_POOL, RAW_GENERATIONS, VOTED_ANSWERS)


def note(what: str, seconds: float) -> None:
    with (OUT / "seconds.jsonl").open("a") as stream:
        stream.write(json.dumps({what: seconds}) + "\n")


def timed(function: Callable[..., Any], what: str) -> Callable[..., Any]:
    """The function, its seconds noted."""

    def call(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        result = function(*args, **kwargs)
        note(what, time.perf_counter() - began)
        return result

    return call


def main() -> None:
    note("start", time.time() - JOB["began"])
    open_model = timed(opener.open_language_model, "load")

    def opened(*args: Any, **options: Any) -> Any:
        model = open_model(*args, **options)
        model.generate = timed(model.generate, "generate")
        return model

    # It imports the engine, and with that torch and transformers.
    opener.open_language_model = opened
    home = Home.from_environment()
    prepare_dagster_home(home)
    logging.getLogger("dagster").setLevel(logging.ERROR)
    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions(str(iterations.name), ["vote-000"])
        outcome = defs.resolve_job_def("lmsi_iteration").execute_in_process(
            instance=instance,
            partition_key="vote-000",
            asset_selection=[dg.AssetKey(stage.name.split("/")) for stage in STAGES],
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
        assert outcome.success
    rows = home.lake.read(VOTED_ANSWERS.name, partition_of("vote", 0))
    prompts = load_prompts([PROMPTS], TEXT)
    votes = {
        prompts.ask("zero_shot_cot", question=row["question"]): row["voted_answer"] for row in rows.to_dicts()
    }
    (OUT / "votes.json").write_text(json.dumps([votes[prompt] for prompt in JOB["prompts"]]))


if __name__ == "__main__":
    main()
