"""What a training run leaves on disk: its determinants, its checkpoints, the finished model.

<output>.partial/            while training; locked by the process that trains
    determinants.json        what the result depends on
    checkpoints/checkpoint-N/   the trainer's state after N steps, `complete` written last
    finished/                the model being written, renamed to <output> when whole
<output>/                    the model, determinants.json, training_log.json, loss.png
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfimprove_dagster.errors import TrainingError
from selfimprove_dagster.host import temporary_path
from selfimprove_dagster.lake.disk import sync as sync_path
from selfimprove_dagster.language_model.weights import MORE_CHAT_TEMPLATES
from selfimprove_dagster.pruned import pruned

DETERMINANTS = "determinants.json"


LOG = "training_log.json"


CHECKPOINTS = "checkpoints"


COMPLETE = "complete"


FINISHED = "finished"


_COMPANIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "*vocab*",
    "merges*",
    "*.model",
    "*.bpe",
    "*.codes",
    "*.tiktoken",
    "*processor_config.json",
    "chat_template*",
    MORE_CHAT_TEMPLATES,
    "LICENSE*",
    "NOTICE*",
)
"""Patterns of the files with which a model reads and writes, besides its weights, and of its licence. Any other
file in a base folder describes the base, not the model that was trained from it."""


def copy_companions(
    base: Path, target: Path, *, dtype: str | None, trust_remote_code: bool, own_config: bool = False
) -> None:
    """Copy the base's tokenizer, chat templates and configs next to freshly saved weights, whose `dtype` the
    copied config names; None leaves the config as it is, as next to an adapter.

    The trained model reads prompts exactly like its base. The base's own files are copied rather than saved
    again, as the trainer aligns special tokens in the configs it holds, and a tokenizer saved again need not be
    the same bytes. `own_config`: the config that was saved with the weights stays, as the model is of another
    kind than the base.
    """
    for pattern in (*_COMPANIONS, *(("*.py",) if trust_remote_code else ())):
        if own_config and pattern in ("config.json", "generation_config.json"):
            continue
        for path in base.glob(pattern):
            if path.is_file():
                copy = target / path.relative_to(base)
                copy.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, copy)
    if not own_config and not (base / "generation_config.json").is_file():
        (target / "generation_config.json").unlink(missing_ok=True)  # of the trainer, not of the base
    if dtype is None:
        return
    config_path = target / "config.json"
    config = json.loads(config_path.read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    config["dtype"] = dtype
    write_json(config_path, config)


def write_json(path: Path, content: Any) -> None:
    """Write by rename, so that a reader sees the old file, the new one, or none."""
    temporary = temporary_path(path)
    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """The content, or None where the file is missing or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def is_finished(output: Path, determinants: dict[str, Any]) -> bool:
    """Whether `output` already holds the model of these determinants, with its weights.

    Raises TrainingError where it holds anything else: a finished model is never written over.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    found = read_json(output / DETERMINANTS)
    if found is None:
        raise TrainingError(f"{output} exists and was not made by this training. Choose another output.")
    different = [key for key in determinants if found.get(key) != determinants[key]]
    if different:
        raise TrainingError(
            f"{output} already holds a model trained with other {', '.join(different)}. "
            "Choose another output, or delete that folder to train again."
        )
    return pruned(output) is None


@contextlib.contextmanager
def locked(partial: Path, patience: float = 0.0) -> Iterator[None]:
    """Create `partial` and hold it against other processes; the lock ends with the process, however it ends.

    Raises TrainingError where another process still holds it after `patience` seconds.
    """
    partial.mkdir(parents=True, exist_ok=True)
    descriptor, deadline = os.open(partial, os.O_RDONLY), time.monotonic() + patience
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TrainingError(
                        f"Another process is training in {partial}. Wait for it to end."
                    ) from None
                time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


def clear_unless_same(partial: Path, determinants: dict[str, Any]) -> None:
    """Empty `partial` unless what lies there was determined by the same things, and record them."""
    if read_json(partial / DETERMINANTS) != determinants:
        for path in partial.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        write_json(partial / DETERMINANTS, determinants)


def last_checkpoint(checkpoints: Path) -> Path | None:
    """The checkpoint of most steps that was written whole; those that were not are deleted."""
    whole: dict[int, Path] = {}
    for path in checkpoints.glob("checkpoint-*"):
        if (path / COMPLETE).exists():
            whole[int(path.name.rpartition("-")[2])] = path
        else:
            shutil.rmtree(path)
    return whole[max(whole)] if whole else None


def publish(finished: Path, output: Path) -> None:
    """Flush `finished` to disk and rename it to `output`, which must be missing, empty, or without its weights."""
    sync(finished)
    if pruned(output) is not None:
        before = output.with_name(f".{output.name}.pruned")
        shutil.rmtree(before, ignore_errors=True)
        output.rename(before)
        finished.rename(output)
        shutil.rmtree(before)
    else:
        finished.rename(output)
    sync_path(output.parent)


def sync(folder: Path) -> None:
    """Flush every file of `folder`, and the folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            sync_path(path)
    sync_path(folder)
