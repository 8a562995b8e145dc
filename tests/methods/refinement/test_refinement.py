"""Self-Refine, Reflexion and PIT's rounds: when they stop, what they show, and what becomes of failures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.models import ToldModel, WritingModel
from pydantic import ValidationError

from selfimprove_dagster.errors import ExperimentError, ModelError, ModelUnavailable
from selfimprove_dagster.families.dialogues.prompts import PROMPTS, spoken
from selfimprove_dagster.families.refining.refining import improve, reflexion, self_refine
from selfimprove_dagster.families.refining.trajectories import Evaluation, Refining, Task, Trajectory
from selfimprove_dagster.families.refining.ways import (
    ANSWER,
    EVALUATION,
    FEEDBACK,
    REFLECTION,
    STOPS,
    WAYS,
    fault,
    is_unchanged,
    remembered,
    says_fine,
)
from selfimprove_dagster.language_model.prompting import TEXT
from selfimprove_dagster.methods.refinement.settings import RefiningSection
from selfimprove_dagster.prompts import load_prompts

# ---- what is said ---------------------------------------------------------------------------------------


def ask(name: str, prompt: str, **fields: Any) -> str:
    """A prompt as a base model reads it."""
    return load_prompts([PROMPTS], TEXT).ask(name, **spoken(prompt), **fields)


@pytest.mark.parametrize(
    ("feedback", "fine"),
    [
        (" The response is fine.", True),
        ("the  RESPONSE is fine!", True),
        ("It is short. The response is fine", True),
        ("I have read it: the response is fine, as it stands.", True),
        ("Not much to say. **The response is fine.**", True),
        ("It is not long, and the response is fine.", True),
        ("Nothing is to be changed, as the response is fine", True),
        ("\u201cThe response is fine.\u201d", True),
        ("Feedback:\n\n- **The response is fine.**\n\nLet me know if you need more!", True),
        ("1. It is polite.\n2. It is short.\n\nOverall, the response is fine.", True),
        ("The response is fine. However, it could be longer.", False),
        ("The response is fine.\n\nBut it is rude.", False),
        ("The response is fine, but rude.", False),
        ("The response is fine; however, it is rude.", False),
        ("The response is fine except for its end.", False),
        ("The response is not fine.", False),
        ("I do not think that the response is fine.", False),
        ("I don't think the response is fine.", False),
        ("I don’t think the response is fine.", False),
        ("If it were shorter, I would ask whether the response is fine.", False),
        ("The response is fine-grained.", False),
        ("Is it polite? The response is. Fine words, though.", False),
        ("", False),
    ],
)
def test_feedback_says_within_a_sentence_that_it_is_fine_and_does_not_take_it_back(
    feedback: str, fine: bool
) -> None:
    assert says_fine(feedback) == fine


@pytest.mark.parametrize(
    ("feedback", "fine"),
    [
        ("Looking at it, it is correct!", True),
        ("There is no error in the code above, so I think it is correct", True),
        ("It is correct to say that, but it is correct only for n > 0.", False),
        ("There are no errors and it is correct.", True),
        ("I do not see an error, so it is correct", True),
        ("It is not short but it is correct", True),
        ("I cannot tell whether it is correct", False),
        ("It is incorrect.", False),
        ("It is not correct.", False),
        ("It is never the case that it is correct.", False),
    ],
)
def test_a_phrase_inside_the_feedback_is_enough(feedback: str, fine: bool) -> None:
    """That of Self-Refine's authors."""
    assert says_fine(feedback, "it is correct") == fine


def test_the_phrase_can_be_of_several_sentences() -> None:
    assert says_fine("I looked. Good! No changes, please.", "Good. No changes.")
    assert not says_fine("Good no changes", "Good. No changes.")
    assert not says_fine("It is correct.", " . ")


def test_the_sentence_can_be_another() -> None:
    assert says_fine("So far so good: it is correct.", "So far so good it is correct")
    assert not says_fine("The response is fine.", "It is correct")


@given(st.lists(st.text()), st.integers(1, 5))
def test_the_last_reflections_are_remembered_in_order(reflections: list[str], most: int) -> None:
    kept = remembered(reflections, most)
    assert len(kept) == min(most, len(reflections)) and reflections[len(reflections) - len(kept) :] == kept


