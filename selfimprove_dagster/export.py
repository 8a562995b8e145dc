"""Datasets for other tools: a Hugging Face folder with its card, Parquet, JSON Lines, these with PROV, or the
layouts that tools for fine-tuning read.

    alpaca  one object a line: instruction, input, output
    chat    one object a line: messages, of which the first is the user's and the second the assistant's

In both, `id` says where the example comes from. Of a method whose examples have no instruction, the prompt is
the instruction; whole texts with calls of tools have neither, and are refused.

Pairs of responses are exported with prompt, chosen, rejected and the probability that the chosen one is the
better, as DPO reads them; `chat` gives each of the three as a list of messages, `alpaca` cannot hold them.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import polars as pl

from selfimprove_dagster import tables
from selfimprove_dagster.errors import ExperimentError, PartitionMissing
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.export_cards import CARDS, CardWords
from selfimprove_dagster.families.dialogues.prompts import turns
from selfimprove_dagster.families.preferences.tables import PREFERENCE_METHODS
from selfimprove_dagster.lake.disk import file_checksum
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest, partition_of
from selfimprove_dagster.table import Row, Table
from selfimprove_dagster.text import code_span, markdown_table

FORMATS = ("huggingface", "parquet", "jsonl", "prov-json", "alpaca", "chat")


_COLUMNS = ("id", "prompt", "completion", "format", "question", "answer", "round")
"""What a dataset of prompts and completions has; `round` only where responses were revised."""


_TEXT_COLUMNS = ("id", "prompt", "completion", "format", pl.col("question").alias("text"), "calls")


_PAIR_COLUMNS = ("id", "prompt", "chosen", "rejected", "format", "question", "labelled_by")


_INSTRUCTING = ("alpaca", "chat")
"""Layouts of instructions and what follows them."""


_TASK_COLUMNS = {
    **{name: name for name in ("id", "prompt", "completion", "format", "instruction", "input")},
    "output": "answer",
}


def last_dataset(lake: Lake, experiment: Experiment, iteration: int | None = None) -> Manifest:
    """The manifest of an iteration's dataset, by default the last committed one."""
    table = tables.of(experiment.method, "filtered_dataset").name
    if iteration is not None:
        return lake.manifest(table, partition_of(experiment.name, iteration))
    found = lake.manifests(table, experiment.name)
    if not found:
        raise PartitionMissing(f"experiment {experiment.name} has no dataset yet; run it first")
    return found[-1]


def export_dataset(
    lake: Lake, experiment: Experiment, output: Path, iteration: int | None, layout: str
) -> int:
    """Write a dataset whose checks passed into the new folder `output`; returns how many examples it has.

    Each row keeps its record id, so that `selfimprove lineage trace` answers for it wherever it went. The
    layout `prov-json` is JSON Lines and, beside them, `dataset.prov.json`: W3C PROV for all their ancestry.
    """
    if layout not in FORMATS:
        raise ExperimentError(f"there is no export format {layout!r}; there are: {', '.join(FORMATS)}")
    if output.exists():
        raise ExperimentError(f"{output} exists already; name a new folder")
    if layout in _INSTRUCTING and "text_id" in tables.of(experiment.method, "filtered_dataset").content:
        raise ExperimentError(
            f"the layout {layout} is for instructions with answers, and the examples of {experiment.method} "
            "are whole texts with calls: export them as jsonl, parquet or huggingface, and train on "
            "`completion` after an empty prompt"
        )
    if layout == "alpaca" and experiment.method in PREFERENCE_METHODS:
        raise ExperimentError(
            "the layout alpaca is for instructions with one answer each, and the examples of "
            f"{experiment.method} are pairs of responses: export them as chat, jsonl, parquet or "
            "huggingface, and train on `chosen` and `rejected` after `prompt`"
        )
    manifest = last_dataset(lake, experiment, iteration)
    rows = _exported(tables.TABLES[manifest.table], lake.read(manifest.table, manifest.partition))
    temporary = output.with_name(output.name + ".partial")
    data = temporary / "data" if layout == "huggingface" else temporary
    shutil.rmtree(temporary, ignore_errors=True)  # what a killed export left
    data.mkdir(parents=True)
    if layout in _JSON_LINES:
        _JSON_LINES[layout](rows).write_ndjson(data / "train.jsonl")
    else:
        rows.write_parquet(data / "train.parquet", compression="zstd")
    if layout == "huggingface":
        digest = file_checksum(data / "train.parquet")
        card = dataset_card(lake, experiment, manifest, len(rows), digest)
        (temporary / "README.md").write_text(card, encoding="utf-8")
    if layout == "prov-json":
        from selfimprove_dagster.lineage.prov import dataset_document, prov_json

        document = dataset_document(lake, manifest)
        (temporary / "dataset.prov.json").write_text(prov_json(document), encoding="utf-8")
    temporary.rename(output)
    return len(rows)


