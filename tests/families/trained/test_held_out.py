"""What the lake and the lineage say of examples that a training held out."""

from __future__ import annotations

from pathlib import Path

import pytest
from kit.lmsi_iterations import Iterations
from kit.training_stage import Lines, run_stage, small_training

from selfimprove_dagster.lineage.descend import descend
from selfimprove_dagster.lineage.explain import explain
from selfimprove_dagster.loop.taint import taint
from selfimprove_dagster.stage import Result

pytestmark = pytest.mark.train


LOG = Lines()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Iterations, Result]:
    made = small_training(
        tmp_path_factory.mktemp("home"), steps=None, epochs=2.0, validation={"share": 0.25, "every": 2}
    )
    return made, run_stage(made, log=LOG)


def test_whole_questions_are_held_out_and_recorded(trained: tuple[Iterations, Result]) -> None:
    made, result = trained
    (row,) = made.rows("lmsi/fine_tuned_checkpoint").rows(named=True)
    dataset = made.rows("lmsi/filtered_dataset")
    held_out = dataset.filter(dataset["id"].is_in(row["held_out"]))
    assert held_out["question"].n_unique() == 1 and held_out.height == 3, (
        "one question of four, all its paths"
    )
    assert (row["examples"], row["steps"], row["left_out"]) == (9, 5, [])
    assert [one["step"] for one in row["validation"]] == [2, 4, 5]
    assert row["kept_step"] in (2, 4, 5)
    assert result.metadata["held_out_examples"] == 3
    assert any("loss on 3 held-out examples says little" in line for line in LOG.lines)
    losses = {one["step"]: one["loss"] for one in row["validation"]}
    assert result.metadata["validation_loss"] == min(losses.values()) == losses[row["kept_step"]]
    assert (
        made.lake.manifest("lmsi/fine_tuned_checkpoint", result.manifest.partition).activity.parameters[
            "training"
        ]["epochs"]
        == 2.0
    )


def test_lineage_does_not_say_that_a_held_out_example_was_trained_on(
    trained: tuple[Iterations, Result],
) -> None:
    made, _ = trained
    (row,) = made.rows("lmsi/fine_tuned_checkpoint").rows(named=True)
    held_out = row["held_out"][0]
    learnt = next(id for id in made.rows("lmsi/filtered_dataset")["id"] if id not in row["held_out"])
    assert [one.model_id for one in descend(made.lake, learnt).checkpoints] == [row["model_id"]]
    assert descend(made.lake, held_out).checkpoints == []
    assert "was trained on it" in explain(made.lake, learnt).verdict
    said = explain(made.lake, held_out).verdict
    assert "was not trained on it: it was held out" in said, said


def test_a_revoked_example_that_was_held_out_has_chosen_the_model(trained: tuple[Iterations, Result]) -> None:
    import polars as pl

    made, _ = trained
    (row,) = made.rows("lmsi/fine_tuned_checkpoint").rows(named=True)

    def reason(*ids: str) -> str:
        def withdrawn(activity: str) -> pl.DataFrame:
            chosen = ids if activity == row["dataset_activity_id"] else ()
            return pl.DataFrame(
                {"id": [*chosen], "revocation": ["rev:1"] * len(chosen)},
                schema_overrides={"id": pl.String, "revocation": pl.String},
            )

        return taint(made.lake, made.experiment.name, withdrawn).get(row["model_id"], "")

    held_out = row["held_out"][0]
    learnt = next(id for id in made.rows("lmsi/filtered_dataset")["id"] if id not in row["held_out"])
    assert reason(held_out) == "it was chosen by the loss on 1 examples that were revoked (rev:1)"
    assert reason(held_out, learnt) == "it was trained on 1 examples that were revoked (rev:1)"
    assert reason() == ""


def test_nothing_is_recorded_where_nothing_is_held_out(tmp_path: Path) -> None:
    made = small_training(tmp_path)
    run_stage(made)
    (row,) = made.rows("lmsi/fine_tuned_checkpoint").rows(named=True)
    assert (row["held_out"], row["validation"], row["kept_step"]) == (None, None, None)