@given(st.text())
def test_white_space_changes_nothing(text: str) -> None:
    assert is_unchanged(text, f" {text}\n")


def test_an_answer_must_be_whole_while_cut_feedback_still_says_something() -> None:
    assert fault(ANSWER, "So", "stop") is None
    assert fault(ANSWER, "So", "length") == "the answer was cut off at the token limit"
    assert fault(FEEDBACK, "So", "length") is None
    assert fault(REFLECTION, " \n", "stop") == "the reflection is empty"
    assert fault(FEEDBACK, "", "length") == "the feedback was cut off at the token limit"


# ---- when they stop -------------------------------------------------------------------------------------


def counting(prompt: str) -> str:
    """Answers count up; feedback is content from 3 on, or as the prompt says (`until 2`)."""
    human = prompt.split("\n\n")[0]
    least = int(human.rsplit(" ", 1)[1])
    last = int(prompt.rsplit("response: ", 1)[-1].split("\n")[0]) if "response: " in prompt else None
    if "Assistant: " in prompt and last is None:
        last = int(prompt.split("Assistant: ")[1].split("\n")[0])
    if prompt.endswith("Feedback:"):
        assert last is not None
        return "The response is fine." if last >= least else f"{last} is too small."
    return "0" if last is None else str(min(last + 1, 5))


def until(*least: int) -> list[Task]:
    return [Task(f"t{number}", f"Count until {each}") for number, each in enumerate(least)]


def test_self_refine_stops_at_fine_feedback_and_leaves_the_batch() -> None:
    model = ToldModel(counting)
    told: list[tuple[int, int]] = []
    refined = self_refine(model, until(0, 1, 3, 9), Refining(rounds=4), advance=lambda *one: told.append(one))
    assert [one.answer for one in refined] == ["0", "1", "3", "4"]
    assert [one.stopped for one in refined] == ["fine", "fine", "fine", "rounds"]
    assert [one.last_round for one in refined] == [1, 2, 4, 4]
    assert [len(batch) for batch in model.batches] == [4, 4, 3, 3, 2, 2, 2, 2, 1]
    assert sum(done for done, _ in told) == 4, "each task is done once"
    drawn = sum(one.tokens_after(9)[1] for one in refined)
    assert sum(tokens for _, tokens in told) == drawn > 0
    assert [step.kind for step in refined[1].steps] == [ANSWER, FEEDBACK, ANSWER, FEEDBACK]
    assert refined[1].steps[-1].is_fine is True and refined[1].steps[1].is_fine is False


def test_self_refine_stops_where_nothing_changes() -> None:
    (refined,) = self_refine(ToldModel(counting), until(9), Refining(rounds=9))
    assert (refined.answer, refined.stopped, refined.last_round) == ("5", "unchanged", 6)


def test_self_refine_shows_the_last_feedback_or_all_of_it() -> None:
    shown = {}
    for history in (False, True):
        (refined,) = self_refine(ToldModel(counting), until(9), Refining(rounds=2, history=history))
        shown[history] = refined.steps[-1].prompt
    tried = [{"response": str(n), "feedback": f"{n} is too small."} for n in (0, 1)]
    assert shown[False] == ask("refinement", "Count until 9", tried=tried[1:])
    assert shown[True] == ask("refinement", "Count until 9", tried=tried)


def test_pit_asks_for_better_answers_without_feedback() -> None:
    model = ToldModel(counting)
    (refined,) = improve(model, [Task("t", "Count until 9", "3")], "pit", Refining(rounds=4))
    assert refined.answers == {0: "3", 1: "4", 2: "5", 3: "5"} and refined.stopped == "unchanged"
    assert model.batches[0] == [ask("improvement", "Count until 9", response="3")]


def test_reflexion_retries_with_its_last_reflections_until_the_evaluator_is_content() -> None:
    asked: list[Sequence[str]] = []

    def evaluate(tasks: Sequence[Task], answers: Sequence[str]) -> list[Evaluation]:
        asked.append(answers)
        return [Evaluation(int(answer) >= 5, int(answer) / 5, f"{answer} of 5") for answer in answers]

    (refined,) = reflexion(ToldModel(counting), until(9), Refining(rounds=6), evaluate=evaluate)
    assert asked == [["0"], ["1"], ["2"], ["3"], ["4"], ["5"]]
    assert (refined.answer, refined.stopped) == ("5", "content")
    reflection, retry = refined.steps[-3], refined.steps[-2]
    assert reflection.prompt == ask("reflection", "Count until 9", response="4", evaluation="4 of 5")
    last_three = [f"{n} is too small." for n in (2, 3, 4)]
    assert retry.prompt == ask("retry", "Count until 9", response="4", memory=last_three)
    assert refined.steps[1].score == 0 and refined.steps[1].tokens_in == 0


