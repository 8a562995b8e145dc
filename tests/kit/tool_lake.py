"""Two whole iterations of Toolformer by a scripted model, and one whose calls are chosen by lot.

The jobs are those that run in Dagster, with the real Calculator and Calendar; what the model writes, how
probable it finds a call and how hard a text is to predict stand in the script below.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from kit import task_lake
from kit.homes import entered, make_home
from kit.reading import first
from kit.small_lake import write_lines
from selfimprove_dagster.embedded import BASE_MODEL
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.language_model.weights import weights_hash
from selfimprove_dagster.methods.toolformer import tables as t
from selfimprove_dagster.table import Row, Table

HOSTILE = (
    "Nobody <script>window.hacked = 1</script> \x1b[31mcounts\x1b[0m ‮6 times 7 {{ 7 * 7 }} goats, 42 of them."
)
ORCHARD = "The orchard has 14 rows of 25 trees, 350 trees in all."


@dataclass(frozen=True)
class Place:
    """Where a tool may be called: before these words, how probable that is, and what is written then."""

    tool: str
    before: str
    probability: float
    calls: tuple[str, ...]
    taught: tuple[str, ...] = ()
    """What a checkpoint writes instead."""


TEXTS: Mapping[str, tuple[str | None, tuple[Place, ...]]] = {
    ORCHARD: (
        "2021-03-05",
        (
            Place(
                "Calculator",
                "350",
                0.12,
                (
                    *("Calculator(14 * 25)", "Calculator(14 * 25) → 999]", "Calculator(25 * 14)]"),
                    *("Calculator(14 + 25)", "Calculator(14 / 0)", "about fifty"),
                ),
            ),
            Place("Calculator", "25 trees", 0.3, ("Calculator(5 * 5)",)),
        ),
    ),
    "A crate holds 12 jars and there are 3 crates, so 36 jars are here, on the 5th of March, 2021.": (
        "2021-03-05",
        (
            Place("Calculator", "36", 0.4, ("Calculator(12 * 3)",)),
            Place("Calendar", "the 5th", 0.2, ("Calendar()",)),
        ),
    ),
    "The market opens at noon since it is a Friday in the month.": (
        "2020-11-20",
        (Place("Calendar", "Friday", 0.4, ("Calendar()",)),),
    ),
    "The library is closed because it is a Sunday in winter.": (
        None,
        (Place("Calendar", "Sunday", 0.3, ("Calendar()",)),),
    ),
    "The choir sang for 90 minutes without a break.": (
        None,
        (Place("Calculator", "90", 0.2, ("Calculator(30 * 3)",)),),
    ),
    HOSTILE: (
        None,
        (Place("Calculator", "42", 0.2, ("Calculator(6 * 7)", "Calculator(<img src=x onerror=alert(1)>)")),),
    ),
    "Snow fell on the hills and nobody went out.": (None, ()),
    "Each of the 4 boats has 6 oars and 24 oars lie on the pier.": (
        "2019-07-01",
        (Place("Calculator", "24", 0.2, ("Calculator(4 + 6)",), ("Calculator(4 * 6)",)),),
    ),
}
"""By text: the day it was written, and its places."""
_NO_CALL, _CALL, _EASY = 4.02, 3.90, 0.3
_WITH_RESULT = {
    "Calculator(14 * 25)": 0.69,
    "Calculator(25 * 14)": 1.0,
    "Calculator(5 * 5)": 3.5,
    "Calculator(12 * 3)": 0.5,
    "Calculator(6 * 7)": 0.8,
    "Calculator(4 * 6)": 0.6,
    "Calendar()": 1.2,
}
_HELPS_LITTLE = 3.7
_HELD_OUT = {
    "Two and three make": ("5", "nothing yet.", "Calculator(2 + 3)"),
    "Six and one make": ("7", "nothing yet.", "Calculator(6 + 1)"),
    "Nine less five leaves": ("4", "nothing yet.", "a sum"),
    "Eight less two leaves": ("6", "6 of them.", "Calculator(8 * 2)"),
}
"""By beginning: what must follow, what the model writes without a call, and its call."""
_PLAIN = "Rain fell on the hills and the river rose by a foot."
_WRITTEN = re.compile(r"\[(\w+\(.*?\)) →(?: (.*))?\]\n")
_UNLIKELY = 0.001


class ScriptedModel(task_lake.ScriptedModel):
    """A model of texts with calls; a checkpoint opens one in each held-out text."""

    vocabulary_size = 256

    def decode(self, token_ids: Sequence[int]) -> str:
        return bytes(token for token in token_ids if token > 1).decode(errors="ignore")

    def _said(self, prompt: str, seed: int) -> str:
        beginning = next((one for one in _HELD_OUT if prompt.startswith(one)), None)
        if beginning is None:
            written = prompt.rpartition("Output: ")[2].removesuffix("[")
            place = next(
                place for prefix, place in _places(_text(written), _tool(prompt)) if prefix == written
            )
            calls = place.taught if self.improved and place.taught else place.calls
            return calls[seed % len(calls)]
        _, without, call = _HELD_OUT[beginning]
        written = prompt.removeprefix(beginning)
        if written.endswith("["):
            return call
        result = re.search(r"→ (.*)\]", written)
        return f" {result[1]} in all.\n" if result else f" {without}\n"

    def next_token_probability(self, sequences: Sequence[Sequence[int]], token_id: int) -> list[list[float]]:
        return [self._openings(ids) for ids in sequences]

    def _openings(self, ids: Sequence[int]) -> list[float]:
        found, read = [_UNLIKELY] * len(ids), self.decode(ids)
        before, output, written = read.rpartition("Output: ")
        if output:
            for prefix, place in _places(_text(written), _tool(read)):
                found[len(self.encode(before + output + prefix)) - 1] = place.probability
        elif self.improved:
            beginning = next(one for one in _HELD_OUT if read.startswith(one))
            found[len(self.encode(f"{beginning} ")) - 1] = 0.5
        return found

    def option_probabilities(
        self, contexts: Sequence[Sequence[int]], options: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        return [[0.0 if option == [ord("[")] else 0.1 for option in options] for _ in contexts]

    def among_likeliest(
        self,
        contexts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        token_id: int,
        most: int,
    ) -> list[list[bool]]:
        return [
            [
                probability > 0.1
                for probability in self._openings([*context, *continuation[:-1]])[len(context) - 1 :]
            ]
            for context, continuation in zip(contexts, continuations, strict=True)
        ]

    def score(
        self, contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        pairs = zip(contexts, continuations, strict=True)
        return [[-self._loss(self.decode([*before, *ids]))] * len(ids) for before, ids in pairs]

    def _loss(self, read: str) -> float:
        if "The choir" in read:
            return _EASY
        if read == _PLAIN:
            return 2.5 if self.improved else 2.49
        call = _WRITTEN.match(read)
        if call is None:
            return _NO_CALL
        return _CALL if call[2] is None else _WITH_RESULT.get(call[1], _HELPS_LITTLE)


def _text(written: str) -> str:
    return next(text for text in TEXTS if text.startswith(written))


def _tool(prompt: str) -> str:
    return "Calendar" if "calls to a calendar" in prompt else "Calculator"


def _places(text: str, tool: str) -> Iterator[tuple[str, Place]]:
    """What stands before each place of the text, and the place."""
    for place in TEXTS[text][1]:
        if place.tool == tool:
            yield text[: text.index(place.before)], place


def scripted(path: str | Path) -> ScriptedModel:
    """The model that stands for the weights at `path`."""
    return ScriptedModel(weights_hash(path), improved=Path(path).resolve() != BASE_MODEL.resolve())


@contextmanager
def _open(
    self: Any, section: Any, path: str | Path | None = None, scores: bool = False
) -> Iterator[ScriptedModel]:
    yield scripted(path or section.path)


def make_tool_home(folder: Path) -> Home:
    """A home with two iterations of the experiment `tf` and one of `lot` in its lake."""
    from selfimprove_dagster.resources.language_model import LanguageModelResource
    from selfimprove_dagster.resources.trainer import TrainerResource
    from selfimprove_dagster.runs import run_iteration

    write_lines(
        folder / "texts.jsonl",
        [
            {"text": text, "source": "a test", **({"date": day} if day else {})}
            for text, (day, _) in TEXTS.items()
        ],
    )
    held_out = [
        {"prompt": prompt, "answer": answer, "date": "2024-05-31"}
        for prompt, (answer, *_) in _HELD_OUT.items()
    ]
    write_lines(folder / "heldout.jsonl", held_out)
    write_lines(folder / "plain.jsonl", [{"text": _PLAIN}])
    tf: dict[str, Any] = {
        "name": "tf",
        "method": "toolformer",
        "model": {"path": str(BASE_MODEL)},
        "seeds": {"file": str(folder / "texts.jsonl"), "licence": "CC0-1.0"},
        "tools": {"names": ["Calculator", "Calendar"]},
        "annotation": {
            "texts": len(TEXTS),
            "drawn_by": "champion",
            "tools": {"Calculator": {"positions": 4, "calls": 8, "threshold": 0.01}},
            "other_tools": {"positions": 2, "calls": 3},
            "max_tokens": 60,
            "shard": 3,
        },
        "filter": {"loss_reduction": {"Calculator": 0.5, "Calendar": 1.0}, "most_texts": 3},
        "evaluation": {
            "file": str(folder / "heldout.jsonl"),
            "plain_file": str(folder / "plain.jsonl"),
            "max_tokens": 30,
            "max_call_tokens": 30,
        },
        "budget": {"iterations": 3},
        "promotion": {"rule": "not_worse", "margin": 1.0},
    }
    lot = tf | {"name": "lot", "filter": {**tf["filter"], "chosen_by": "lot"}}
    home = make_home(folder, tf, lot)
    with entered(home) as patch:
        patch.setattr(LanguageModelResource, "open", _open)
        patch.setattr(TrainerResource, "fine_tune", task_lake._fine_tune)
        for name, iteration in (("tf", 0), ("tf", 1), ("lot", 0)):
            assert run_iteration(home, home.experiment(name), iteration) == []
    return home


def rows(lake: Lake, schema: Table, iteration: int = 0, experiment: str = "tf") -> pl.DataFrame:
    return lake.read_ungated(lake.manifest(schema.name, partition_of(experiment, iteration)))


def example_of(lake: Lake, text: str, iteration: int = 0) -> Row:
    return first(rows(lake, t.TF_FILTERED_DATASET, iteration), question=text)


def dropped(lake: Lake, rule: str, iteration: int = 0, experiment: str = "tf") -> str:
    decisions = rows(lake, t.TF_DECISIONS, iteration, experiment)
    return str(first(decisions, rule=rule, kept=False)["candidate_id"])
