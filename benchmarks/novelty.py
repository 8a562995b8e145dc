"""The novelty filter of Self-Instruct: 52,000 instructions grown from 175 seeds, by four ways.

    python benchmarks/novelty.py              a pool that grows from 175 to its end
    python benchmarks/novelty.py --large      also a pool of 1,000,000 that is offered 10,000 more

The instructions are made from those published with Self-Instruct ($SELFIMPROVE_DATA/self_instruct): halves of
two are joined, words are exchanged, and what was made is material for more. Every contender must find the
decision (F1 against the pool more than 0.7) and the ten highest scores of each candidate:

- `as published`: for each candidate a process pool, in which `rouge_score` reads the whole pool anew;
- `rouge_score, read once`: its scoring function over token lists, in one process;
- `RapidFuzz in blocks`: `process.cdist` of 256 candidates (16 where the pool is large) against the
  pool, on all cores, then NumPy;
- `NoveltyPool`: selfimprove_dagster.filters.novelty.

The first two would take days: they score some candidates, evenly spaced, against the pool as it was for them,
and their time is extrapolated by the number of pairs. Each contender has a process of its own, whose peak
memory is stated (texts included). What a contender scored is asserted equal to what `NoveltyPool` found.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "novelty.md"
THRESHOLD, NEAREST = 0.7, 10
CORES = len(os.sched_getaffinity(0))


def published() -> list[dict[str, Any]]:
    """The tasks published with Self-Instruct, the 175 seeds first."""
    folder = Path(os.environ.get("SELFIMPROVE_DATA", ROOT.parent / "shared" / "data")) / "self_instruct"
    files = ("seed_tasks.jsonl", "user_oriented_instructions.jsonl")
    return [json.loads(line) for name in files for line in (folder / name).read_text("utf-8").splitlines()]


def grown(tasks: list[dict[str, Any]], count: int) -> Iterator[str]:
    """Instructions of about the length and the likeness of those that a model makes from the tasks."""
    chance = random.Random(0)
    seeds = [task["instruction"].split() for task in tasks]
    examples = " ".join(f"{i['input']} {i['output']}" for task in tasks for i in task["instances"])
    words = [word for word, _ in Counter(re.findall("[a-z]{4,}", examples.lower())).most_common()]
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    words += ["".join(chance.choices(syllables, k=3)) for _ in range(30_000)]  # names and rare words
    weights = list(accumulate(1 / (rank + 20) for rank in range(len(words))))
    frequent = Counter(word for seed in seeds for word in re.findall("[a-z]+", " ".join(seed).lower()))
    fixed = {word for word, _ in frequent.most_common(60)}
    material = list(seeds)
    while count:
        made = list(chance.choice(material if chance.random() < 0.5 else seeds))
        if chance.random() < 0.4:
            second = chance.choice(material)
            made = made[: (len(made) + 1) // 2] + second[len(second) // 2 :]
        rate = chance.random() ** 0.7
        for at, word in enumerate(made):
            if word.strip('.,?:!"').lower() not in fixed and chance.random() < rate:
                made[at] = chance.choices(words, cum_weights=weights)[0]
        if 4 <= len(made) <= 60:
            if len(material) < 20_000:
                material.append(made)
            count -= 1
            yield " ".join(made)


# --- the contenders. Each finds the ten highest scores of candidates. ---


@dataclass
class Found:
    """The highest scores of the candidates `at`, best first, and what they took."""

    at: list[int]
    scores: list[list[float]]
    seconds: float
    building: float = 0.0
    megabytes: float = 0.0


def as_published(pool: list[str], candidate: str) -> list[float]:
    """F1 with every member of the pool, which is read anew."""
    from rouge_score import rouge_scorer  # type: ignore[import-untyped]

    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    with multiprocessing.Pool(CORES) as processes:
        scores = processes.map(partial(scorer.score, candidate), pool)
    return [score["rougeL"].fmeasure for score in scores]


def read_once(pool: list[list[str]], candidate: list[str]) -> list[float]:
    """F1 with every member of the pool, all as lists of tokens."""
    from rouge_score.rouge_scorer import _score_lcs  # type: ignore[import-untyped]

    return [_score_lcs(member, candidate).fmeasure for member in pool]


def one_by_one(name: str, pool: list[str], candidates: list[str], sample: dict[int, list[int]]) -> Found:
    """Some candidates, each against the pool as it was: `sample` says who had joined."""
    from rouge_score import tokenize

    found = Found(list(sample), [], 0.0)
    for at, joined in sample.items():
        texts = [*pool, *(candidates[other] for other in joined)]
        if name == "published":
            began = time.perf_counter()
            scores = as_published(texts, candidates[at])
        else:
            members = [tokenize.tokenize(text, None) for text in texts]
            began = time.perf_counter()
            scores = read_once(members, tokenize.tokenize(candidates[at], None))
        found.seconds += time.perf_counter() - began
        found.scores.append(sorted(scores, reverse=True)[:NEAREST])
    return found


def in_blocks(pool: list[str], candidates: list[str]) -> Found:
    """All pairs of a block of candidates and the pool, then the block's candidates in order."""
    from rapidfuzz import process
    from rapidfuzz.distance import LCSseq
    from rouge_score import tokenize

    numbers: dict[str, int] = {}

    def read(text: str) -> str:
        return "".join(chr(numbers.setdefault(word, len(numbers))) for word in tokenize.tokenize(text, None))

    def f1(block: list[str], members: list[str]) -> npt.NDArray[np.float64]:
        common = process.cdist(block, members, scorer=LCSseq.similarity, dtype=np.uint8, workers=-1)
        precision = common / np.array([[len(candidate)] for candidate in block])
        recall = common / np.array([len(member) for member in members])
        total = precision + recall
        return np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)

    began = time.perf_counter()
    members = [read(text) for text in pool]
    building, began = time.perf_counter() - began, time.perf_counter()
    scores: list[list[float]] = []
    size = 256 if len(members) < 100_000 else 16  # which keeps its arrays near 1 GiB
    for start in range(0, len(candidates), size):
        block = [read(text) for text in candidates[start : start + size]]
        nearest = -np.partition(-f1(block, members), NEAREST - 1, axis=1)[:, :NEAREST]
        among = f1(block, list(block))
        joined: list[int] = []
        for row in range(len(block)):
            found = -np.sort(-np.concatenate([nearest[row], among[row, joined]]))[:NEAREST]
            scores.append(found.tolist())
            if found[0] <= THRESHOLD:
                joined.append(row)
        members += [block[row] for row in joined]
    return Found(list(range(len(candidates))), scores, time.perf_counter() - began, building)


