"""Models that filters ask by name or folder: embeddings, and classifiers of texts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from selfimprove_dagster.filters.content import Scores

if TYPE_CHECKING:
    from selfimprove_dagster.filters.near import Embed

_BATCH = 64

_FILES = (".json", ".txt", ".safetensors")
"""The kinds of files of a model that are read: weights as safetensors alone."""


def folder_of(model: str) -> Path:
    """Return the folder of a model, which is downloaded if it is a name on the Hub."""
    from huggingface_hub import snapshot_download

    if Path(model).is_dir():
        return Path(model)
    return Path(snapshot_download(model, allow_patterns=[f"*{suffix}" for suffix in _FILES]))


def folder_hash(model: str) -> str:
    """Return `b2:<hex>`, a hash of a model's files: its weights, tokenizer and configuration."""
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(folder_of(model).iterdir()):
        if file.suffix in _FILES:
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return f"b2:{digest.hexdigest()}"


def embedder(model: str, library: Literal["model2vec", "transformers"]) -> Embed:
    """Return the function that embeds texts with a model."""
    folder = folder_of(model)
    if library == "model2vec":
        from model2vec import StaticModel

        static = StaticModel.from_pretrained(str(folder), force_download=False)

        def embed(texts: Sequence[str]) -> Any:
            return static.encode(list(texts), use_multiprocessing=False)

        return embed
    return _mean_embedder(folder)


def _mean_embedder(folder: Path) -> Embed:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoder = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    def embed(texts: Sequence[str]) -> Any:
        found = []
        for start in range(0, len(texts), _BATCH):
            read = _read(tokenizer, texts[start : start + _BATCH])
            with torch.no_grad():
                hidden = encoder(**read).last_hidden_state
            mask = read["attention_mask"].unsqueeze(-1)
            found.append((hidden * mask).sum(1) / mask.sum(1).clamp(min=1))
        return torch.cat(found).numpy()

    return embed


def classifier(model: str, labels: Sequence[str]) -> Scores:
    """Return the function that gives each text the highest probability of some labels.

    Raises ValueError if the model has no such label.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = folder_of(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    known = {name.lower(): number for number, name in network.config.id2label.items()}
    if missing := [label for label in labels if label.lower() not in known]:
        raise ValueError(f"{model} has no label {', '.join(missing)}; it has {', '.join(known)}")
    columns = [known[label.lower()] for label in labels]
    is_multiple = network.config.problem_type == "multi_label_classification" or len(known) == 1

    def score(texts: Sequence[str]) -> list[float | None]:
        found: list[float | None] = []
        for start in range(0, len(texts), _BATCH):
            with torch.no_grad():
                logits = network(**_read(tokenizer, texts[start : start + _BATCH])).logits
            likely = logits.sigmoid() if is_multiple else logits.softmax(-1)
            found += likely[:, columns].max(-1).values.tolist()
        return found

    return score


def _read(tokenizer: Any, texts: Sequence[str]) -> Any:
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    longest = min(tokenizer.model_max_length, 512)
    return tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
