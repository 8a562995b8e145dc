"""The presets of PIT (Wang et al., 2310.00898).

The paper trains PaLM 2, whose settings were not at hand: the steps, batches and learning rates of `paper` are
those usual for models of some billions of parameters.
"""

from __future__ import annotations

from selfimprove_dagster.preset import Preset

PIT = {
    "paper": Preset(
        values={
            "constitution": {"file": "embedded"},
            "pool": {"comparisons": 160_000},
            "preferences": {"minimum_margin": 0.0},
            "improver": {"steps": 5_000, "learning_rate": 3e-5, "batch_size": 32},
            "gap_reward_model": {
                "steps": 10_000,
                "learning_rate": 3e-5,
                "batch_size": 64,
                "schedule": "constant",
            },
            "curriculum": {"steps": 5_000, "references": "both"},
            "references": {"samples": 1, "temperature": 1.0, "max_tokens": 512},
            "evaluation": {"max_tokens": 512, "rounds": 3, "decided_in": "improved_1"},
            "training": {
                "start_from": "champion",
                "algorithm": "rloo",
                "steps": 5_000,
                "learning_rate": 1e-5,
                "batch_size": 128,
                "schedule": "constant",
                "kl_coefficient": 0.02,
                "group_size": 2,
                "temperature": 1.0,
                "max_tokens": 512,
            },
            "budget": {"iterations": 1},
        },
        deviations=(
            "policy optimisation is RLOO; TRL has no PPO",
            "steps, batches and learning rates are not the paper's, which trains PaLM 2",
            "references of the second phase are the policy's improvements of y_l",
            "improvements of held-out responses are greedy; the paper samples them",
        ),
    ),
    "practical": Preset(
        values={
            "constitution": {"file": "embedded"},
            "pool": {"comparisons": 1_600},
            "preferences": {"minimum_margin": 0.0},
            "improver": {"steps": 20, "learning_rate": 1e-4, "batch_size": 32, "plain_share": 0.3},
            "gap_reward_model": {
                "steps": 125,
                "learning_rate": 5e-4,
                "batch_size": 64,
                "warmup_fraction": 0.1,
            },
            "curriculum": {"steps": 40, "references": "both"},
            "references": {"samples": 1, "temperature": 1.0, "max_tokens": 48},
            "evaluation": {"max_tokens": 48, "rounds": 3, "decided_in": "improved_1"},
            "training": {
                "start_from": "champion",
                "algorithm": "grpo",
                "steps": 40,
                "learning_rate": 1e-4,
                "batch_size": 32,
                "warmup_fraction": 0.1,
                "schedule": "constant",
                "kl_coefficient": 0.1,
                "group_size": 8,
                "max_tokens": 48,
                "save_every": 20,
            },
            "budget": {"iterations": 1},
        },
        deviations=(
            "1,600 pairs; 20 steps of 32 at 1e-4 for the improver, 125 of 64 comparisons for the gap reward",
            "40 and 40 steps of 32 responses at 1e-4, β = 0.1, for the two phases of the curriculum",
            "of 30% of the pairs x alone is answered by y_w too, so that the model still responds",
            "policy optimisation is GRPO, not PPO, which TRL no longer has",
            "improvements of held-out responses are greedy; the paper samples them",
        ),
    ),
}
