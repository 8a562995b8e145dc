"""What every asset needs and none should write again: its partition, its activity, its report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic

import dagster as dg
import polars as pl

from selfimprove_dagster.assets.factory import E, page_url, preview_table, table_metadata
from selfimprove_dagster.experiment.naming import experiment_of_key
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest, Spent, partition_of
from selfimprove_dagster.lake.records import Activity, Draft, Parent, build_records, content_hash
from selfimprove_dagster.language_model.base import Generation, LanguageModel, placement
from selfimprove_dagster.loop.champion import NEWEST, Champion, champion_before
from selfimprove_dagster.methods.self_knowledge.settings import SelfKnowledgeExperiment
from selfimprove_dagster.resources.language_model import LanguageModelResource
from selfimprove_dagster.table import Table
from selfimprove_dagster.work.budget import Allowance
from selfimprove_dagster.work.shards import (
    Item,
    Request,
    Work,
    completer,
    in_shards,
    recorded_options,
    recorded_sampling,
)


@dataclass
class Stage(Generic[E]):
    """One stage of one iteration of an experiment of the kind E, while it is being materialised."""

    context: dg.AssetExecutionContext
    home: Home
    schema: Table
    experiment: E
    iteration: int
    code_version: str
    _started: float = field(default_factory=time.monotonic)
    _left_out: dict[str, pl.DataFrame] = field(default_factory=dict)

    @classmethod
    def begin(cls, context: dg.AssetExecutionContext, home: Home, schema: Table, kind: type[E]) -> Stage[E]:
        """Find experiment and iteration in the partition key.

        Raises ExperimentError on a malformed key, and on an experiment of another method.
        """
        name, iteration = experiment_of_key(context.partition_key)
        experiment = home.experiment(name, schema.name.split("/")[0])
        assert isinstance(experiment, kind)
        code_version = context.assets_def.code_versions_by_key[dg.AssetKey(schema.name.split("/"))] or ""
        return cls(context, home, schema, experiment, iteration, code_version)

    def beside(self, schema: Table) -> Stage[E]:
        """The same stage, writing another of its tables."""
        return replace(self, schema=schema)

    @property
    def lake(self) -> Lake:
        return self.home.lake

    @property
    def partition(self) -> dict[str, str]:
        return partition_of(self.experiment.name, self.iteration)

    @property
    def champion(self) -> Champion:
        """The model that this iteration starts from; where another experiment is measured, its newest."""
        if isinstance(self.experiment, SelfKnowledgeExperiment) and self.experiment.of:
            return champion_before(self.lake, self.home.experiment(self.experiment.of), NEWEST)
        return champion_before(self.lake, self.experiment, self.iteration)

    @property
    def generator(self) -> Champion:
        """The model that this iteration generates with."""
        return (
            self.champion if self.experiment.drawn_by == "champion" else Champion(self.experiment.model.path)
        )

    @property
    def allowance(self) -> Allowance:
        """What the experiment's budget leaves to this stage."""
        return Allowance.of(self.lake, self.experiment, self.schema.name, self.iteration)

    def log(self, line: str) -> None:
        """One line into Dagster's log."""
        self.context.log.info(line)

    def read(self, schema: Table) -> tuple[Manifest, pl.DataFrame]:
        """This iteration's rows of an earlier stage; refused when its last blocking check failed."""
        manifest = self.lake.manifest(schema.name, self.partition)
        # Before the rows are read: what is withdrawn in between is not claimed to have been left out.
        self._left_out[manifest.activity.id] = self.lake.ledger.withdrawn(manifest.activity.id)
        return manifest, self.lake.read(schema.name, self.partition)

    def activity(
        self,
        *,
        inputs: Sequence[Manifest],
        parameters: Mapping[str, Any],
        model_id: str | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> Activity:
        """The activity of this materialisation.

        Inputs without their withdrawn rows are other inputs: they add a parameter, and `about` says which
        revocations were heeded.
        """
        about = {"dagster_run_id": self.context.run.run_id, **(about or {})}
        left_out = pl.concat(
            [
                self._left_out.get(manifest.activity.id, self.lake.ledger.withdrawn(manifest.activity.id))
                for manifest in inputs
            ]
            or [self.lake.ledger.withdrawn("")]
        )
        if not left_out.is_empty():
            withdrawn = content_hash({"ids": left_out["id"].unique().sort().to_list()})
            parameters = {**parameters, "withdrawn": withdrawn}
            about["revocations"] = left_out["revocation"].unique().sort().to_list()
        return Activity(
            table=self.schema.name,
            partition=self.partition,
            code_version=self.code_version,
            parameters=parameters,
            seed=self.experiment.seed,
            inputs=tuple(manifest.activity.id for manifest in inputs),
            model_id=model_id,
            about=about,
        )

    def so_far(self, *schemas: Table) -> tuple[list[Manifest], list[pl.DataFrame]]:
        """The rows of tables in this and all earlier iterations of the experiment, and their partitions."""
        manifests: list[Manifest] = []
        frames = []
        for schema in schemas:
            found = [
                manifest
                for manifest in self.lake.manifests(schema.name, self.experiment.name)
                if manifest.iteration <= self.iteration
            ]
            for manifest in found:
                self._left_out[manifest.activity.id] = self.lake.ledger.withdrawn(manifest.activity.id)
            rows = (self.lake.read(schema.name, manifest.partition) for manifest in found)
            frames.append(pl.concat([pl.DataFrame(schema=schema.polars), *rows]))
            manifests += found
        return manifests, frames

    def drawing(
        self,
        model: LanguageModel,
        inputs: Sequence[Manifest],
        parameters: Mapping[str, Any],
        by: Champion | None = None,
    ) -> Activity:
        """The activity of a stage in which the generator, or `by`, works, open as `model`."""
        generator = by or self.generator
        return self.activity(
            inputs=inputs,
            parameters={**parameters, "engine": model.engine},
            model_id=model.model_id,
            about={
                "model_path": generator.path,
                "champion": generator.name,
                "engine_options": recorded_options(self.experiment.model),
                **placement(model),
            },
        )

    def work(
        self,
        language_model: LanguageModelResource,
        inputs: Sequence[Manifest],
        settings: Mapping[str, Any],
        items: Sequence[Item],
        prepare: Callable[[LanguageModel], Work[Item]],
        *,
        size: int,
        unit: str = "completions",
        each: Callable[[Item], int] = lambda item: 1,
        by: Champion | None = None,
    ) -> tuple[Manifest, dict[str, Any]]:
        """Let the generator, or the model `by`, work on all items, shard by shard; the partition, and what
        Dagster shows."""
        path = (by or self.generator).path
        with language_model.open(self.experiment.model, path, self.experiment.scores) as model:
            activity = self.drawing(model, inputs, settings, by)
            with self.lake.writer(self.schema, activity) as writer:
                spent = in_shards(
                    writer,
                    items,
                    prepare(model),
                    size=size,
                    unit=unit,
                    each=each,
                    log=self.log,
                    allowance=self.allowance,
                )
                manifest = writer.commit({"seconds": self.seconds, **vars(spent)})
        return manifest, self.drawn_metadata(activity, spent)

    def complete(
        self,
        language_model: LanguageModelResource,
        inputs: Sequence[Manifest],
        settings: Mapping[str, Any],
        requests: Sequence[Request],
        *,
        size: int,
        read: Callable[[Generation], Mapping[str, Any]] = lambda drawn: {},
        by: Champion | None = None,
    ) -> tuple[Manifest, dict[str, Any]]:
        """The same for one completion a request, drawn as the settings say."""
        parameters = recorded_sampling(self.schema, settings)
        seeds_from = (self.experiment.seed, self.iteration)
        return self.work(
            language_model,
            inputs,
            settings,
            requests,
            lambda model: completer(model, parameters, seeds_from, read),
            size=size,
            each=lambda request: request.samples,
            by=by,
        )

    def drawn_metadata(self, activity: Activity, spent: Spent) -> dict[str, Any]:
        """What Dagster shows of a stage in which a model worked."""
        return {
            "champion": activity.about["champion"],
            "model_id": activity.model_id,
            "engine": activity.parameters["engine"],
            "tokens": spent.tokens,
            "tokens_per_second": round(spent.tokens / max(spent.model_seconds, 1e-9), 1),
        }

    def store(
        self, activity: Activity, drafts: Sequence[Draft], about: Mapping[str, Any] | None = None
    ) -> Manifest:
        """Write and commit a whole table at once."""
        records = build_records(self.schema, drafts, activity)
        with self.lake.writer(self.schema, activity) as writer:
            writer.write_shard(0, records, overwrite=True)
            return writer.commit({"seconds": self.seconds, **(about or {})})

    @property
    def seconds(self) -> float:
        """Since the stage began."""
        return round(time.monotonic() - self._started, 3)

    @property
    def lineage_page(self) -> dg.MetadataValue:
        """Link to the lineage page of this iteration."""
        return dg.MetadataValue.url(page_url(f"/experiments/{self.experiment.turn_name}/{self.iteration}"))

    def result(
        self, manifest: Manifest, preview: Sequence[str], metadata: Mapping[str, Any] | None = None
    ) -> dg.MaterializeResult:
        """What Dagster shows of the materialisation; `preview` names the columns of the sample rows.

        The catalog is made anew, so that whoever opens it finds the rows that were just committed.
        """
        self.lake.refresh_catalog()
        return dg.MaterializeResult(
            asset_key=self.schema.name.split("/"),
            metadata={
                "dagster/row_count": self.lake.live_rows(manifest),
                **table_metadata(self.schema),
                "iteration": self.iteration,
                "seconds": self.seconds,
                "activity": manifest.activity.id,
                "folder": dg.MetadataValue.path(str(manifest.directory)),
                **(metadata or {}),
                "preview": dg.MetadataValue.md(preview_table(self.lake, manifest, preview)),
            },
            data_version=dg.DataVersion(manifest.activity.id),
        )


def store_decisions(
    stage: Stage[E],
    schema: Table,
    decisions: pl.DataFrame,
    inputs: Sequence[Manifest],
    decides: str,
) -> None:
    """Commit decisions before the table whose making they explain; `decides` is that table's activity."""
    beside = stage.beside(schema)
    activity = beside.activity(inputs=inputs, parameters={"decides": decides})
    drafts = [
        Draft(
            content={
                "stage": stage.schema.name,
                **{key: row[key] for key in ("candidate_id", "rule", "kept", "reason", "nearest_id")},
            },
            parents=[Parent(row["candidate_id"], "decided")],
            measures={"score": row["score"], "threshold": row["threshold"]},
        )
        for row in decisions.iter_rows(named=True)
    ]
    beside.store(activity, drafts)
