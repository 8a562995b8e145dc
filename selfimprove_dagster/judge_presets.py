"""The presets of Constitutional AI, RLAIF and RLHF.

The papers' numbers are as remembered: Bai et al. (2212.08073, sections 3 and 4), Lee et al. (2309.00267,
appendix), Ouyang et al. (2203.02155, appendix C).
"""

from __future__ import annotations

from typing import Any

from selfimprove_dagster.preset import Preset

_FILE = {"file": "embedded"}
_SMALL_REWARD = {"steps": 100, "learning_rate": 5e-4, "batch_size": 32, "warmup_fraction": 0.1}
_SMALL_POLICY: dict[str, Any] = {
    "start_from": "champion",
    "algorithm": "grpo",
    "steps": 40,
    "learning_rate": 2e-4,
    "batch_size": 32,
    "warmup_fraction": 0.1,
    "schedule": "constant",
    "kl_coefficient": 0.05,
    "group_size": 8,
    "max_tokens": 48,
    "save_every": 20,
}
_ON_POLICY = "policy optimisation is GRPO, not PPO, which TRL no longer has"
_SMALL_STEPS = "100 steps of 32 pairs at 5e-4 for the reward model, 40 of 32 responses at 2e-4 for the policy"

CONSTITUTIONAL = {
    "paper": Preset(
        values={
            "constitution": _FILE,
            "responses": {"prompts": 182_831, "temperature": 1.0, "max_tokens": 256},
            "revisions": {"rounds": 4, "temperature": 1.0, "max_tokens": 256},
            "filter": {"round": None, "helpful_share": 0.42},
            "evaluation": {"max_tokens": 256},
            "training": {
                "start_from": "base",
                "steps": 310,
                "learning_rate": 1e-5,
                "batch_size": 1024,
                "schedule": "constant",
            },
            "budget": {"iterations": 1},
        },
        deviations=(
            "the revisions of the last round are trained on; the paper trains on those of all rounds",
            "requests follow the constitution's own words, without few-shot examples of critiques",
            "one epoch is given as steps: 318,000 examples in batches of 1,024",
            "the learning rate is 1e-5; the paper states it as half of that of pretraining",
        ),
    ),
    "practical": Preset(
        values={
            "constitution": _FILE,
            "responses": {"prompts": 800, "temperature": 0.8, "max_tokens": 48},
            "revisions": {"rounds": 4, "temperature": 0.7, "max_tokens": 48},
            "filter": {"round": None, "helpful_share": 0.5},
            "evaluation": {"max_tokens": 48, "revised_prompts": 200},
            "training": {
                "start_from": "base",
                "steps": 120,
                "learning_rate": 5e-4,
                "batch_size": 32,
                "schedule": "cosine",
            },
            "budget": {"iterations": 1},
        },
        deviations=(
            "800 prompts; responses at temperature 0.8, critiques and revisions at 0.7",
            "the revisions of the last round are trained on; the paper trains on those of all rounds",
            "requests follow the constitution's own words, without few-shot examples of critiques",
            "120 steps of 32 at 5e-4 with a cosine schedule",
        ),
    ),
}

RLAIF = {
    "paper": Preset(
        values={
            "constitution": _FILE,
            "responses": {"prompts": 92_000, "temperature": 1.0, "max_tokens": 256},
            "judge": {"principles": 1, "both_orders": True, "reasoning": True, "clamp": 0.4},
            "preferences": {"minimum_margin": 0.0},
            "reward_model": {
                "steps": 2_000,
                "learning_rate": 1e-5,
                "batch_size": 128,
                "schedule": "constant",
            },
            "evaluation": {"max_tokens": 256},
            "training": {
                "start_from": "champion",
                "algorithm": "rloo",
                "steps": 5_000,
                "learning_rate": 1e-5,
                "batch_size": 128,
                "schedule": "constant",
                "kl_coefficient": 0.05,
                "group_size": 2,
                "temperature": 0.9,
                "max_tokens": 256,
            },
            "budget": {"iterations": 1},
        },
        deviations=(
            "policy optimisation is RLOO; Lee et al. use REINFORCE with a learnt baseline",
            "a principle is drawn for each pair (Bai et al.); Lee et al. have one preamble",
            "probabilities are clamped after reasoning (Bai et al.); Lee et al. do not clamp",
            "no worked examples before a comparison",
        ),
    ),
    "practical": Preset(
        values={
            "constitution": _FILE,
            "responses": {"prompts": 500, "temperature": 1.0, "max_tokens": 48},
            "judge": {"principles": 2, "both_orders": True},
            "preferences": {"minimum_margin": 0.1},
            "reward_model": _SMALL_REWARD,
            "evaluation": {"max_tokens": 48},
            "training": _SMALL_POLICY,
            "budget": {"iterations": 1},
        },
        deviations=(
            "500 prompts, two principles a pair, no chain of thought; pairs with |2p − 1| < 0.1 left out",
            _ON_POLICY,
            _SMALL_STEPS,
        ),
    ),
}

RLHF = {
    "paper": Preset(
        values={
            "pool": {"comparisons": 33_000, "prompts": 31_000},
            "supervised": {"steps": 3_250, "learning_rate": 1e-5, "batch_size": 64},
            "preferences": {"minimum_margin": 0.0},
            "reward_model": {
                "steps": 520,
                "learning_rate": 9e-6,
                "batch_size": 64,
                "schedule": "cosine",
            },
            "evaluation": {"max_tokens": 256},
            "training": {
                "start_from": "champion",
                "algorithm": "rloo",
                "steps": 500,
                "learning_rate": 9e-6,
                "batch_size": 512,
                "schedule": "constant",
                "kl_coefficient": 0.02,
                "group_size": 2,
                "temperature": 1.0,
                "max_tokens": 256,
            },
            "budget": {"iterations": 1},
        },
        deviations=(
            "RLOO, not PPO, which TRL no longer has; no pretraining gradients are mixed in",
            "demonstrations are the responses that people chose, not written apart",
            "comparisons are pairs, not rankings of 4 to 9 responses",
        ),
    ),
    "practical": Preset(
        values={
            "pool": {"comparisons": 500},
            "supervised": {"steps": 0, "learning_rate": 5e-4, "batch_size": 32},
            "preferences": {"minimum_margin": 0.0},
            "reward_model": _SMALL_REWARD,
            "evaluation": {"max_tokens": 48},
            "training": _SMALL_POLICY,
            "budget": {"iterations": 1},
        },
        deviations=(
            "500 comparisons, and no supervised step: what is compared with RLAIF is the feedback alone",
            _ON_POLICY,
            _SMALL_STEPS,
        ),
    ),
}
