"""What an experiment gets for the fields that its file leaves out, and how that departs from the paper."""

from __future__ import annotations

from selfimprove_dagster.judge_presets import CONSTITUTIONAL, RLAIF, RLHF
from selfimprove_dagster.methods.toolformer.positions import PAPER_SAMPLING
from selfimprove_dagster.methods.toolformer.rules import PAPER_THRESHOLDS
from selfimprove_dagster.pit_presets import PIT
from selfimprove_dagster.preset import Preset
from selfimprove_dagster.refinement_presets import REFINEMENT
from selfimprove_dagster.self_knowledge_presets import SELF_KNOWLEDGE

_LMSI = {
    "paper": Preset(
        values={
            "demonstrations": {"count": 8},
            "sampling": {
                "questions": 7_473,
                "paths": 32,
                "temperature": 0.7,
                "temperature_improved": 1.2,
                "max_tokens": 256,
                "prompt_format": "few_shot_cot",
            },
            "filter": {"minimum_vote_share": 0.0, "maximum_paths": None, "drop_duplicates": False},
            "training": {
                "start_from": "base",
                "steps": 10_000,
                "learning_rate": 5e-5,
                "batch_size": 32,
                "schedule": "constant",
                "formats": {
                    "few_shot_cot": 1.0,
                    "few_shot_direct": 1.0,
                    "zero_shot_cot": 1.0,
                    "zero_shot_direct": 1.0,
                },
            },
        },
        deviations=(
            "the learning rate is constant: the paper names no schedule",
            "7,473 questions an iteration: all of GSM8K's training questions",
        ),
    ),
    "practical": Preset(
        values={
            "demonstrations": {"count": 2},
            "sampling": {
                "questions": 800,
                "paths": 16,
                "temperature": 0.8,
                "temperature_improved": 0.8,
                "max_tokens": 96,
                "prompt_format": "zero_shot_cot",
            },
            "filter": {"minimum_vote_share": 0.25, "maximum_paths": 4, "drop_duplicates": True},
            "training": {
                "start_from": "champion",
                "steps": 120,
                "learning_rate": 5e-4,
                "batch_size": 32,
                "schedule": "cosine",
                "formats": {
                    "few_shot_cot": 0.1,
                    "few_shot_direct": 0.05,
                    "zero_shot_cot": 0.75,
                    "zero_shot_direct": 0.1,
                },
            },
        },
        deviations=(
            "800 questions an iteration, 16 paths each at temperature 0.8, not 32 at 0.7 (1.2 once improved)",
            "paths follow a zero-shot prompt, not eight demonstrations: small models read those better",
            "a vote share of at least 0.25 and at most 4 distinct paths a question, not every agreeing path",
            "120 steps at 5e-4 with a cosine schedule, not 10,000 at 5e-5",
            "training goes on from the champion, not from the base model",
            "three quarters of the examples are zero-shot reasoning, not a quarter of each format",
        ),
    ),
}

_TASK_TRAINING_PAPER = {
    "start_from": "base",
    "steps": 1_640,
    "learning_rate": 1e-5,
    "batch_size": 100,
    "schedule": "linear",
    "weight_decay": 0.01,
}
_TASK_TRAINING_PRACTICAL = {
    "start_from": "base",
    "steps": 160,
    "learning_rate": 5e-4,
    "batch_size": 32,
    "schedule": "cosine",
}

_SELF_INSTRUCT = {
    "paper": Preset(
        values={
            "generation": {
                "prompts": 1_000,
                "human": 6,
                "machine": 2,
                "tasks": 16,
                "temperature": 0.7,
                "top_p": 0.5,
                "max_tokens": 1024,
            },
            "classification": {"shots": 31, "shots_from": "shipped"},
            "instances": {"shots": 6, "shots_from": "shipped", "max_tokens": 300},
            "filter": {"maximum_rouge_l": 0.7, "seed_instances": True},
            "evaluation": {"max_tokens": 512},
            "training": _TASK_TRAINING_PAPER,
            "budget": {"iterations": 50},
        },
        deviations=(
            "no presence penalty, which no engine here has (2 for tasks, 1.5 for instances)",
            "a low probability under the model drops a task only where filter.maximum_perplexity is set",
            "the label of a task is the likelier of Yes and No, not a sampled text",
            "1,000 prompts an iteration: the paper adds to the pool after every batch of prompts",
            "two epochs are given as steps: 82,000 instances in batches of 100",
        ),
    ),
    "practical": Preset(
        values={
            "generation": {
                "prompts": 400,
                "human": 6,
                "machine": 2,
                "tasks": 16,
                "temperature": 0.9,
                "top_p": 0.95,
                "max_tokens": 240,
            },
            "classification": {"shots": 8, "shots_from": "seeds"},
            "instances": {"shots": 2, "shots_from": "seeds", "max_tokens": 120},
            "filter": {"maximum_rouge_l": 0.8, "seed_instances": False},
            "evaluation": {"max_tokens": 40},
            "training": _TASK_TRAINING_PRACTICAL,
            "budget": {"iterations": 3},
        },
        deviations=(
            "400 prompts an iteration at temperature 0.9 within p = 0.95, not 0.7 within 0.5",
            "ROUGE-L up to 0.8, not 0.7: short instructions share more of their words",
            "8 seed tasks show what a classification task is, not 31 worked examples; 2 show instances",
            "the label of a task is the likelier of Yes and No, not a sampled text",
            "no presence penalty",
            "seed tasks' own instances are not trained on: what is gained comes of the model's own tasks",
            "160 steps of 32 at 5e-4, not two epochs",
        ),
    ),
}

