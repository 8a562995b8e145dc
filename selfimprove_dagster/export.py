"""Export datasets and trained models as folders that other tools read.

    huggingface  a dataset folder with its card: Parquet, as `datasets.load_dataset` reads it
    parquet, jsonl, prov-json
                 the rows; prov-json adds `dataset.prov.json`, the W3C PROV of their ancestry
    chat, preference, sharegpt, alpaca
                 JSON Lines in the layouts of `export_layouts`
    checkpoint   a trained model with its card, as `transformers` reads it; an adapter as PEFT reads it, or merged
                 into its base

In Parquet and JSON Lines, prompts of chat models are lists of messages. A method declares in its `Card` which columns
are exported, and which layouts are not possible.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.checkpoints.pruning import TrainedModel, trained_models
from selfimprove_dagster.errors import ExperimentError, ModelError, PartitionMissing
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.export_cards import Card, card_of, checkpoint_card, dataset_card
from selfimprove_dagster.export_layouts import LAYOUTS, lines, with_messages
from selfimprove_dagster.lake.disk import file_checksum
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest, partition_of
from selfimprove_dagster.language_model.adapters import ADAPTER_FILES, adapter_in
from selfimprove_dagster.language_model.weights import model_id
from selfimprove_dagster.loop.taint import tainted_models
from selfimprove_dagster.pruned import check_weights
from selfimprove_dagster.table import Table

CHECKPOINT = "checkpoint"
"""The format of trained models."""

FORMATS = ("huggingface", "parquet", "jsonl", "prov-json", *LAYOUTS)
"""The formats of datasets."""

CARD = "README.md"


@dataclass(frozen=True)
class Exported:
    """What a folder holds: rows of the partition of `manifest`, by the ids in `records`, or the model `model_id`.

    `note` is what people need to know of the folder.
    """

    manifest: Manifest
    records: pl.Series
    model_id: str | None = None
    note: str = ""


def last_dataset(lake: Lake, experiment: Experiment, iteration: int | None = None) -> Manifest:
    """Return the manifest of an iteration's dataset, by default the latest committed one."""
    table = _dataset(experiment.method).name
    if iteration is not None:
        return lake.manifest(table, partition_of(experiment.name, iteration))
    found = lake.manifests(table, experiment.name)
    if not found:
        raise PartitionMissing(f"experiment {experiment.name} has no dataset yet; run it first")
    return found[-1]


# ---- datasets ----------------------------------------------------------------------------------------


def export_dataset(
    lake: Lake,
    experiment: Experiment,
    output: Path,
    iteration: int | None,
    layout: str,
    *,
    card: bool | None = None,
) -> Exported:
    """Write a dataset whose checks passed to the new folder `output`.

    Each row keeps its record id, so that `selfimprove lineage trace` finds its origin. `card`: whether the folder has
    a card, by default only that of the format huggingface.
    """
    if layout not in FORMATS:
        raise ExperimentError(
            f"there is no export format {layout!r}; use one of {', '.join((*FORMATS, CHECKPOINT))}"
        )
    declared = card_of(experiment.method)
    if layout in declared.refused:
        raise ExperimentError(f"the layout {layout} {declared.refused[layout]}")
    manifest = last_dataset(lake, experiment, iteration)
    rows = _exported(_dataset(experiment.method), declared, lake.read(manifest.table, manifest.partition))
    asked = manifest.activity.parameters.get("prompting", {})
    system = asked.get("system", "")
    with _made_whole(output) as folder:
        data = folder / "data" if layout == "huggingface" else folder
        data.mkdir(exist_ok=True)
        if layout in LAYOUTS:
            file = data / "train.jsonl"
            with file.open("w", encoding="utf-8") as stream:
                for line in lines(layout, rows, declared, system):
                    stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        else:
            stored = with_messages(rows, system) if asked.get("chat") else rows
            if layout in ("jsonl", "prov-json"):
                file = data / "train.jsonl"
                stored.write_ndjson(file)
            else:
                file = data / "train.parquet"
                stored.write_parquet(file, compression="zstd")
        if layout == "prov-json":
            from selfimprove_dagster.lineage.prov import dataset_document, prov_json

            document = dataset_document(lake, manifest)
            (folder / "dataset.prov.json").write_text(prov_json(document), encoding="utf-8")
        if card or (card is None and layout == "huggingface"):
            name = str(file.relative_to(folder))
            text = dataset_card(lake, experiment, manifest, len(rows), name, file_checksum(file), layout)
            (folder / CARD).write_text(text, encoding="utf-8")
    return Exported(manifest, rows["id"])


def _dataset(method: str) -> Table:
    """Return the table of a method's training examples. Raises PartitionMissing if there is none."""
    found = registry.method(method).dataset
    if found is None:
        raise PartitionMissing(f"the method {method} does not make a dataset: there is nothing to export")
    return found


