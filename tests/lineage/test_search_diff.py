"""Finding records by their words, and what changed from one dataset to another."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from kit.small_lake import known_ancestry, seed_draft, store
from typer.testing import CliRunner

from selfimprove_dagster.cli.lineage import lineage_app
from selfimprove_dagster.conversation import Message, stored
from selfimprove_dagster.errors import ExperimentError, LakeError, PartitionMissing
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import partition_of
from selfimprove_dagster.lake.records import Draft, Parent
from selfimprove_dagster.lineage.diff import diff
from selfimprove_dagster.lineage.search import AFTER, BEFORE, only_example, search
from selfimprove_dagster.lineage.walk import RecordNotFound
from selfimprove_dagster.methods.lmsi.tables import (
    DECISIONS,
    DEMONSTRATIONS,
    FILTERED_DATASET,
    PERPLEXITY_SCORES,
    RAW_GENERATIONS,
    SEED_POOL,
    VOTED_ANSWERS,
)
from selfimprove_dagster.shared_tables import SEEDS


def seeds(lake: Lake, *questions: str, experiment: str = "demo") -> list[str]:
    batch = {"experiment": experiment, "batch": "words"}
    drafts = [seed_draft(question, line) for line, question in enumerate(questions)]
    return store(lake, SEEDS, drafts, partition=batch)[1]


# ---- search ---------------------------------------------------------------------------------------------


def test_examples_come_first_then_seeds_then_the_rest(lake: Lake) -> None:
    known = known_ancestry(lake)
    found = search(lake, "what is 1 + 1?")
    assert [(hit.id, hit.table.split("/")[1]) for hit in found[:2]] == [
        (known.example, "filtered_dataset"),
        (known.seed, "accepted"),
    ]
    assert {hit.table for hit in found[2:]} == {
        DEMONSTRATIONS.name,
        SEED_POOL.name,
        RAW_GENERATIONS.name,
        VOTED_ANSWERS.name,
    }
    assert (found[0].experiment, found[0].iteration) == ("demo", 0)
    assert (found[1].experiment, found[1].iteration) == ("demo", None)


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("100%", "Is 100% more than 100 percent?"),
        ("a_b", "What is A_B?"),
        (".*", "What does .* match?"),
        ("'; DROP VIEW records; --", "Who wrote '; drop view records; --?"),
        ("ÜBER", "Wer springt über den Zaun?"),
        ("[bold", "Is [bold] a tag?"),
        ("\\", "What is a \\?"),
    ],
)
def test_words_are_found_letter_by_letter_in_either_case(lake: Lake, text: str, question: str) -> None:
    wanted, _ = seeds(lake, question, "Another 100 x axb question?")
    assert [(hit.id, hit.excerpt) for hit in search(lake, text)] == [(wanted, question)]


def test_conversations_are_searched_by_what_their_messages_say(lake: Lake) -> None:
    said = [Message("system", "Be brief."), Message("user", 'What is "π"?\nTell me.')]
    cut, tool = '{"conversation":[{"role":"user', '{"conversation":["a tool"]}'
    conversation, broken, _ = seeds(lake, stored(said), cut, tool)
    (hit,) = search(lake, 'IS "π"?\ntell')
    assert (hit.id, hit.excerpt) == (conversation, 'Be brief.\n\nWhat is "π"?\nTell me.')
    assert [hit.id for hit in search(lake, "user")] == [broken], "as the text that it is"
    assert conversation not in {
        hit.id for text in ("conversation", "content", "\\n") for hit in search(lake, text)
    }


def test_an_excerpt_is_the_text_around_the_match(lake: Lake) -> None:
    """Of a text of a megabyte, as of any other."""
    seeds(lake, "x" * 500_000 + " needle " + "y" * 500_000)
    (hit,) = search(lake, "NEEDLE")
    assert hit.excerpt == "x" * (BEFORE - 1) + " needle " + "y" * (AFTER - 1)


def test_a_search_can_be_limited_to_an_experiment_or_a_table(lake: Lake) -> None:
    known = known_ancestry(lake)
    (other,) = seeds(lake, "What is 1 + 1?", experiment="other")
    assert [hit.id for hit in search(lake, "1 + 1", experiment="other")] == [other]
    assert [hit.id for hit in search(lake, "1 + 1", table="filtered_dataset")] == [known.example]
    assert {hit.id for hit in search(lake, "1 + 1", table="seeds/accepted")} == {known.seed, other}
    with pytest.raises(
        LakeError, match="no table 'nothing' with text; use one of constitutional/filtered_dataset"
    ):
        search(lake, "1", table="nothing")


def test_no_more_than_the_limit_is_found(lake: Lake) -> None:
    known_ancestry(lake)
    everything = search(lake, "1 + 1")
    assert len(everything) == 10
    assert search(lake, "1 + 1", limit=5) == everything[:5]


def test_ids_are_no_text(lake: Lake) -> None:
    known = known_ancestry(lake)
    assert search(lake, known.question) == []


@pytest.mark.parametrize("text", ["", " \n"])
def test_a_search_for_nothing_is_refused(lake: Lake, text: str) -> None:
    known_ancestry(lake)
    with pytest.raises(LakeError, match="the search text is empty"):
        search(lake, text)


def test_an_empty_lake_has_no_words(lake: Lake) -> None:
    assert search(lake, "anything") == []


def test_words_name_the_only_example_that_has_them(lake: Lake) -> None:
    known = known_ancestry(lake)
    assert only_example(lake, "THE ANSWER IS 2") == known.example
    with pytest.raises(RecordNotFound, match="no training example contains 'zebra'"):
        only_example(lake, "zebra")


def test_words_of_several_examples_list_the_candidates(finished_home: Home) -> None:
    with pytest.raises(RecordNotFound, match=r"give an id:\n  ex:[0-9a-f]{32}  '.*\n(.*\n){9}  … and more"):
        only_example(finished_home.lake, "the answer is")


# ---- diff -----------------------------------------------------------------------------------------------


def dataset(
    lake: Lake,
    iteration: int,
    examples: Sequence[tuple[str, str, str]],
    settings: Mapping[str, Any] | None = None,
    dropped: Sequence[str] = (),
    seed: int = 0,
) -> list[str]:
    """A dataset of (question, completion, answer) with the stages before it; returns the examples' ids."""
    at = {"iteration": iteration}
    store(lake, SEED_POOL, [seed_draft()], parameters={"questions": 4}, **at)
    sampling = {"sampling": {"paths": 4, **(settings or {})}, "temperature": 0.7 + iteration}
    about = {"champion": f"model {iteration}"}
    content = dict.fromkeys(RAW_GENERATIONS.content)
    empty = Draft({**content, "text": "x"}, (), {"logprobs": []})
    model = f"b2:{iteration}"
    drawn, _ = store(lake, RAW_GENERATIONS, [empty], parameters=sampling, model_id=model, about=about, **at)
    scores = Draft(
        dict.fromkeys(PERPLEXITY_SCORES.content), (), dict.fromkeys(("mean_logprob", "perplexity"))
    )
    store(lake, PERPLEXITY_SCORES, [scores], **at)
    votes = Draft(dict.fromkeys(VOTED_ANSWERS.content), (), dict.fromkeys(("vote_share", "margin")))
    store(lake, VOTED_ANSWERS, [votes], parameters={"rule": "majority"}, **at)
    decided = dict.fromkeys(DECISIONS.content)
    decisions = [
        Draft({**decided, "rule": rule, "kept": kept}, (), {"score": None, "threshold": None}, index)
        for index, (rule, kept) in enumerate([("vote_share", True), *((rule, False) for rule in dropped)])
    ]
    store(lake, DECISIONS, decisions, **at)
    drafts = [
        Draft(
            {
                "question_id": "q:1",
                "question": question,
                "format": "zero_shot_cot" if index else "few_shot_cot",
                "prompt": "",
                "completion": completion,
                "answer": answer,
            },
            [Parent("vote:1", "voted_answer")],
            {"vote_share": 0.5 + iteration / 4, "perplexity": 2.0},
            index,
        )
        for index, (question, completion, answer) in enumerate(examples)
    ]
    return store(lake, FILTERED_DATASET, drafts, seed=seed, inputs=(drawn.activity.id,), **at)[1]


