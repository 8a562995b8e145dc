"""Filters that compare each text with those before it: a text is kept if it resembles none that was kept.

Each call of a function here starts an empty pool, and the filter that it returns remembers what it kept. It takes the
candidates part by part, in their order, and the parts may be of any size: decisions do not depend on them. Candidates
have the columns `candidate_id`, `question` and `text`. A decision names the nearest text that was kept before, with the
likeness as its score.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import polars as pl

from selfimprove_dagster.filters.novelty import NoveltyPool
from selfimprove_dagster.filters.rules import Filter, decision
from selfimprove_dagster.filters.tokenisers import Tokeniser, words

Compared = Literal["question", "answer", "both"]
"""What is compared of an example."""


def compared(candidates: pl.DataFrame, what: Compared) -> list[str]:
    """Return the compared text of each candidate."""
    question, answer = (pl.col(name).fill_null("") for name in ("question", "text"))
    chosen = {"question": question, "answer": answer, "both": pl.concat_str(question, answer, separator="\n")}
    return candidates.select(chosen[what]).to_series().to_list()


def unlike(
    rule: str,
    candidates: pl.DataFrame,
    found: Sequence[tuple[bool, float | None, str | None]],
    threshold: float,
    likeness: str,
) -> pl.DataFrame:
    """Return the decisions of a pool: of each candidate whether it is kept, and its nearest's likeness and id."""
    kept, scores, nearest = (list(column) for column in zip(*found, strict=True)) if found else ([], [], [])
    judged = candidates.select("candidate_id").with_columns(
        pl.Series("kept", kept, dtype=pl.Boolean),
        pl.Series("score", scores, dtype=pl.Float64),
        pl.Series("nearest", nearest, dtype=pl.String),
    )
    score = pl.col("score")
    reason = (
        pl.when(pl.col("nearest").is_null())
        .then(pl.lit("nothing that was kept before resembles it"))
        .otherwise(
            pl.format(
                f"{likeness} {{}} to {{}}, against at most {{}}", score.round(3), "nearest", pl.lit(threshold)
            )
        )
    )
    return decision(
        judged,
        rule,
        kept=pl.col("kept"),
        reason=reason,
        score=score,
        threshold=threshold,
        nearest_id=pl.col("nearest"),
    )


def first_of_equal(what: Compared = "both", tokeniser: Tokeniser = words) -> Filter:
    """Keep the first of the texts with equal tokens. A hash of each kept text is held."""
    seen: dict[bytes, str] = {}

    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        first: list[str | None] = []
        for one, text in zip(candidates["candidate_id"], compared(candidates, what), strict=True):
            # Texts without any token, such as signs alone, are compared as they are.
            said = "\0".join(tokeniser(text)) or f"\1{text.strip()}"
            key = hashlib.blake2b(said.encode(), digest_size=16).digest()
            earlier = seen.setdefault(key, one)
            first.append(None if earlier == one else earlier)
        judged = candidates.select("candidate_id").with_columns(pl.Series("first", first, dtype=pl.String))
        earlier_one = pl.col("first")
        return decision(
            judged,
            "duplicates",
            kept=earlier_one.is_null(),
            reason=pl.when(earlier_one.is_null())
            .then(pl.lit("no equal text before it"))
            .otherwise(pl.format("the same text as {}", earlier_one)),
            nearest_id=earlier_one,
        )

    return decide


def novel_by_rouge(threshold: float, what: Compared = "both", tokeniser: Tokeniser = words) -> Filter:
    """Keep texts whose ROUGE-L F1 to every kept text is at most `threshold` (2212.10560, section 2.2); exact."""
    pool, ids = NoveltyPool(nearest=1, tokeniser=tokeniser), list[str]()

    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        verdicts = pool.admit(compared(candidates, what), threshold)
        own = zip(candidates["candidate_id"], verdicts, strict=True)
        ids.extend(one for one, verdict in own if verdict.kept)
        found = []
        for verdict in verdicts:
            index, score = verdict.neighbours[0] if verdict.neighbours else (0, 0.0)
            # Of texts without a common token none is the nearest.
            found.append((verdict.kept, score or None, ids[index] if score else None))
        return unlike("novelty", candidates, found, threshold, "ROUGE-L")

    return decide
