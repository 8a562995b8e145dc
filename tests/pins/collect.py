"""Runs one small iteration of every method and writes down all that can be seen of it, as one JSON.

    <interpreter of the checkout> tests/pins/collect.py OUT.json [--keep FOLDER] [--experiments sums,people]

The report has three sections. `ids`: structure, ids, hashes and settings, which no change of names or words
may touch. `text`: what people read. `expected`: how Dagster lays out the stages, which may change on purpose.

Nothing is imported from the package but two names that stay: the console script, and the code location. So
the same collector serves two versions of the code whose modules have different names. What fails is recorded
as the text of its error, and the rest goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.metadata
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import yaml
from small_experiments import EXPERIMENTS

Report = dict[str, Any]

MOST_LINES = 300
"""Of a longer text these are kept, and a digest of the whole."""
_WIDTH = 4000
"""No line of a table or tree is broken at so many columns: a path that is broken cannot be masked."""
_ID = re.compile(r"^[a-z0-9_]+:[0-9a-f]{8,}$")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_NUMBER = r"\d[\d,]*(?:\.\d+)?"
_TIMED = re.compile(r"second|bytes|size_on_disk")
"""Keys whose values differ from run to run."""
_VOLATILE = (
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "<uuid>"),
    (
        re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?(?: UTC)?"),
        "<time>",
    ),
    (re.compile(r"127\.0\.0\.1:\d+"), "<server>"),
    (re.compile(rf"{_NUMBER} (?:rows|tokens|edges|paths|records)(?:/s| a second)"), "<speed>"),
    (re.compile(rf"\b{_NUMBER} ?(?:s|ms|seconds?|minutes?|hours?|h|min)\b(?!\w)"), "<duration>"),
    (re.compile(r"(seconds\\?\"?: )[\d.e-]+"), r"\g<1>0"),
    # A file's bytes hold the seconds that it took.
    (re.compile(r"(\"size\": )\d+"), r"\g<1>0"),
    (re.compile(r"^(digest )b2:[0-9a-f]{32}$", re.MULTILINE), r"\1<digest>"),
)


class Masks:
    """Replaces what differs from run to run, or from folder to folder, by a word."""

    def __init__(self, folders: Mapping[str, str]) -> None:
        self.folders = sorted(folders.items(), key=lambda pair: -len(pair[0]))
        self.patterns = _VOLATILE

    def __call__(self, text: str) -> str:
        text = _ANSI.sub("", text)
        for folder, name in self.folders:
            text = text.replace(folder, name).replace(urllib.parse.quote(folder, safe=""), name)
        for pattern, word in self.patterns:
            text = pattern.sub(word, text)
        return text

    def tree(self, value: Any) -> Any:
        """The same of every string in nested lists and dictionaries; numbers of seconds go too."""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, Mapping):
            return {
                self(str(key)): "<volatile>" if _TIMED.search(str(key)) else self.tree(one)
                for key, one in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.tree(one) for one in value]
        return value if isinstance(value, int | float | bool | None) else self(str(value))


def digest(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=12).hexdigest()


def shortened(lines: list[str]) -> list[str]:
    """The lines, or the first of them and a digest of all."""
    if len(lines) <= MOST_LINES:
        return lines
    return [*lines[:MOST_LINES], f"… {len(lines):,} lines, digest {digest(lines)}"]


def table_lines(text: str) -> list[str]:
    """Lines of a drawn table, whose widths follow from the longest duration: runs of blanks become one."""
    return [re.sub(r"([─━═])\1+", r"\1", re.sub(r" {2,}", " ", line)).strip() for line in text.splitlines()]


def skeleton(value: Any, path: str = "") -> Iterator[str]:
    """Where in a JSON which ids, numbers and truths are; words for people are left out."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from skeleton(one, f"{path}.{key}")
    elif isinstance(value, list):
        for at, one in enumerate(value):
            yield from skeleton(one, f"{path}[{at}]")
    elif isinstance(value, str):
        yield f"{path} = {value if _ID.match(value) else '(text)'}"
    else:
        yield f"{path} = {value}"