def test_a_diff_tells_examples_questions_and_answers_apart(lake: Lake) -> None:
    first = dataset(
        lake, 0, [("1 + 1?", " So 2.", "2"), ("2 + 2?", " So 5.", "5"), ("3 + 3?", " So 6.", "6")]
    )
    second = dataset(
        lake, 1, [("1  +\n1?", " So 2.", "2"), ("2 + 2?", " So 4.", "4"), ("4 + 4?", " So 8.", "8")]
    )
    difference = diff(lake, "demo-000", "demo-001")
    assert difference.both == 1
    assert difference.lost == (first[1], first[2])
    assert difference.gained == (second[1], second[2])
    assert difference.questions_both == 2
    assert difference.questions_lost == ("3 + 3?",)
    assert difference.questions_gained == ("4 + 4?",)
    (changed,) = difference.answers
    assert (changed.question, changed.old, changed.new) == ("2 + 2?", "5", "4")
    assert (changed.old_share, changed.new_share) == (0.5, 0.75)


def test_a_diff_tells_figures_and_settings(lake: Lake) -> None:
    one = [("1 + 1?", " So 2.", "2"), ("2 + 2?", " So 5.", "5")]
    dataset(lake, 0, one, {"top_k": 0}, dropped=["duplicate", "duplicate", "vote_share"])
    dataset(lake, 1, one, {"top_k": 40}, dropped=["duplicate"], seed=7)
    difference = diff(lake, "demo-000", "demo-001")
    assert difference.settings == {
        "filtered_dataset.seed": (0, 7),
        "raw_generations.sampling.top_k": (0, 40),
        "raw_generations.temperature": (0.7, 1.7),
    }
    assert difference.a.dropped == {"duplicate": 2, "vote_share": 1}
    assert difference.b.dropped == {"duplicate": 1}
    assert (difference.a.model_id, difference.b.model_id) == ("b2:0", "b2:1")
    assert difference.a.formats == {"few_shot_cot": 0.5, "zero_shot_cot": 0.5}
    assert difference.a.means == {"vote_share": 0.5, "perplexity": 2.0}
    assert difference.both == 2 and not difference.answers


