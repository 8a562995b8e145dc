"""Make random choices that depend on content and a seed, not on order, so they are reproducible anywhere.

Choices never hang on ids of records: an id holds the name of its experiment, and two experiments that differ in one
setting are only comparable if everything else is drawn alike."""

from __future__ import annotations

import hashlib

import polars as pl


def seed_of(*parts: str | int) -> int:
    """Return a seed, 0 ≤ seed < 2**63, derived from the parts."""
    text = "\0".join(map(str, parts))
    digest = hashlib.blake2b(text.encode("utf-8", errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def lots(frame: pl.DataFrame, columns: list[str], seed: int) -> pl.Series:
    """Return one number per row, uniform in [0, 1), derived from the seed and the values in `columns`."""
    values = [seed_of(seed, *row) / 2**63 for row in frame.select(columns).iter_rows()]
    return pl.Series("lot", values, dtype=pl.Float64)
