"""Read the rows of data sets of the Hugging Face Hub, named `hf:owner/name[/config]/split@commit`.

The commit is the whole hash of 40 digits, so the rows never change and the name is all that has to be recorded. A data
set is downloaded once and kept in the cache of `datasets` ($HF_HOME), from which later readings need no network. Other
servers than the Hub are set by $HF_ENDPOINT.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from selfimprove_dagster.errors import SeedFileError
from selfimprove_dagster.text import one_line

_NAME = re.compile(
    r"hf:(?P<name>[\w.-]+/[\w.-]+)(/(?P<config>[^/@]+))??(/(?P<split>[^/@]+))?(@(?P<commit>[^@]+))?"
)
_COMMIT = re.compile("[0-9a-f]{40}")
_ROWS_OF_A_BATCH = 1_000
_STREAMED: ContextVar[bool] = ContextVar("streamed", default=False)


@contextmanager
def streamed() -> Iterator[None]:
    """Read data sets without downloading the whole of them, within this context."""
    token = _STREAMED.set(True)
    try:
        yield
    finally:
        _STREAMED.reset(token)


@dataclass(frozen=True)
class HubDataset:
    """A split of a data set at a commit."""

    name: str
    config: str | None
    split: str
    commit: str

    @classmethod
    def of(cls, text: str) -> HubDataset:
        """Parse a name. Raises SeedFileError that says what is missing, and what there is if the Hub answers."""
        parts = _NAME.fullmatch(text)
        if parts is None:
            raise SeedFileError(f"{text} is no name of a data set; write hf:owner/name/split@commit")
        name, config, split, commit = parts["name"], parts["config"], parts["split"], parts["commit"]
        if split is None or commit is None or not _COMMIT.fullmatch(commit):
            raise SeedFileError(_incomplete(text, name, config, split, commit))
        return cls(name, config, split, commit)

    def __str__(self) -> str:
        config = f"/{self.config}" if self.config else ""
        return f"hf:{self.name}{config}/{self.split}@{self.commit}"

    def rows(self) -> Iterator[Any]:
        """Yield the rows of the split. Raises SeedFileError if it cannot be read."""
        import pyarrow as pa

        try:
            with _quiet():
                from datasets import load_dataset

                found = load_dataset(
                    self.name,
                    self.config,
                    split=self.split,
                    revision=self.commit,
                    streaming=_STREAMED.get(),
                )
                # Without a network, `datasets` takes whatever commit is in its cache.
                if not _STREAMED.get() and not all(
                    self.commit in Path(file["filename"]).parts for file in found.cache_files
                ):
                    raise SeedFileError(
                        f"{self} cannot be read: this commit is not in the cache, and the Hub cannot be reached"
                    )
                for table in found.with_format("arrow").iter(batch_size=_ROWS_OF_A_BATCH):
                    frame = pl.from_arrow(table)
                    assert isinstance(table, pa.Table) and isinstance(frame, pl.DataFrame)
                    yield from frame.iter_rows(named=True)
        except _errors() as error:
            raise SeedFileError(f"{self} cannot be read: {_said(error)}") from error


def _incomplete(text: str, name: str, config: str | None, split: str | None, commit: str | None) -> str:
    """Return what is missing in a name, and complete names if the Hub answers."""
    missing = [
        *(["a split"] if split is None else []),
        *(["the whole hash of a commit"] if commit is None or not _COMMIT.fullmatch(commit) else []),
    ]
    try:
        complete = _complete(name, config, commit)
    except _errors() as error:
        complete = [f"hf:{name}/split@commit"]
        said = f"; the Hub could not be asked: {_said(error)}"
    else:
        said = ""
    return f"{text} needs {' and '.join(missing)}, so that its rows never change; write {' or '.join(complete)}{said}"


def _complete(name: str, config: str | None, revision: str | None) -> list[str]:
    """Return the complete names of the splits of a data set, at the commit that is the newest now."""
    with _quiet():
        from datasets import get_dataset_config_names, get_dataset_split_names
        from huggingface_hub import HfApi

        commit = HfApi().dataset_info(name, revision=revision, timeout=20).sha
        configs = [config] if config else get_dataset_config_names(name, revision=commit)
        return [
            f"hf:{name}{f'/{one}' if len(configs) > 1 or one != 'default' else ''}/{split}@{commit}"
            for one in configs[:5]
            for split in get_dataset_split_names(name, one, revision=commit)
        ]


def _errors() -> tuple[type[Exception], ...]:
    """Return the errors of `datasets` and its servers, those of the network among them (OSError)."""
    from datasets.exceptions import DatasetsError

    return DatasetsError, OSError, ValueError, RuntimeError


def _said(error: Exception) -> str:
    return one_line(str(error))[:300] or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Show no progress bars, which would mix with the lines of a command."""
    from datasets import disable_progress_bars, enable_progress_bars
    from datasets.utils import are_progress_bars_disabled

    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()
