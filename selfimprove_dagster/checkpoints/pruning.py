"""Delete the weights of trained models that nothing needs any more; everything that is known about them stays.

After an iteration, `checkpoints.keep` decides. Weights are never deleted that

- the next iteration starts from: those of the champion, with the revocations of today
- an unfinished iteration reads: all models of an iteration in which a stage of any method of the chain is missing
- another experiment names in its file
- belong to a folder outside of the home's `checkpoints`
- are the base of an adapter that is kept

and none at all while a partition of the experiment is being written. A model whose weights were pruned is trained
again by `selfimprove checkpoints rebuild`. A copy into which an adapter was merged is deleted when no kept adapter was
trained over it; training writes it again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfimprove_dagster import registry
from selfimprove_dagster.addresses import CHECKPOINTS
from selfimprove_dagster.errors import LakeError, PartitionBusy, SelfImproveError
from selfimprove_dagster.experiment.base import Experiment, TrainingExperiment
from selfimprove_dagster.experiment.naming import split_turn
from selfimprove_dagster.experiment.paths import paths_of
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.disk import write_atomically
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import held
from selfimprove_dagster.lake.revocations import now
from selfimprove_dagster.language_model.adapters import MERGED, adapter_in
from selfimprove_dagster.language_model.weights import WEIGHT_PATTERN, weight_bytes
from selfimprove_dagster.loop.champion import NEWEST, champion_before
from selfimprove_dagster.pruned import MARK, Pruned, pruned
from selfimprove_dagster.words import count


@dataclass(frozen=True)
class TrainedModel:
    """A model that a stage of an iteration trained; `is_checkpoint` if its promotion was decided on.

    `promoted` is False for models from the middle of an iteration. `keep` is the setting of the experiment.
    """

    table: str
    iteration: int
    model_id: str
    path: Path
    is_checkpoint: bool
    promoted: bool
    keep: str | int = "all"

    @property
    def bytes(self) -> int:
        """Return the size of its weights on the disk."""
        return weight_bytes(self.path)


@dataclass(frozen=True)
class Pruning:
    """What was pruned: the models, and the bytes that this freed; or why some or all were not."""

    models: tuple[TrainedModel, ...] = ()
    bytes: int = 0
    postponed: str = ""

    def __str__(self) -> str:
        said = "there are no weights to prune"
        if self.models:
            said = f"pruned the weights of {count(len(self.models), 'model')}, {self.bytes / 1e6:,.1f} MB"
        return f"pruning is postponed: {self.postponed}" if self.postponed else said


def trained_models(lake: Lake, experiment: Experiment) -> list[TrainedModel]:
    """Return the models that an experiment's method trained, in the order in which it trains them."""
    order, found = registry.pipeline_order(), []
    keep = experiment.checkpoints.keep if isinstance(experiment, TrainingExperiment) else "all"
    decided: dict[str, bool] = {}
    for manifest in lake.manifests(f"{experiment.method}/promotion", experiment.name):
        for row in lake.read_whole(manifest).iter_rows(named=True):
            folder = lake.folder_at(row["challenger_path"])
            decided[folder] = row["promoted"] or decided.get(folder, False)
    for manifest in lake.manifests(f"{experiment.method}/*", experiment.name):
        if registry.table_of(manifest).holds_model:
            rows = lake.read_whole(manifest).select("model_id", "path").iter_rows()
            found += [
                TrainedModel(
                    manifest.table,
                    manifest.iteration,
                    id,
                    Path(path),
                    path in decided,
                    decided.get(path, False),
                    keep,
                )
                for id, address in rows
                if address
                for path in (lake.folder_at(address),)
            ]
    return sorted(found, key=lambda one: (one.iteration, order.get(one.table, len(order))))


def merged_copies(folder: Path) -> list[Path]:
    """Return the folders into which the adapter of a folder was merged."""
    return sorted(folder.parent.glob(f"{folder.name}{MERGED}*"))


def prunable(home: Home, chain: Sequence[Experiment]) -> list[TrainedModel]:
    """Return the models of an experiment, the settings of whose methods are `chain`, whose weights nothing needs."""
    found, kept = _found_and_kept(home, chain)
    return [
        one
        for one in found
        if one.path.resolve() not in kept and next(one.path.glob(WEIGHT_PATTERN), None) is not None
    ]


def unneeded_copies(home: Home, chain: Sequence[Experiment]) -> list[Path]:
    """Return the folders into which adapters of an experiment were merged, and over which no kept one was trained."""
    found, kept = _found_and_kept(home, chain)
    copies = (copy for one in found for copy in merged_copies(one.path))
    return [one for one in copies if _is_ours(home, one) and one.resolve() not in kept]