def _exported(schema: Table, rows: pl.DataFrame) -> pl.DataFrame:
    """The columns that other tools get: texts, format, and the method's scores."""
    if "instruction" in schema.content:
        texts = [pl.col(column).alias(name) for name, column in _TASK_COLUMNS.items()]
        return rows.select(*texts, *schema.measures)
    if "text_id" in schema.content:
        return rows.select(*_TEXT_COLUMNS, *schema.measures)
    if "chosen" in schema.content:
        return rows.select(*_PAIR_COLUMNS, *schema.measures)
    return rows.select(*(name for name in _COLUMNS if name in rows.columns), *schema.measures)


def _alpaca(rows: pl.DataFrame) -> pl.DataFrame:
    if "instruction" in rows.columns:
        return rows.select("instruction", "input", pl.col("output").str.strip_chars(), "id")
    output = pl.col("completion").str.strip_chars().alias("output")
    asked = "question" if "round" in rows.columns else "prompt"
    return rows.select(pl.col(asked).alias("instruction"), pl.lit("").alias("input"), output, "id")


def _chat(rows: pl.DataFrame) -> pl.DataFrame:
    """What the user says is the instruction with its input, without the template that it was trained in."""
    if "chosen" in rows.columns:
        responses = [_by_assistant(name).alias(name) for name in ("chosen", "rejected")]
        return rows.select(_dialogues(rows), *responses, "probability", "id")
    if "round" in rows.columns:
        told = rows.with_columns(_dialogues(rows))
        return told.select(pl.concat_list("prompt", _by_assistant("completion")).alias("messages"), "id")
    said = _alpaca(rows)
    alone = pl.col("input").str.strip_chars() == ""
    user = pl.when(alone).then("instruction").otherwise(pl.format("{}\n\n{}", "instruction", "input"))
    turns = [
        pl.struct(role=pl.lit(role), content=content)
        for role, content in (("user", user), ("assistant", pl.col("output")))
    ]
    return said.select(pl.concat_list(turns).alias("messages"), "id")


def _dialogues(rows: pl.DataFrame) -> pl.Series:
    """The turns of each prompt as messages."""
    return pl.Series(
        "prompt",
        [[{"role": role, "content": said} for role, said in turns(prompt)] for prompt in rows["prompt"]],
        pl.List(pl.Struct({"role": pl.String, "content": pl.String})),
    )


def _by_assistant(column: str) -> pl.Expr:
    """The text of a column as the one message of the assistant's."""
    return pl.concat_list(pl.struct(role=pl.lit("assistant"), content=pl.col(column).str.strip_chars()))


_JSON_LINES: dict[str, Callable[[pl.DataFrame], pl.DataFrame]] = {
    "jsonl": lambda rows: rows,
    "prov-json": lambda rows: rows,
    "alpaca": _alpaca,
    "chat": _chat,
}
"""What the lines of each layout hold that is JSON Lines."""


