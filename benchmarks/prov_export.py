"""Time and memory of writing a dataset's lineage as PROV-JSON: this project's writer and the package `prov`.

    python benchmarks/prov_export.py [--questions 60] [--out benchmarks/results/prov_export.md]

A lake of LMSI's shape is made (`lineage.py`: 32 paths a question) and the ancestry of its last dataset is
gathered. Both ways begin with these statements. `lineage/prov.py` writes them as they are; the package makes
a record of each, checks it, and writes the document. Each way is a process of its own. What the package reads
back from both texts is compared by its own model.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from generation_speed import machine
from lineage import make_lake
from prov.constants import PROV_ATTRIBUTES_ID_MAP, PROV_RECORD_IDS_MAP
from prov.model import ProvDocument

from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lineage.prov import Document, dataset_document, prov_json
from selfimprove_dagster.methods.lmsi.tables import FILTERED_DATASET


def by_package(document: Document) -> str:
    """The same statements, made and written by the package `prov`."""
    made = ProvDocument()
    for prefix, uri in document["prefix"].items():
        made.add_namespace(prefix, uri)

    def value(said: Any) -> Any:
        if not isinstance(said, Mapping):
            return said
        return float(said["$"]) if said["type"] == "xsd:double" else made.valid_qualified_name(said["$"])

    for kind, statements in document.items():
        for name, said in statements.items() if kind != "prefix" else ():
            attributes = [(PROV_ATTRIBUTES_ID_MAP.get(key, key), value(one)) for key, one in said.items()]
            identifier = None if name.startswith("_:") else name
            made.new_record(PROV_RECORD_IDS_MAP[kind], identifier, attributes)
    return str(made.serialize(format="json"))


WAYS = {"`lineage/prov.py`": prov_json, "the package `prov`": by_package}


def peak_memory() -> float:
    """The most memory that this process has held, in MB; what its parent held is not counted."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def measure(root: Path, way: str, out: Path) -> tuple[int, float, float, float]:
    """Gather and write: statements, seconds to gather and to write, MB of peak memory above the start."""
    lake = Lake(root)
    manifest = lake.manifests(FILTERED_DATASET.name)[-1]
    before = peak_memory()
    started = time.process_time()
    document = dataset_document(lake, manifest)
    gathered = time.process_time()
    out.write_text(WAYS[way](document), encoding="utf-8")
    written = time.process_time()
    peak = peak_memory() - before
    statements = sum(len(said) for kind, said in document.items() if kind != "prefix")
    return statements, gathered - started, written - gathered, peak


def main() -> None:
    """Run both ways and print a markdown table."""
    parser = argparse.ArgumentParser(description="PROV-JSON: this writer and the package prov.")
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--out", type=Path, help="write the table here too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_lake(Lake(folder / "lake"), options.questions, 2)
        lines, read = [], []
        for way in WAYS:
            text = folder / "prov.json"
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
                statements, gather, write, peak = process.submit(measure, folder / "lake", way, text).result()
            lines.append(f"| {way} | {gather:.1f} | {write:.1f} | {gather + write:.1f} | {peak:.0f} |")
            read.append(ProvDocument.deserialize(content=text.read_text(), format="json"))
    same = "equal" if read[0] == read[1] else "different"
    said = [
        "# A dataset's lineage as PROV-JSON",
        "",
        f"`python benchmarks/prov_export.py --questions {options.questions}`, {machine()}: {statements:,} "
        f"statements. What the package reads back from both is {same} by its own model.",
        "",
        "| | CPU seconds to gather | to write | together | MB of memory |",
        "|---|---:|---:|---:|---:|",
        *lines,
    ]
    print("\n".join(said))
    if options.out:
        options.out.write_text("\n".join(said) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
