"""Seeds in the lake: imported once a file, by file and line, and chosen for each iteration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import polars as pl

from selfimprove_dagster.errors import SeedFileError
from selfimprove_dagster.experiment.base import Experiment, SeededExperiment
from selfimprove_dagster.experiment.sections import Section
from selfimprove_dagster.families.dialogues.files import read_comparisons, read_prompts
from selfimprove_dagster.families.dialogues.settings import ComparisonFile, PromptFile
from selfimprove_dagster.families.dialogues.tables import SEED_COMPARISONS, SEED_PROMPTS
from selfimprove_dagster.families.tasks.files import read_examples, read_tasks
from selfimprove_dagster.families.tasks.settings import TaskFile
from selfimprove_dagster.families.tasks.tables import SEED_TASKS
from selfimprove_dagster.lake.disk import file_checksum
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.records import Activity, Draft, build_records, content_hash
from selfimprove_dagster.lots import lots
from selfimprove_dagster.methods.constitutional.settings import ConstitutionalExperiment
from selfimprove_dagster.methods.constitutional.tables import CAI_SEED_POOL
from selfimprove_dagster.methods.lmsi.settings import LmsiExperiment, QuestionFile
from selfimprove_dagster.methods.lmsi.tables import SEED_POOL
from selfimprove_dagster.methods.pit.seeds import preferences_of
from selfimprove_dagster.methods.pit.settings import ComparisonSource, PitExperiment
from selfimprove_dagster.methods.pit.tables import PIT_SEED_POOL
from selfimprove_dagster.methods.refinement.settings import RefinementExperiment
from selfimprove_dagster.methods.refinement.tables import RF_SEED_POOL
from selfimprove_dagster.methods.rlaif.settings import RlaifExperiment
from selfimprove_dagster.methods.rlaif.tables import RLAIF_SEED_POOL
from selfimprove_dagster.methods.rlhf.settings import RlhfExperiment
from selfimprove_dagster.methods.rlhf.tables import RLHF_SEED_POOL
from selfimprove_dagster.methods.toolformer.files import read_texts
from selfimprove_dagster.methods.toolformer.settings import TextFile, ToolformerExperiment
from selfimprove_dagster.methods.toolformer.tables import SEED_TEXTS, TF_SEED_POOL
from selfimprove_dagster.rows import EXCERPT, Rejected, file_name
from selfimprove_dagster.seeds.files import read_questions
from selfimprove_dagster.seeds.tables import REJECTED_SEEDS, SEEDS
from selfimprove_dagster.table import Row, Table
from selfimprove_dagster.text import normalise_question

CODE_VERSION = "1"
"""Raised when reading questions changes what comes out."""


@dataclass(frozen=True)
class SeedKind:
    """What seeds are: a table, the column whose text a revocation names, and when two rows are the same."""

    schema: Table
    text: str
    key: Callable[[Row], str]


QUESTIONS = SeedKind(SEEDS, "question", lambda row: normalise_question(row["question"]))


TASKS = SeedKind(
    SEED_TASKS,
    "instruction",
    lambda row: content_hash({name: row[name] for name in SEED_TASKS.content if "source" not in name}),
)
"""A task that was edited is another seed; it replaces the one of its name (`task_pool.pool`)."""


TEXTS = SeedKind(SEED_TEXTS, "text", lambda row: normalise_question(row["text"]))


PROMPTS = SeedKind(SEED_PROMPTS, "prompt", lambda row: normalise_question(row["prompt"]))


COMPARISONS = SeedKind(
    SEED_COMPARISONS,
    "prompt",
    lambda row: "\0".join(normalise_question(row[name]) for name in ("prompt", "chosen", "rejected")),
)


SeedFile = QuestionFile | TaskFile | TextFile | PromptFile | ComparisonFile


_READ_AS: dict[type[Section], tuple[SeedKind, tuple[str, ...]]] = {
    QuestionFile: (QUESTIONS, ("question_field", "rows", "longest")),
    TaskFile: (TASKS, ()),
    TextFile: (TEXTS, ("text_field", "date_field", "source_field", "rows", "longest")),
    PromptFile: (PROMPTS, ("prompt_field", "kind_field", "response_field", "rows", "longest")),
    **dict.fromkeys(
        (ComparisonFile, ComparisonSource),
        (COMPARISONS, ("prompt_field", "chosen_field", "rejected_field", "rows", "longest")),
    ),
}
"""By section: what its file holds, and the fields that say how it is read."""


def import_file(lake: Lake, experiment: Experiment, path: Path | None = None) -> tuple[Manifest, int, int]:
    """Import the experiment's seed file, or another one that is read as that is. Raises SeedFileError."""
    if not isinstance(experiment, SeededExperiment):
        raise SeedFileError(f"experiment {experiment.name}: {experiment.method} learns from no seeds")
    source = experiment.seeds
    if path is not None:
        whole = {} if isinstance(source, TaskFile) else {"rows": None}
        source = source.model_copy(update={"file": str(path), **whole})
    return import_seeds(lake, experiment, cast(SeedFile, source))


