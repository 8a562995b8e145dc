"""What the stages of the methods in which responses are judged say, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from selfimprove_dagster.improving import PIT, UNTAUGHT
from selfimprove_dagster.judge_tables import JUDGE_METHODS, JUDGE_TABLES
from selfimprove_dagster.lineage.task_words import drawn_sentence, quoted
from selfimprove_dagster.methods.judging.prompts import OPTIONS
from selfimprove_dagster.methods.pit import IMPROVEMENT
from selfimprove_dagster.methods.refinement import EVALUATION, OUTCOME, REFLEXION, SELF_REFINE, STOPS
from selfimprove_dagster.pit_tables import PIT_TABLES
from selfimprove_dagster.records import Row
from selfimprove_dagster.refinement_tables import METHOD as REFINEMENT
from selfimprove_dagster.refinement_tables import REFINEMENT_TABLES

METHODS = (*JUDGE_METHODS, REFINEMENT)
TABLES = {schema.name for schema in (*JUDGE_TABLES, *REFINEMENT_TABLES, *PIT_TABLES)}
_LETTERS = tuple(option.strip() for option in OPTIONS)
_KINDS = {"red_team": "a red-team prompt", "helpful": "a prompt for help"}


def said_of(row: Row) -> str:
    """What a row says, in short; empty for scores, decisions and models."""
    if row.get("chosen") is not None:
        return str(row["chosen"])
    if "first_kind" in row:
        return gap_words(row)
    if "probability_a" in row:
        return comparison_words(row)
    if "outcome" in row:
        return _contest(row)
    if "first" in row:
        return preference_words(row)
    said = (row.get(name) for name in ("completion", "text", "statement", "prompt"))
    return next((text.strip() for text in said if text), row.get("error") or "")


def sentence(row: Row) -> str:
    """What happened at the stage of this row (one of `Lineage.rows`), as a sentence."""
    describe = _SENTENCES.get(row["table_name"].split("/")[1])
    return describe(row) if describe else quoted(said_of(row))


def revision_words(revision: Row, critique: Row) -> str:
    """A revision with the critique that it answers; `critique` is empty where that was revoked."""
    said = f": critique {quoted(critique['text'].strip())}" if critique else ""
    return f"{_round(revision)}{said}"


def preference_words(row: Row) -> str:
    """Which response is preferred, how sure, and what it got in each order: `(B) by 0.71: 0.64 as second, …`.

    (A) is the first response of the pair and (B) the second, whichever was shown first.
    """
    second = row["probability"] < 0.5
    own = _of_preferred(row["probability"], second)
    # `as_first` is of the first response as (A); then the second is (B).
    places = ("second", "first") if second else ("first", "second")
    shown = zip(places, (row["as_first"], row["as_second"]), strict=True)
    orders = [f"{_of_preferred(value, second):.2f} as {place}" for place, value in shown if value is not None]
    return f"{_LETTERS[second]} by {own:.2f}: {', '.join([*orders, _principles(row['principles'])])}"


def comparison_words(row: Row) -> str:
    """What a judge said of one pair in one order."""
    preferred_a = row["probability_a"] >= 0.5
    # In order 1 the second response of the pair is shown as (A).
    of_pair = _LETTERS[(row["order"] == 1) == preferred_a]
    sure = max(row["probability_a"], 1 - row["probability_a"])
    shown = "first" if preferred_a else "second"
    asked = "asked again at another seed: " if row["repeat"] else ""
    thought = f", after the thought {quoted(row['reasoning'].strip())}" if row["reasoning"] else ""
    return f"{asked}{of_pair} by {sure:.2f}, shown {shown}, {_principles([row['principle']])}{thought}"


def _of_preferred(probability: float, second: bool) -> float:
    return 1 - probability if second else probability


def _principles(names: Sequence[str]) -> str:
    return f"principle{'' if len(names) == 1 else 's'} {', '.join(names)}"


def _round(row: Row) -> str:
    return f"round {row['round']} by principle {row['principle']}"


def _source(row: Row) -> str:
    return f"accepted from {row['source_file']}, line {row['source_line']} (licence: {row['licence']})"


def _given(row: Row) -> str:
    if "chosen" in row:
        chose = f"{quoted(row['chosen'].strip())} over {quoted(row['rejected'].strip())}"
        return f"{_source(row)}: to {quoted(row['prompt'])} people chose {chose}"
    answered = f", answered by a person: {quoted(row['response'].strip())}" if row["response"] else ""
    return f"{_source(row)}, {_KINDS[row['kind']]}: {quoted(row['prompt'])}{answered}"


def gap_words(row: Row) -> str:
    """A term of the gap loss: which response is above which, each against its reference."""
    sides = (f"r({row[f'{which}_kind']}), {quoted(row[which].strip())}" for which in ("first", "second"))
    return f"{' above '.join(sides)}, probability {row['probability']:.2f}"


def _improver_example(row: Row) -> str:
    after = "the worse response" if row["format"] == IMPROVEMENT else "the prompt alone"
    return f"learnt after {after}: {quoted(row['completion'].strip())}"


def _round_of_improvement(row: Row) -> str:
    if row["round"] == 0:
        return f"the champion's response to a held-out prompt: {quoted(row['text'].strip())}"
    by = _IMPROVED_BY.get(row["way"], row["way"])
    gap = (
        ""
        if row["gap_reward"] is None
        else f", gap reward {row['gap_reward']:.3g} against {row['tie_reward']:.3g}"
    )
    return f"improved {by} in round {row['round']}{gap}: {quoted(row['text'].strip())}"


_IMPROVED_BY = {
    PIT: "by the new checkpoint",
    UNTAUGHT: "by the champion, asked alike",
    SELF_REFINE: "by the champion with feedback of its own",
    REFLEXION: "by the champion with reflections of its own",
}


def _contest(row: Row) -> str:
    said = {"win": "wins against", "loss": "loses to", "tie": "ties with"}[row["outcome"]]
    first, second = (row[name].replace("_", "-") for name in ("first", "second"))
    return (
        f"{first} {said} {second} by {row['judge']} ({row['preferred']:.2f}): "
        f"{quoted(row['first_text'].strip())} against {quoted(row['second_text'].strip())}"
    )


def _example(row: Row) -> str:
    if "chosen" not in row:
        return f"in the dataset as {row['format']}: {quoted(row['completion'].strip())}"
    pair = f"{quoted(row['chosen'].strip())} over {quoted(row['rejected'].strip())}"
    return f"in the dataset: {pair}, probability {row['probability']:.2f}"


def _model(what: str) -> Callable[[Row], str]:
    def words(row: Row) -> str:
        said = f"{what} {row['model_id']}, trained on {row['examples']:,} examples in {row['steps']:,} steps"
        accuracy = row.get("held_out_accuracy")
        if accuracy is None:
            return said
        return f"{said}; {accuracy:.1%} of {row['held_out_pairs']:,} held-out pairs right"

    return words


def _rollout(row: Row) -> str:
    advantage = "" if row["advantage"] is None else f", advantage {row['advantage']:.3g}"
    return (
        f"written at step {row['step']}, reward {row['reward']:.3g}{advantage}: {quoted(row['text'].strip())}"
    )


def _check(row: Row) -> str:
    outcome = "passed" if row["passed"] else "failed" if row["passed"] is False else "noted"
    return f"{row['measure']} {outcome}: {row['statement']}"


def step_words(row: Row) -> str:
    """What was said or found in a step of a refinement."""
    if row["kind"] == OUTCOME:
        text = quoted((row["text"] or "").strip()) if row["text"] else "no answer"
        why = row["error"] or STOPS[row["stopped"]]
        return f"stopped, {why}: {text}"
    if row["error"]:
        return f"failed: {row['error']}"
    if row["kind"] == EVALUATION:
        sure = "" if row["score"] is None else f" by {row['score']:.2f}"
        return f"{'content' if row['is_fine'] else 'not content'}{sure}"
    return quoted(row["text"].strip())


def _refinement(row: Row) -> str:
    way = row["way"].replace("_", "-")
    return f"{way}, round {row['round']}, {row['kind']}: {step_words(row)}"


def _of_pair(row: Row) -> str:
    return f"response {_LETTERS[row['sample_index']]} of the pair, {drawn_sentence(row)}"


_SENTENCES: Mapping[str, Callable[[Row], str]] = {
    "prompts": _given,
    "comparisons": lambda row: comparison_words(row) if "probability_a" in row else _given(row),
    "seed_pool": _given,
    "raw_generations": drawn_sentence,
    "critiques": lambda row: f"{_round(row)}: critique {quoted(row['text'].strip())}",
    "revisions": lambda row: f"{_round(row)}: {quoted(row['text'].strip())}",
    "response_pairs": _of_pair,
    "ai_preferences": preference_words,
    "review_queue": lambda row: f"uncertain by {row['uncertainty']:.2f}: {row['reason']}",
    "judge_checks": _check,
    "filtered_dataset": _example,
    "supervised_checkpoint": _model("supervised model"),
    "improver_dataset": _improver_example,
    "improver_checkpoint": _model("improver"),
    "gap_pairs": gap_words,
    "gap_reward_model": _model("gap reward model"),
    "curriculum_checkpoint": _model("policy of the first phase"),
    "curriculum_rollouts": _rollout,
    "policy_references": lambda row: f"a reference of the second phase, {drawn_sentence(row)}",
    "improvement_rounds": _round_of_improvement,
    "win_rates": _contest,
    "reward_model": _model("reward model"),
    "rollouts": _rollout,
    "refinements": _refinement,
}
