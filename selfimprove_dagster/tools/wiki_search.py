"""Search a local encyclopaedia with BM25 (Schick et al., 2302.04761, section 3)."""

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

ENCYCLOPAEDIA = Path(__file__).parent / "encyclopaedia.jsonl"
"""About eighty short entries about the fictional islands of Ondra."""


LONGEST_QUERY = 200


LONGEST_PASSAGE = 600
"""Maximum length of a query in characters."""


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
    """Finds the passage of a corpus that matches a query best: title and text, truncated at 600 characters.

    `corpus` is a JSON Lines or Parquet file with `title` and `text`. With `folder`, the index is built once
    per state of the corpus, stored there, and memory-mapped; without, it is kept in memory. Raises
    SeedFileError with the line for a corpus that cannot be read.

    Words are separated by white space and punctuation, in any script that does so, without stemming. Ties are
    broken by the order of the passages.
    """

    name = "WikiSearch"
    description = "Searches an encyclopaedia and returns the passage that fits the search terms best."
    introduction, shots = _INTRODUCTION, _SHOTS

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
        """Return the number of passages."""
        return len(self._passages)

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
        """Open the index in a subfolder that is named after its inputs; it is built atomically."""
        import bm25s

        place = folder / f"{self._digest}-{_TOKENISER}-arrow-bm25s-{installed_version('bm25s')}"
        if not place.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            building = Path(tempfile.mkdtemp(prefix=".building-", dir=folder))
            try:
                index, passages = self._in_memory(corpus)
                index.save(building, show_progress=False)
                # The corpus feature of bm25s is not used, as it configures logging for all libraries.
                passages.write_ipc(building / _PASSAGES, compression="uncompressed")
                building.rename(place)
            except OSError:
                if not place.is_dir():  # otherwise another process was faster
                    raise
            finally:
                shutil.rmtree(building, ignore_errors=True)
        index = bm25s.BM25.load(place, load_corpus=False, mmap=True, show_progress=False)
        return index, pl.DataFrame(
            pyarrow.ipc.open_file(pyarrow.memory_map(str(place / _PASSAGES))).read_all()
        )


def words(text: str) -> list[str]:
    """Return the words of a text or query after NFKC normalisation and case folding."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def read_corpus(corpus: Path) -> list[dict[str, str]]:
    """Return the passages with `title` and `text`. Raises SeedFileError for a line without both."""
    passages = []
    for at, row in read_rows(corpus):
        if isinstance(row, Unreadable):
            raise SeedFileError(f"{corpus}, line {at.line}: {row.reason}; fix the line, then run again")
        fields = {name: row.get(name) if isinstance(row, dict) else None for name in ("title", "text")}
        for name, value in fields.items():
            if not isinstance(value, str) or not value.strip():
                raise SeedFileError(
                    f"{corpus}, line {at.line}: `{name}` must be text; fix the line, then run again"
                )
        passages.append({name: str(value) for name, value in fields.items()})
    if not passages:
        raise SeedFileError(f"{corpus} contains no passages; give a file with `title` and `text` in each row")
    return passages