_UNNATURAL_INSTRUCTIONS = {
    "paper": Preset(
        values={
            "generation": {"prompts": 5_000, "demonstrations": 3, "top_p": 0.99, "max_tokens": 512},
            "outputs": {"max_tokens": 512},
            "paraphrases": {"most": 2, "max_tokens": 128},
            "evaluation": {"max_tokens": 512},
            "training": _TASK_TRAINING_PAPER,
            "budget": {"iterations": 14},
        },
        deviations=(
            "5,000 prompts an iteration, so that fourteen make about the paper's 68,478 core examples",
            "paraphrases follow four worked ones of our own, sampled at temperature 1",
            "constraints that say something stand behind the instruction in training prompts",
        ),
    ),
    "practical": Preset(
        values={
            "generation": {"prompts": 1_500, "demonstrations": 3, "top_p": 0.99, "max_tokens": 96},
            "outputs": {"max_tokens": 40},
            "paraphrases": {"most": 1, "max_tokens": 40},
            "evaluation": {"max_tokens": 40},
            "training": _TASK_TRAINING_PRACTICAL,
            "budget": {"iterations": 2},
        },
        deviations=(
            "1,500 prompts an iteration and one paraphrase, not two",
            "160 steps of 32 at 5e-4",
        ),
    ),
}

_PAPER_CALLS = {
    tool: {"positions": of.positions, "calls": of.calls, "threshold": of.threshold}
    for tool, of in PAPER_SAMPLING.items()
}

_TOOLFORMER = {
    "paper": Preset(
        values={
            "tools": {"names": list(PAPER_SAMPLING)},
            "annotation": {"texts": 100_000, "tools": _PAPER_CALLS, "max_tokens": 96},
            "filter": {"loss_reduction": dict(PAPER_THRESHOLDS), "most_texts": 25_000},
            "evaluation": {"max_tokens": 32, "max_call_tokens": 96},
            "training": {
                "start_from": "base",
                "steps": 2_000,
                "learning_rate": 1e-5,
                "batch_size": 128,
                "warmup_fraction": 0.1,
                "schedule": "constant",
            },
            "budget": {"iterations": 1},
        },
        deviations=(
            "no heuristic picks texts before they are annotated: what is in the seed file is tried",
            "QA and MT ask the model of tools.answered_by, not Atlas and NLLB",
            "the most helpful call is kept where several at one position help",
            "the learning rate is constant after the warm-up: the paper names no schedule",
        ),
    ),
    "practical": Preset(
        values={
            "tools": {"names": list(PAPER_SAMPLING)},
            "annotation": {"texts": 800, "tools": _PAPER_CALLS, "max_tokens": 40},
            "filter": {"loss_reduction": dict(PAPER_THRESHOLDS), "most_texts": 25_000},
            "evaluation": {"max_tokens": 16, "max_call_tokens": 40},
            "training": {
                "start_from": "base",
                "steps": 200,
                "learning_rate": 5e-4,
                "batch_size": 32,
                "warmup_fraction": 0.1,
                "schedule": "cosine",
            },
            "budget": {"iterations": 1},
        },
        deviations=(
            "800 texts an iteration, of those that the seed file holds",
            "QA and MT ask the model of tools.answered_by, not Atlas and NLLB",
            "the most helpful call is kept where several at one position help",
            "200 steps of 32 at 5e-4 with a cosine schedule, not up to 2,000 of 128 at 1e-5",
        ),
    ),
}

PRESETS: dict[str, dict[str, Preset]] = {
    "lmsi": _LMSI,
    "self_instruct": _SELF_INSTRUCT,
    "unnatural_instructions": _UNNATURAL_INSTRUCTIONS,
    "toolformer": _TOOLFORMER,
    "constitutional": CONSTITUTIONAL,
    "refinement": REFINEMENT,
    "rlaif": RLAIF,
    "rlhf": RLHF,
    "self_knowledge": SELF_KNOWLEDGE,
    "pit": PIT,
}
"""The presets of each method."""