def _exported(table: Table, card: Card, rows: pl.DataFrame) -> pl.DataFrame:
    """Return the exported columns: by default the id, all columns that are not lists, and the measures."""
    plain = [
        "id",
        *(name for name, kind in table.content.items() if not isinstance(kind, pl.List | pl.Struct)),
    ]
    return rows.select(*(card.columns or plain), *table.measures)


# ---- trained models ----------------------------------------------------------------------------------


def export_checkpoint(
    lake: Lake,
    experiment: Experiment,
    output: Path,
    iteration: int | None,
    *,
    copy: bool = True,
    merged: bool = False,
) -> Exported:
    """Write the checkpoint of an iteration with its card to the new folder `output`.

    By default it is the latest promoted one that is not tainted. Its files are links to those of the home if not
    `copy`. An adapter is written as it is, or `merged` into its base. Raises ModelError if it is tainted, its weights
    were pruned, or it is an adapter whose base is missing, changed, or only on this machine when it is pushed.
    """
    model = _chosen_model(lake, experiment, iteration)
    lake.model_at(str(model.path))
    check_weights(model.path)
    if not model.path.is_dir():
        raise ModelError(f"the folder {model.path} of the checkpoint is missing; materialise it again")
    manifest = lake.manifest(model.table, partition_of(experiment.name, model.iteration))
    lake.read(manifest.table, manifest.partition)  # refused if a check of it failed
    adapter = adapter_in(model.path)
    if adapter is not None:
        model_id(model.path)  # refused if its base is missing or changed
        if not copy and not merged and Path(adapter.base).is_dir():
            raise ModelError(
                f"the checkpoint is an adapter over {adapter.base}, which only this machine has, so nobody else could "
                "open it: push the whole model with --merged"
            )
    with _made_whole(output) as folder:
        if adapter is not None and merged:
            _write_whole(model.path, folder, experiment.model.trust_remote_code)
        else:
            _copy(model.path, folder, copy)
        card = folder / CARD
        card.unlink(missing_ok=True)
        peft = None if merged else adapter
        note = over_merged(experiment) if peft is not None and peft.is_over_merged else ""
        text = checkpoint_card(lake, experiment, manifest, is_adapter=peft is not None, note=note)
        card.write_text(text, encoding="utf-8")
    return Exported(manifest, lake.read_columns(manifest, ["id"])["id"], model.model_id, note)


def over_merged(experiment: Experiment) -> str:
    """Return what people need to know of an exported adapter whose base is a merged copy."""
    return (
        "The adapter lies over a merged copy on the machine that trained it, which pruning may delete. "
        f"`selfimprove export {experiment.name} DIR --format checkpoint --merged` writes a whole model."
    )


def _copy(source: Path, folder: Path, copy: bool) -> None:
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        target = folder / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if copy:
            shutil.copyfile(file, target)
        else:
            target.symlink_to(file.absolute())


def _write_whole(source: Path, folder: Path, trust_remote_code: bool) -> None:
    """Write the model of an adapter, merged into its base, with the training's log and determinants."""
    from selfimprove_dagster.training.adapters import write_merged
    from selfimprove_dagster.training.folders import DETERMINANTS, read_json

    dtype = (read_json(source / DETERMINANTS) or {}).get("dtype", "float32")
    write_merged(source, folder, dtype=dtype, trust_remote_code=trust_remote_code)
    for file in source.iterdir():
        if file.is_file() and not (folder / file.name).exists() and file.name not in ADAPTER_FILES:
            shutil.copyfile(file, folder / file.name)


def _chosen_model(lake: Lake, experiment: Experiment, iteration: int | None) -> TrainedModel:
    """Return the checkpoint of an iteration, by default the latest one that was promoted and is not tainted."""
    tainted = tainted_models(lake, experiment.name)
    found = [one for one in trained_models(lake, experiment) if one.is_checkpoint]
    if iteration is None:
        found = [one for one in found if one.promoted and one.model_id not in tainted]
    else:
        found = [one for one in found if one.iteration == iteration]
    if not found:
        which = "no promoted checkpoint" if iteration is None else f"no checkpoint in iteration {iteration}"
        raise PartitionMissing(
            f"experiment {experiment.name} has {which}; `selfimprove checkpoints list {experiment.name}` shows those "
            "that there are: choose one with --iteration"
        )
    if found[-1].model_id in tainted:
        raise ModelError(f"the checkpoint is tainted and is not exported: {tainted[found[-1].model_id]}")
    return found[-1]


@contextmanager
def _made_whole(output: Path) -> Iterator[Path]:
    """Give a folder to fill, which becomes `output` only when it is complete. Raises ExperimentError if that exists."""
    if output.exists():
        raise ExperimentError(f"{output} exists already; choose a new folder")
    temporary = output.with_name(output.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a killed export
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(output)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
