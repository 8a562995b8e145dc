"""A real iteration prunes the models in its middle, and they are trained again to the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from kit.homes import entered, make_home
from kit.judging_home import EXPERIMENTS, rows, run
from typer.testing import CliRunner

from selfimprove_dagster.checkpoints.pruning import prune, trained_models
from selfimprove_dagster.cli.main import app
from selfimprove_dagster.language_model.weights import model_id
from selfimprove_dagster.pruned import pruned

pytestmark = [pytest.mark.slow, pytest.mark.train]


def test_deleted_weights_are_trained_again_to_the_same_ones(tmp_path: Path) -> None:
    home = make_home(tmp_path, {**EXPERIMENTS["people"], "name": "people"})
    run(home, "people")
    (experiment,) = home.chain("people")
    *middle, checkpoint = trained_models(home.lake, experiment)
    assert [one.table for one in middle] == ["rlhf/supervised_checkpoint", "rlhf/reward_model"]
    assert all(pruned(one.path) and not one.bytes for one in middle)
    assert model_id(checkpoint.path) == checkpoint.model_id
    ids = {one.table: rows(home, one.table, "people")["id"].to_list() for one in middle}
    with entered(home):
        status = CliRunner().invoke(app, ["status", "people"])
        done = CliRunner().invoke(app, ["checkpoints", "rebuild", "people", "--iteration", "0"])
        listed = CliRunner().invoke(app, ["checkpoints", "list", "people"])
    assert "champion: the base model, " in status.stdout or str(checkpoint.path) in status.stdout
    assert (done.exit_code, done.exception) == (0, None)
    assert [model_id(one.path) for one in middle] == [one.model_id for one in middle]
    assert {one.table: rows(home, one.table, "people")["id"].to_list() for one in middle} == ids
    assert " pruned " not in listed.stdout
    assert len(prune(home, "people").models) == 2
