"""Makes `home_of_version_0.tar.xz`: a home with one iteration of two methods, as today's code leaves it.

    PYTHONPATH=<checkout of the old code> python tests/data/make_home.py FOLDER OUT.tar.xz

FOLDER must not exist; its path gets into the lake. Weights are left out of the archive: nothing was promoted,
so the models of the next iteration are the embedded ones.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml

_SHARED: dict[str, Any] = {
    "model": {"path": "embedded"},
    "seeds": {"file": "embedded", "licence": "Apache-2.0", "rows": "0:40"},
    # At these learning rates a checkpoint forgets what its model knew, and this level lets no worse one pass.
    "promotion": {"level": 0.499},
    "budget": {"iterations": 2, "minimum_yield": 0.0},
}
EXPERIMENTS: dict[str, dict[str, Any]] = {
    "sums": {
        **_SHARED,
        "method": "lmsi",
        "evaluation": {"file": "embedded", "rows": "0:8", "majority_questions": 4, "majority_paths": 2},
        "sampling": {"questions": 4, "paths": 4, "shard_questions": 2},
        "training": {"steps": 3, "batch_size": 4, "learning_rate": 0.03},
    },
    "judge": {
        **_SHARED,
        "method": "rlaif",
        "evaluation": {"file": "embedded", "rows": "0:8", "max_tokens": 32},
        "responses": {"prompts": 8, "max_tokens": 32},
        "judge": {"principles": 1, "shard": 4},
        "judge_checks": {"on_failure": "warn"},
        "preferences": {"minimum_margin": 0.0, "held_out_share": 0.2},
        "reward_model": {"steps": 1},
        "training": {
            "steps": 2,
            "batch_size": 4,
            "group_size": 2,
            "max_tokens": 32,
            "learning_rate": 0.03,
        },
    },
}
_LEFT_OUT = (
    "catalog.duckdb",
    ".lock",
    "*.safetensors",
    "tokenizer.json",
    "storage",
    "*-wal",
    "*-shm",
    "*.bin",
)


def main() -> None:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    (folder / "experiments").mkdir(parents=True)
    for name, settings in EXPERIMENTS.items():
        text = yaml.safe_dump({"name": name, **settings}, sort_keys=False)
        (folder / "experiments" / f"{name}.yaml").write_text(text)
    environment = {
        **os.environ,
        "SELFIMPROVE_HOME": str(folder / "home"),
        "SELFIMPROVE_EXPERIMENTS": str(folder / "experiments"),
        "DAGSTER_HOME": str(folder / "home" / "dagster"),
    }
    command = [sys.executable, "-m", "selfimprove_dagster.cli"]
    for name in EXPERIMENTS:
        subprocess.run([*command, "run", name, "--iterations", "1"], env=environment, cwd=folder, check=True)
    for question in ("verify", "index"):
        subprocess.run([*command, "lineage", question], env=environment, cwd=folder, check=True)
    for path in (folder / "home" / "dagster").rglob("*.db"):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute("VACUUM")

    def kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if any(Path(entry.name).match(pattern) for pattern in _LEFT_OUT):
            return None
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    with tarfile.open(out, "w:xz", preset=9) as archive:
        for part in ("experiments", "home"):
            archive.add(folder / part, arcname=part, filter=kept)


if __name__ == "__main__":
    main()
