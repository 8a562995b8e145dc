"""The presets of refinement.

The numbers are those of Madaan et al. (2303.17651, section 3 and appendix: at most 4 iterations, temperature
0.7) and Shinn et al. (2303.11366, section 3: 1 to 3 reflections in memory), as remembered.
"""

from __future__ import annotations

from selfimprove_dagster.preset import Preset

_ITSELF = (
    "Reflexion's evaluator is the model itself: how probable it is that its feedback says that the answer is "
    "fine; the paper has exact match, heuristics, or tests that the model writes"
)
_WITHOUT_EXAMPLES = "no worked examples before feedback, reflection and new answer"

REFINEMENT = {
    "paper": Preset(
        values={
            "responses": {"prompts": 1_000, "temperature": 0.7, "max_tokens": 300},
            "refining": {
                "ways": ["self_refine", "reflexion", "pit"],
                "rounds": 4,
                "temperature": 0.7,
                "max_tokens": 300,
                "history": True,
                "memory": 3,
            },
            "evaluation": {"max_tokens": 300},
            "budget": {"iterations": 1},
        },
        deviations=(
            "Reflexion too has at most 4 retries; the paper goes on until no trial gains any more",
            _ITSELF,
            _WITHOUT_EXAMPLES,
            "PIT's rounds are those of any model: PIT trains one for them",
        ),
    ),
    "practical": Preset(
        values={
            "responses": {"prompts": 400, "temperature": 0.8, "max_tokens": 48},
            "refining": {
                "ways": ["self_refine", "reflexion", "pit"],
                "rounds": 4,
                "temperature": 0.0,
                "max_tokens": 48,
                "history": False,
                "memory": 3,
            },
            "evaluation": {"max_tokens": 48},
            "budget": {"iterations": 1},
        },
        deviations=(
            "greedy feedback, reflections and new answers; first answers at temperature 0.8",
            "Self-Refine shows the last answer with its feedback, not all earlier ones",
            _ITSELF,
            _WITHOUT_EXAMPLES,
        ),
    ),
}
