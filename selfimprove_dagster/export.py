"""Export datasets for other tools: as a Hugging Face folder with its card, Parquet, JSON Lines (with or
without PROV), or in the layouts that tools for fine-tuning read.

    alpaca  one object per line: instruction, input, output
    chat    one object per line: messages, of which the last is the assistant's

In both, `id` is the record of the example. If examples have no instruction, the prompt is the instruction. In all
layouts but alpaca, prompts of chat models are lists of messages. A method declares in its `Card` which columns are
exported, and which layouts are not possible.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.conversation import Message, merged, messages_of, row_of, shown, stored
from selfimprove_dagster.errors import ExperimentError, PartitionMissing
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.export_cards import Card, CardWords, default_words
from selfimprove_dagster.lake.disk import file_checksum
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest, partition_of
from selfimprove_dagster.table import Row, Table
from selfimprove_dagster.text import code_span, markdown_table

FORMATS = ("huggingface", "parquet", "jsonl", "prov-json", "alpaca", "chat")


def last_dataset(lake: Lake, experiment: Experiment, iteration: int | None = None) -> Manifest:
    """Return the manifest of an iteration's dataset, by default the latest committed one."""
    table = _dataset(experiment.method).name
    if iteration is not None:
        return lake.manifest(table, partition_of(experiment.name, iteration))
    found = lake.manifests(table, experiment.name)
    if not found:
        raise PartitionMissing(f"experiment {experiment.name} has no dataset yet; run it first")
    return found[-1]


def export_dataset(
    lake: Lake, experiment: Experiment, output: Path, iteration: int | None, layout: str
) -> int:
    """Write a dataset whose checks passed to the new folder `output`, and return the number of examples.

    Each row keeps its record id, so that `selfimprove lineage trace` finds its origin. The layout `prov-json`
    consists of JSON Lines and `dataset.prov.json`, the W3C PROV of their ancestry.
    """
    if layout not in FORMATS:
        raise ExperimentError(f"there is no export format {layout!r}; use one of {', '.join(FORMATS)}")
    if output.exists():
        raise ExperimentError(f"{output} exists already; choose a new folder")
    card = _card(experiment.method)
    if layout in card.refused:
        raise ExperimentError(f"the layout {layout} {card.refused[layout]}")
    manifest = last_dataset(lake, experiment, iteration)
    rows = _exported(_dataset(experiment.method), card, lake.read(manifest.table, manifest.partition))
    asked = manifest.activity.parameters.get("prompting", {})
    if asked.get("chat"):
        rows = _with_messages(rows, asked.get("system", ""))
    temporary = output.with_name(output.name + ".partial")
    data = temporary / "data" if layout == "huggingface" else temporary
    shutil.rmtree(temporary, ignore_errors=True)  # left by a killed export
    data.mkdir(parents=True)
    if layout in _JSON_LINES:
        lines = card.layouts.get(layout, _JSON_LINES[layout])(rows)
        lines.write_ndjson(data / "train.jsonl")
    else:
        rows.write_parquet(data / "train.parquet", compression="zstd")
    if layout == "huggingface":
        digest = file_checksum(data / "train.parquet")
        text = dataset_card(lake, experiment, manifest, len(rows), digest)
        (temporary / "README.md").write_text(text, encoding="utf-8")
    if layout == "prov-json":
        from selfimprove_dagster.lineage.prov import dataset_document, prov_json

        document = dataset_document(lake, manifest)
        (temporary / "dataset.prov.json").write_text(prov_json(document), encoding="utf-8")
    temporary.rename(output)
    return len(rows)


def _dataset(method: str) -> Table:
    """Return the table of a method's training examples. Raises PartitionMissing if there is none."""
    found = registry.method(method).dataset
    if found is None:
        raise PartitionMissing(f"the method {method} does not make a dataset: there is nothing to export")
    return found


def _card(method: str) -> Card:
    return registry.method(method).card or Card()


def _exported(table: Table, card: Card, rows: pl.DataFrame) -> pl.DataFrame:
    """Return the exported columns: by default the id, all columns that are not lists, and the measures."""
    plain = [
        "id",
        *(name for name, kind in table.content.items() if not isinstance(kind, pl.List | pl.Struct)),
    ]
    return rows.select(*(card.columns or plain), *table.measures)


def _with_messages(rows: pl.DataFrame, system: str) -> pl.DataFrame:
    """Return rows whose prompts are conversations with lists of messages, as TRL reads them.

    `system` is the text that comes first in every conversation.
    """
    messages = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
    first = [Message("system", system)] if system else []
    asked = [[row_of(one) for one in merged([*first, *messages_of(prompt)])] for prompt in rows["prompt"]]
    said = [
        pl.concat_list(pl.struct(role=pl.lit("assistant"), content=name)).alias(name)
        for name in ("completion", "chosen", "rejected")
        if name in rows.columns
    ]
    return rows.with_columns(pl.Series("prompt", asked, messages), *said)