def ours(pool: list[str], candidates: list[str]) -> Found:
    from selfimprove_dagster.filters.novelty import NoveltyPool

    began = time.perf_counter()
    novelty = NoveltyPool(pool, nearest=NEAREST)
    building, began = time.perf_counter() - began, time.perf_counter()
    verdicts = novelty.admit(candidates, THRESHOLD)
    seconds = time.perf_counter() - began
    scores = [[score for _, score in verdict.neighbours] for verdict in verdicts]
    return Found(list(range(len(candidates))), scores, seconds, building)


def contend(name: str, folder: Path, pool_size: int) -> Found:
    """Run a contender in this process."""
    texts = (folder / "texts").read_text().splitlines()
    pool, candidates = texts[:pool_size], texts[pool_size:]
    if name in ("published", "read_once"):
        sample = json.loads((folder / "sample").read_text())
        found = one_by_one(name, pool, candidates, {int(at): joined for at, joined in sample.items()})
    elif name == "ours":
        found = ours(pool, candidates)
    else:
        found = in_blocks(pool, candidates[:64] if pool_size >= 1_000_000 else candidates)
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak
    found.megabytes = int(peak[1]) / 1024
    return found


# --- the comparison ---


def in_own_process(name: str, folder: Path, pool_size: int) -> Found:
    command = [sys.executable, __file__, "--contender", name, str(folder), str(pool_size)]
    said = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, cwd=ROOT)
    return Found(**json.loads(said.stdout))