def test_reflexion_asks_the_model_itself() -> None:
    sure = ToldModel(counting, fine=lambda prompt: 0.2 + 0.2 * int(prompt.split("Assistant: ")[1][0]))
    (refined,) = reflexion(sure, until(9), Refining(rounds=4))
    assert (refined.answer, refined.stopped) == ("2", "content")
    scores = [step.score for step in refined.steps if step.kind == EVALUATION]
    assert scores == pytest.approx([0.2, 0.4, 0.6])
    said, spent = (
        reflexion(ToldModel(counting), until(least), Refining(rounds=3, evaluator="feedback"))[0]
        for least in (2, 9)
    )
    assert (said.answer, said.stopped) == ("2", "content")
    assert (spent.answer, spent.stopped) == ("3", "rounds"), "the last trial is not evaluated"


def evaluated(writes: Callable[[str], Mapping[str, float]], answer: str, **told: Any) -> tuple[Any, Any]:
    """The evaluator's score of an answer, and whether it is content."""
    (refined,) = reflexion(WritingModel(writes), [Task("t", "Who?", answer)], Refining(rounds=1, **told))
    (step,) = [step for step in refined.steps if step.kind == EVALUATION]
    return step.score, step.is_fine


@pytest.mark.parametrize("rare", [1.0, 1e-9])
def test_the_evaluator_weighs_its_sentence_against_feedback_that_finds_fault(rare: float) -> None:
    """However seldom a model puts it in these words."""

    def writes(prompt: str) -> dict[str, float]:
        good = 0.9 if "Assistant: Good" in prompt else 0.2
        feedback = {
            " The response is fine.": 0.9 * good,
            " The response is not fine, as it is short.": 0.45 * (1 - good),
            " The response could be longer.": 0.45 * (1 - good),
            " The response is fine, but short.": 0.1,
        }
        return {**{text: rare * share for text, share in feedback.items()}, " Thanks!": 1 - rare}

    assert evaluated(writes, "Good.") == (pytest.approx(0.9), True)
    assert evaluated(writes, "Bad.") == (pytest.approx(0.2), False)


def test_a_sentence_that_goes_on_is_not_the_sentence() -> None:
    """` it is correct` begins ` it is correctly spelt`; it is closed by its full stop."""
    written = {" it is correctly spelt, and wrong.": 0.6, " it is correct.": 0.1, " it is wrong.": 0.3}
    told = {"fine": "it is correct", "faults": ("it is wrong",)}
    assert evaluated(lambda prompt: written, "Greta.", **told) == (pytest.approx(0.25), False)


def test_another_phrase_is_weighed_against_faults_in_its_own_words() -> None:
    section = {"ways": ["reflexion"], "max_tokens": 9, "fine": "it is correct"}
    with pytest.raises(ValidationError, match="set faults too"):
        RefiningSection(**section)
    assert RefiningSection(**section, faults=["it is wrong"]).settings.verdicts == [
        "it is correct.",
        "it is wrong",
    ]
    assert RefiningSection(**section, evaluator="feedback").settings.fine == "it is correct"
    assert RefiningSection(**{**section, "ways": ["self_refine"]}).settings.fine == "it is correct"


def test_a_fault_that_begins_like_the_sentence_keeps_its_own_share() -> None:
    told = {"faults": ("The response is fine. But",)}
    both = {" The response is fine. But it is rude.": 0.8, " The response is fine.": 0.2}
    assert evaluated(lambda prompt: both, "Greta.", **told) == (pytest.approx(0.2), False)


# ---- what fails -----------------------------------------------------------------------------------------


