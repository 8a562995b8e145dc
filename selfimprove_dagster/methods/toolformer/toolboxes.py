"""The tools of an experiment, and its calls with their scores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TypeVar

import polars as pl

from selfimprove_dagster.evaluation.exam import OpenModel
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lots import seed_of
from selfimprove_dagster.methods.toolformer.rules import CallThresholds
from selfimprove_dagster.methods.toolformer.settings import CallFilterSection, ToolformerExperiment
from selfimprove_dagster.tools.registry import open_tools
from selfimprove_dagster.tools.toolbox import Toolbox

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)

_LOSSES = ("loss_no_call", "loss_call", "loss_call_with_result")


def search_folder(home: Home) -> Path:
    """Where the indexes of WikiSearch are kept."""
    return home.root / "search"


@contextmanager
def experiment_tools(
    experiment: ToolformerExperiment, home: Home, open_model: OpenModel | None = None
) -> Iterator[Toolbox]:
    """The experiment's tools, closed on leaving, and with `open_model` the model that QA and MT ask.

    Without it these two have their shots alone.
    """
    section, asked = experiment.tools, experiment.answering_model
    with ExitStack() as stack:
        model = stack.enter_context(open_model(asked.path, asked)) if open_model and asked else None
        tools = open_tools(
            section.names,
            model=model,
            prompts_only=open_model is None,
            corpus=section.corpus_file,
            index_folder=search_folder(home),
            time_limit=section.time_limit,
        )
        yield stack.enter_context(closing(tools))


def call_candidates(results: Frame, scores: Frame, pool: Frame | None = None) -> Frame:
    """The columns that `methods.toolformer.rules` reads, of the tables tool_results and perplexity_scores; `unscored`
    is the problem of the latter.

    With the seed pool, each has the `text_key` that calls and texts are drawn by.
    """
    told = "problem" in scores.collect_schema()
    losses = scores.select(
        "candidate_id", *_LOSSES, unscored=pl.col("problem") if told else pl.lit(None, pl.String)
    )
    candidates = results.select(
        *("text_id", "position", "tool", "arguments", "result", "problem"), candidate_id="id"
    ).join(losses, on="candidate_id", how="left", maintain_order="left")
    if pool is None:
        return candidates
    keys = pool.select(text_id="id", text_key=pl.col("text").map_elements(seed_of, return_dtype=pl.Int64))
    return candidates.join(keys, on="text_id", how="left", maintain_order="left")


def call_thresholds(section: CallFilterSection) -> CallThresholds:
    """The rules of `methods.toolformer.rules` as an experiment states them."""
    return CallThresholds(
        loss_reduction=section.loss_reduction,
        other_tools=section.other_tools,
        one_at_a_position=section.one_at_a_position,
        most_texts=section.most_texts,
        by_lot=section.chosen_by == "lot",
    )
