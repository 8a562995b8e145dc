"""Generate a completion again from what its row and activity recorded, and compare it token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.errors import ModelError, PartitionMissing
from selfimprove_dagster.evaluation.measurement import Accuracy
from selfimprove_dagster.experiment.naming import experiment_of_key
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.lake.records import Activity
from selfimprove_dagster.language_model import open_language_model
from selfimprove_dagster.language_model.base import Generation, LanguageModel, placement
from selfimprove_dagster.lineage.walk import Lineage, RecordNotFound
from selfimprove_dagster.lots import lots
from selfimprove_dagster.table import Row
from selfimprove_dagster.words import SHOWN
from selfimprove_dagster.work.progress import ProgressReport
from selfimprove_dagster.work.shards import recorded_sampling


@dataclass(frozen=True)
class Replayed:
    """One path, as it was recorded and as it was drawn again.

    `position` is the first at which the tokens differ (0 for the first drawn token; the length of the
    shorter path where one begins with the other), None where they are equal. The log-probabilities are
    those of the two tokens there, None past a path's end: a small gap is a draw that fell on the border
    between two tokens.
    """

    id: str
    position: int | None
    recorded_text: str
    replayed_text: str
    recorded_logprob: float | None
    replayed_logprob: float | None

    @property
    def equal(self) -> bool:
        """Whether tokens and text are the same."""
        return self.position is None and self.recorded_text == self.replayed_text

    @property
    def gap(self) -> float | None:
        """How far apart the two log-probabilities are, in nats."""
        if self.recorded_logprob is None or self.replayed_logprob is None:
            return None
        return abs(self.recorded_logprob - self.replayed_logprob)


@dataclass(frozen=True)
class Replay:
    """Completions of one iteration drawn again by its model, in the order in which they were drawn.

    `activities` made them, `activity_id` is the first; `differences` says what is not as it was then.
    """

    activity_id: str
    model_id: str
    model_path: str
    engine: str
    differences: tuple[str, ...]
    paths: tuple[Replayed, ...]
    activities: tuple[str, ...] = ()

    @property
    def agreement(self) -> Accuracy:
        """The share of paths that came out exactly."""
        return Accuracy(sum(path.equal for path in self.paths), len(self.paths))

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        low, high = self.agreement.interval
        paths = [{**asdict(path), "equal": path.equal, "gap": path.gap} for path in self.paths]
        agreement = {"equal": self.agreement.correct, "of": len(self.paths), "low": low, "high": high}
        return {**asdict(self), "paths": paths, "agreement": agreement}


@dataclass(frozen=True)
class _Drawn:
    """Rows of one table of completions, and the activity that drew them."""

    rows: pl.DataFrame
    activity: Activity

    def only(self, ids: list[str]) -> _Drawn:
        return _Drawn(self.rows.filter(pl.col("id").is_in(ids)), self.activity)


def replay(home: Home, record: str, *, alone: bool = False) -> Replay:
    """Draw the completions again that `record` is or was made from; of a vote, every path that was asked.

    Those are meant that stand nearest to it: of an instance its own, not that of its task. `alone` draws one
    after the other, not all in one batch. Raises RecordNotFound for a record that no completion stands
    behind, and ModelError where the model is gone or is another than the recorded one.
    """
    lineage = Lineage(home.lake)
    place = lineage.find(record)
    found = _nearest_completions(lineage, place.id)
    if not found:
        raise RecordNotFound(
            f"{place.id} ({place.table}) is no path and was made from none; name an example or path"
        )
    wanted = [row["id"] for row in found]
    drawn = [one.only(wanted) for one in _drawn(home, place.experiment, found[0]["iteration"])]
    return _replay(home, [one for one in drawn if len(one.rows)], alone)


def _nearest_completions(lineage: Lineage, record: str) -> list[Row]:
    """The completions that the record is, or that are the fewest steps above it along the main line."""
    seen, ahead = {record}, [record]
    while ahead:
        rows = lineage.rows(ahead, withdrawn=True).values()
        found = [row for row in rows if registry.is_drawn(row["table_name"]) and row["seed"] is not None]
        if found:
            return found
        parents = [edge["id"] for row in rows for edge in row["parents"] if edge["role"] != SHOWN]
        ahead = [parent for parent in dict.fromkeys(parents) if parent not in seen]
        seen.update(ahead)
    return []


def replay_sample(home: Home, key: str, size: int, *, alone: bool = False) -> Replay:
    """Draw `size` completions of an iteration again, chosen by a lot that is always the same.

    Raises PartitionMissing where the iteration has drawn nothing yet.
    """
    drawn = _drawn(home, *experiment_of_key(key))
    if not drawn:
        raise PartitionMissing(f"{key} has drawn nothing yet; run it first")
    ids = pl.concat([one.rows.select("id") for one in drawn])
    chosen = ids.with_columns(lots(ids, ["id"], 0)).sort("lot").head(size)["id"].to_list()
    return _replay(home, [some for one in drawn if len((some := one.only(chosen)).rows)], alone)


def compare(row: Row, generation: Generation) -> Replayed:
    """A recorded row of the table of paths against what was drawn for it now."""
    old, new = row["token_ids"], generation.token_ids
    differing = (index for index, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1])
    position = next(differing, None if len(old) == len(new) else min(len(old), len(new)))

    def there(values: Sequence[float]) -> float | None:
        return float(values[position]) if position is not None and position < len(values) else None

    return Replayed(
        row["id"], position, row["text"], generation.text, there(row["logprobs"]), there(generation.logprobs)
    )


def _drawn(home: Home, experiment: str, iteration: int) -> list[_Drawn]:
    """All completions of an iteration, table by table."""
    partition = partition_of(experiment, iteration)
    manifests = [
        home.lake.manifest(name, partition)
        for name, table in registry.tables().items()
        if table.draw and home.lake.exists(name, partition)
    ]
    return [_Drawn(home.lake.read_whole(one).drop_nulls("seed"), one.activity) for one in manifests]


def _replay(home: Home, drawn: Sequence[_Drawn], alone: bool) -> Replay:
    first = drawn[0].activity
    if len({one.activity.model_id for one in drawn}) > 1:
        raise ModelError(
            "these were drawn by several models, since the champion changed in the middle of the iteration; "
            "replay them one by one, by their ids"
        )
    model = _open(home, first)
    try:
        replayed: list[Replayed] = []
        total = sum(len(one.rows) for one in drawn)
        with ProgressReport("replay", total, "paths", lambda line: None) as report:
            for one in drawn:
                parameters = recorded_sampling(registry.table(one.activity.table), one.activity.parameters)
                rows = one.rows.rows(named=True)
                for batch in [[row] for row in rows] if alone else [rows]:
                    again = model.generate(
                        [row["prompt_token_ids"] for row in batch],
                        [[row["seed"]] for row in batch],
                        parameters,
                        progress=report.advance,
                    )
                    replayed += [compare(row, paths[0]) for row, paths in zip(batch, again, strict=True)]
        differences = (line for one in drawn for line in _differences(one.activity, model))
        return Replay(
            activity_id=first.id,
            model_id=model.model_id,
            model_path=first.about["model_path"],
            engine=model.engine,
            differences=tuple(dict.fromkeys(differences)),
            paths=tuple(replayed),
            activities=tuple(one.activity.id for one in drawn),
        )
    finally:
        model.close()


def _open(home: Home, activity: Activity) -> LanguageModel:
    """The recorded model with the recorded options, or where none are recorded, those of the experiment."""
    from selfimprove_dagster.language_model.folder import model_folder
    from selfimprove_dagster.language_model.weights import is_model, model_id

    about, path = activity.about, activity.about["model_path"]
    try:
        folder = model_folder(path)
        same = is_model(folder, str(activity.model_id))
    except ModelError as error:
        raise ModelError(
            f"the model that drew these paths is gone: {error} Put {activity.model_id} back at {path}."
        ) from error
    if not same:
        raise ModelError(
            f"the model at {path} is {model_id(folder)}, but these paths were drawn by {activity.model_id}; "
            "put that one back"
        )
    options = _options(home, activity)
    if "device" in options:
        device = about.get("device", options["device"])
        # Where that GPU is not at hand, another device is taken, and said.
        options |= {"device": "auto" if device.startswith("cuda") else device}
    return open_language_model(path, **options)


def _options(home: Home, activity: Activity) -> dict[str, Any]:
    recorded = dict(activity.about.get("engine_options", {}))
    if recorded and recorded["engine"] != "openai":
        return recorded
    # The experiment says what is not recorded: a server's address, or all of it in lakes of earlier versions.
    section = home.experiment(activity.partition["experiment"]).model
    return {**section.engine_options(), **recorded}


def _differences(activity: Activity, model: LanguageModel) -> list[str]:
    recorded: Mapping[str, Any] = {**activity.about, "engine": activity.parameters["engine"]}
    return [
        f"the {name} is {now}; " + (f"it was {recorded[name]}" if name in recorded else "it was not recorded")
        for name, now in {"engine": model.engine, **placement(model)}.items()
        if recorded.get(name) != now
    ]
