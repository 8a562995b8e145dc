"""Which instances are trained on: the rules as an experiment sets them, and the instances by people.

The instances of a task are judged by themselves; only the limit of the dataset is decided over all at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import polars as pl

from selfimprove_dagster.families.tasks.rules import Ban, not_banned, not_held_out, output_not_empty
from selfimprove_dagster.filters.rules import Filter, apply_filters, could_be_read
from selfimprove_dagster.methods.self_instruct import rules
from selfimprove_dagster.methods.self_instruct.settings import SelfInstructExperiment


def instance_candidates(instances: pl.LazyFrame, tasks: pl.LazyFrame) -> pl.LazyFrame:
    """What the rules read of `task_instances`, with the scores of each task of `accepted_tasks`."""
    scores = tasks.select("rouge_l", "perplexity", task_id="id")
    return instances.select(
        *("task_id", "instruction", "input", "output", "problem"), candidate_id="id", is_seed=pl.lit(False)
    ).join(scores, on="task_id", how="left", maintain_order="left")


@dataclass(frozen=True)
class InstanceRules:
    """The rules for instances as an experiment sets them."""

    experiment: SelfInstructExperiment
    held_out: Collection[str]
    banned: Mapping[str, Ban]

    def within_a_task(self, candidates: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The instances that pass every rule but the limit of the dataset, and the decisions on all."""
        held_out = not_held_out(self.held_out)
        readable, unread = apply_filters(candidates, [could_be_read, held_out, not_banned(self.banned)])
        if self.experiment.filter.switched_off:
            kept, decisions = apply_filters(readable, [output_not_empty])
        else:
            thresholds = rules.InstanceThresholds(most=self.experiment.instances.most)
            kept, decisions = rules.filter_instances(readable, thresholds, self.experiment.seed)
        return kept, pl.concat([unread, decisions])

    def within_limit(self, parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
        """The decisions by the limit of the dataset; none where it has none.

        The ids of all instances that pass the other rules are held, each with its lot.
        """
        ids = pl.DataFrame(schema={"candidate_id": pl.String, "lot": pl.Float64})
        filters: list[Filter] = []
        if (most := self.experiment.filter.most_examples) is not None:
            kept = (self.within_a_task(part)[0] for part in parts)
            drawn = (part.with_columns(rules.lots_in_all(part, self.experiment.seed)) for part in kept)
            ids = pl.concat([ids, *(part.select("candidate_id", "lot") for part in drawn)])
            filters = [rules.at_most(most)]
        return apply_filters(ids, filters)[1]


def instances_of_seeds(pool: pl.LazyFrame) -> pl.LazyFrame:
    """The instances that people gave with their tasks, as candidates that no rule judges."""
    place = pl.int_ranges(pl.col("instances").list.len())
    return (
        pool.filter(origin="human")
        .select("instruction", "instances", task_id="id", place=place)
        .explode("instances", "place")
        .drop_nulls("place")
        .unnest("instances")
        .select(
            *("task_id", "instruction", "input", "output"),
            candidate_id=pl.format("{}/{}", "task_id", "place"),
            is_seed=pl.lit(True),
        )
    )
