"""Words for tasks that people or a model wrote, and for their instances."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfimprove_dagster.words import accepted, drawn, key_of, perplexity, quoted

if TYPE_CHECKING:
    from selfimprove_dagster.table import Row

_FORMS = {"input_first": "inputs first", "output_first": "labels first"}


def seed_task(row: Row) -> str:
    """A task that a person wrote, with its file and line."""
    return accepted(row, row["instruction"])


def pool_task(row: Row) -> str:
    """A task of a pool and who wrote it."""
    by = "a person" if row["origin"] == "human" else "the model in an earlier iteration"
    return f"in the pool of {key_of(row)}, written by {by}: {quoted(row['instruction'])}"


def read_task(row: Row) -> str:
    """A task read out of a completion, or the reason why there is none."""
    return (
        f"not a task: {row['problem']}" if row["problem"] else f"read out of it: {quoted(row['instruction'])}"
    )


def accepted_task(row: Row) -> str:
    """A task that passed the filter, with its scores."""
    return f"accepted in {key_of(row)}{_scores(row)}: {quoted(row['instruction'])}"


def instruction_perplexity(row: Row) -> str:
    """The perplexity of an instruction."""
    return perplexity(row, " of the instruction")


def similarity(row: Row) -> str:
    """How near a task is to the nearest one of the pool."""
    near = row["neighbours"]
    highest = f"the nearest at ROUGE-L {near[0]['rouge_l']:.2f}" if near else "nothing to compare it with"
    return f"compared with the {row['pool']:,} tasks of the pool as it then was: {highest}"


def classified(row: Row) -> str:
    """Whether a task is a classification."""
    answer = "has a few labels to choose from" if row["is_classification"] else "is no classification"
    if row["yes"] is None:
        return f"not classified, so taken for no classification: {row['problem']}"
    return f"{answer}: probability of Yes {row['yes']:.2f}"


def drawn_instances(row: Row) -> str:
    """Instances as the model wrote them."""
    return drawn(row, f", {_FORMS[row['form']]}" if row["form"] in _FORMS else "")


def read_instance(row: Row) -> str:
    """An instance read out of a completion, or the reason why there is none."""
    return f"not a task: {row['problem']}" if row["problem"] else f"read out of it: {quoted(instance(row))}"


def instance(row: Row) -> str:
    """The input and the output of an instance."""
    if row["output"] is None:
        return str(row["instruction"] or "")
    return f"{row['input']} → {row['output']}" if row["input"] else str(row["output"])


def paraphrase(row: Row) -> str:
    """An instruction in other words, or the reason why it is not used."""
    return f"not used: {row['problem']}" if row["problem"] else drawn(row)


def example(row: Row) -> str:
    """An example of a dataset, with the scores of its task."""
    text = f"{quoted(row['instruction'])} ▸ {quoted(row['completion'])}"
    return f"in the dataset as {row['format']}{_scores(row)}: {text}"


def _scores(row: Row) -> str:
    return "".join(
        f", {name} {row[column]:.2f}"
        for column, name in (("rouge_l", "ROUGE-L"), ("perplexity", "perplexity"))
        if row.get(column) is not None
    )
