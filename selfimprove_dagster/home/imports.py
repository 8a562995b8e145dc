"""Import seeds into the lake, each file once, and sample the seeds of each iteration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.errors import MethodError, SeedFileError
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.home.contamination import HeldOut, held_out_of, recorded
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.records import Activity, Draft, Parent, build_records, content_hash
from selfimprove_dagster.lots import lots
from selfimprove_dagster.rows import EXCERPT, Rejected, files_of, is_on_hub
from selfimprove_dagster.seeds.files import key_digest, source_checksum, source_name
from selfimprove_dagster.seeds.kind import SeedKind, Seeds
from selfimprove_dagster.shared_tables import REJECTED_SEEDS, SEED_ANSWERS
from selfimprove_dagster.table import SOURCE, Row, Table
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
    return import_seeds(lake, experiment, import_source(experiment, path))


def import_source(experiment: Experiment, path: Path | None = None) -> Any:
    """Return the settings with which a seed file is read: the experiment's own, or those for another file.

    Raises SeedFileError if the experiment has none.
    """
    seeds_of(experiment)
    source = getattr(experiment, "seeds", None)
    if source is None or not hasattr(source, "file"):
        raise SeedFileError(f"experiment {experiment.name}: its settings have no field seeds.file")
    if path is not None:
        whole = {"rows": None} if "rows" in type(source).model_fields else {}
        source = source.model_copy(update={"file": str(path), **whole})
    return source


def import_seeds(lake: Lake, experiment: Experiment, source: Any) -> tuple[Manifest, int, int]:
    """Import the file of a settings section into the experiment's seeds, once.

    The batch is named by the file's checksum and by the settings for reading it: the same file, read with another field
    or other rows, is another batch. Seeds of an earlier batch are rejected as duplicates, revoked seeds without their
    text, and those that are held out for evaluation if the experiment has `decontamination`. The source is read part by
    part, and nothing is imported unless all of it is. Returns the manifest of the accepted seeds, their number, and the
    number of rejected lines.
    """
    path = Path(source.file)
    kind = seeds_of(experiment).kind
    names = kind.reading
    how = source.model_dump(include={*names, "licence"})
    if not is_on_hub(path) and not all(file.is_file() for file in files_of(path).values()):
        raise SeedFileError(f"there is no seed file {path}; set seeds.file to an existing file")
    checksum = source_checksum(path)
    held_out = held_out_of(experiment)
    compared = recorded(held_out)
    reading = content_hash({**{name: how[name] for name in names if name in how}, **compared})
    batch = f"{checksum.removeprefix('b2:')[:12]}-{reading.removeprefix('b2:')[:6]}"
    partition = {"experiment": experiment.name, "batch": batch}
    if lake.exists(kind.table.name, partition):
        manifest = lake.manifest(kind.table.name, partition)
        return manifest, lake.live_rows(manifest), lake.manifest(REJECTED_SEEDS.name, partition).rows
    parameters = {"file": source_name(path), "checksum": checksum, **how, **compared}
    tables = [REJECTED_SEEDS, *([SEED_ANSWERS] if how.get("answer_field") else []), kind.table]
    with ExitStack() as stack:
        writers = {}
        for table in tables:
            activity = Activity(
                table.name, partition, CODE_VERSION, parameters, seed=0, about={"path": str(path)}
            )
            writers[table.name] = stack.enter_context(lake.writer(table, activity))
        choosing = _Choosing(lake, experiment.name, kind, source, held_out)
        for index, (accepted, rejected) in enumerate(choosing.parts()):

            def write(table: Table, drafts: Iterable[Draft], index: int = index) -> pl.DataFrame:
                writer = writers[table.name]
                frame = build_records(table, drafts, writer.activity)
                # All parts are written, whatever an attempt that was killed left behind.
                writer.write_shard(index, frame, overwrite=True)
                return frame

            write(REJECTED_SEEDS, (Draft({**vars(bad), "licence": source.licence}) for bad in rejected))
            answers = [row.pop("answer", None) for row in accepted]
            ids = write(kind.table, map(Draft, accepted))["id"]
            if SEED_ANSWERS.name in writers:
                write(SEED_ANSWERS, _answers(accepted, answers, ids))
        # The accepted table is committed last: it marks the batch as imported.
        manifests = [writers[table.name].commit() for table in tables]
    return manifests[-1], manifests[-1].rows, manifests[0].rows


def _answers(rows: Sequence[Row], answers: Sequence[str | None], ids: Iterable[str]) -> Iterator[Draft]:
    """Yield the records of the answers that seeds have, each a child of its seed."""
    for row, answer, id in zip(rows, answers, ids, strict=True):
        if answer is not None:
            yield Draft({"answer": answer, **{name: row[name] for name in SOURCE}}, [Parent(id, "seed")])


ROWS_OF_A_PART = 50_000
"""Lines of a source that are imported at a time."""


@dataclass
class _Choosing:
    """The choice of the seeds of a source: new ones that are neither revoked nor held out for evaluation."""

    lake: Lake
    experiment: str
    kind: SeedKind
    source: Any
    held_out: HeldOut | None

    def parts(self) -> Iterator[tuple[list[Row], list[Rejected]]]:
        """Yield accepted rows and rejected lines, some thousands at a time; at least one part."""
        earlier = self._earlier()
        hidden = self._revoked_texts()
        found = self.kind.read(self.source)
        part = list(islice(found, ROWS_OF_A_PART))
        while True:
            reasons = self._contaminated(part)
            accepted: list[Row] = []
            rejected: list[Rejected] = []
            for number, row in enumerate(part):
                if isinstance(row, Rejected):
                    rejected.append(self._without_revoked_text(row, hidden))
                    continue
                bad: tuple[str, str] | None = None
                if revoked := self._revoked_by(row["source_file"], row[self.kind.text]):
                    bad = revoked, ""
                elif place := earlier and earlier.get(key_digest(self.kind.key(row))):
                    bad = f"duplicate of a {self.kind.text} of {place}, imported before", row[self.kind.text]
                elif number in reasons:
                    bad = reasons[number], row[self.kind.text]
                if bad is None:
                    accepted.append(row)
                else:
                    reason, excerpt = bad
                    line = Rejected(row["source_file"], row["source_line"], reason, excerpt[:EXCERPT])
                    rejected.append(self._without_revoked_text(line, hidden))
            yield accepted, rejected
            if not (part := list(islice(found, ROWS_OF_A_PART))):
                return

    def _contaminated(self, part: Sequence[Row | Rejected]) -> dict[int, str]:
        """Return why rows are held out, by number of the row."""
        if self.held_out is None:
            return {}
        return self.held_out.reasons(
            [
                (number, text)
                for number, row in enumerate(part)
                if not isinstance(row, Rejected)
                for text in self.kind.trained_on(row)
            ]
        )

    def _earlier(self) -> dict[bytes, str]:
        """Return the files of the seeds that were imported before, by the digest of their keys."""
        return {
            key_digest(self.kind.key(row)): row["source_file"]
            for known in self.lake.manifests(self.kind.table.name, self.experiment)
            for row in self.lake.read_ungated(known).iter_rows(named=True)
        }

    @cached_property
    def _revocations(self) -> Sequence[Any]:
        return self.lake.ledger.revocations(self.experiment)

    def _revoked_by(self, source_file: str, text: str | None) -> str:
        """Return the reason of the live revocation that names a seed; empty if there is none."""
        named = (one for one in self._revocations if one.names(source_file, self.source.licence, text))
        return next((f"revoked by {one.by}: {one.why}" for one in named), "")

    def _revoked_texts(self) -> list[str]:
        """Return the texts of the revoked seeds of the source, which no rejected line may show."""
        if not self._revocations:
            return []
        rows = (row for row in self.kind.read(self.source) if not isinstance(row, Rejected))
        return [
            row[self.kind.text] for row in rows if self._revoked_by(row["source_file"], row[self.kind.text])
        ]

    def _without_revoked_text(self, line: Rejected, hidden: Sequence[str]) -> Rejected:
        revoked = self._revoked_by(line.source_file, None) or any(
            shows(line.excerpt, text) for text in hidden
        )
        return replace(line, excerpt="") if revoked else line


def answers_of(lake: Lake, experiment: Experiment) -> pl.DataFrame:
    """Return the true answers of an experiment's seeds: `id` of the seed, and `answer` as its file has it.

    Raises MethodError if the experiment's method does not learn from true answers, and SeedFileError if no imported
    seed has one.
    """
    if not seeds_of(experiment).learns_from_answers:
        raise MethodError(
            f"{experiment.method} does not learn from true answers, and cannot read them: a method that does says so "
            "by `Seeds.learns_from_answers`"
        )
    frames = [
        lake.read_ungated(known).select(
            pl.col("parents").list.first().struct.field("id").alias("id"), "answer"
        )
        for known in lake.manifests(SEED_ANSWERS.name, experiment.name)
    ]
    if not frames:
        raise SeedFileError(
            f"experiment {experiment.name} has no true answers: set seeds.answer_field, and import the seeds"
        )
    return pl.concat(frames)


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
