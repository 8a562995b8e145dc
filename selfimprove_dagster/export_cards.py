"""Define what a method declares about its exported datasets, and write the cards of datasets and checkpoints."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.conversation import Turn
from selfimprove_dagster.evaluation.exam import accuracy, compare_rewards
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.explorer.shapes import table_of
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.table import MIXED, Row, datasets_of, is_decisions, is_measured
from selfimprove_dagster.text import code_span, markdown_table, plural


@dataclass(frozen=True)
class CardWords:
    """The texts of the card of a dataset.

    `truth` states who judged, and whether true answers were used. `sources` has `source_file, licence`, with
    one row per imported text, which `noun` names; `of_sources` is the text above their table. `drawn` is the
    partition of the model's texts (None if people wrote them), and `sampling` describes how they were
    sampled. `decisions` are the tables of the filters. `made_by` states who wrote and selected the examples,
    and `columns` what to train on.
    """

    truth: str
    sources: pl.DataFrame
    noun: str
    of_sources: str
    drawn: Manifest | None
    sampling: str
    decisions: tuple[str, ...]
    made_by: str = "a language model wrote and selected"
    columns: str = "Train on `prompt` and `completion`"


@dataclass(frozen=True)
class Card:
    """The way in which the dataset of a method is exported.

    `words` returns the texts of its card, and `columns` the exported columns besides the measures. In the layouts of
    `export_layouts`, `asks` returns the conversation before the answer of a row of these columns, without the template
    of its prompt, and `says` returns the answer of an example with one answer. `refused` holds the reasons why
    layouts are not possible.
    """

    words: Callable[[Lake, Manifest], CardWords] | None = None
    columns: Sequence[str | pl.Expr] | None = None
    asks: Callable[[Row], Sequence[Turn]] | None = None
    says: Callable[[Row], str] | None = None
    refused: Mapping[str, str] = field(default_factory=dict)


def default_words(lake: Lake, dataset: Manifest) -> CardWords:
    """Return the default texts for a dataset, derived from the tables of its iteration."""
    method = dataset.table.split("/")[0]
    made = [
        one for one in lake.manifests(f"{method}/*", dataset.experiment) if one.iteration == dataset.iteration
    ]
    tables = {one.table: table_of(one) for one in made}
    given = next(
        (one for one in made if {"source_file", "licence"} <= tables[one.table].content.keys()), None
    )
    drawn = next((one for one in made if {"champion", "engine"} <= _recorded(one)), None)
    empty = pl.DataFrame(schema={"source_file": pl.String, "licence": pl.String})
    return CardWords(
        truth="",
        sources=lake.read_ungated(given) if given else empty,
        noun=plural(tables[given.table].noun) if given else "rows",
        of_sources="",
        drawn=drawn,
        sampling=f"{drawn.rows:,} {plural(tables[drawn.table].noun)} in total" if drawn else "",
        decisions=tuple(table.stage for table in tables.values() if is_decisions(table)),
        made_by="a language model wrote" if drawn else "were made",
        columns=f"The rows are those of the table `{dataset.table}`",
    )


def _recorded(manifest: Manifest) -> set[str]:
    return {*manifest.activity.about, *manifest.activity.parameters}


# ---- the card of a dataset ------------------------------------------------------------------------


def card_of(method: str) -> Card:
    """Return how a method's dataset is exported."""
    return registry.method(method).card or Card()


