"""The presets of generation against discrimination (Jiang et al., 2404.04298); its numbers as remembered."""

from __future__ import annotations

from selfimprove_dagster.preset import Preset

_MEASURED = (
    "the generation score is the share of all candidates that is right, which is what a random one scores on "
    "average, not that of one random sample",
    "candidates are shown in several orders and the pick is over all of them, off the options' probabilities "
    "too; the paper shows one order and reads the text",
    "no worked examples before a question or a choice",
)

SELF_KNOWLEDGE = {
    "paper": Preset(
        values={
            "constitution": {"file": "embedded"},
            "candidates": {"count": 4, "temperature": 0.7, "max_tokens": 512},
            "discrimination": {"shuffles": 4, "principles": 1, "max_tokens": 16},
            "budget": {"iterations": 1},
        },
        deviations=_MEASURED,
    ),
    "practical": Preset(
        values={
            "constitution": {"file": "embedded"},
            "candidates": {"count": 2, "temperature": 1.0, "max_tokens": 96},
            "discrimination": {"shuffles": 2, "principles": 2, "max_tokens": 8},
            "budget": {"iterations": 1},
        },
        deviations=(
            "two candidates at temperature 1, both orders, two principles a dialogue, as rlaif has it",
            *_MEASURED,
        ),
    ),
}
