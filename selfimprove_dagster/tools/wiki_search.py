"""Search in a local encyclopaedia (Schick et al., 2302.04761, section 3), by BM25 as in the paper."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
import unicodedata
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow
import pyarrow.ipc

from selfimprove_dagster.errors import SeedFileError
from selfimprove_dagster.rows import Unreadable, read_rows
from selfimprove_dagster.tools.base import Context, ToolError, read_text
from selfimprove_dagster.tools.calls import annotation_prompt

ENCYCLOPAEDIA = Path(__file__).parent / "encyclopaedia.jsonl"
"""Some eighty short entries of our own words about the islands of Ondra, which do not exist."""


LONGEST_QUERY = 200


LONGEST_PASSAGE = 600
"""Characters."""


_TOKENISER = "1"


_PASSAGES = "passages.arrow"


_WORD = re.compile(r"\w+")


_INTRODUCTION = """\
Your task is to add calls to an encyclopaedia's search to a text. A search should find what helps to say \
what comes next. A call is written "[WikiSearch("term")]", where "term" is what to look for. Leave the text \
itself as it is. Some examples:"""


_SHOTS = (
    (
        "The heron, a wading bird with a long neck, nests in trees.",
        'The heron, [WikiSearch("heron")] a wading bird with a long neck, nests in trees.',
    ),
    (
        "Basalt, which forms when lava cools quickly, covers most of the ocean floor.",
        'Basalt, which forms [WikiSearch("how basalt forms")] when lava cools quickly, covers most of the '
        "ocean floor.",
    ),
    (
        "The Hanseatic League was a union of merchant towns around the Baltic Sea.",
        'The Hanseatic League was [WikiSearch("Hanseatic League")] a union of merchant towns around the '
        "Baltic Sea.",
    ),
)


class WikiSearch:
    """The passage of a corpus that fits a query best: title and text, cut at 600 characters.

    `corpus` is a JSON Lines or Parquet file of `title` and `text`. With `folder` the index is built once for
    each state of the corpus, kept there, and mapped into memory instead of read; without, it lives in memory.
    Raises SeedFileError for a corpus that cannot be read, naming the line.

    Words are what is between white space and punctuation, in any script that parts them; nothing is stemmed.
    Of passages that fit equally the first is taken.
    """

    name = "WikiSearch"

    def __init__(self, corpus: Path = ENCYCLOPAEDIA, folder: Path | None = None) -> None:
        try:
            with corpus.open("rb") as stream:
                self._digest = hashlib.file_digest(
                    stream, lambda: hashlib.blake2b(digest_size=16)
                ).hexdigest()
        except OSError as error:
            raise SeedFileError(f"{corpus} cannot be read: {error.strerror or error}") from None
        self.version = f"1 {_TOKENISER} b2:{self._digest}"
        self._index, self._passages = (
            self._in_memory(corpus) if folder is None else self._kept(corpus, folder)
        )

    @property
    def passages(self) -> int:
        """How many there are."""
        return len(self._passages)

    def prompt(self, text: str) -> str:
        return annotation_prompt(_INTRODUCTION, _SHOTS, text)

    def parse(self, arguments: str) -> str | ToolError:
        return read_text(arguments, LONGEST_QUERY)

    def run(self, input: str, context: Context) -> str | ToolError:
        known = [word for word in words(input) if word in self._index.vocab_dict]
        if not known:
            return ToolError("no passage has any of these words")
        best = int(self._index.get_scores(known).argmax())
        passage = self._passages.row(best, named=True)
        shown = f"{passage['title']}: {passage['text']}"
        return shown if len(shown) <= LONGEST_PASSAGE else shown[: LONGEST_PASSAGE - 1] + "…"

    @staticmethod
    def _in_memory(corpus: Path) -> tuple[Any, pl.DataFrame]:
        import bm25s

        passages = read_corpus(corpus)
        index = bm25s.BM25()
        index.index([words(f"{one['title']} {one['text']}") for one in passages], show_progress=False)
        return index, pl.DataFrame(passages)

    def _kept(self, corpus: Path, folder: Path) -> tuple[Any, pl.DataFrame]:
        """The index in a sub-folder named after what it follows from, built whole or not at all."""
        import bm25s

        place = folder / f"{self._digest}-{_TOKENISER}-arrow-bm25s-{installed_version('bm25s')}"
        if not place.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            building = Path(tempfile.mkdtemp(prefix=".building-", dir=folder))
            try:
                index, passages = self._in_memory(corpus)
                index.save(building, show_progress=False)
                # Not bm25s' own corpus: that sets up logging, by which all libraries would talk.
                passages.write_ipc(building / _PASSAGES, compression="uncompressed")
                building.rename(place)
            except OSError:
                if not place.is_dir():  # else another process was first
                    raise
            finally:
                shutil.rmtree(building, ignore_errors=True)
        index = bm25s.BM25.load(place, load_corpus=False, mmap=True, show_progress=False)
        return index, pl.DataFrame(
            pyarrow.ipc.open_file(pyarrow.memory_map(str(place / _PASSAGES))).read_all()
        )


def words(text: str) -> list[str]:
    """The words of a text or query, compatibility forms and case folded."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def read_corpus(corpus: Path) -> list[dict[str, str]]:
    """The passages, `title` and `text` each. Raises SeedFileError for a line that has not both."""
    passages = []
    for line, row in read_rows(corpus):
        if isinstance(row, Unreadable):
            raise SeedFileError(f"{corpus}, line {line}: {row.reason}; mend the line, then run again")
        fields = {name: row.get(name) if isinstance(row, dict) else None for name in ("title", "text")}
        for name, value in fields.items():
            if not isinstance(value, str) or not value.strip():
                raise SeedFileError(
                    f"{corpus}, line {line}: `{name}` must be text; mend the line, then run again"
                )
        passages.append({name: str(value) for name, value in fields.items()})
    if not passages:
        raise SeedFileError(f"{corpus} holds no passage; give a file with `title` and `text` in each row")
    return passages
