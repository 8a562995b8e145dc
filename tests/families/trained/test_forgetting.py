"""General examples that are mixed in, earlier datasets that are trained on again, and the perplexity of a text."""

from __future__ import annotations

import json
import shutil
from math import exp
from pathlib import Path
from typing import Any

import pytest
from kit.lmsi_iterations import Iterations
from kit.training_stage import Lines, run_stage, small_training

from selfimprove_dagster import embedded, export_cards, registry
from selfimprove_dagster.errors import GateClosed
from selfimprove_dagster.families.trained.forgetting import perplexity_of_text
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.lineage.descend import descend
from selfimprove_dagster.lineage.verify import verify
from selfimprove_dagster.resources.language_model import LanguageModelResource
from selfimprove_dagster.table import Row, datasets_of

pytestmark = pytest.mark.train

TEXT = "\n".join(json.loads(line)["question"] for line in embedded.SEEDS.read_text().splitlines()[:12])
"""What the embedded model knows."""


def checkpoint_of(made: Iterations) -> Row:
    (row,) = made.rows("lmsi/fine_tuned_checkpoint").rows(named=True)
    return dict(row)


def general_file(folder: Path, count: int = 6) -> Path:
    """A dialogue, a pair, a plain text, and a line that is none of them, again and again."""
    rows: list[Any] = [
        {
            "messages": [
                {"role": "user", "content": "Hello."},
                {"role": "assistant", "content": "Hello to you."},
            ]
        },
        {"prompt": "Say yes.", "completion": " Yes."},
        {"text": "A cat sat on the mat."},
        {"number": 3},
    ]
    path = folder / "general.jsonl"
    path.write_text("\n".join(json.dumps(rows[index % 4]) for index in range(count)))
    return path


def test_general_examples_are_mixed_in_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, log = general_file(tmp_path), Lines()
    mix = {"file": str(path), "share": 0.25, "licence": "CC-BY-4.0"}
    made = small_training(tmp_path, steps=8, mix=mix)
    result = run_stage(made, log=log)
    row = checkpoint_of(made)
    (mixed,) = row["mixed"]
    assert mixed["lines"] == [1, 2, 3, 5, 6], "line 4 is no example"
    assert (mixed["source_file"], mixed["licence"]) == ("general.jsonl", "CC-BY-4.0")
    assert any("line 4: a general example has" in line for line in log.lines), log.lines
    assert (row["examples"], result.metadata["general_examples"]) == (12, 5)
    recorded = result.manifest.activity.parameters["training"]["mix"]
    assert recorded == {**recorded, "share": 0.25, "source": "general.jsonl", "checksum": mixed["checksum"]}
    assert str(tmp_path) not in json.dumps(recorded)
    sentence = registry.tables()["lmsi/fine_tuned_checkpoint"].sentence
    assert sentence is not None
    said = sentence(row)
    assert "12 examples and 5 general ones of general.jsonl (CC-BY-4.0)" in said, said
    monkeypatch.setattr(export_cards, "_sources", lambda *_: "")  # the kit's paths have no settings to show
    card = export_cards.checkpoint_card(made.lake, made.experiment, result.manifest)
    assert "General examples were mixed in" in card and "CC-BY-4.0" in card
    before = result.manifest.activity.id
    path.write_text(path.read_text().replace("cat", "dog"))
    assert run_stage(made).manifest.activity.id != before, "another file is another training"


def test_a_file_without_general_examples_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "none.jsonl"
    path.write_text('{"number": 3}\n')
    made = small_training(tmp_path, mix={"file": str(path), "share": 0.5})
    with pytest.raises(
        Exception, match=r"none.jsonl has no usable row; the first: none.jsonl, line 1: a general"
    ):
        run_stage(made)


def test_earlier_datasets_are_trained_on_too(tmp_path: Path) -> None:
    made = small_training(tmp_path, accumulate=True)
    result = run_stage(made)
    row = checkpoint_of(made)
    first, second = (made.rows("lmsi/filtered_dataset", iteration) for iteration in (0, 1))
    datasets = [
        made.lake.manifest("lmsi/filtered_dataset", partition_of("tiny", iteration)) for iteration in (1, 0)
    ]
    assert row["examples"] == first.height + second.height == 24
    assert datasets_of(row) == [one.activity.id for one in datasets], "its own comes first"
    assert {one.activity.id for one in datasets} <= {*result.manifest.activity.inputs}
    models = [one.model_id for one in descend(made.lake, first["id"][0]).checkpoints]
    assert row["model_id"] in models, "an example of iteration 0"
    assert verify(made.lake, "tiny") is not None


def test_without_accumulation_nothing_changes(tmp_path: Path) -> None:
    made = small_training(tmp_path)
    result = run_stage(made)
    assert checkpoint_of(made)["examples"] == 12
    assert "accumulate" not in result.manifest.activity.parameters["training"]


# The perplexity of a plain text


def test_the_perplexity_of_a_text_is_that_of_the_model() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    settings = small_settings()
    with LanguageModelResource().open(settings, settings.path, scores=True) as model:
        found, tokens = perplexity_of_text(model, TEXT[:120])
        leading, ids = model.encode(""), model.encode_continuation(TEXT[:120])
    network = AutoModelForCausalLM.from_pretrained(embedded.BASE_MODEL)
    whole = torch.tensor([leading + ids])
    with torch.no_grad():
        logprobs = network(whole).logits[0].log_softmax(-1)
    start = max(len(leading), 1)
    total = sum(logprobs[at - 1, whole[0, at]].item() for at in range(start, whole.shape[1]))
    assert tokens == whole.shape[1] - start
    assert found == pytest.approx(exp(-total / tokens), rel=1e-4)


def small_settings() -> Any:
    from selfimprove_dagster.experiment.sections import ModelSection

    return ModelSection(path=str(embedded.BASE_MODEL), device="cpu")


@pytest.mark.parametrize(("maximum_rise", "blocks"), [(None, False), (0.01, True), (1e6, False)])
def test_a_rise_warns_or_blocks(tmp_path: Path, maximum_rise: float | None, blocks: bool) -> None:
    text = tmp_path / "plain.txt"
    text.write_text(TEXT)
    rises = {} if maximum_rise is None else {"maximum_rise": maximum_rise}
    # So high a learning rate that the model forgets.
    made = small_training(tmp_path, learning_rate=0.05, steps=6, perplexity={"file": str(text), **rises})
    champion = tmp_path / "checkpoint-0"
    shutil.rmtree(champion)
    shutil.copytree(embedded.BASE_MODEL, champion)
    result = run_stage(made)
    measured = {one["role"]: one for one in checkpoint_of(made)["perplexities"]}
    assert [*measured] == ["base", "champion", "challenger"]
    assert measured["champion"]["perplexity"] == measured["base"]["perplexity"], "a copy of it"
    assert measured["challenger"]["perplexity"] > 1.1 * measured["base"]["perplexity"]
    assert result.metadata["challenger_perplexity"] == measured["challenger"]["perplexity"]
    check = made.run("lmsi/fine_tuned_checkpoint")["perplexity_kept"]
    assert check.passed is (maximum_rise == 1e6)
    assert check.blocking is (maximum_rise is not None)
    assert "a rise of +" in check.reason
    if blocks:
        with pytest.raises(GateClosed):
            made.lake.read("lmsi/fine_tuned_checkpoint", result.manifest.partition)


def test_an_experiment_without_a_text_passes(tmp_path: Path) -> None:
    made = small_training(tmp_path)
    run_stage(made)
    check = made.run("lmsi/fine_tuned_checkpoint")["perplexity_kept"]
    assert check.passed and "names no text" in check.reason
