"""Training jobs and rewards run in a process of their own, from the JSON of their specs."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.training import ENVIRONMENT, make_comparisons, weights

from selfimprove_dagster.training import jobs
from selfimprove_dagster.training.comparisons import Comparison
from selfimprove_dagster.training.reward import RewardSettings, reward_by_model, train_reward_model
from selfimprove_dagster.training.rewards import TokenisedPrompt
from selfimprove_dagster.training.rows import BATCH, RowFile, write_rows, write_some
from selfimprove_dagster.training.supervised import SupervisedSettings, TokenisedExample, fine_tune
from selfimprove_dagster.work.spec import Spec

SETTINGS = SupervisedSettings(steps=4, learning_rate=1e-2, batch_size=4)
EXAMPLES = [TokenisedExample([1, 5 + n], [10 + n, 11, 2][n % 2 :]) for n in range(12)]
READ_SPEC = (
    "import json, sys; from selfimprove_dagster.work.spec import Spec; spec = Spec(**json.load(sys.stdin))\n"
)
PROMPTS, COMPLETIONS = [TokenisedPrompt([1, 5]), TokenisedPrompt([1, 6, 7])], [[8, 2], [9, 9, 2]]


def in_another_process(script: str, spec: Spec) -> Any:
    """What a script prints as JSON, which has the spec as `spec`."""
    done = subprocess.run(
        [sys.executable, "-c", READ_SPEC + script],
        input=json.dumps(spec.to_json()),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.train
def test_a_job_trains_the_same_model_in_another_process(base: Path, tmp_path: Path) -> None:
    here = fine_tune(base, EXAMPLES, tmp_path / "here", SETTINGS, seed=7, device="cpu")
    write_rows(tmp_path / "rows", TokenisedExample, EXAMPLES)
    job = Spec.of(
        jobs.supervised,
        base=str(base),
        rows=str(tmp_path / "rows"),
        output=str(tmp_path / "there"),
        settings=asdict(SETTINGS),
        seed=7,
        device="cpu",
        dtype="float32",
        trust_remote_code=False,
    )
    steps = in_another_process("print(len(spec.call().log))", job)
    assert steps == len(here.log) == SETTINGS.steps
    assert weights(tmp_path / "there") == weights(here.path)
    logged: list[Any] = []
    again = job.call(on_log=logged.append)
    assert (again.path, logged) == (tmp_path / "there", []), "run again, it returns what it made"


@pytest.mark.train
def test_a_reward_is_the_same_in_another_process(base: Path, tmp_path: Path) -> None:
    how = RewardSettings(steps=2, learning_rate=1e-2, batch_size=4)
    train_reward_model(base, make_comparisons(), tmp_path / "judge", how, seed=0, device="cpu")
    opens = Spec.of(reward_by_model, path=str(tmp_path / "judge"), device="cpu")
    script = f"""
from selfimprove_dagster.training.rewards import TokenisedPrompt
with spec.call() as reward:
    print(json.dumps(reward({PROMPTS!r}, {COMPLETIONS!r})))
"""
    there = in_another_process(script, opens)
    with opens.call() as reward:
        assert there == reward(PROMPTS, COMPLETIONS)
    assert len({*there}) == 2


@settings(max_examples=25)
@given(
    st.lists(
        st.builds(
            Comparison,
            *[st.lists(st.integers(0, 2**31 - 1), max_size=3)] * 3,
            st.floats(0, 1),
            st.none() | st.lists(st.integers(0, 300), max_size=3),
        ),
        max_size=5,
    ),
    st.integers(0, BATCH),
)
def test_rows_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, some: list[Comparison], more: int
) -> None:
    rows = [*some, *[Comparison([n], [n, 1], [2], 0.5) for n in range(more)]]
    path = tmp_path_factory.mktemp("rows") / "rows"
    write_rows(path, Comparison, iter(rows))
    stored = RowFile(path, Comparison)
    assert [*stored] == rows == stored[:] and len(stored) == len(rows)
    for index in {0, len(rows) - 1} if rows else ():
        assert stored[index] == rows[index] and stored[-1 - index] == rows[-1 - index]
    with pytest.raises(IndexError):
        stored[len(rows)]


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=80),
    st.integers(1, 30),
    st.sampled_from([30, math.inf]),
)
def test_some_rows_are_as_long_as_all_and_the_longest_is_one_of_them(
    sizes: list[int], count: int, most: float
) -> None:
    rows = [
        Comparison([at], [2] * size, [3], 0.5, None if size % 2 else [4, 4]) for at, size in enumerate(sizes)
    ]
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder) / "rows", Comparison, rows)
        write_some(Path(folder) / "rows", Path(folder) / "some", count, most)
        some = [*RowFile(Path(folder) / "some", Comparison)]
    assert len(some) == min(count, len(rows))
    assert [rows.index(one) for one in some] == sorted(rows.index(one) for one in some)
    lengths, chosen = ([max(one.lengths) for one in part] for part in (rows, some))
    if fitting := [length for length in lengths if length <= most]:
        assert max(fitting) in chosen
    spread = max(lengths) - min(lengths)
    assert abs(sum(chosen) / len(chosen) - sum(lengths) / len(lengths)) <= 2 * spread / count + 1


def test_some_examples_and_prompts(tmp_path: Path) -> None:
    for kind, rows in (
        (TokenisedExample, [TokenisedExample([1] * size, [2]) for size in range(20)]),
        (TokenisedPrompt, [TokenisedPrompt([1] * size, "q") for size in range(20)]),
    ):
        write_rows(tmp_path / "rows", kind, rows)
        write_some(tmp_path / "rows", tmp_path / "some", 3, 16)
        found = [*RowFile[Any](tmp_path / "some", kind)]
        longest = max((one for one in rows if len(_ids(one)) <= 16), key=lambda one: len(_ids(one)))
        assert longest in found and len(found) == 3


def _ids(row: Any) -> list[int]:
    return [
        *getattr(row, "prompt_token_ids", getattr(row, "token_ids", [])),
        *getattr(row, "completion_token_ids", []),
    ]
