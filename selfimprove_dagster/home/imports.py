"""Import seeds into the lake, each file once, and sample the seeds of each iteration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.errors import SeedFileError
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.lake.disk import file_checksum
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.records import Activity, Draft, build_records, content_hash
from selfimprove_dagster.lots import lots
from selfimprove_dagster.rows import EXCERPT, Rejected, file_name
from selfimprove_dagster.seeds.kind import SeedKind, Seeds
from selfimprove_dagster.shared_tables import REJECTED_SEEDS
from selfimprove_dagster.table import Row, Table
from selfimprove_dagster.text import normalise_question

CODE_VERSION = "1"
"""Version of the seed import; increased when reading files gives different results."""


def seeds_of(experiment: Experiment) -> Seeds[Any]:
    """Return the seed declaration of the experiment's method. Raises SeedFileError if it has none."""
    declared: Seeds[Any] | None = registry.method(experiment.method).seeds
    if declared is None:
        raise SeedFileError(f"experiment {experiment.name}: {experiment.method} learns from no seeds")
    return declared


def import_file(lake: Lake, experiment: Experiment, path: Path | None = None) -> tuple[Manifest, int, int]:
    """Import the experiment's seed file, or another one with the same settings. Raises SeedFileError."""
    seeds_of(experiment)
    source = getattr(experiment, "seeds", None)
    if source is None or not hasattr(source, "file"):
        raise SeedFileError(f"experiment {experiment.name}: its settings have no field seeds.file")
    if path is not None:
        whole = {"rows": None} if "rows" in type(source).model_fields else {}
        source = source.model_copy(update={"file": str(path), **whole})
    return import_seeds(lake, experiment, source)


def import_seeds(lake: Lake, experiment: Experiment, source: Any) -> tuple[Manifest, int, int]:
    """Import the file of a settings section into the experiment's seeds, once.

    The batch is named by the file's checksum and by the settings for reading it: the same file, read with
    another field or other rows, is another batch. Seeds of an earlier batch are rejected as duplicates.
    Revoked seeds are rejected without their text. Returns the manifest of the accepted seeds, their number,
    and the number of rejected lines.
    """
    path = Path(source.file)
    if not path.is_file():
        raise SeedFileError(f"there is no seed file {path}; set seeds.file to an existing file")
    kind = seeds_of(experiment).kind
    names = kind.reading
    how = source.model_dump(include={*names, "licence"})
    checksum = file_checksum(path)
    reading = content_hash({name: how[name] for name in names})
    batch = f"{checksum.removeprefix('b2:')[:12]}-{reading.removeprefix('b2:')[:6]}"
    partition = {"experiment": experiment.name, "batch": batch}
    if lake.exists(kind.table.name, partition):
        manifest = lake.manifest(kind.table.name, partition)
        return manifest, lake.live_rows(manifest), lake.manifest(REJECTED_SEEDS.name, partition).rows
    earlier = {
        kind.key(row): row["source_file"]
        for known in lake.manifests(kind.table.name, experiment.name)
        for row in lake.read_ungated(known).iter_rows(named=True)
    }
    rows, rejected = kind.read(source)
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

    # The accepted table is committed last: it marks the batch as imported.
    write(REJECTED_SEEDS, ({**vars(bad), "licence": source.licence} for bad in rejected))
    return write(kind.table, fresh), len(fresh), len(rejected)


def _without_revoked(
    lake: Lake,
    experiment: str,
    kind: SeedKind,
    licence: str,
    rows: Sequence[Row],
    rejected: Sequence[Rejected],
) -> tuple[list[Row], list[Rejected]]:
    """Reject the seeds that live revocations name, and remove their text from rejected lines."""
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
        hidden = bool(reason(line.source_file, None)) or any(shows(line.excerpt, text) for text in texts)
        bad.append(replace(line, excerpt="") if hidden else line)
    return good, sorted(bad, key=lambda line: line.source_line)


