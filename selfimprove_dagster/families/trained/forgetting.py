"""What a training does against forgetting, and how forgetting is measured: general examples, and a plain text."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, exp, fsum, isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfimprove_dagster.errors import SeedFileError
from selfimprove_dagster.experiment.opening import identity_of
from selfimprove_dagster.lake.disk import file_checksum
from selfimprove_dagster.language_model.base import LanguageModel
from selfimprove_dagster.rows import file_name, files_of, is_on_hub, read_plain_text
from selfimprove_dagster.seeds.files import source_checksum, source_name
from selfimprove_dagster.stage import StageContext
from selfimprove_dagster.table import MIXED, PERPLEXITIES

if TYPE_CHECKING:
    from selfimprove_dagster.seeds.general import GeneralExample
    from selfimprove_dagster.training.settings import TrainingOutcome

WINDOW = 512
"""Tokens of a plain text that are scored together."""

_SHORTEST = 8


def recorded(section: Any) -> dict[str, Any]:
    """Return what an activity records of a training's section: files by what they hold, not by where they are, and not
    where it is watched.
    """
    found: dict[str, Any] = section.model_dump(exclude={"watch"})
    if mix := getattr(section, "mix", None):
        path = Path(mix.file)
        named = {"source": source_name(path), "checksum": source_checksum(path), "licence": mix.licence}
        found["mix"] = {"share": mix.share, **named}
    if measured := getattr(section, "perplexity", None):
        found["perplexity"] = {"checksum": source_checksum(Path(measured.file))}
    return found


def mixed_in(section: Any, rows: int) -> int:
    """Return how many general examples the training of a section on so many rows sees at most."""
    share = section.mix.share
    seen = section.steps * section.per_step if section.epochs is None else section.epochs * rows / (1 - share)
    return ceil(seen * share) + section.per_step


def mixed_measures(
    section: Any, outcome: TrainingOutcome, general: Sequence[GeneralExample], rows: int
) -> dict[str, Any]:
    """Return the measure of the general examples that were trained on, whose rows came after `rows` of the dataset."""
    if not general:
        return {}
    lines: dict[str, list[int]] = {}
    for index in outcome.mixed:
        one = general[index - rows]
        lines.setdefault(one.file, []).append(one.line)
    path = Path(section.mix.file)
    files = {} if is_on_hub(path) else files_of(path)
    return {
        MIXED: [
            {
                "source_file": name,
                "checksum": file_checksum(files[name]) if name in files else source_checksum(path),
                "licence": section.mix.licence,
                "lines": seen,
            }
            for name, seen in sorted(lines.items())
        ]
    }


def perplexities(context: StageContext[Any], trained: Path, model_id: str) -> dict[str, Any]:
    """Return the measure of a plain text's perplexity where the experiment names one, and the table has the measure.

    The models are the base model, the champion where it is another, and the one that was `trained`.
    """
    section = getattr(getattr(context.experiment, "training", None), "perplexity", None)
    if section is None or PERPLEXITIES not in context.table.measures:
        return {}
    text = read_plain_text(Path(section.file))
    base, champion = context.experiment.model, context.champion
    models = [("base", base.path, identity_of(base))]
    if champion.path != base.path:
        models.append(("champion", champion.path, champion.identity_in(base)))
    models.append(("challenger", str(trained), model_id))
    found = []
    for role, path, identity in models:
        with context.language_model.open(base, path, scores=True) as model:
            perplexity, tokens = perplexity_of_text(model, text)
        context.log(f"perplexity of {file_name(Path(section.file))} under the {role}: {perplexity:.3f}")
        found.append({"role": role, "model_id": identity, "perplexity": perplexity, "tokens": tokens})
    return {PERPLEXITIES: found}


def perplexity_of_text(model: LanguageModel, text: str) -> tuple[float, int]:
    """Return exp of the mean negative log-likelihood per token of a text, and how many tokens were scored.

    The text is cut into windows of `WINDOW` tokens, or of fewer where the model has fewer positions, which are scored
    independently; each begins with the tokenizer's leading tokens, or else gives its first token. Raises SeedFileError
    for a text of one token.
    """
    leading = model.encode("")
    ids, size = model.encode_continuation(text), WINDOW
    if len(ids) + len(leading) < 2:
        raise SeedFileError("the text whose perplexity is measured has one token; give a longer one")
    while True:
        parts = [ids[at : at + size] for at in range(0, len(ids), size)]
        cut = [(leading, part) if leading else (part[:1], part[1:]) for part in parts]
        cut = [(context, rest) for context, rest in cut if rest]
        scored = model.score([context for context, _ in cut], [rest for _, rest in cut])
        logprobs = [value for row in scored for value in row]
        if not any(map(isnan, logprobs)) or size <= _SHORTEST:
            return exp(-fsum(logprobs) / len(logprobs)), len(logprobs)
        size //= 2