def _found_and_kept(home: Home, chain: Sequence[Experiment]) -> tuple[list[TrainedModel], set[Path]]:
    """Return all models of an experiment, and the folders whose weights something needs."""
    lake = home.lake
    finished = _finished(lake, chain)
    champion = champion_before(lake, chain[-1], NEWEST)
    needed = {Path(champion.path), *_named_elsewhere(home, chain[0].name)}
    found: list[TrainedModel] = []
    for one in (one for experiment in chain for one in trained_models(lake, experiment)):
        last = finished[-1 if isinstance(one.keep, str) else -one.keep :]
        former = one.keep == "champion" and one.promoted
        if (
            one.keep == "all"
            or one.iteration not in finished
            or (one.is_checkpoint and (former or one.iteration in last))
            or not _is_ours(home, one.path)
        ):
            needed.add(one.path)
        found.append(one)
    adapters = [adapter for path in needed if (adapter := adapter_in(path)) is not None]
    needed.update(Path(one.base) for one in adapters)
    return found, {path.resolve() for path in needed}


def prune(home: Home, name: str) -> Pruning:
    """Delete the weights of the `prunable` models of an experiment.

    A process that is killed in between leaves marked folders behind, whose weights the next call deletes.
    """
    chain = home.chain(name)
    if home.lake.store.address:
        return Pruning(postponed="it is not offered on an object store")
    try:
        if busy := _busy(home.lake, chain):
            return Pruning(postponed=busy)
        models = prunable(home, chain)
        copies = unneeded_copies(home, chain)
    except LakeError as error:  # such as a promotion whose checks failed: the champion is not known
        return Pruning(postponed=str(error))
    freed = 0
    for at, one in enumerate(models):
        try:
            freed += _delete(one, rebuild_command(chain[0].name, one.iteration))
        except (LakeError, OSError) as error:
            return Pruning(tuple(models[:at]), freed, str(error))
    for copy in copies:
        freed += weight_bytes(copy)
        shutil.rmtree(copy)
    return Pruning(tuple(models), freed)


def _delete(model: TrainedModel, rebuild: str) -> int:
    """Mark the folder of a model, then delete its weights. Return their size in bytes."""
    size = model.bytes
    if pruned(model.path) is None:
        mark = Pruned(model.model_id, model.keep, now(), rebuild)
        write_atomically(model.path / MARK, mark.to_json().encode())
    for file in model.path.glob(WEIGHT_PATTERN):
        file.unlink()
    return size


def rebuild_command(name: str, iteration: int) -> str:
    """Return the command that trains an iteration's pruned models again."""
    return f"selfimprove checkpoints rebuild {name} --iteration {iteration}"


def to_rebuild(home: Home, experiment: Experiment, iteration: int) -> list[TrainedModel]:
    """Return the models of an iteration whose weights were pruned, in the order in which they are trained."""
    return [
        one
        for one in trained_models(home.lake, experiment)
        if one.iteration == iteration and pruned(one.path) is not None
    ]


def _finished(lake: Lake, chain: Sequence[Experiment]) -> list[int]:
    """Return the iterations in which every stage of every method is committed, in order."""
    committed = [
        {one.iteration for one in lake.manifests(stage.table.name, experiment.name)}
        for experiment in chain
        for stage in registry.method(experiment.method).stages
    ]
    return sorted(set.intersection(*committed))


def _is_ours(home: Home, path: Path) -> bool:
    return path.resolve().is_relative_to((home.root / CHECKPOINTS).resolve())


def _named_elsewhere(home: Home, name: str) -> Iterator[Path]:
    """Yield the folders that experiment files name as models; of a file that cannot be read, those in its text."""
    ours = home.root / CHECKPOINTS / split_turn(name)[0]
    folders = [path for path in ours.glob("*") if path.is_dir()]
    for other in home.experiment_names():
        try:
            for experiment in home.chain(other):
                yield from (Path(text) for _, text, mark in paths_of(experiment) if mark.is_model)
        except SelfImproveError:
            file = home.experiment_file(other)
            text = file.read_text(encoding="utf-8", errors="replace") if file else ""
            yield from (folder for folder in folders if folder.name in text)


def _busy(lake: Lake, chain: Sequence[Experiment]) -> str:
    """Return the reason if a partition of the experiment is being written; empty if none is."""
    for experiment in chain:
        locks = lake.root.glob(f"{experiment.method}/*/experiment={experiment.name}/*/.lock")
        for lock in locks:
            try:
                with held(lock.parent):
                    pass
            except PartitionBusy as error:
                return str(error)
    return ""