def instead(of: str, says: str) -> Callable[[str], str]:
    return lambda prompt: says if of in prompt and not prompt.endswith("Feedback:") else counting(prompt)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("says", "error"),
    [("", "round 2: the answer is empty"), ("x" * 99, "round 2: the answer was cut off at the token limit")],
)
def test_a_task_that_fails_keeps_its_last_good_answer(way: str, says: str, error: str) -> None:
    model = ToldModel(instead("until 8\n\nAssistant: 1\n", says))
    failed, other = improve(model, until(8, 9), way, Refining(rounds=3, max_tokens=40))
    assert (failed.answer, failed.stopped, failed.error) == ("1", "failed", error)
    assert failed.steps[-1].error and failed.steps[-1].text.strip() == says[:39]
    assert (other.answer, other.stopped, other.error) == ("3", "rounds", None)


@pytest.mark.parametrize("way", WAYS)
def test_a_row_that_the_engine_refuses_fails_alone(way: str) -> None:
    model = ToldModel(
        counting, refuses=lambda text: "no such words" if "until 8\n\nAssistant: 1" in text else ""
    )
    good, failed, other = improve(model, until(9, 8, 9), way, Refining(rounds=2))
    problem = failed.steps[-1].problem
    assert problem in ("refused: no such words", "failed: the engine gave no probabilities")
    assert (failed.answer, failed.error) == ("1", f"round 2: {problem}")
    assert failed.steps[-1].tokens_in == 0, "it was not read"
    assert good.stopped == other.stopped == "rounds"
    alone = improve(ToldModel(counting), until(9, 9), way, Refining(rounds=2))
    assert [one.answers for one in alone] == [good.answers, other.answers]


@pytest.mark.parametrize("way", WAYS)
def test_a_prompt_that_is_too_long_fails_alone(way: str) -> None:
    tasks = [Task("long", f"{'Count ' * 20}until 9"), *until(9)]
    failed, other = improve(ToldModel(counting, positions=100), tasks, way, Refining(rounds=1))
    assert failed.answer is None and failed.stopped == "failed"
    read = len(ask("response", tasks[0].prompt))
    problem = f"too_long: the prompt has {read} tokens, and the model has 100 positions"
    assert failed.error == f"round 0: {problem}" and failed.steps[-1].problem == problem
    assert other.answer == "1"


@pytest.mark.parametrize("error", [ModelUnavailable, ModelError])
def test_what_concerns_every_prompt_is_no_fault_of_a_task(error: type[ModelError]) -> None:
    class Gone(ToldModel):
        def generate(self, *given: object, **more: object) -> list[list[object]]:  # type: ignore[override]
            raise error("the server does not answer")

    with pytest.raises(error):
        self_refine(Gone(counting), until(1), Refining())


def test_an_empty_first_answer_is_an_error_of_its_task() -> None:
    failed, other = self_refine(ToldModel(counting), [Task("a", "Count until 1", " "), *until(1)], Refining())
    assert (failed.answer, failed.error, failed.steps) == (None, "the first answer is empty", [])
    assert other.answer == "1"


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(ExperimentError, match="'wish' to refine an answer: use one of self_refine"):
        improve(ToldModel(counting), [], "wish", Refining())


# ---- invariants -----------------------------------------------------------------------------------------


@given(st.sampled_from(WAYS), st.lists(st.integers(0, 9), max_size=5), st.integers(1, 7))
def test_every_task_is_done_for_a_reason_and_ends_with_its_last_answer(
    way: str, least: list[int], rounds: int
) -> None:
    refined = improve(ToldModel(counting), until(*least), way, Refining(rounds=rounds))
    assert [one.task for one in refined] == until(*least)
    for one in refined:
        assert one.stopped in STOPS and one.last_round <= rounds
        assert one.answer == one.answer_after(rounds) == one.to_json()[-1]["text"]
        costs = [sum(one.tokens_after(number)) for number in range(rounds + 1)]
        assert costs == sorted(costs) and costs[-1] == sum(s.tokens_in + s.tokens_out for s in one.steps)


@given(st.sampled_from(WAYS), st.lists(st.integers(0, 9), min_size=2, max_size=5))
def test_no_task_depends_on_another(way: str, least: list[int]) -> None:
    def told(refined: Sequence[Trajectory]) -> list[object]:
        return [one.to_json() for one in refined]

    tasks, settings = until(*least), Refining(rounds=3)
    alone = [improve(ToldModel(counting), [task], way, settings)[0] for task in tasks]
    assert told(improve(ToldModel(counting), tasks, way, settings)) == told(alone)