def shows(excerpt: str, question: str) -> bool:
    """Return whether an excerpt of a rejected line contains the start of a question."""
    return normalise_question(question)[: EXCERPT // 2] in normalise_question(excerpt)


@dataclass(frozen=True)
class Pool:
    """The seeds of one iteration, sampled from all seeds of an experiment."""

    chosen: pl.DataFrame
    inputs: list[Manifest]
    size: int
    fresh: int


def pool(lake: Lake, experiment: Experiment, iteration: int) -> Pool:
    """Sample the seeds of an iteration at random, unused seeds first.

    They come from the imported seeds, or from the dataset of another experiment, without those that the experiment
    leaves out. `size` counts all seeds, and `fresh` the sampled ones that were never used before. Raises SeedFileError
    if there are no seeds, or there is none that is to be left out.
    """
    seeds = seeds_of(experiment)
    kind, schema, count = seeds.kind, seeds.pool, seeds.count
    if schema is None or count is None:
        raise SeedFileError(
            f"experiment {experiment.name}: the method {experiment.method} does not sample seeds"
        )
    if experiment.taught_by and seeds.teacher:
        imports, everything = seeds.teacher.seeds(lake, experiment, iteration)
    else:
        imports, everything = _imported(lake, experiment, kind)
    left_out = left_out_of(experiment, everything)
    everything = everything.filter(~PLACE.is_in(left_out))
    if everything.is_empty():
        raise SeedFileError(
            f"experiment {experiment.name} leaves out all of its seeds: see leave_out in its file"
        )
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
    # Seeds of one text, such as several comparisons of a prompt, have one lot.
    told = [
        name
        for name in schema.content
        if name in drawn.columns and not name.endswith("_id") and not drawn[name].dtype.is_nested()
    ]
    drawn = drawn.sort("uses", "lot", *told, "id")
    chosen = drawn.head(count(experiment))
    return Pool(chosen, [*imports, *earlier], len(everything), int((chosen["uses"] == 0).sum()))


PLACE = pl.format("{}, line {}", "source_file", "source_line").fill_null("")
"""Where a seed is from, as people read and write it."""


def leaving_out(experiment: Experiment) -> dict[str, list[str]]:
    """Return the parameter of an activity that chooses seeds, if the experiment leaves some out."""
    places = sorted(set(getattr(experiment, "leave_out", ())))
    return {"leave_out": places} if places else {}


def left_out_of(experiment: Experiment, seeds: pl.DataFrame | pl.LazyFrame) -> list[str]:
    """Return the places of the seeds that an experiment leaves out.

    Raises SeedFileError for a place at which there is none of the seeds (`source_file`, `source_line`).
    """
    wanted = leaving_out(experiment).get("leave_out", [])
    if not wanted:
        return []
    known = set(seeds.lazy().select(place=PLACE).collect()["place"])
    for place in wanted:
        if place not in known:
            raise SeedFileError(
                f"experiment {experiment.name}: leave_out names {place!r}, where no seed is from; write "
                "`<file>, line <number>`, as `selfimprove status` names a seed"
            )
    return wanted


def _imported(lake: Lake, experiment: Experiment, kind: SeedKind) -> tuple[list[Manifest], pl.DataFrame]:
    """Return the seeds of all imported files, with the implied columns."""
    imports = lake.manifests(kind.table.name, experiment.name)
    everything = pl.concat(
        [pl.DataFrame(schema=kind.table.polars), *(lake.read_ungated(manifest) for manifest in imports)]
    )
    if not imports:
        raise SeedFileError(f"experiment {experiment.name} has no imported seeds yet; import a file")
    if everything.is_empty():
        raise SeedFileError(
            f"experiment {experiment.name} has no seeds: every line of its seed file was rejected; "
            f"see the table {REJECTED_SEEDS.name} for the reasons, and "
            "`selfimprove lineage revocations`"
        )
    return imports, everything.with_columns(**{name: pl.lit(one) for name, one in kind.implied.items()})