def test_a_dataset_differs_in_nothing_from_itself(finished_home: Home) -> None:
    difference = diff(finished_home.lake, "small-000", "small-000")
    assert difference.a == difference.b
    assert difference.both == difference.a.examples > 0
    assert not (difference.lost or difference.gained or difference.settings or difference.answers)


def test_what_was_revoked_is_in_neither_dataset(lake: Lake) -> None:
    examples = [("1 + 1?", " So 2.", "2"), ("2 + 2?", " So 5.", "5")]
    first = dataset(lake, 0, examples)
    dataset(lake, 1, examples)
    manifest = lake.manifest(FILTERED_DATASET.name, partition_of("demo", 0))
    lake.withdraw(manifest, {first[0]: "rev:1"})
    difference = diff(lake, "demo-000", "demo-001")
    assert (difference.a.examples, difference.both, difference.lost) == (1, 1, ())


def test_a_key_that_is_none_or_not_committed_is_refused(lake: Lake) -> None:
    dataset(lake, 0, [("1 + 1?", " So 2.", "2")])
    with pytest.raises(ExperimentError, match="not of the form"):
        diff(lake, "demo-000", "demo")
    with pytest.raises(PartitionMissing, match="demo-001 has no committed tables yet"):
        diff(lake, "demo-000", "demo-001")


# ---- in the terminal ------------------------------------------------------------------------------------


def run(home: Home, monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    monkeypatch.setenv("SELFIMPROVE_HOME", str(home.root))
    monkeypatch.setenv("SELFIMPROVE_EXPERIMENTS", str(home.experiments))
    result = CliRunner().invoke(lineage_app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_commands_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path, tmp_path)
    known = known_ancestry(home.lake, "\x1b[31m[red]So. The answer is 2.")
    found = json.loads(run(home, monkeypatch, "search", "so. the", "--table", "filtered_dataset", "--json"))
    assert [hit["id"] for hit in found] == [known.example]
    text = run(home, monkeypatch, "search", "so. the")
    assert f"{known.example}  lmsi/filtered_dataset of demo-000" in text
    assert "[red]So. The answer is 2." in text and "\x1b" not in text
    assert run(home, monkeypatch, "search", "zebra").strip() == "no record contains this text"
    assert known.vote in run(home, monkeypatch, "trace", "--text", "so. the")
    assert json.loads(run(home, monkeypatch, "explain", known.example, "--json"))["in_dataset"] is True
    assert "in the dataset of demo-000" in run(home, monkeypatch, "explain", known.example)


def test_the_commands_answer_for_real_iterations(
    finished_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "settings: identical" in run(finished_home, monkeypatch, "diff", "small-000", "small-001")
    changed = run(finished_home, monkeypatch, "explain", "small-000", "--what-if", "confidence=1")
    assert "minimum_vote_share 0.25 → 1" in changed
    replayed = run(finished_home, monkeypatch, "replay", "small-000", "--sample", "4", "--json")
    assert json.loads(replayed)["agreement"]["equal"] == 4


def test_a_trace_wants_an_id_or_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFIMPROVE_HOME", str(tmp_path))
    assert CliRunner().invoke(lineage_app, ["trace"]).exit_code == 2
    assert CliRunner().invoke(lineage_app, ["trace", "ex:1", "--text", "so"]).exit_code == 2
