"""The mark of a model folder whose weights were deleted to save disk space.

The mark is written before the first weight is deleted, so that a folder with a part of its weights is never read.
Everything else in the folder stays: its configuration, tokenizer, determinants and training curves.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from selfimprove_dagster.errors import ModelError

MARK = "pruned.json"


@dataclass(frozen=True)
class Pruned:
    """Why weights are gone, and the command that trains them again.

    `model_id` is the id that the model had, `keep` the setting `checkpoints.keep`, and `at` the time in ISO 8601.
    """

    model_id: str
    keep: str | int
    at: str
    rebuild: str

    def to_json(self) -> str:
        """Return the content of the mark."""
        return json.dumps(asdict(self), indent=1) + "\n"

    def __str__(self) -> str:
        return f"weights were pruned (checkpoints.keep: {self.keep}); `{self.rebuild}` rebuilds them"


def pruned(folder: str | Path) -> Pruned | None:
    """Return the mark of a model folder; None if its weights were not pruned."""
    try:
        return Pruned(**json.loads((Path(folder) / MARK).read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None


def check_weights(folder: str | Path) -> None:
    """Raise ModelError if the weights in a model folder were pruned."""
    if (found := pruned(folder)) is not None:
        raise ModelError(f"the model {folder} cannot be opened: its {found}")