def import_seeds(lake: Lake, experiment: Experiment, source: SeedFile) -> tuple[Manifest, int, int]:
    """Put a file's questions or tasks into the experiment's seeds, once.

    The batch is named by the file's checksum and by how it is read: the same file, read by another field or
    in other rows after a mended setting, is another batch. What an earlier batch holds already is rejected as
    a duplicate, and what a revocation names without a word of its text. Returns the manifest of the accepted
    seeds, how many they are, and how many lines were rejected.
    """
    path = Path(source.file)
    if not path.is_file():
        raise SeedFileError(f"there is no seed file {path}; set seeds.file to one that exists")
    kind, names = _READ_AS[type(source)]
    how = source.model_dump(include={*names, "licence"})
    checksum = file_checksum(path)
    reading = content_hash({name: how[name] for name in names})
    batch = f"{checksum.removeprefix('b2:')[:12]}-{reading.removeprefix('b2:')[:6]}"
    partition = {"experiment": experiment.name, "batch": batch}
    if lake.exists(kind.schema.name, partition):
        manifest = lake.manifest(kind.schema.name, partition)
        return manifest, lake.live_rows(manifest), lake.manifest(REJECTED_SEEDS.name, partition).rows
    earlier = {
        kind.key(row): row["source_file"]
        for known in lake.manifests(kind.schema.name, experiment.name)
        for row in lake.read_ungated(known).iter_rows(named=True)
    }
    rows, rejected = _rows_of(source, experiment.method)
    rows, rejected = _without_revoked(lake, experiment.name, kind, source.licence, rows, rejected)
    fresh = []
    for row in rows:
        place = earlier.get(kind.key(row))
        if place is None:
            fresh.append(row)
        else:
            reason = f"duplicate of a {kind.text} of {place}, imported before"
            excerpt = row[kind.text][:EXCERPT]
            rejected.append(Rejected(row["source_file"], row["source_line"], reason, excerpt))
    parameters = {"file": file_name(path), "checksum": checksum, **how}

    def write(schema: Table, contents: Iterable[Row]) -> Manifest:
        activity = Activity(
            schema.name, partition, CODE_VERSION, parameters, seed=0, about={"path": str(path)}
        )
        return lake.write(schema, activity, build_records(schema, map(Draft, contents), activity))

    # The accepted table is committed last: it is what tells that the batch is in.
    write(REJECTED_SEEDS, ({**vars(bad), "licence": source.licence} for bad in rejected))
    return write(kind.schema, fresh), len(fresh), len(rejected)


def _rows_of(source: SeedFile, method: str) -> tuple[list[Row], list[Rejected]]:
    """The content of every seed of a file, and the lines that are none."""
    if isinstance(source, QuestionFile):
        questions, rejected = read_questions(source)
        return [{name: getattr(one, name) for name in SEEDS.content} for one in questions], rejected
    if isinstance(source, TextFile):
        texts, rejected = read_texts(source)
        return [vars(one) for one in texts], rejected
    if isinstance(source, PromptFile):
        prompts, rejected = read_prompts(source)
        return [vars(one) for one in prompts], rejected
    if isinstance(source, ComparisonFile):
        comparisons, rejected = read_comparisons(source)
        return [vars(one) for one in comparisons], rejected
    path, place = Path(source.file), ("source_file", "source_line", "licence")
    if method == "unnatural_instructions":
        examples, rejected = read_examples(path, source.licence)
        return [
            {
                "name": f"{one.source_file}:{one.source_line}",
                "instruction": one.task.instruction,
                "instances": [{"input": one.task.input, "output": one.task.output}],
                "constraints": one.task.constraints,
                "is_classification": None,
                **{name: getattr(one, name) for name in place},
            }
            for one in examples
        ], rejected
    tasks, rejected = read_tasks(path, source.licence)
    return [
        {
            "name": one.task_id,
            "instruction": one.task.instruction,
            "instances": [vars(instance) for instance in one.task.instances],
            "constraints": None,
            "is_classification": one.task.is_classification,
            **{name: getattr(one, name) for name in place},
        }
        for one in tasks
    ], rejected


