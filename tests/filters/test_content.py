"""Filters by what a text holds, with the real libraries, and with tiny models that are made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from transformers import AutoTokenizer

from selfimprove_dagster.embedded import TASK_MODEL
from selfimprove_dagster.filtering.models import embedder, folder_hash
from selfimprove_dagster.filtering.registry import read_steps
from selfimprove_dagster.filtering.running import decisions_on


def decided(entry: Any, *texts: str) -> pl.DataFrame:
    """The decisions of a filter on answers to an empty question."""
    ids = [f"c:{number}" for number in range(len(texts))]
    rows = {"candidate_id": ids, "question_id": ids, "question": [""] * len(texts), "text": texts}
    return decisions_on([pl.DataFrame(rows)], read_steps([entry]))


def test_languages_are_told_apart() -> None:
    pytest.importorskip("lingua")
    entry = {"language": {"keep": ["en"], "among": ["en", "de", "zh"], "accuracy": "low"}}
    texts = (
        "Write a short poem about the autumn.",
        "请写一首关于秋天的诗。",
        "Schreibe ein kurzes Gedicht.",
        "12 + 3",
    )
    decisions = decided(entry, *texts)
    assert decisions["kept"].to_list() == [True, False, False, True]
    assert decisions["reason"][3] == "too short for a probability of en"
    assert decisions["threshold"].to_list() == [0.5] * 4
    with pytest.raises(ValueError, match="lingua knows no language 'xx'"):
        decided({"language": {"keep": ["xx"]}}, "text")


def test_secrets_are_found_in_prose_and_in_code() -> None:
    pytest.importorskip("detect_secrets")
    decisions = decided(
        "secrets",
        "The answer is 18, since base64 has 64 characters.",
        "Set it so:\naws_key = 'AKIAIOSFODNN7EXAMPLE'",
        "-----BEGIN RSA PRIVATE KEY-----",
        "My token is ghp_abcdefghijklmnopqrstuvwxyz0123456789.",
    )
    assert decisions["kept"].to_list() == [True, False, False, False]
    assert decisions["reason"][1] == "secrets: AWS Access Key"
    assert "AKIA" not in "".join(decisions["reason"]), "a secret is not repeated"


def test_personal_data_is_found_by_its_pattern() -> None:
    pytest.importorskip("presidio_analyzer")
    decisions = decided(
        "personal_data",
        "In 1998 there were 12,345,678 people.",
        "Write to ann@example.org.",
        "Card 4111 1111 1111 1111",
        "DE89370400440532013000",
    )
    assert decisions["kept"].to_list() == [True, False, False, False]
    assert decisions["reason"][1] == "personal data: EMAIL_ADDRESS"


@pytest.fixture(scope="module")
def static_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model2vec model in which each token of the embedded model has a random vector."""
    model2vec = pytest.importorskip("model2vec")
    tokenizer = AutoTokenizer.from_pretrained(TASK_MODEL)
    vectors = np.random.default_rng(0).normal(size=(len(tokenizer), 32)).astype(np.float32)
    folder = tmp_path_factory.mktemp("static")
    model2vec.StaticModel(vectors, tokenizer.backend_tokenizer).save_pretrained(folder)
    return folder


def test_texts_of_the_same_words_have_the_same_meaning_to_a_static_model(static_model: Path) -> None:
    entry = {"meaning": {"model": str(static_model), "at_most": 0.95, "compare": "answer"}}
    decisions = decided(entry, ": the red egg", ": egg red the", "a long boat and a bell")
    assert decisions["kept"].to_list() == [True, False, True]
    assert decisions["nearest_id"][1] == "c:0" and decisions["score"][1] > 0.95
    (step,) = read_steps([entry])
    assert step.recorded["settings"]["model"] == folder_hash(str(static_model)) != str(static_model)


def test_any_encoder_of_transformers_embeds_by_the_mean_over_tokens() -> None:
    embed = embedder(str(TASK_MODEL), "transformers")
    one, longer, again = embed(["the red egg", "a long boat and a bell on the table", "the red egg"])
    assert np.allclose(one, again, atol=1e-5), "padding changes nothing"
    assert not np.allclose(one, longer, atol=1e-2)


def test_a_classifier_scores_toxicity(tmp_path: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(TASK_MODEL, num_labels=2)
    config.id2label, config.label2id = {0: "fine", 1: "toxic"}, {"fine": 0, "toxic": 1}
    tokenizer = AutoTokenizer.from_pretrained(TASK_MODEL)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    config.pad_token_id = tokenizer.pad_token_id
    torch.manual_seed(0)
    network = AutoModelForSequenceClassification.from_config(config)
    texts = ["the red egg", "a long boat", "snake plum low"]
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = [
            float(network.eval()(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0, 1])
            for text in texts
        ]
    decisions = decided({"toxicity": {"model": str(tmp_path), "at_most": sorted(expected)[1]}}, *texts)
    assert decisions["score"].to_list() == pytest.approx(expected, abs=1e-4)
    assert not decisions["kept"].all() and decisions["kept"].any()
    with pytest.raises(ValueError, match="has no label rude; it has fine, toxic"):
        decided({"toxicity": {"model": str(tmp_path), "labels": ["rude"]}}, "text")
