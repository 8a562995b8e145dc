"""LMSI: prompts, candidates, the choice of paths, and the four training formats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimprove_dagster.conversation import Message, messages_of
from selfimprove_dagster.evaluation.diversity import distinct_ngram_share
from selfimprove_dagster.families.questions.prompts import DIRECT_FORMATS, PROMPTS
from selfimprove_dagster.language_model.prompting import TEXT, Prompting
from selfimprove_dagster.methods.lmsi import lmsi
from selfimprove_dagster.methods.lmsi.settings import PRESETS
from selfimprove_dagster.prompts import Prompts, load_prompts


@dataclass(frozen=True)
class Shown:
    question: str
    reasoning: str
    answer: str


SHOWN = [Shown("1 + 1?", "One and one.", "2"), Shown("2 + 2?", "Two and two.", "4")]


TEXTS = load_prompts([PROMPTS], TEXT)
CHAT = load_prompts([PROMPTS], Prompting(chat=True))


def asked(prompts: Prompts, name: str, shown: Sequence[Shown] = ()) -> str:
    return prompts.ask(name, question="3 + 3?", demonstrations=shown)


def test_prompts_are_those_of_the_four_formats() -> None:
    assert asked(TEXTS, "zero_shot_cot") == "Q: 3 + 3?\nA: Let's think step by step."
    assert asked(TEXTS, "zero_shot_direct") == "Q: 3 + 3?\nA: The answer is"
    assert asked(TEXTS, "few_shot_cot", SHOWN) == (
        "Q: 1 + 1?\nA: One and one. The answer is 2.\n\n"
        "Q: 2 + 2?\nA: Two and two. The answer is 4.\n\n"
        "Q: 3 + 3?\nA:"
    )
    assert asked(TEXTS, "few_shot_direct", SHOWN[:1]) == "Q: 1 + 1?\nA: The answer is 2.\n\nQ: 3 + 3?\nA:"
    with pytest.raises(KeyError, match="there is no prompt 'cot'"):
        asked(TEXTS, "cot")


def test_a_chat_model_sees_demonstrations_as_turns() -> None:
    said = messages_of(asked(CHAT, "few_shot_cot", SHOWN[:1]))
    assert [one.role for one in said] == ["user", "assistant", "user"]
    assert said[1].content == "One and one. The answer is 2."
    wanted = (
        '\n\nSolve this in at most three short steps. End with the sentence "The answer is" and the answer.'
    )
    assert [said[0], said[2]] == [Message("user", f"{asked}{wanted}") for asked in ("1 + 1?", "3 + 3?")]
    assert messages_of(asked(CHAT, "zero_shot_cot")) == [said[2]]


def test_a_direct_format_trains_on_the_voted_answer_and_the_others_on_the_path() -> None:
    path = "Three and three. The answer is 6."
    trained = {
        name: (TEXTS.completion(name, path, answer="6"), CHAT.completion(name, path, answer="6"))
        for name in TEXTS.forms
    }
    assert trained == {
        "zero_shot_cot": (f" {path}", path),
        "few_shot_cot": (f" {path}", path),
        "zero_shot_direct": (" 6.", "The answer is 6."),
        "few_shot_direct": (" The answer is 6.", "The answer is 6."),
    }


def test_candidates_join_paths_scores_and_votes_in_the_order_of_paths() -> None:
    paths = pl.DataFrame(
        {
            "id": ["gen:2", "gen:1", "gen:3"],
            "question_id": ["q:1", "q:1", "q:2"],
            "text": [" b ", "a", "c\n"],
            "finish_reason": ["stop", "length", "stop"],
        }
    )
    scores = pl.DataFrame({"path_id": ["gen:1", "gen:2"], "perplexity": [1.5, 2.5]})
    votes = pl.DataFrame(
        {
            "id": ["vote:1"],
            "question_id": ["q:1"],
            "question": ["1 + 1?"],
            "voted_answer": ["2"],
            "votes": [[{"answer": "2", "count": 1}, {"answer": "3", "count": 1}]],
            "vote_share": [0.5],
            "n_valid": [2],
            "tie": [True],
            "paths": [[{"id": "gen:1", "answer": "2"}, {"id": "gen:2", "answer": "3"}]],
        }
    )
    joined = lmsi.candidates(paths, scores, votes)
    columns = [
        "candidate_id",
        "text_key",
        "answer",
        "voted_answer",
        "vote_id",
        "perplexity",
        "tie",
        "winning_votes",
        "finish_reason",
    ]
    assert joined.select(columns).rows() == [
        ("gen:2", "b", "3", "2", "vote:1", 2.5, True, 1, "stop"),
        ("gen:1", "a", "2", "2", "vote:1", 1.5, True, 1, "length"),
        ("gen:3", "c", None, None, None, None, None, None, "stop"),
    ]


def many(questions: int, paths: int) -> pl.DataFrame:
    """Distinct paths that all agree."""
    return pl.DataFrame(
        [
            {
                "candidate_id": f"gen:{q}.{p}",
                "question_id": f"q:{q}",
                "question": f"{q} + {q}?",
                "text_key": f"path {p}",
                "answer": "4",
                "voted_answer": "4",
                "vote_share": 1.0,
                "winning_votes": paths,
                "n_valid": paths,
                "tie": False,
                "finish_reason": "stop",
                "perplexity": 1.0 + p,
            }
            for q in range(questions)
            for p in range(paths)
        ]
    )


def rules(thresholds: lmsi.FilterThresholds) -> list[str]:
    _, decisions = lmsi.filter_paths(many(2, 3), thresholds, seed=0)
    return decisions["rule"].unique(maintain_order=True).to_list()


def test_rules_that_are_switched_off_decide_nothing() -> None:
    assert rules(lmsi.FilterThresholds(0.0, drop_duplicates=False)) == [
        "agrees_with_vote",
        "ended",
        "vote_share",
    ]
    assert rules(lmsi.FilterThresholds(0.5, 2, 2, True, 9.0, 4)) == [
        "agrees_with_vote",
        "ended",
        "vote_share",
        "tie",
        "winning_votes",
        "valid_votes",
        "perplexity",
        "duplicate",
        "paths_per_question",
    ]


def changed(**columns: list[object]) -> pl.DataFrame:
    """Agreeing paths of one question with other values in some columns."""
    return many(1, len(next(iter(columns.values())))).with_columns(
        **{k: pl.Series(v) for k, v in columns.items()}
    )


def test_a_path_that_was_cut_off_never_becomes_an_example() -> None:
    cut = changed(
        finish_reason=["stop", "length"], text_key=["a. The answer is 4.", "b. The answer is 4. So"]
    )
    kept, decisions = lmsi.filter_paths(cut, lmsi.FilterThresholds(0.0), seed=0)
    assert kept["candidate_id"].to_list() == ["gen:0.0"]
    assert decisions.filter(rule="ended").select("kept", "reason").rows() == [
        (True, "ends by itself"),
        (False, "cut off at the token limit"),
    ]


def test_what_follows_the_answer_is_no_part_of_the_example() -> None:
    texts = ["2 + 2 = 4. The answer is 4. I hope this helps!", "2 + 2 = 4. The answer is 4.\nQ: 1 + 1?\nA: 2"]
    kept, decisions = lmsi.filter_paths(changed(text_key=texts), lmsi.FilterThresholds(0.0), seed=0)
    assert kept["text_key"].to_list() == ["2 + 2 = 4. The answer is 4."], "both are then the same path"
    assert decisions.filter(rule="duplicate")["kept"].to_list() == [True, False]


def test_ties_and_single_votes_pass_by_the_settings_only() -> None:
    rows = changed(tie=[True, False, False], winning_votes=[2, 1, 2], n_valid=[4, 1, 4])

    def kept(**thresholds: object) -> list[str]:
        found, _ = lmsi.filter_paths(rows, lmsi.FilterThresholds(0.0, **thresholds), seed=0)  # type: ignore[arg-type]
        return [one.removeprefix("gen:0.") for one in found["candidate_id"]]

    assert kept() == ["0", "1", "2"]
    assert kept(drop_ties=True) == ["1", "2"]
    assert kept(minimum_winning_votes=2) == ["0", "2"]
    assert kept(minimum_winning_votes=2, drop_ties=True) == ["2"]


def test_the_practical_preset_lets_no_tie_pass_and_asks_for_two_votes() -> None:
    practical, paper = (PRESETS[name].values["filter"] for name in ("practical", "paper"))
    assert practical["drop_ties"] is True and practical["minimum_winning_votes"] == 2
    assert "drop_ties" not in paper and "minimum_winning_votes" not in paper


def test_thresholds_can_be_changed_without_generating_again() -> None:
    loose, _ = lmsi.filter_paths(many(3, 8), lmsi.FilterThresholds(0.5, maximum_perplexity=8.0), seed=0)
    strict, _ = lmsi.filter_paths(many(3, 8), lmsi.FilterThresholds(0.5, maximum_perplexity=2.0), seed=0)
    assert (len(loose), len(strict)) == (24, 6)
    assert set(strict["candidate_id"]) < set(loose["candidate_id"])


SHARES = {"few_shot_cot": 0.1, "few_shot_direct": 0.05, "zero_shot_cot": 0.75, "zero_shot_direct": 0.1}


def test_formats_are_drawn_by_share() -> None:
    drawn = lmsi.assign_formats(many(2_000, 1), SHARES, seed=0)
    counts = Counter(drawn["format"])
    for name, share in SHARES.items():
        assert counts[name] / 2_000 == pytest.approx(share, abs=0.03), name


def test_formats_are_drawn_by_share_among_the_paths_that_a_lot_chose() -> None:
    """The lots that choose at most so many paths must not be those that draw the formats."""
    thresholds = lmsi.FilterThresholds(0.0, maximum_paths=1)
    kept, _ = lmsi.filter_paths(many(2_000, 16), thresholds, seed=0)
    counts = Counter(lmsi.assign_formats(kept, SHARES, seed=0)["format"])
    for name, share in SHARES.items():
        assert counts[name] / 2_000 == pytest.approx(share, abs=0.03), name


@given(
    questions=st.integers(0, 4),
    paths=st.integers(1, 6),
    shares=st.dictionaries(
        st.sampled_from(sorted(SHARES)), st.sampled_from([0.0, 0.5, 1.0]), min_size=1
    ).filter(lambda shares: sum(shares.values()) > 0),
    seed=st.integers(0, 100),
)
def test_no_direct_example_stands_twice_and_no_path_is_lost_otherwise(
    questions: int, paths: int, shares: dict[str, float], seed: int
) -> None:
    kept = many(questions, paths) if questions else many(1, 1).clear()
    drawn = lmsi.assign_formats(kept, shares, seed)
    assert set(drawn["format"]) <= {name for name, share in shares.items() if share > 0}
    direct = drawn.filter(pl.col("format").is_in(DIRECT_FORMATS))
    assert not direct.select("question_id", "format").is_duplicated().any()
    if any(share > 0 for name, share in shares.items() if name not in DIRECT_FORMATS):
        assert drawn["candidate_id"].to_list() == kept["candidate_id"].to_list()
    assert lmsi.assign_formats(kept, shares, seed).equals(drawn)


def test_distinct_ngrams_fall_when_texts_repeat() -> None:
    assert distinct_ngram_share(["a b c d", "e f g h"]) == 1.0
    assert distinct_ngram_share(["a b c d"] * 4) == 0.25
    assert distinct_ngram_share(["too short", ""]) == 1.0
    narrowing = [distinct_ngram_share(["a b c d e"] * n) for n in (1, 2, 4)]
    assert all(later < earlier for earlier, later in pairwise(narrowing))
