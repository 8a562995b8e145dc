"""The loop, closed by a real daemon: an inbox, a growing pool, methods in turn, iterations, stop rules."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest
from kit.daemons import make_home, running
from kit.judging_home import CHAIN

from selfimprove_dagster import embedded
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.home.imports import import_file
from selfimprove_dagster.lineage.revoke import revoke
from selfimprove_dagster.loop.champion import champion_before
from selfimprove_dagster.loop.rules import Stop, decide_next, finished_iterations, next_turn
from selfimprove_dagster.loop.taint import tainted_models
from selfimprove_dagster.methods.lmsi.tables import RAW_GENERATIONS, SEED_POOL
from selfimprove_dagster.shared_tables import REJECTED_SEEDS

pytestmark = [pytest.mark.slow, pytest.mark.rotates]

DEADLINE_SECONDS = 600

EXPERIMENT = {
    "name": "loop",
    "model": {"path": "embedded"},
    "seeds": {"file": "seeds.jsonl"},
    "evaluation": {"file": "embedded", "rows": "0:24", "majority_questions": 4, "majority_paths": 4},
    "sampling": {"questions": 8, "paths": 4, "shard_questions": 4},
    "filter": {"minimum_vote_share": 0.0},
    "training": {"steps": 2, "batch_size": 4},
    # Two steps teach nothing, and 24 questions prove little: the gate must not be what ends this test.
    "promotion": {"rule": "not_worse", "margin": 1.0},
    "budget": {"iterations": 2, "minimum_yield": 0.0},
}


GROWING: dict[str, Any] = {
    "name": "pool",
    "method": "self_instruct",
    "model": {"path": "embedded"},
    "seeds": {"file": "embedded"},
    "evaluation": {"file": "embedded", "rows": "0:24"},
    "generation": {"prompts": 30},
    "training": {"steps": 2, "batch_size": 4},
    "promotion": {"rule": "not_worse", "margin": 1.0},
    # Thirty prompts a time fill the pool soon: two thirds of what comes is new at first, then less than half.
    "budget": {"iterations": 6, "minimum_yield": 0.5, "patience": 6},
}


def _drop_into_the_inbox(home: Home) -> None:
    inbox = home.inbox("loop")
    inbox.mkdir(parents=True)
    good = embedded.SEEDS.read_text().splitlines()[4:20]
    (inbox / "more.jsonl").write_text(
        "\n".join([*good, "{broken", json.dumps({"text": "no question"})]) + "\n"
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """What one daemon made of three experiments, each until its stop rule said why to stop, and no more."""
    folder = tmp_path_factory.mktemp("daemon")
    with pytest.MonkeyPatch.context() as patch:
        home = make_home(folder, patch, EXPERIMENT, GROWING, CHAIN)
        questions = embedded.SEEDS.read_text().splitlines()
        (home.experiments / "seeds.jsonl").write_text("\n".join(questions[:4]) + "\n")
        loop, pool, (cai, _) = home.experiment("loop"), home.experiment("pool"), home.chain("both")
        for experiment in (pool, cai):
            # Nothing starts by itself without seeds.
            assert isinstance(decide_next(home.lake, experiment), Stop)
            import_file(home.lake, experiment)
        with running(folder) as wait:
            _drop_into_the_inbox(home)
            wait(lambda: len(finished_iterations(home.lake, loop)) == 2, DEADLINE_SECONDS)
            wait(lambda: "yield near zero" in _what_stops(home, pool), DEADLINE_SECONDS)
            wait(lambda: bool(home.lake.manifests("rlaif/promotion", "both")), DEADLINE_SECONDS)
            # The sensors say why they stop, and ask for nothing more.
            time.sleep(20)
        yield home


def test_iterations_follow_from_an_inbox_until_a_rule_stops_them(home: Home) -> None:
    inbox = home.inbox("loop")

    # The file was imported, its bad lines are on record, and it is out of the way.
    assert not list(inbox.glob("*.jsonl"))
    assert (inbox / "imported" / "more.jsonl").is_file()
    rejected = [home.lake.read_ungated(m) for m in home.lake.manifests(REJECTED_SEEDS.name, "loop")]
    assert sorted(line for frame in rejected for line in frame["source_line"]) == [17, 18]

    # The second iteration starts from the first one's promoted checkpoint.
    first, second = (m for m in home.lake.manifests("lmsi/promotion", "loop"))
    promoted = home.lake.read_ungated(first).row(0, named=True)
    generations = home.lake.manifests(RAW_GENERATIONS.name, "loop")[1]
    expected = promoted["challenger_model_id" if promoted["promoted"] else "champion_model_id"]
    assert generations.activity.model_id == expected
    assert second.iteration == 1

    # The budget of two iterations is spent.
    assert len(home.lake.manifests(SEED_POOL.name, "loop")) == 2


def test_a_pool_grows_until_its_yield_is_too_small(home: Home) -> None:
    finished = finished_iterations(home.lake, home.experiment("pool"))
    assert 1 < len(finished) < GROWING["budget"]["iterations"]
    shares = [summary.yielded / summary.candidates for summary in finished]
    assert min(shares[:-1]) >= GROWING["budget"]["minimum_yield"] > shares[-1]
    pools = [manifest.rows for manifest in home.lake.manifests("self_instruct/seed_pool", "pool")]
    assert pools == [80 + sum(summary.yielded for summary in finished[:at]) for at in range(len(finished))]


def test_methods_take_turns_and_lineage_and_revocation_reach_from_one_to_the_other(home: Home) -> None:
    cai, rlaif = home.chain("both")
    assert next_turn(home.lake, cai) == Stop("iteration budget spent: 1 of 1 iterations are done")
    trained = _rows(home, "constitutional/fine_tuned_checkpoint").row(0, named=True)
    assert home.lake.manifests("rlaif/response_pairs", "both")[0].activity.model_id == trained["model_id"]
    assert champion_before(home.lake, rlaif, 1).method == "rlaif"

    # What the second method learnt from was written by the checkpoint of the first, which learnt from this.
    example = _rows(home, "constitutional/filtered_dataset")["id"][0]
    revoke(home.lake, "record", example, None, "ann", "wrong")
    tainted = tainted_models(home.lake, "both")
    assert {trained["model_id"], _rows(home, "rlaif/fine_tuned_checkpoint")["model_id"][0]} <= {*tainted}
    assert champion_before(home.lake, rlaif, 1).iteration is None


def _rows(home: Home, table: str) -> pl.DataFrame:
    return home.lake.read_ungated(home.lake.manifests(table, "both")[0])


def _what_stops(home: Home, experiment: Experiment) -> str:
    step = decide_next(home.lake, experiment)
    return step.reason if isinstance(step, Stop) else ""
