"""The vote over a million sampled paths, against the same vote in plain Python.

    python benchmarks/voting.py [--questions 31250] [--samples 32] [--rounds 5]

Both sides are given the same Polars frame and must end with the same table: `vote` as the pipeline calls
it, and a loop that groups rows in a dict and counts with `collections.Counter`. The loop's conversion from
the frame to Python objects, and back to a frame, is timed apart: the ratio is stated with and without it.
Both run in one process, in turn, and the best round of each is compared. The two tables are asserted equal.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

from selfimprove_dagster.families.voting.voting import INPUT_COLUMNS, SCHEMA, vote

RESULTS = Path(__file__).parent / "results" / "voting.md"


def sampled_paths(questions: int, samples: int, *, shuffle: bool, seed: int = 0) -> pl.DataFrame:
    """Paths as a model gives them: 55% agree on an answer, 7% state none, some texts occur twice."""
    draw = random.Random(seed)
    rows = []
    for question in range(questions):
        right, wrong = draw.randrange(500), [draw.randrange(500) for _ in range(20)]
        for sample in range(samples):
            chance = draw.random()
            answer = str(right) if chance < 0.55 else None if chance > 0.93 else str(draw.choice(wrong))
            text = f"b2:{question:016x}{answer or '':>4}{draw.randrange(20):012x}"
            path_id = f"p_b2:{draw.getrandbits(128):032x}"
            rows.append((f"q_b2:{question * 7919:032x}", path_id, sample, answer, text))
    if shuffle:
        draw.shuffle(rows)
    return pl.DataFrame(
        rows,
        schema=dict(zip(INPUT_COLUMNS, (pl.String, pl.String, pl.Int64, pl.String, pl.String), strict=True)),
        orient="row",
    )


def vote_in_python(rows: list[tuple[str, str, int, str | None, str]]) -> list[dict[str, Any]]:
    """The majority vote, one question at a time."""
    groups: dict[str, list[tuple[int, str, str | None, str]]] = {}
    for question_id, path_id, sample_index, answer, text_key in rows:
        groups.setdefault(question_id, []).append((sample_index, path_id, answer, text_key))
    table = []
    for question_id, paths in groups.items():
        paths.sort(key=lambda path: path[:2])
        answers = [path[2] for path in paths]
        votes = Counter(answer for answer in answers if answer is not None).most_common()
        n_valid = sum(count for _, count in votes)
        first = votes[0][1] if votes else 0
        second = votes[1][1] if len(votes) > 1 else 0
        table.append(
            {
                "question_id": question_id,
                "voted_answer": votes[0][0] if votes else None,
                "votes": [{"answer": answer, "count": count} for answer, count in votes],
                "n_paths": len(paths),
                "n_valid": n_valid,
                "n_distinct_paths": len({path[3] for path in paths}),
                "n_distinct_answers": len(votes),
                "vote_share": first / len(paths) if n_valid else None,
                "margin": (first - second) / len(paths) if n_valid else None,
                "readable_share": n_valid / len(paths),
                "tie": bool(votes) and first == second,
                "path_ids": [path[1] for path in paths],
                "answers": answers,
            }
        )
    return table


def measure(paths: pl.DataFrame, rounds: int) -> dict[str, float]:
    """Best seconds of each side over the rounds, taken in turn."""
    best: dict[str, float] = {}

    def timed(name: str, began: float) -> None:
        best[name] = min(best.get(name, float("inf")), time.perf_counter() - began)

    for _ in range(rounds):
        began = time.perf_counter()
        voted = vote(paths)
        timed("vote", began)

        began = time.perf_counter()
        rows = paths.select(INPUT_COLUMNS).rows()
        timed("to Python", began)
        began = time.perf_counter()
        table = vote_in_python(rows)
        timed("Python", began)
        began = time.perf_counter()
        expected = pl.DataFrame(table, schema=SCHEMA)
        timed("from Python", began)
        assert voted.equals(expected), "the two votes differ"
        del rows, table, expected
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the vote against the same vote in plain Python.")
    parser.add_argument("--questions", type=int, default=31_250)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    lines = [
        "# The vote over sampled paths",
        "",
        f"`python benchmarks/voting.py`: {options.questions:,} questions × {options.samples} paths "
        f"= {options.questions * options.samples:,} samples, best of {options.rounds} rounds in one process, "
        "both results asserted equal.",
        "",
        "| rows | `vote` | Python, lists in, dicts out | ratio | Python, frame in, frame out | ratio |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, shuffle in (("in sample order", False), ("shuffled", True)):
        best = measure(sampled_paths(options.questions, options.samples, shuffle=shuffle), options.rounds)
        whole = best["to Python"] + best["Python"] + best["from Python"]
        lines.append(
            f"| {name} | {best['vote']:.3f} s "
            f"| {best['Python']:.3f} s | {best['Python'] / best['vote']:.1f}× "
            f"| {whole:.3f} s | {whole / best['vote']:.1f}× |"
        )
    load = os.getloadavg()[0]
    lines += [
        "",
        f"Python {platform.python_version()}, Polars {pl.__version__}, {pl.thread_pool_size()} threads, "
        f"{platform.machine()}, load average {load:.1f}.",
    ]
    text = "\n".join(lines) + "\n"
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