def compare(texts: Iterator[str], pool_size: int, sampled: int, names: dict[str, str]) -> list[str]:
    """A table of the contenders; the texts beyond the pool are the candidates."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with (folder / "texts").open("w") as file:
            file.writelines(f"{text}\n" for text in texts)
        found = {"ours": in_own_process("ours", folder, pool_size)}
        scores = found["ours"].scores
        joined = [at for at, best in enumerate(scores) if best[0] <= THRESHOLD]
        before = np.searchsorted(joined, np.arange(len(scores)))
        chosen = [(2 * number + 1) * len(scores) // (2 * sampled) for number in range(sampled)]
        (folder / "sample").write_text(json.dumps({at: joined[: before[at]] for at in chosen}))
        for name in names:
            if name not in found:
                found[name] = in_own_process(name, folder, pool_size)
    sizes = pool_size + before
    lines = [
        f"{len(scores):,} candidates for a pool of {pool_size:,}, which ends with "
        f"{pool_size + len(joined):,}: {sizes.sum():,} pairs.",
        "",
        "| | seconds | ratio | peak memory | building the pool |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, title in names.items():
        it = found[name]
        assert it.scores == [scores[at] for at in it.at], f"{title} found other scores"
        part = sizes[it.at].sum() / sizes.sum()
        seconds = it.seconds / part
        note = "" if part == 1 else f" (from {len(it.at)} candidates, {it.seconds:,.1f} s)"
        ratio = seconds / found["ours"].seconds
        cells = (
            title,
            f"{seconds:,.1f}{note}",
            f"{ratio:,.1f}×",
            f"{it.megabytes:,.0f} MiB",
            f"{it.building:.1f} s",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Run the contenders, one after another, and write the tables."""
    parser = argparse.ArgumentParser(description="Time the novelty filter against others.")
    parser.add_argument("--candidates", type=int, default=52_000)
    parser.add_argument("--sampled", type=int, default=4, help="candidates that the slow contenders score")
    parser.add_argument("--large", action="store_true", help="also 10,000 for a pool of 1,000,000")
    parser.add_argument("--contender", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        name, folder, pool_size = options.contender
        print(json.dumps(asdict(contend(name, Path(folder), int(pool_size)))))
        return
    tasks = published()
    seeds = [" ".join(task["instruction"].split()) for task in tasks[:175]]
    names = {
        "published": "as published",
        "read_once": "`rouge_score`, read once",
        "blocks": "RapidFuzz in blocks",
        "ours": "`NoveltyPool`",
    }
    lines = [
        "# The novelty filter of Self-Instruct",
        "",
        f"`python {' '.join(sys.argv)}`: ROUGE-L F1 at most {THRESHOLD}, the {NEAREST} nearest of every "
        "candidate; what each scored is asserted equal. Seconds with a number of candidates are extrapolated "
        "by pairs. Memory is of the main process.",
        "",
        *compare(chain(seeds, grown(tasks, options.candidates)), len(seeds), options.sampled, names),
    ]
    if options.large:
        both = {name: names[name] for name in ("blocks", "ours")}
        lines += ["", *compare(grown(tasks, 1_010_000), 1_000_000, 1, both)]
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "rapidfuzz", "rouge_score"))
    lines += [
        "",
        f"{cpu[1] if cpu else platform.processor()}, {CORES} cores; Python {platform.python_version()}, "
        f"{versions}; load average {os.getloadavg()[0]:.1f}.",
    ]
    text = "\n".join(lines) + "\n"
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
