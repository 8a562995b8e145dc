"""What the stages say of the tasks that a model writes, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from selfimprove_dagster.lineage.main_line import shown_to
from selfimprove_dagster.records import Row

_FORMS = {"input_first": "inputs first", "output_first": "labels first"}
EXCERPT = 160
"""Characters of a text that a sentence quotes."""


def quoted(text: str) -> str:
    """The beginning of a text in quotation marks."""
    return f"“{text if len(text) <= EXCERPT else text[: EXCERPT - 1] + '…'}”"


def text_of(row: Row) -> str:
    """What a row of any stage says, in short; empty for scores and decisions."""
    if row.get("output") is not None and "input" in row:
        return f"{row['input']} → {row['output']}" if row["input"] else str(row["output"])
    said = (row.get(name) for name in ("paraphrase", "instruction", "text", "question"))
    return next((text for text in said if text), "")


def sentence(row: Row) -> str:
    """What happened at the stage of this row (one of `Lineage.rows`), as a sentence."""
    describe = _SENTENCES.get(row["table_name"].split("/")[1])
    return describe(row) if describe else quoted(text_of(row))


def score_of(row: Row) -> float | None:
    """The number that a row of scores holds."""
    if row["table_name"].endswith("/perplexity_scores"):
        return float(row["perplexity"])
    if row["table_name"].endswith("/similarity_scores") and row["neighbours"]:
        return float(row["neighbours"][0]["rouge_l"])
    return None


def _seed(row: Row) -> str:
    place = f"{row['source_file']}, line {row['source_line']} (licence: {row['licence']})"
    return f"accepted from {place}: {quoted(row['instruction'])}"


def _in_pool(row: Row) -> str:
    by = "a person" if row["origin"] == "human" else "the model in an earlier iteration"
    return f"in the pool of {_key(row)}, written by {by}: {quoted(row['instruction'])}"


def drawn_sentence(row: Row) -> str:
    """By whom and how a completion was drawn, and its text."""
    activity: Mapping[str, Any] = row["activity"]
    sampled = [one for one in activity["parameters"].values() if isinstance(one, dict)]
    temperature = next((one["temperature"] for one in sampled if "temperature" in one), None)
    how = f"at temperature {temperature}, seed {row['seed']}" if temperature else "greedily"
    shown = shown_to(row)
    after = f" after {shown} demonstration{'' if shown == 1 else 's'}" if shown else ""
    form = f", {_FORMS[row['form']]}" if row.get("form") in _FORMS else ""
    by = f"{activity['about'].get('champion', 'the model')} {activity['model_id']}"
    return f"drawn {how} from {by}{after}{form}; ended by {row['finish_reason']}: {quoted(row['text'])}"


def _read(row: Row) -> str:
    return f"not a task: {row['problem']}" if row["problem"] else f"read out of it: {quoted(text_of(row))}"


def _perplexity(row: Row) -> str:
    return f"perplexity {row['perplexity']:.4g} over {row['tokens']} tokens of the instruction"


def _similarity(row: Row) -> str:
    near = row["neighbours"]
    highest = f"the nearest at ROUGE-L {near[0]['rouge_l']:.2f}" if near else "nothing to compare it with"
    return f"compared with the {row['pool']:,} tasks of the pool as it then was: {highest}"


def _classified(row: Row) -> str:
    answer = "has a few labels to choose from" if row["is_classification"] else "is no classification"
    return f"{answer}: probability of Yes {row['yes']:.2f}"


def _key(row: Row) -> str:
    return f"{row['experiment']}-{row['iteration']:03d}"


_SENTENCES: dict[str, Callable[[Row], str]] = {
    "tasks": _seed,
    "seed_pool": _in_pool,
    "raw_generations": drawn_sentence,
    "candidate_tasks": _read,
    "perplexity_scores": _perplexity,
    "similarity_scores": _similarity,
    "accepted_tasks": lambda row: f"accepted in {_key(row)}: {quoted(row['instruction'])}",
    "classified_tasks": _classified,
    "instance_generations": drawn_sentence,
    "task_instances": _read,
    "task_outputs": drawn_sentence,
    "paraphrases": lambda row: f"not used: {row['problem']}" if row["problem"] else drawn_sentence(row),
    "filtered_dataset": lambda row: f"in the dataset as {row['format']}",
}