def dataset_card(lake: Lake, experiment: Experiment, manifest: Manifest, rows: int, digest: str) -> str:
    """The card of a dataset of so many rows, whose exported file has that digest, in Markdown.

    Text of seed files, models and settings stands in code spans, in which it has no effect.
    """
    about = CARDS[experiment.method](lake, manifest)
    pool = about.sources
    sources = (
        pool.group_by("source_file", "licence").agg(pl.len().alias(about.noun)).sort("source_file", "licence")
    )
    licences = pool["licence"].unique().sort().to_list()
    known = licences[0].lower() if len(licences) == 1 else "other"
    if known == "unknown" or not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", known):
        known = "other"  # the card's header takes identifiers only
    stages = [
        {"stage": made.table, "code version": made.activity.code_version, "activity": made.activity.id}
        for made in lake.manifests(f"{experiment.method}/*", experiment.name)
        if made.iteration == manifest.iteration
    ]
    filters = "\n\n".join(
        markdown_table(_filters(lake, lake.manifest(f"{experiment.method}/{table}", manifest.partition)))
        for table in about.decisions
    )
    checks = [
        {
            "check": check.name,
            "outcome": "passed" if check.passed else "failed",
            "blocks": "yes" if check.blocking else "no",
            "found": check.reason,
        }
        for check in lake.checks(manifest)
    ]
    return f"""---
license: {known}
task_categories: [text-generation]
tags: [synthetic, self-improvement, {experiment.method}]
size_categories: [{_size_category(rows)}]
configs:
- config_name: default
  data_files: data/train.parquet
---
# {experiment.name}, iteration {manifest.iteration}

{rows:,} examples that {about.made_by}, by the method `{experiment.method}`
({about.citation}). {about.truth}

## Sources

{about.of_sources}{markdown_table(sources.to_dicts())}

## Model

{_drawn_by(about)}, seed {manifest.activity.seed}.

{markdown_table(stages)}

## Filters

{filters}

## Quality checks

{markdown_table(checks) or "None was recorded."}

## Revocations in force

{markdown_table(_revocations(lake, manifest)) or "None."}

## Verify it

| what | digest (blake2b, 128 bits) |
| --- | --- |
| activity | `{manifest.activity.id}` |
| `data/train.parquet` | `{digest}` |

`b2sum -l 128 data/train.parquet` gives the digest of the file. Where it was made,
`selfimprove lineage verify {experiment.name}` recomputes every id and hash.

## Columns

{about.columns}; `id` is the record of its origin:
`selfimprove lineage trace ID` prints where the example comes from.
"""


def _drawn_by(about: CardWords) -> str:
    """The model that wrote the dataset's texts, its engine and sampling; nobody's where people wrote them."""
    if about.drawn is None:
        return "None: people wrote the texts"
    drawn = about.drawn.activity
    model = f"{code_span(drawn.about['champion'])} ({code_span(drawn.model_id or 'unknown')})"
    return f"{model},\nengine {code_span(drawn.parameters['engine'])}, {about.sampling}"


def _filters(lake: Lake, decisions: Manifest) -> list[Row]:
    """What each rule did, in the order in which they were asked."""
    columns = lake.read_columns(decisions, ["rule", "kept", "threshold"])
    return (
        columns.group_by("rule", maintain_order=True)
        .agg(
            pl.col("threshold").first(),
            reached=pl.len(),
            kept=pl.col("kept").sum(),
            dropped=(~pl.col("kept")).sum(),
        )
        .to_dicts()
    )


def _revocations(lake: Lake, manifest: Manifest) -> list[Row]:
    """The revocations that hold for an experiment, and how many rows of its dataset fell with each."""
    fallen = Counter(lake.withdrawn(manifest).values())
    return [
        {
            "revocation": revocation.id,
            "of": revocation.kind,
            "at": revocation.at,
            "why": revocation.why,
            "examples left out": fallen[revocation.id],
        }
        for revocation in lake.ledger.revocations(manifest.experiment)
    ]


def _size_category(rows: int) -> str:
    for bound, name in (
        (1_000, "n<1K"),
        (10_000, "1K<n<10K"),
        (100_000, "10K<n<100K"),
        (1_000_000, "100K<n<1M"),
    ):
        if rows < bound:
            return name
    return "n>1M"