def _without_revoked(
    lake: Lake,
    experiment: str,
    kind: SeedKind,
    licence: str,
    rows: Sequence[Row],
    rejected: Sequence[Rejected],
) -> tuple[list[Row], list[Rejected]]:
    """Reject the seeds that live revocations name, and blank what rejected lines show of them."""
    revocations = lake.ledger.revocations(experiment)

    def reason(source_file: str, text: str | None) -> str:
        named = (one for one in revocations if one.names(source_file, licence, text))
        return next((f"revoked by {one.by}: {one.why}" for one in named), "")

    good, bad, texts = [], [], []
    for row in rows:
        if revoked := reason(row["source_file"], row[kind.text]):
            texts.append(row[kind.text])
            bad.append(Rejected(row["source_file"], row["source_line"], revoked, ""))
        else:
            good.append(row)
    for line in rejected:
        told = reason(line.source_file, None) or any(shows(line.excerpt, text) for text in texts)
        bad.append(replace(line, excerpt="") if told else line)
    return good, sorted(bad, key=lambda line: line.source_line)


def shows(excerpt: str, question: str) -> bool:
    """Whether an excerpt of a rejected line holds the beginning of a question."""
    return normalise_question(question)[: EXCERPT // 2] in normalise_question(excerpt)


@dataclass(frozen=True)
class Pool:
    """The seeds of one iteration, taken from all of an experiment."""

    chosen: pl.DataFrame
    inputs: list[Manifest]
    size: int
    fresh: int


DrawingExperiment = (
    LmsiExperiment
    | ToolformerExperiment
    | ConstitutionalExperiment
    | RlaifExperiment
    | RlhfExperiment
    | RefinementExperiment
    | PitExperiment
)
"""Those whose seeds are drawn by lot, iteration by iteration."""


def _drawn(experiment: DrawingExperiment) -> tuple[SeedKind, Table, int]:
    """The seeds to draw from, the table of those drawn, and how many."""
    if isinstance(experiment, LmsiExperiment):
        return QUESTIONS, SEED_POOL, experiment.sampling.questions
    if isinstance(experiment, ToolformerExperiment):
        return TEXTS, TF_SEED_POOL, experiment.annotation.texts
    if isinstance(experiment, RlhfExperiment):
        return COMPARISONS, RLHF_SEED_POOL, experiment.pool.comparisons
    if isinstance(experiment, RefinementExperiment):
        return PROMPTS, RF_SEED_POOL, experiment.responses.prompts
    if isinstance(experiment, PitExperiment):
        return COMPARISONS, PIT_SEED_POOL, experiment.pool.comparisons
    schema = RLAIF_SEED_POOL if isinstance(experiment, RlaifExperiment) else CAI_SEED_POOL
    return PROMPTS, schema, experiment.responses.prompts


def pool(lake: Lake, experiment: DrawingExperiment, iteration: int) -> Pool:
    """Choose an iteration's seeds by lot: those that no earlier iteration used first.

    They are what was imported, or what the dataset of another experiment holds. `size` counts all seeds,
    `fresh` those of the chosen that were never used before. Raises SeedFileError when there is no seed at
    all.
    """
    kind, schema, count = _drawn(experiment)
    if giver := experiment.taught_by:
        imports, everything = preferences_of(lake, giver, experiment.name, iteration)
    else:
        imports, everything = _imported(lake, experiment, kind)
    earlier = [
        manifest
        for manifest in lake.manifests(schema.name, experiment.name)
        if manifest.iteration < iteration
    ]
    used: dict[str, int] = {}
    for manifest in earlier:
        for parents in lake.read_ungated(manifest)["parents"]:
            for parent in parents:
                used[parent["id"]] = used.get(parent["id"], 0) + 1
    uses = pl.Series("uses", [used.get(seed, 0) for seed in everything["id"]], dtype=pl.Int64)
    drawn = everything.with_columns(uses, lots(everything, [kind.text], experiment.seed))
    drawn = drawn.sort("uses", "lot", "id")
    chosen = drawn.head(count)
    return Pool(chosen, [*imports, *earlier], len(everything), int((chosen["uses"] == 0).sum()))


def _imported(
    lake: Lake, experiment: DrawingExperiment, kind: SeedKind
) -> tuple[list[Manifest], pl.DataFrame]:
    """The seeds of all files that were imported; of a comparison its label too, which nobody doubts."""
    imports = lake.manifests(kind.schema.name, experiment.name)
    everything = pl.concat(
        [pl.DataFrame(schema=kind.schema.polars), *(lake.read_ungated(manifest) for manifest in imports)]
    )
    if not imports:
        raise SeedFileError(
            f"experiment {experiment.name} has no seeds: none were imported yet; import a file"
        )
    if everything.is_empty():
        raise SeedFileError(
            f"experiment {experiment.name} has no seeds: every line of its seed file was rejected; "
            f"look at the table {REJECTED_SEEDS.name} for the reasons, and at "
            "`selfimprove lineage revocations`"
        )
    return imports, everything.with_columns(probability=pl.lit(1.0)) if kind is COMPARISONS else everything