def dataset_card(
    lake: Lake, experiment: Experiment, manifest: Manifest, rows: int, file: str, digest: str, layout: str
) -> str:
    """Return the card of a dataset in Markdown, given the number of rows, and the path and digest of its file.

    Text of seed files, models and settings is put into code spans, where it has no effect.
    """
    about = (card_of(experiment.method).words or default_words)(lake, manifest)
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
    columns = LINES.get(layout, about.columns)
    return f"""---
license: {_licence(about.sources)}
task_categories: [text-generation]
tags: [synthetic, self-improvement, {experiment.method}]
size_categories: [{_size_category(rows)}]
configs:
- config_name: default
  data_files: {file}
---
# {experiment.name}, iteration {manifest.iteration}

{rows:,} examples that {about.made_by}, by the method `{experiment.method}`
({_papers(experiment.method)}). {about.truth}

## Sources

{about.of_sources}{_counted(about.sources, about.noun)}

## Model

{_drawn_by(about)}, seed {manifest.activity.seed}.{_asked(manifest)}

{markdown_table(stages)}

## Filters

{filters}

## Quality checks

{markdown_table(checks) or "No checks were recorded."}

## Evaluation

{_evaluation(lake, experiment.method, manifest)}

## Revocations in force

{markdown_table(_revocations(lake, manifest)) or "None."}

## Verification

| what | digest (blake2b, 128 bits) |
| --- | --- |
| activity | `{manifest.activity.id}` |
| `{file}` | `{digest}` |

`b2sum -l 128 {file}` prints the digest of the file. With the original lake,
`selfimprove lineage verify {experiment.name}` recomputes every id and hash.

## Columns

{columns}; `id` is the id of the record:
`selfimprove lineage trace ID` prints where the example comes from.
"""


LINES = {
    "chat": "`messages` are the instruction and the answer",
    "preference": "`chosen` is preferred to `rejected` as a response to `prompt`, all of them lists of messages",
    "sharegpt": "`conversations` are the instruction and the answer",
    "alpaca": "`output` answers `instruction` with its `input`",
}
"""What the lines of a layout are; other formats have the columns of the method."""


def _papers(name: str) -> str:
    method = registry.method(name)
    papers = [f'"{one.title}", arXiv:{one.arxiv}' for one in method.papers]
    return "; ".join(papers) or method.title


def _counted(sources: pl.DataFrame, noun: str) -> str:
    """Return the table of source files with their licences and the number of texts of each."""
    counted = sources.group_by("source_file", "licence").agg(pl.len().alias(noun))
    return markdown_table(counted.sort("source_file", "licence").to_dicts())


def _licence(sources: pl.DataFrame) -> str:
    """Return the licence for a card's header, which allows only identifiers: that of all sources, or `other`."""
    licences = sources["licence"].unique().to_list()
    known = licences[0].lower() if len(licences) == 1 else "other"
    return known if known != "unknown" and re.fullmatch(r"[a-z0-9][a-z0-9.-]*", known) else "other"


def _evaluation(lake: Lake, method: str, made: Manifest) -> str:
    """Return how the models that an iteration compared answer held-out questions, with 95% intervals."""
    here = {
        one.table.split("/")[1]: one
        for one in lake.manifests(f"{method}/*", made.experiment)
        if one.iteration == made.iteration
    }
    exam = here.get("evaluation")
    if exam is None or not is_measured(table_of(exam)):
        return "No trained model was measured in this iteration."
    answers = lake.read_ungated(exam)
    rows = [
        {"model": _ROLES.get(role, role), "mode": mode, "questions": found.total, "accuracy": str(found)}
        for role, mode in answers.select("role", "mode").unique(maintain_order=True).iter_rows()
        if (found := accuracy(answers, role, mode)).total
    ]
    files = ", ".join(map(code_span, answers["source_file"].unique().sort()))
    said = [f"Held-out questions of {files}, with 95% intervals."]
    if rows:
        said.append(markdown_table(rows))
    if (rewards := compare_rewards(answers)) is not None:
        low, high = rewards.interval
        said.append(
            f"The reward of the checkpoint's responses differs from the champion's by {rewards.mean:+.3f} "
            f"[{low:+.3f}, {high:+.3f}] on {rewards.questions:,} prompts."
        )
    if "promotion" in here:
        decided = lake.read_ungated(here["promotion"]).row(0, named=True)
        said.append(f"Decision: {code_span(decided['reason'], 2_000)}")
    return "\n\n".join(said)


_ROLES = {
    "champion": "the champion before",
    "challenger": "the checkpoint of this iteration",
    "base": "the base model",
}


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


# ---- the card of a checkpoint ------------------------------------------------------------------------