class VisibleText(HTMLParser):
    """What a page shows, a line a block, and where its links lead."""

    _HIDDEN = frozenset(("script", "style", "head"))
    _INLINE = frozenset(
        ("a", "abbr", "b", "code", "em", "i", "mark", "small", "span", "strong", "sub", "sup")
    )

    _CELLS = frozenset(("td", "th"))

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self._words: list[str] = []
        self._hidden = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in self._HIDDEN
        given = dict(attrs)
        for name in ("href", "action"):
            if given.get(name):
                self.links.append(given[name] or "")
        if tag not in self._INLINE:
            self._words.append(" | " if tag in self._CELLS else "\n")
        for name in ("aria-label", "alt", "title", "placeholder", "value"):
            if given.get(name):
                self._words.append(f"[{name}: {given[name]}]")
        for name, value in given.items():
            if name.startswith("data-") and value:
                self._words.append(f"[{name}: {value}]")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in self._HIDDEN
        if tag not in self._INLINE and tag not in self._CELLS:
            self._words.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self._words.append(data.replace("\n", " "))

    @property
    def lines(self) -> list[str]:
        lines, timed = [], -1
        for text in "".join(self._words).split("\n"):
            cells = [" ".join(cell.split()) for cell in text.split(" | ")]
            if "seconds" in cells:
                timed = cells.index("seconds")
            elif 0 < timed < len(cells):
                cells[timed] = "<duration>"
            line = " | ".join(cells).strip()
            if lines and lines[-1].endswith("seconds") and re.fullmatch(r"[\d.,]+", line):
                line = "<duration>"
            if any(cells):
                lines.append(line)
        return lines


