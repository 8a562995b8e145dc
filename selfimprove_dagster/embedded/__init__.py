"""Locate the embedded base models, which are small language models of this project, and their data pools."""

import hashlib
from pathlib import Path


def question_hash(text: str) -> int:
    """Return the unsigned 64-bit blake2b of the lower-cased question with collapsed white space."""
    normalised = " ".join(text.lower().split())
    return int.from_bytes(hashlib.blake2b(normalised.encode(), digest_size=8).digest(), "big")


_HERE = Path(__file__).parent


BASE_MODEL = _HERE / "base"
"""Model directory: safetensors weights, configuration, tokenizer and `recipe.json`."""


SEEDS = _HERE / "pools" / "seeds.jsonl"
"""Unlabelled questions, one `{"question"}` per line."""


EVALUATION = _HERE / "pools" / "evaluation.jsonl"
"""Held-out questions, one `{"question", "answer", "difficulty"}` per line."""


DEMONSTRATIONS = _HERE / "pools" / "demonstrations.jsonl"
"""Worked examples for few-shot prompts, one `{"question", "reasoning", "answer"}` per line."""


WORD_PROBLEMS = _HERE / "pools" / "word_problems.jsonl"
"""Worked examples in everyday English, for models that people use; the same fields."""


PRETRAINING_QUESTIONS = _HERE / "pools" / "pretraining_questions.parquet"
"""The `question_hash` of every question that the base model was trained on."""


TASK_MODEL = _HERE / "task_base"
"""A model of the same kind for a world of small tasks."""


TASK_SEEDS = _HERE / "pools" / "task_seeds.jsonl"
"""Seed tasks of that world, in the format of Self-Instruct."""


TASK_EVALUATION = _HERE / "pools" / "task_evaluation.jsonl"
"""Held-out tasks, one `{"instruction", "input", "output", "family"}` per line."""


UNNATURAL_SEEDS = _HERE / "pools" / "unnatural_seeds.jsonl"
"""Seeds of Unnatural Instructions, one `{"instruction", "input", "constraints", "output"}` per line."""


TOOL_MODEL = _HERE / "tool_base"
"""A model of the same kind for texts in which tool calls help."""


TOOL_TEXTS = _HERE / "pools" / "tool_texts.jsonl"
"""Plain texts of that world, one `{"text", "date", "source"}` per line."""


TOOL_EVALUATION = _HERE / "pools" / "tool_evaluation.jsonl"
"""Held-out prefixes, one `{"prompt", "answer", "date", "kind"}` per line."""


TOOL_PLAIN = _HERE / "pools" / "tool_plain.jsonl"
"""Held-out plain texts, one `{"text", "date"}` per line."""


DIALOGUE_MODEL = _HERE / "dialogue_base"
"""A model of the same kind for dialogues, their critiques, revisions and comparisons."""


DIALOGUE_PROMPTS = _HERE / "pools" / "dialogue_prompts.jsonl"
"""Prompts of that world, one `{"prompt", "kind"}` per line, helpful ones with a `response` written by people."""


DIALOGUE_COMPARISONS = _HERE / "pools" / "dialogue_comparisons.jsonl"
"""Human comparisons, one `{"prompt", "chosen", "rejected"}` per line."""


DIALOGUE_EVALUATION = _HERE / "pools" / "dialogue_evaluation.jsonl"
"""Held-out prompts, one `{"prompt", "kind", "wanted", "unwanted"}` per line (see `dialogue_truth.judge`)."""


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