def _as_text(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows of conversations with their prompts and completions as text."""
    if rows.schema["prompt"] == pl.String:
        return rows
    asked = [_read([Message(**one) for one in prompt]) for prompt in rows["prompt"]]
    said = pl.col("completion").list.first().struct.field("content")
    return rows.with_columns(pl.Series("prompt", asked), completion=said)


def _read(messages: Sequence[Message]) -> str:
    """Return what a single message says, or all messages with their roles."""
    return messages[0].content if len(messages) == 1 else shown(stored(messages))


def _alpaca(rows: pl.DataFrame) -> pl.DataFrame:
    """Return instruction, input and output. Raises ExperimentError for rows without prompt and completion."""
    if {"instruction", "input", "output"} <= {*rows.columns}:
        return rows.select("instruction", "input", pl.col("output").str.strip_chars(), "id")
    if not {"prompt", "completion"} <= {*rows.columns}:
        raise ExperimentError(
            "this layout needs the columns prompt and completion, or instruction, input and output; "
            f"these examples have {', '.join(rows.columns)}: export them as jsonl, parquet or huggingface"
        )
    output = pl.col("completion").str.strip_chars().alias("output")
    return _as_text(rows).select(
        pl.col("prompt").alias("instruction"), pl.lit("").alias("input"), output, "id"
    )


def _chat(rows: pl.DataFrame) -> pl.DataFrame:
    """Return messages: the instruction with its input, without the training template, and the output."""
    if "prompt" in rows.columns and rows.schema["prompt"] != pl.String:
        return rows.select(pl.concat_list("prompt", "completion").alias("messages"), "id")
    said = _alpaca(rows)
    alone = pl.col("input").str.strip_chars() == ""
    user = pl.when(alone).then("instruction").otherwise(pl.format("{}\n\n{}", "instruction", "input"))
    turns = [
        pl.struct(role=pl.lit(role), content=content)
        for role, content in (("user", user), ("assistant", pl.col("output")))
    ]
    return said.select(pl.concat_list(turns).alias("messages"), "id")


_JSON_LINES: dict[str, Callable[[pl.DataFrame], pl.DataFrame]] = {
    "jsonl": lambda rows: rows,
    "prov-json": lambda rows: rows,
    "alpaca": _alpaca,
    "chat": _chat,
}
"""Default functions that make the lines of each JSON Lines layout."""


def dataset_card(lake: Lake, experiment: Experiment, manifest: Manifest, rows: int, digest: str) -> str:
    """Return the card of a dataset in Markdown, given the number of rows and the digest of its file.

    Text of seed files, models and settings is put into code spans, where it has no effect.
    """
    about = (_card(experiment.method).words or default_words)(lake, manifest)
    method = registry.method(experiment.method)
    papers = [f'"{one.title}", arXiv:{one.arxiv}' for one in method.papers]
    pool = about.sources
    sources = (
        pool.group_by("source_file", "licence").agg(pl.len().alias(about.noun)).sort("source_file", "licence")
    )
    licences = pool["licence"].unique().sort().to_list()
    known = licences[0].lower() if len(licences) == 1 else "other"
    if known == "unknown" or not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", known):
        known = "other"  # the card's header allows only identifiers
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
({"; ".join(papers) or method.title}). {about.truth}

## Sources

{about.of_sources}{markdown_table(sources.to_dicts())}

## Model

{_drawn_by(about)}, seed {manifest.activity.seed}.{_asked(manifest)}

{markdown_table(stages)}

## Filters

{filters}

## Quality checks

{markdown_table(checks) or "No checks were recorded."}

## Revocations in force

{markdown_table(_revocations(lake, manifest)) or "None."}

## Verification

| what | digest (blake2b, 128 bits) |
| --- | --- |
| activity | `{manifest.activity.id}` |
| `data/train.parquet` | `{digest}` |

`b2sum -l 128 data/train.parquet` prints the digest of the file. With the original lake,
`selfimprove lineage verify {experiment.name}` recomputes every id and hash.

## Columns

{about.columns}; `id` is the id of the record:
`selfimprove lineage trace ID` prints where the example comes from.
"""


def _drawn_by(about: CardWords) -> str:
    """Describe the model that wrote the dataset's texts, its engine and sampling."""
    if about.drawn is None:
        return "None: people wrote the texts"
    drawn = about.drawn.activity
    model = f"{code_span(drawn.about['champion'])} ({code_span(drawn.model_id or 'unknown')})"
    return f"{model},\nengine {code_span(drawn.parameters['engine'])}, {about.sampling}"


def _asked(manifest: Manifest) -> str:
    """Describe how a chat model is asked."""
    asked = manifest.activity.parameters.get("prompting", {})
    if not asked.get("chat"):
        return ""
    template = "a template of the experiment" if asked.get("template") else "the model's chat template"
    system = f"; the system text is {code_span(asked['system'])}" if asked.get("system") else ""
    return (
        f"\n\nPrompts are conversations, rendered by {template} (prompts {code_span(asked['prompts'])}){system}. "
        "The text of a special token in a message is text: render messages so that it stays text."
    )


def _filters(lake: Lake, decisions: Manifest) -> list[Row]:
    """Count what each rule reached, kept and dropped, in the order in which the rules ran."""
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
    """Return the revocations that apply to an experiment, with the number of revoked examples of each."""
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