def checkpoint_card(
    lake: Lake, experiment: Experiment, manifest: Manifest, *, is_adapter: bool = False, note: str = ""
) -> str:
    """Return the card of the trained model of a partition in Markdown.

    `is_adapter`: the folder holds an adapter, not whole weights. `note`: text below the names of the models.
    """
    row = lake.read_ungated(manifest).row(0, named=True)
    method = manifest.table.split("/")[0]
    line = [*_line(lake, manifest)]
    oldest, first = line[-1]
    base = _model_name(lake.folder_at(oldest.activity.about.get("model_path", "")))
    hub = f"base_model: {base}\n" if re.fullmatch(r"[\w.-]+/[\w.-]+", base) else ""
    learnt = [
        {
            "iteration": one.iteration,
            "method": one.table.split("/")[0],
            "examples": trained["examples"],
            "steps": trained["steps"],
            "dataset": ", ".join(datasets_of(trained)),
        }
        for one, trained in reversed(line)
    ]
    settings = manifest.activity.parameters.get("training", {})
    data = "\n\n".join(_sources(lake, one) for one, _ in reversed(line))
    below = f"{note}\n\n" if note else ""
    return f"""---
license: other
{hub}library_name: {"peft" if is_adapter else "transformers"}
pipeline_tag: text-generation
tags: [self-improvement, {method}]
---
# {experiment.name}, the checkpoint of iteration {manifest.iteration}

A language model that was trained on its own data by the method `{method}` ({_papers(method)}).
The licences of the base model and of the data below apply.

## Model

| what | id |
| --- | --- |
| base model {code_span(base)} | `{first["base_model_id"]}` |
| this checkpoint | `{row["model_id"]}` |
| its record | `{row["id"]}` |
| activity | `{manifest.activity.id}` |

{below}{markdown_table([{"setting": name, "value": value} for name, value in settings.items()])}

## Data

{markdown_table(learnt)}

{data}{_general(line)}

## Evaluation

{_evaluation(lake, method, manifest)}

## Revocations in force

{markdown_table(_revocations(lake, manifest)) or "None."}

## Tracing

With the original lake, `selfimprove lineage trace {row["id"]}` prints what the checkpoint was made from,
`selfimprove lineage trace ID` where an example with this id comes from, and `selfimprove lineage descendants ID` which
checkpoints learnt from a seed or an example. `selfimprove lineage verify {experiment.name}` recomputes every id and
hash.
"""


def _line(lake: Lake, manifest: Manifest) -> Iterator[tuple[Manifest, Row]]:
    """Yield a trained model and those that it started from, newest first, each with its row."""
    trained = {
        row["model_id"]: (one, row)
        for one in lake.manifests("*/*", manifest.experiment)
        if table_of(one).holds_model
        for row in lake.read_whole(one).iter_rows(named=True)
    }
    id = lake.read_columns(manifest, ["model_id"])["model_id"][0]
    while (found := trained.pop(id, None)) is not None:  # a model that equals its base ends the walk
        yield found
        id = found[1]["base_model_id"]


def _general(line: Sequence[tuple[Manifest, Row]]) -> str:
    """Return the general examples that the models of a line were trained on, by file, as a section of the card."""
    rows = [
        {
            "iteration": made.iteration,
            "file": code_span(mixed["source_file"]),
            "licence": mixed["licence"],
            "examples": len(mixed["lines"]),
            "checksum": mixed["checksum"],
        }
        for made, trained in reversed(line)
        for mixed in trained.get(MIXED) or ()
    ]
    if not rows:
        return ""
    return f"\n\nGeneral examples were mixed in (`training.mix`):\n\n{markdown_table(rows)}"


def _sources(lake: Lake, trained: Manifest) -> str:
    """Return the source files, with licences and counts, of the dataset of a trained model's iteration."""
    name = trained.table.split("/")[0]
    dataset = registry.method(name).dataset
    made = [
        one
        for one in lake.manifests(dataset.name if dataset else "", trained.experiment)
        if one.iteration == trained.iteration
    ]
    if not made:
        return f"The dataset of iteration {trained.iteration} is not in the lake any more."
    about = (card_of(name).words or default_words)(lake, made[0])
    return (
        f"Iteration {trained.iteration}: examples that {about.made_by}. {about.truth} They were made from these "
        f"{about.noun}:\n\n{_counted(about.sources, about.noun)}"
    )


def _model_name(path: str) -> str:
    """Return the name of a model: that on the hub, or the last part of a path, which says nothing of the machine."""
    return Path(path).name if Path(path).exists() or path.startswith(("/", ".", "~")) else path or "unknown"
