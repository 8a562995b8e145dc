"""The embedded base model: a small language model of the project's own, its recipe and its pools."""

import hashlib
from pathlib import Path


def question_hash(text: str) -> int:
    """Unsigned 64-bit blake2b of the lower-cased question with runs of white space made one space."""
    normalised = " ".join(text.lower().split())
    return int.from_bytes(hashlib.blake2b(normalised.encode(), digest_size=8).digest(), "big")


_HERE = Path(__file__).parent


BASE_MODEL = _HERE / "base"
"""Model directory: safetensors weights, configuration, tokenizer and `recipe.json`."""


SEEDS = _HERE / "pools" / "seeds.jsonl"
"""Unlabelled questions, `{"question"}` a line."""


EVALUATION = _HERE / "pools" / "evaluation.jsonl"
"""Held-out questions, `{"question", "answer", "difficulty"}` a line."""


DEMONSTRATIONS = _HERE / "pools" / "demonstrations.jsonl"
"""Worked examples for few-shot prompts, `{"question", "reasoning", "answer"}` a line."""


PRETRAINING_QUESTIONS = _HERE / "pools" / "pretraining_questions.parquet"
"""`question_hash` of every question the base model was trained on."""


TASK_MODEL = _HERE / "task_base"
"""The same kind of model for a world of small tasks."""


TASK_SEEDS = _HERE / "pools" / "task_seeds.jsonl"
"""Seed tasks of that world, in the format of Self-Instruct."""


TASK_EVALUATION = _HERE / "pools" / "task_evaluation.jsonl"
"""Held-out tasks, `{"instruction", "input", "output", "family"}` a line."""


UNNATURAL_SEEDS = _HERE / "pools" / "unnatural_seeds.jsonl"
"""Seeds of Unnatural Instructions, `{"instruction", "input", "constraints", "output"}` a line."""


TOOL_MODEL = _HERE / "tool_base"
"""The same kind of model for texts in which calls of tools help."""


TOOL_TEXTS = _HERE / "pools" / "tool_texts.jsonl"
"""Plain texts of that world, `{"text", "date", "source"}` a line."""


TOOL_EVALUATION = _HERE / "pools" / "tool_evaluation.jsonl"
"""Held-out beginnings, `{"prompt", "answer", "date", "kind"}` a line."""


TOOL_PLAIN = _HERE / "pools" / "tool_plain.jsonl"
"""Held-out plain texts, `{"text", "date"}` a line."""


DIALOGUE_MODEL = _HERE / "dialogue_base"
"""The same kind of model for dialogues, their critiques, revisions and comparisons."""


DIALOGUE_PROMPTS = _HERE / "pools" / "dialogue_prompts.jsonl"
"""Prompts of that world, `{"prompt", "kind"}` a line, helpful ones with a `response` written by people."""


DIALOGUE_COMPARISONS = _HERE / "pools" / "dialogue_comparisons.jsonl"
"""Comparisons made by people, `{"prompt", "chosen", "rejected"}` a line."""


DIALOGUE_EVALUATION = _HERE / "pools" / "dialogue_evaluation.jsonl"
"""Held-out prompts, `{"prompt", "kind", "wanted", "unwanted"}` a line (see `dialogue_truth.judge`)."""


__all__ = [
    "BASE_MODEL",
    "DEMONSTRATIONS",
    "DIALOGUE_COMPARISONS",
    "DIALOGUE_EVALUATION",
    "DIALOGUE_MODEL",
    "DIALOGUE_PROMPTS",
    "EVALUATION",
    "PRETRAINING_QUESTIONS",
    "SEEDS",
    "TASK_EVALUATION",
    "TASK_MODEL",
    "TASK_SEEDS",
    "TOOL_EVALUATION",
    "TOOL_MODEL",
    "TOOL_PLAIN",
    "TOOL_TEXTS",
    "UNNATURAL_SEEDS",
]
