"""Prompts without a completion: rows of their own, tolerated up to a share, while the rest goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from click.testing import Result
from kit.homes import entered, make_home
from kit.models import FakeLanguageModel
from kit.small_lake import SMALL_EXPERIMENT, activity_of, write_lines
from typer.testing import CliRunner

from selfimprove_dagster import embedded
from selfimprove_dagster.cli.main import app
from selfimprove_dagster.cli.status import print_failed_answers
from selfimprove_dagster.errors import TooManyFailed, TooManyUnanswered
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.lake.records import Parent
from selfimprove_dagster.language_model.base import FinishReason, Generation, SamplingParameters
from selfimprove_dagster.lineage.failures import failed_prompts
from selfimprove_dagster.methods.lmsi.tables import DECISIONS, EVALUATION, RAW_GENERATIONS
from selfimprove_dagster.work.shards import Request, completer, in_shards
from selfimprove_dagster.work.tolerance import Tolerance

RAW = RAW_GENERATIONS
LONG = "Nina has 37 plums. " * 200


@dataclass
class PoisonedModel(FakeLanguageModel):
    """Cannot continue the prompts in `poison`, which says why."""

    poison: Mapping[str, FinishReason] = field(default_factory=dict)

    def path(self, prompt: Sequence[int], seed: int, parameters: SamplingParameters) -> Generation:
        text = bytes(prompt[1:]).decode()
        if text in self.poison:
            return Generation.without_text(self.poison[text], f"so it is with {text}")
        return super().path(prompt, seed, parameters)


def draw(
    lake: Lake, model: PoisonedModel, prompts: str, tolerance: Tolerance, samples: int = 1
) -> pl.DataFrame:
    """The completions of prompts of one letter each, two prompts a shard."""
    requests = [
        Request(
            letter,
            letter,
            {"question_id": f"q:{letter}", "prompt_format": "zero_shot_cot"},
            [Parent(f"q:{letter}", "prompt")],
            samples=samples,
        )
        for letter in prompts
    ]
    with lake.writer(RAW, activity_of(RAW)) as writer:
        in_shards(
            writer,
            requests,
            completer(model, SamplingParameters(), (0,)),  # type: ignore[arg-type]
            size=2,
            unit="completions",
            log=lambda line: None,
            each=samples,
            tolerance=tolerance,
        )
        return lake.read_ungated(writer.commit())


def test_a_failed_row_has_its_problem_and_the_others_keep_their_ids(tmp_path: Path) -> None:
    rows = draw(Lake(tmp_path / "one"), PoisonedModel(poison={"b": "refused"}), "abcd", Tolerance())
    failed = rows.filter(prompt="b").row(0, named=True)
    assert (failed["finish_reason"], failed["text"], failed["token_ids"]) == ("refused", "", [])
    assert failed["problem"] == "refused: so it is with b"
    healthy = draw(Lake(tmp_path / "other"), PoisonedModel(), "abcd", Tolerance())
    assert healthy["problem"].to_list() == [None] * 4
    others = pl.col("prompt") != "b"
    assert rows.filter(others)["id"].to_list() == healthy.filter(others)["id"].to_list()


def test_a_stage_without_items_resumes_after_a_kill_before_its_commit(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    with lake.writer(RAW, activity_of(RAW)) as writer:
        in_shards(writer, [], lambda items, report: [], size=2, unit="rows", log=lambda line: None)
    assert draw(lake, PoisonedModel(), "", Tolerance()).is_empty()


def test_a_stage_stops_once_too_many_failed_and_resumes_where_more_may(tmp_path: Path) -> None:
    lake, model = Lake(tmp_path), PoisonedModel(poison={"b": "too_long", "c": "refused", "d": "too_long"})

    def places(rows: pl.DataFrame) -> dict[str, str]:
        return {
            id: f"seeds.jsonl, line {1 + ord(prompt) - ord('a')}"
            for id, prompt in rows[["id", "asked"]].rows()
        }

    with pytest.raises(TooManyFailed) as stopped:
        draw(lake, model, "abcdefgh", Tolerance(0.25, places))
    assert str(stopped.value) == (
        "3 of 4 rows of lmsi/raw_generations failed, and tolerance.failed_share allows 25.0% of 8. The first: "
        "seeds.jsonl, line 2: too_long: so it is with b; seeds.jsonl, line 3: refused: so it is with c; "
        "seeds.jsonl, line 4: too_long: so it is with d. lmsi/raw_generations: 4 of 8 completions are finished and "
        "kept: raise tolerance.failed_share in the experiment file and run again to resume, or correct the cause; "
        "leave_out takes out seeds by their lines"
    )
    assert model.calls == [2, 2]
    with pytest.raises(TooManyFailed):
        draw(lake, model, "abcdefgh", Tolerance(0.25))
    assert model.calls == [2, 2], "what was finished is counted again, not drawn again"
    rows = draw(lake, model, "abcdefgh", Tolerance(0.5))
    assert model.calls == [2, 2, 2, 2] and rows["finish_reason"].to_list().count("stop") == 5


def test_a_shard_in_which_a_server_failed_is_drawn_again(tmp_path: Path) -> None:
    lake, model = Lake(tmp_path), PoisonedModel(poison=dict.fromkeys("cd", "failed"))
    with pytest.raises(TooManyUnanswered, match=r"2 of 4 rows .* 2 of 8 completions are finished and kept"):
        draw(lake, model, "abcdefgh", Tolerance(0.1))
    rows = draw(lake, PoisonedModel(), "abcdefgh", Tolerance(0.1))
    assert rows["finish_reason"].to_list() == ["stop"] * 8


def test_too_many_refused_rows_are_not_drawn_again_because_a_server_also_failed(tmp_path: Path) -> None:
    poison: dict[str, FinishReason] = {"a": "refused", "b": "refused", "c": "refused", "d": "failed"}
    with pytest.raises(
        TooManyFailed, match=r"4 of 4 rows .* 4 of 8 completions are finished and kept"
    ) as raised:
        draw(Lake(tmp_path), PoisonedModel(poison=poison), "abcdefgh", Tolerance(0.25))
    assert not isinstance(raised.value, TooManyUnanswered)


def test_the_completions_of_one_prompt_alone_stop_nothing_but_where_none_may_fail(tmp_path: Path) -> None:
    model = PoisonedModel(poison={"a": "too_long"})
    rows = draw(Lake(tmp_path / "one"), model, "ab", Tolerance(0.05), samples=3)
    assert rows["finish_reason"].to_list() == ["too_long"] * 3 + ["stop"] * 3
    with pytest.raises(TooManyFailed, match=r"3 of 6 rows .* allows 0\.0% of 6"):
        draw(Lake(tmp_path / "other"), model, "ab", Tolerance(0.0), samples=3)


def questions(file: Path, count: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()[:count]]


def test_an_iteration_with_poisoned_seeds_ends_and_names_them(tmp_path: Path) -> None:
    """The model has 1,024 positions."""
    from selfimprove_dagster.runs import run_iteration

    seeds = questions(embedded.SEEDS, 38)
    seeds[4:4] = [{"question": f"{LONG}How many?"}]
    seeds[20:20] = [{"question": f"{LONG}How many are left?"}]
    held_out = questions(embedded.EVALUATION, 11)
    held_out[2]["question"] = f"{LONG}How many plums does Nina have?"
    settings = {
        **SMALL_EXPERIMENT,
        "seeds": {"file": str(write_lines(tmp_path / "mine.jsonl", seeds)), "licence": "MIT"},
        "evaluation": {
            "file": str(write_lines(tmp_path / "asked.jsonl", held_out)),
            "majority_questions": 4,
            "majority_paths": 2,
        },
        "sampling": {"questions": 40, "paths": 4, "shard_questions": 10, "max_tokens": 64},
        "filter": {"minimum_vote_share": 0.0, "minimum_votes": 1},
    }
    home = make_home(tmp_path / "installation", settings)
    with entered(home):
        assert run_iteration(home, home.experiment("small"), 0) == []
        shown = CliRunner().invoke(app, ["status", "small"], env={"COLUMNS": "300"})
    named = [*failed_prompts(home.lake, "small")]
    assert sorted((one.place, one.rows, one.table) for one in named) == [
        ("asked.jsonl, line 3", 4, EVALUATION.name),
        ("mine.jsonl, line 21", 4, RAW.name),
        ("mine.jsonl, line 5", 4, RAW.name),
    ]
    assert "3 prompts failed, and the rest was kept:" in shown.output
    assert "mine.jsonl, line 5: too_long: the prompt has " in shown.output
    partition = partition_of("small", 0)
    rows = home.lake.read(RAW.name, partition)
    failed = rows.filter(finish_reason="too_long")
    assert len(rows) == 160 and len(failed) == 8
    decided = home.lake.read(DECISIONS.name, partition).filter(
        pl.col("candidate_id").is_in(failed["id"].implode())
    )
    assert decided["kept"].to_list() == [False] * 8
    assert decided["reason"].str.starts_with("too_long: the prompt has ").all()
    answers = home.lake.read(EVALUATION.name, partition).filter(source_line=3)
    assert answers["correct"].to_list() == [False] * len(answers) and len(answers) == 4
    assert answers["predicted"].to_list() == [None] * 4
    assert answers["problem"].str.starts_with("too_long: ").all()


def test_seeds_that_are_too_long_are_left_out_by_their_lines(tmp_path: Path) -> None:
    """Ten seeds, of which two are too long: more than may fail."""
    seeds = questions(embedded.SEEDS, 8)
    seeds[4:4] = [{"question": f"{LONG}How many {what}?"} for what in ("plums", "are left")]
    settings = {
        **SMALL_EXPERIMENT,
        "seeds": {"file": str(write_lines(tmp_path / "mine.jsonl", seeds)), "licence": "MIT"},
        "sampling": {"questions": 10, "paths": 4, "shard_questions": 10, "max_tokens": 64},
        "filter": {"minimum_vote_share": 0.0, "minimum_votes": 1},
        "budget": {"iterations": 1},
    }
    home = make_home(tmp_path / "installation", settings)
    file, places = home.experiments / "small.yaml", ["mine.jsonl, line 5", "mine.jsonl, line 6"]

    def run(leave_out: Sequence[str]) -> Result:
        file.write_text(yaml.safe_dump({**settings, "leave_out": [*leave_out]}))
        with entered(home):
            return CliRunner().invoke(app, ["run", "small"], env={"COLUMNS": "300"})

    stopped = run([])
    assert stopped.exit_code == 1
    said = " ".join((stopped.output + str(stopped.exception)).split())
    assert "8 of 40 rows of lmsi/raw_generations failed" in said and "leave_out" in said
    assert all(place in said for place in places)
    misspelt = run(["mine.jsonl:5"])
    assert misspelt.exit_code == 1 and "where no seed is from" in misspelt.output + str(misspelt.exception)
    done = run(places)
    assert done.exit_code == 0, done.output
    assert [*failed_prompts(home.lake, "small")] == []
    pool = home.lake.read("lmsi/seed_pool", partition_of("small", 0))
    assert len(pool) == 8 and not {5, 6} & {*pool["source_line"]}
    with entered(home):
        verified = CliRunner().invoke(app, ["lineage", "verify", "small"])
    assert "no findings" in verified.output


def test_failed_answers_are_printed_with_file_and_line(capsys: pytest.CaptureFixture[str]) -> None:
    def row(line: int, problem: str | None, mode: str = "greedy") -> dict[str, Any]:
        return {
            "source_file": "asked.jsonl",
            "source_line": line,
            "problem": problem,
            "mode": mode,
            "text": "",
        }

    print_failed_answers([row(1, None), row(2, "failed: the server returned no text")])
    assert capsys.readouterr().out.splitlines() == [
        "1 answer could not be generated, which counts as wrong:",
        "  asked.jsonl, line 2: failed: the server returned no text",
    ]
    print_failed_answers([*(row(line, "too_long: …") for line in range(5)), row(0, "too_long: …", "judged")])
    assert capsys.readouterr().out.splitlines()[0].startswith("5 answers could not")
    print_failed_answers([row(1, None)])
    assert capsys.readouterr().out == ""
