"""One experiment a method, so small that an iteration takes seconds on the embedded models."""

from __future__ import annotations

from typing import Any

_TASKS: dict[str, Any] = {
    "model": {"path": "embedded"},
    "seeds": {"file": "embedded", "licence": "Apache-2.0"},
    "evaluation": {"file": "embedded", "rows": "0:24"},
    "promotion": {"rule": "not_worse", "margin": 1.0},
    "budget": {"iterations": 2, "minimum_yield": 0.0},
}
_SHARED: dict[str, Any] = {**_TASKS, "seeds": {**_TASKS["seeds"], "rows": "0:100"}}
_DIALOGUES: dict[str, Any] = {
    **_SHARED,
    "evaluation": {**_SHARED["evaluation"], "difficulty_field": "kind", "max_tokens": 32},
}
_POLICY = {"steps": 2, "batch_size": 16, "group_size": 4, "max_tokens": 32, "learning_rate": 1e-4}

EXPERIMENTS: dict[str, dict[str, Any]] = {
    "sums": {
        **_SHARED,
        "method": "lmsi",
        "evaluation": {
            **_SHARED["evaluation"],
            "difficulty_field": "difficulty",
            "majority_questions": 8,
            "majority_paths": 4,
        },
        "sampling": {"questions": 16, "paths": 8, "shard_questions": 6},
        "training": {"steps": 4, "batch_size": 8},
    },
    "writer": {
        **_TASKS,
        "method": "self_instruct",
        "generation": {"prompts": 20},
        "training": {"steps": 2, "batch_size": 4},
    },
    "unnatural": {
        **_TASKS,
        "method": "unnatural_instructions",
        "generation": {"prompts": 20},
        "training": {"steps": 2, "batch_size": 4},
    },
    "curator": {
        **_TASKS,
        "method": "curate",
        "pool": {"examples": 40},
        "generation": {"samples": 3, "questions": "all", "max_tokens": 24},
        "judge": {"model": {"path": "embedded"}},
        "filters": [
            "duplicates",
            {"self_consistency": {"at_least": 0.3, "answer": "text", "drop_ties": False}},
            {"perplexity": {"at_most": 20.0}},
            {"annotation": {"at_least": 2.0}},
        ],
        "training": {"steps": 2, "batch_size": 4},
    },
    "caller": {
        **_SHARED,
        "method": "toolformer",
        "evaluation": {**_SHARED["evaluation"], "plain_file": "embedded", "difficulty_field": "kind"},
        "annotation": {
            "texts": 12,
            "tools": {
                "Calculator": {"positions": 6, "calls": 3, "threshold": 0.01},
                "QA": {"positions": 4, "calls": 2, "threshold": 0.01},
                "Calendar": {"positions": 4, "calls": 1, "threshold": 0.01},
            },
        },
        # So few calls help so little that the paper's threshold keeps none.
        "filter": {"loss_reduction": {"Calculator": 0.1, "QA": 0.1, "Calendar": 0.1}},
        "training": {"steps": 2, "batch_size": 4},
    },
    "critic": {
        **_DIALOGUES,
        "method": "constitutional",
        "responses": {"prompts": 20, "max_tokens": 32},
        "revisions": {"rounds": 2, "max_tokens": 32, "shard": 8},
        "evaluation": {**_DIALOGUES["evaluation"], "revised_prompts": 10},
        "training": {"steps": 2},
    },
    "judge": {
        **_DIALOGUES,
        "method": "rlaif",
        "responses": {"prompts": 40, "max_tokens": 32},
        "judge": {"principles": 2, "repeated_share": 1.0, "shard": 16},
        # Forty pairs are too few to be strict with.
        "judge_checks": {"on_failure": "warn"},
        "preferences": {"minimum_margin": 0.02, "held_out_share": 0.2},
        "reward_model": {"steps": 2},
        "training": _POLICY,
    },
    "people": {
        **_DIALOGUES,
        "method": "rlhf",
        "pool": {"comparisons": 60},
        "supervised": {"steps": 2},
        "reward_model": {"steps": 2},
        "training": {**_POLICY, "algorithm": "rloo"},
    },
    # Learns from the preferences of `people`, so that lineage crosses from one experiment to another.
    "improver": {
        **_DIALOGUES,
        "method": "pit",
        "seeds": {"experiment": "people"},
        "pool": {"comparisons": 60},
        "preferences": {"held_out_share": 0.2},
        "improver": {"steps": 2, "plain_share": 0.5},
        "gap_reward_model": {"steps": 2, "batch_size": 16},
        # Two steps teach no order.
        "gap_checks": {"on_failure": "warn"},
        "curriculum": {"steps": 2},
        "references": {"max_tokens": 32},
        "evaluation": {**_DIALOGUES["evaluation"], "rounds": 2, "shard": 16},
        "training": _POLICY,
    },
    "refiner": {
        "method": "refinement",
        "model": {"path": "embedded"},
        "seeds": _SHARED["seeds"],
        "evaluation": _DIALOGUES["evaluation"],
        "responses": {"prompts": 12, "max_tokens": 32},
        "refining": {"rounds": 2, "temperature": 0.7, "max_tokens": 32, "history": True, "shard": 8},
    },
    "knows": {
        "method": "self_knowledge",
        "model": {"path": "embedded"},
        "candidates": {"count": 3, "max_tokens": 32, "shard": 16},
        "discrimination": {"shuffles": 3, "principles": 2, "shard": 16},
        "tasks": [
            {"name": "dialogues", "kind": "dialogues", "file": "embedded", "rows": "0:16"},
            {"name": "sums", "kind": "questions", "file": "embedded", "rows": "0:4"},
        ],
    },
}
"""By name, in the order in which they run: a later one may learn from what an earlier one made."""