class Collector:
    """One run: its folders, what it found, and what it says on the way."""

    def __init__(self, folder: Path, names: list[str], checkout: Path | None) -> None:
        self.folder, self.names, self.checkout = folder, names, checkout
        self.lake = folder / "home" / "lake"
        self.report: Report = {"ids": {}, "text": {}, "expected": {}}
        self.masks = Masks({})
        self.began = time.monotonic()
        self.main: Callable[[], None]
        self.places: dict[str, list[Path]] = {}
        self.chosen: dict[str, list[str]] = {}

    # ---- helpers -------------------------------------------------------------------------------------

    def say(self, line: str) -> None:
        print(f"{time.monotonic() - self.began:6.1f} s  {line}", file=sys.__stderr__, flush=True)

    def put(self, section: str, path: str, value: Any) -> None:
        """Write down a value under `section`, at a place like `tables/sums lmsi/promotion`."""
        place = self.report[section]
        *above, last = path.split("//")
        for name in above:
            place = place.setdefault(name, {})
        place[last] = value

    @contextlib.contextmanager
    def section(self, name: str) -> Iterator[None]:
        self.say(name)
        try:
            yield
        except Exception as error:
            self.say(f"{name} failed: {error!r}")
            frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
            self.put("ids", f"errors//{name}", self.masks(f"{type(error).__name__}: {error}"))
            self.put("text", f"errors//{name}", frames)

    def command(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, output and error of `selfimprove …`, run in this process: a start takes seconds."""
        out, err, code = io.StringIO(), io.StringIO(), 0
        sys.argv = ["selfimprove", *arguments]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                self.main()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
            except BaseException as error:
                code, failure = -1, f"error: {type(error).__name__}: {error}"
                print(failure, file=sys.stderr)
        said = self.masks(err.getvalue())
        return code, self.masks(out.getvalue()), said[said.find("rror: ") :] if "rror: " in said else ""

    def ask(self, *arguments: str, table: bool = False, name: str | None = None) -> str:
        """Run a command and write down its exit code and its text."""
        name = name or " ".join(arguments)
        code, out, err = self.command(*arguments)
        self.put("ids", f"commands//{name}//exit code", code)
        lines = table_lines(out) if table else out.splitlines()
        self.put(
            "text", f"commands//{name}", shortened([line.rstrip() for line in [*lines, *err.splitlines()]])
        )
        return out

    def ask_json(self, *arguments: str) -> bool:
        """Run a command that prints JSON: ids and numbers go to one section, words to the other.

        Returns whether it gave an answer.
        """
        name = " ".join(arguments)
        out = self.ask(*arguments)
        if out:
            answer = shortened([*skeleton(self.masks.tree(json.loads(out)))])
            self.put("ids", f"commands//{name}//json", answer)
        return bool(out)

    # ---- sections ------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Settle the environment, write the experiment files, load the console script."""
        experiments = self.folder / "experiments"
        experiments.mkdir(parents=True)
        for name in self.names:
            data = {"name": name, **EXPERIMENTS[name]}
            (experiments / f"{name}.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
        os.environ.update(
            SELFIMPROVE_HOME=str(self.folder / "home"),
            SELFIMPROVE_EXPERIMENTS=str(experiments),
            DAGSTER_HOME=str(self.folder / "home" / "dagster"),
            GX_ANALYTICS_ENABLED="false",
            TTY_COMPATIBLE="1",
            NO_COLOR="1",
            TERM="xterm",
            COLUMNS=str(_WIDTH),
            USER="pins",
            LOGNAME="pins",
        )
        os.chdir(self.folder)
        (script,) = importlib.metadata.entry_points(group="console_scripts", name="selfimprove")
        self.main = script.load()
        package = Path(sys.modules["selfimprove_dagster"].__file__ or "").parent
        self.masks = Masks({str(self.folder): "<folder>", str(package.parent): "<checkout>"})
        if self.checkout is not None and not package.is_relative_to(self.checkout):
            raise SystemExit(f"{package} was imported, and not what {self.checkout} holds")
        self.say(f"the package is {package}")

    def run_experiments(self) -> None:
        for name in self.names:
            with self.section(f"run {name}"):
                self.ask("run", name, "--iterations", "1", table=True)

    def read_tables(self) -> None:
        """Every committed partition, through Parquet files and manifests alone."""
        import polars as pl

        for path in sorted(self.lake.glob("*/*/experiment=*/*/manifest.json")):
            manifest = json.loads(path.read_text())
            place = " ".join(manifest["partition"].values())
            name = f"tables//{manifest['table']} of {place}"
            frame = pl.concat(
                [
                    pl.read_parquet(path.parent / file["name"], hive_partitioning=False)
                    for file in manifest["files"]
                ]
            )
            activity = self.masks.tree(manifest["activity"])
            self.put("ids", f"{name}//activity", activity)
            self.put("ids", f"{name}//rows of each file", [file["rows"] for file in manifest["files"]])
            self.put("ids", f"{name}//columns", {key: str(kind) for key, kind in frame.schema.items()})
            self.put(
                "ids",
                f"{name}//records",
                frame.select("id", "content_hash", "activity_id").rows() if len(frame) else [],
            )
            columns = {key: frame[key].to_list() for key in frame.columns if "seconds" not in key}
            self.put(
                "ids",
                f"{name}//digest of each column",
                {key: digest(self.masks(json.dumps(rows, default=str))) for key, rows in columns.items()},
            )
            first = {key: self.masks(str(rows[0]))[:500] for key, rows in columns.items() if rows}
            self.put("text", f"{name}//first row", first)
            checks = path.with_name("checks.json")
            if checks.is_file():
                outcomes = json.loads(checks.read_text())["outcomes"]
                found = {one["name"]: [one["passed"], one["blocking"]] for one in outcomes}
                self.put("ids", f"{name}//checks passed, blocking", dict(sorted(found.items())))
                reasons = {one["name"]: self.masks(one["reason"]) for one in outcomes}
                self.put("text", f"{name}//checks", dict(sorted(reasons.items())))
            ids = frame["id"].to_list()
            self.chosen[f"{manifest['table']} of {place}"] = ids[len(ids) // 2 :][:1]
        self.say(f"{len(self.chosen)} partitions")

    def ask_of_records(self) -> None:
        for place, records in self.chosen.items():
            with self.section(f"lineage of {place}"):
                for record in records:
                    self.ask("lineage", "explain", record)
                    self.ask("lineage", "trace", record)
                    self.ask_json("lineage", "trace", record, "--json")
                    self.ask("lineage", "descendants", record)
                    self.ask_json("lineage", "descendants", record, "--json")

    def ask_of_experiments(self) -> None:
        for name in self.names:
            with self.section(f"questions about {name}"):
                self.ask("status", name, table=True)
                self.ask("lineage", "verify", name)
                self.ask("lineage", "example", name)
                self.ask_json("lineage", "search", "the", "--experiment", name, "--limit", "15", "--json")
                self.ask("lineage", "search", "the", "--experiment", name, "--limit", "15")
                self.ask("evaluate", name, table=True)
                self.ask("lineage", "replay", f"{name}-000", "--sample", "3")
                self.what_if(name)
                self.exports(name)
                self.ask("review", "status", name, table=True)
        with self.section("questions about all"):
            out = self.folder / "compared.md"
            self.ask("compare", *self.names, "--out", str(out), table=True, name="compare")
            self.put("text", "commands//compare --out", self.masks(out.read_text()).splitlines())
            self.ask_json("lineage", "diff", f"{self.names[0]}-000", f"{self.names[0]}-000", "--json")
            self.ask_json("lineage", "diff", f"{self.names[0]}-000", f"{self.names[-1]}-000", "--json")
            for command in (
                (),
                ("run",),
                ("lineage",),
                ("lineage", "explain"),
                ("seeds", "import"),
                ("export",),
            ):
                self.ask(*command, "--help", table=True)
            self.ask("run", "nobody")
            self.ask("fields", "nobody")
            self.ask("lineage", "trace", "ex:0000")

    def fields(self) -> None:
        for method in dict.fromkeys(EXPERIMENTS[name]["method"] for name in self.names):
            out = self.ask("fields", method, table=True)
            rows = [
                [cell.strip() for cell in line.strip("│┃ ").split("│")][:3]
                for line in out.splitlines()
                if "│" in line
            ]
            self.put("ids", f"commands//fields {method}//field, paper, practical", rows)

    def what_if(self, name: str) -> None:
        """Other values for each threshold of the filter; the answer to an unknown name lists them."""
        _, _, err = self.command("lineage", "explain", f"{name}-000", "--what-if", "nothing=0.6")
        self.put("text", f"commands//lineage explain {name}-000 --what-if nothing=0.6", err)
        listed = err.partition("name being one of")[2]
        for threshold in re.findall(r"[A-Za-z_.]+", re.sub(r"\(.*?\)", "", listed)):
            for value in ("0.6", "2", "true"):
                asked = ("--what-if", f"{threshold}={value}")
                if not self.ask_json("lineage", "explain", f"{name}-000", *asked, "--json"):
                    continue
                self.ask("lineage", "explain", f"{name}-000", *asked)
                for place, records in self.chosen.items():
                    if place.endswith(f"filtered_dataset of {name} 000"):
                        self.ask("lineage", "explain", records[0], *asked)
                break

    def exports(self, name: str) -> None:
        import polars as pl

        for form in ("huggingface", "parquet", "jsonl", "prov-json", "alpaca", "chat"):
            folder = self.folder / "exports" / f"{name}-{form}"
            self.ask("export", name, str(folder), "--format", form, name=f"export {name} {form}")
            for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
                place = f"exports//{name} {form}//{path.relative_to(folder)}"
                if path.is_dir():
                    continue
                if path.suffix == ".parquet":
                    frame = pl.read_parquet(path)
                    self.put("ids", place, [str(frame.schema), digest(self.masks.tree(frame.rows()))])
                    continue
                lines = self.masks(path.read_text()).splitlines()
                if path.suffix == ".jsonl":
                    self.put("ids", place, [len(lines), digest(lines)])
                    lines = lines[:2]
                elif path.suffix == ".json":
                    self.put("ids", place, len(lines))
                self.put("text", place, shortened(lines))

    def open_lineage(self) -> None:
        for name in self.names:
            out = self.folder / f"{name}.openlineage.jsonl"
            self.ask("lineage", "openlineage", name, str(out), name=f"lineage openlineage {name}")
            events = [json.loads(self.masks(line)) for line in out.read_text().splitlines()]
            shown = [
                f"{one['eventType']} {one['job']['name']}: {[i['name'] for i in one.get('inputs', [])]} → "
                f"{[o['name'] for o in one.get('outputs', [])]}"
                for one in events
            ]
            self.put("ids", f"openlineage//{name}//events", shown)
            self.put("text", f"openlineage//{name}//digest of each event", [digest(one) for one in events])

    # ---- Dagster -------------------------------------------------------------------------------------

    def read_definitions(self) -> None:
        import dagster as dg

        from selfimprove_dagster.definitions import defs

        graph = defs.resolve_asset_graph()
        for key in sorted(graph.get_all_asset_keys()):
            node, name = graph.get(key), key.to_user_string()
            metadata = {entry: _metadata(value) for entry, value in node.metadata.items()}
            facts = {
                "group": node.group_name,
                "deps": sorted(one.to_user_string() for one in node.parent_keys),
                "kinds": sorted(node.kinds),
                "tags": {tag: value for tag, value in sorted(node.tags.items()) if "/kind/" not in tag},
                "owners": sorted(node.owners),
                "executable": node.is_executable,
                "code version": node.code_version,
                "pools": sorted(node.pools),
                "columns": metadata.pop("dagster/column_schema", None),
                "column lineage": metadata.pop("dagster/column_lineage", None),
                "other metadata": sorted(metadata),
            }
            for fact, value in facts.items():
                self.put("ids", f"assets//{name}//{fact}", self.masks.tree(value))
            self.put("text", f"assets//{name}//description", self.masks(node.description or ""))
            self.put("text", f"assets//{name}//metadata", self.masks.tree(metadata))
            self.put("expected", f"partitions of each asset//{name}", str(node.partitions_def))
            mappings = {one.to_user_string(): str(how) for one, how in node.partition_mappings.items()}
            self.put("expected", f"partition mappings of each asset//{name}", mappings)
        for check in sorted(graph.asset_check_keys):
            node = graph.get(check)
            place = f"{check.asset_key.to_user_string()}//{check.name}"
            self.put("ids", f"checks//{place}", "blocking" if node.blocking else "warns")
            self.put("text", f"checks//{place}", self.masks(node.description or ""))
        repository = defs.get_repository_def()
        jobs = {job.name: job for job in repository.get_all_jobs() if not job.name.startswith("__")}
        self.put("ids", "jobs", sorted(jobs))
        for name, job in jobs.items():
            self.put("text", f"jobs//{name}", self.masks(job.description or ""))
            selected = getattr(job.asset_layer, "selected_asset_keys", ())
            self.put("ids", f"assets of each job//{name}", sorted(key.to_user_string() for key in selected))
            self.put("expected", f"steps of each job//{name}", sorted(node.name for node in job.nodes))
        for sensor in repository.sensor_defs:
            facts = [sensor.minimum_interval_seconds, str(sensor.default_status), sensor.description]
            self.put("expected", f"sensors//{sensor.name}", facts)
        self.put("ids", "schedules", sorted(one.name for one in repository.schedule_defs))
        with dg.DagsterInstance.get() as instance:
            for sensor in repository.sensor_defs:
                self.put(
                    "expected",
                    f"a tick of each sensor//{sensor.name}",
                    self._tick(sensor, instance, repository, defs.resources),
                )

    def _tick(self, sensor: Any, instance: Any, repository: Any, resources: Any) -> Any:
        import dagster as dg

        try:
            with dg.build_sensor_context(instance, repository_def=repository, resources=resources) as context:
                given = sensor(context)
                given = (
                    [given] if isinstance(given, dg.SensorResult | dg.SkipReason | dg.RunRequest) else given
                )
                said = [*(given or ())]
        except Exception as error:
            return self.masks(f"{type(error).__name__}: {error}")
        found: list[Any] = []
        for one in said:
            requests = one.run_requests or () if isinstance(one, dg.SensorResult) else [one]
            found += [
                [r.job_name, r.run_key, r.partition_key, dict(r.tags)]
                for r in requests
                if hasattr(r, "run_key")
            ]
            for added in getattr(one, "dynamic_partitions_requests", None) or ():
                found.append([added.partitions_def_name, list(added.partition_keys)])
            skipped = getattr(one, "skip_reason", None) or getattr(one, "skip_message", None)
            found.append(getattr(skipped, "skip_message", skipped) or "")
        return self.masks.tree(found)

    def read_instance(self) -> None:
        """What Dagster recorded of the runs: materialisations, and what each check found."""
        import dagster as dg

        with dg.DagsterInstance.get() as instance:
            for key in sorted(instance.all_asset_keys()):
                name = key.to_user_string()
                for record in instance.fetch_materializations(key, limit=20).records:
                    made = record.asset_materialization
                    place = f"materialisations//{name} of {made.partition}"
                    metadata = {entry: _metadata(value) for entry, value in made.metadata.items()}
                    tags = {
                        tag: value
                        for tag, value in (made.tags or {}).items()
                        if not tag.startswith("dagster/")
                    }
                    self.put("ids", f"{place}//metadata", sorted(metadata))
                    self.put("ids", f"{place}//tags", self.masks.tree(tags))
                    self.put("text", place, self.masks.tree(metadata))
                    version = (made.tags or {}).get("dagster/code_version")
                    self.put("ids", f"{place}//code version", version)
            runs = instance.get_runs()
            for run in sorted(runs, key=lambda run: run.tags.get("dagster/partition", "")):
                name = f"{run.job_name} of {run.tags.get('dagster/partition')}"
                self.put("ids", f"runs//{name}", run.status.value)
                events = [
                    record.event_log_entry for record in instance.get_records_for_run(run.run_id).records
                ]
                steps = sorted({entry.step_key for entry in events if entry.step_key})
                self.put("expected", f"steps of each run//{name}", steps)
                for entry in events:
                    event = entry.dagster_event
                    if event is None or event.event_type_value != "ASSET_CHECK_EVALUATION":
                        continue
                    data = event.asset_check_evaluation_data
                    place = (
                        f"check evaluations//{data.asset_key.to_user_string()} of {name}//{data.check_name}"
                    )
                    entries = {entry: _metadata(value) for entry, value in data.metadata.items()}
                    self.put("ids", place, [data.passed, data.severity.value, data.blocking, sorted(entries)])
                    self.put("text", place, [self.masks(data.description or ""), self.masks.tree(entries)])
            self.put("expected", "dynamic partitions", self._partitions(instance))

    def _partitions(self, instance: Any) -> dict[str, list[str]]:
        storage = self.folder / "home" / "dagster" / "history" / "runs" / "index.db"
        names: list[str] = []
        if storage.is_file():
            import sqlite3

            with contextlib.closing(sqlite3.connect(storage)) as connection:
                rows = connection.execute("SELECT DISTINCT partitions_def_name FROM dynamic_partitions")
                names = sorted(name for (name,) in rows)
        return {name: sorted(instance.get_dynamic_partitions(name)) for name in names}

    # ---- pages ---------------------------------------------------------------------------------------

    def read_pages(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        script = Path(sys.executable).with_name("selfimprove")
        command = [str(script)] if script.is_file() else [sys.executable, "-m", "selfimprove_dagster.cli"]
        with (self.folder / "pages.log").open("wb") as log:
            server = subprocess.Popen([*command, "pages", "--port", str(port)], stdout=log, stderr=log)
            try:
                self._fetch_pages(f"http://127.0.0.1:{port}", server)
            finally:
                server.terminate()
                server.wait(timeout=30)

    def _fetch_pages(self, server: str, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{server}/healthz").read()
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.folder / "pages.log").read_text()[-2000:])
            time.sleep(0.5)
        paths = [
            "/",
            "/search",
            "/search?q=the",
            "/search?q=zyzzyva",
            "/review",
            "/nowhere",
            "/records/ex:00",
        ]
        paths += [f"/records/{records[0]}/text" for records in [*self.chosen.values()][::8] if records]
        for name in self.names:
            paths += [f"/experiments/{name}", f"/experiments/{name}/0", f"/experiments/{name}/1"]
            paths += [f"/experiments/{name}/0/{list_}" for list_ in ("examples", "rejected", "rollouts")]
        for place, records in self.chosen.items():
            paths += [f"/records/{record}" for record in records]
            self.put("text", f"what each record is//{place}", records)
        for at, path in enumerate(paths):
            if at % 50 == 0:
                self.say(f"page {at} of {len(paths)}")
            try:
                with urllib.request.urlopen(server + path) as answer:
                    status, where, html = answer.status, answer.url, answer.read().decode()
                    plain = "html" not in answer.headers["Content-Type"]
            except urllib.error.HTTPError as error:
                status, where, html, plain = error.code, error.url, error.read().decode(), False
            self.put("ids", f"pages//{path}//status", [status, where.removeprefix(server)])
            if plain:
                self.put("text", f"pages//{path}", shortened(self.masks(html).splitlines()))
                continue
            page = VisibleText(html)
            self.put("ids", f"pages//{path}//links", shortened([self.masks(link) for link in page.links]))
            self.put("text", f"pages//{path}", shortened([self.masks(line) for line in page.lines]))

    # ---- revocation, which changes the lake and comes last -------------------------------------------

    def revoke(self) -> None:
        self.masks.patterns += ((re.compile(r"\brev:[0-9a-f]{12,32}"), "rev:<made of the time>"),)
        for name in self.names:
            seeds = self.chosen.get(next((p for p in self.chosen if f"seed_pool of {name} " in p), ""), [])
            for seed in seeds[:1]:
                options = ("--record", seed, "--experiment", name, "--why", "a pin", "--by", "pins")
                self.ask("lineage", "revoke", *options, "--yes", name=f"lineage revoke --yes {name}")
                self.ask("lineage", "explain", seed, name=f"lineage explain, revoked, {name}")
                self.ask("lineage", "trace", seed, name=f"lineage trace, revoked, {name}")
        self.ask("lineage", "revocations", table=True)
        self.ask("lineage", "verify", name="lineage verify, after revocations")
        for name in self.names:
            self.ask("status", name, table=True, name=f"status {name}, after revocations")

    def all_sections(self) -> None:
        self.prepare()
        self.run_experiments()
        for name, section in (
            ("tables", self.read_tables),
            ("definitions", self.read_definitions),
            ("Dagster's instance", self.read_instance),
            ("fields", self.fields),
            ("records", self.ask_of_records),
            ("experiments", self.ask_of_experiments),
            ("OpenLineage", self.open_lineage),
            ("pages", self.read_pages),
            ("revocation", self.revoke),
        ):
            with self.section(name):
                section()
        self.say("done")


def _metadata(value: Any) -> Any:
    """A metadata entry of Dagster as plain data."""
    value = getattr(value, "value", value)
    if hasattr(value, "deps_by_column"):
        return {
            column: sorted(f"{dep.asset_key.to_user_string()}.{dep.column_name}" for dep in deps)
            for column, deps in sorted(value.deps_by_column.items())
        }
    if hasattr(value, "columns"):
        return {column.name: [column.type, column.description or ""] for column in value.columns}
    if isinstance(value, str | int | float | bool | list | dict | None):
        return value
    return str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--keep", type=Path, help="run in this new folder and leave it there")
    parser.add_argument("--experiments", default=",".join(EXPERIMENTS), help="of these, by commas")
    parser.add_argument("--checkout", type=Path, help="fail if the package comes from anywhere else")
    given = parser.parse_args()
    folder = given.keep or Path(tempfile.mkdtemp(prefix="pins-"))
    out = given.out.absolute()
    collector = Collector(folder.absolute(), given.experiments.split(","), given.checkout)
    try:
        collector.all_sections()
    finally:
        out.write_text(json.dumps(collector.report, indent=1, ensure_ascii=True, default=str) + "\n")
        if given.keep is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
