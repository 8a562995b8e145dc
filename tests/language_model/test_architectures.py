"""Our decoding against `model.generate`, on tiny random models of the architectures that people use."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kit.architectures import ARCHITECTURES, END, VOCABULARY, random_model
from kit.torch_threads import torch_threads

from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.language_model.attention import GROUPED_ATTENTION
from selfimprove_dagster.language_model.base import SamplingParameters
from selfimprove_dagster.language_model.decoding import Decoder, Row, decode
from selfimprove_dagster.language_model.network import Network
from selfimprove_dagster.language_model.stopping import StopStrings

SHARING = {
    "apertus",
    "arcee",
    "biogpt",
    "bitnet",
    "cohere",
    "ernie4_5",
    "gemma",
    "glm",
    "glm4",
    "gpt2",
    "gpt_bigcode",
    "gpt_neox",
    "granite",
    "granitemoe",
    "helium",
    "hunyuan_v1_dense",
    "llama",
    "mixtral",
    "olmo",
    "olmo2",
    "olmoe",
    "opt",
    "persimmon",
    "phi",
    "phi3",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "seed_oss",
    "smollm3",
}
"""Those whose samples share their prompt's keys and values."""
HALF = (
    "llama",
    "mixtral",
    "qwen3_moe",
    "qwen3",
    "gpt2",
    "olmo2",
    "phi3",
    "mistral",
    "bloom",
    "gemma3_text",
    "gpt_oss",
)
"""Those that are tried in the formats of half the size too."""


def adapted(architecture: str, dtype: torch.dtype = torch.float32) -> Network:
    network = Network(random_model(architecture, dtype), END)
    network.adapt([GROUPED_ATTENTION, "sdpa"])
    return network


def greedy(network: Network, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    """What the decoder draws for each prompt at temperature 0, two samples a prompt, which must agree."""
    parameters = SamplingParameters(temperature=0.0, max_tokens=tokens)
    decoder = Decoder(network, parameters, np.array([END]), StopStrings((), list, str))
    rows = [Row(prompt, sample, 7, tokens) for prompt in range(len(prompts)) for sample in range(2)]
    found = {}
    for drawn in decode(decoder, prompts, rows, 4096):
        found.update({(one.row.prompt, one.row.sample): one.token_ids for one in drawn})
    assert all(found[prompt, 0] == found[prompt, 1] for prompt in range(len(prompts)))
    return [found[prompt, 0] for prompt in range(len(prompts))]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_tokens_are_those_of_generate(architecture: str) -> None:
    with torch_threads(1):
        network = adapted(architecture)
        assert network.shares_prompts == (architecture in SHARING)
        random = np.random.default_rng(0)
        prompts = [random.integers(2, VOCABULARY, size).tolist() for size in (11, 3, 7)]
        found = greedy(network, prompts, 10)
        model = random_model(architecture)
        for prompt, tokens in zip(prompts, found, strict=True):
            expected = model.generate(
                torch.tensor([prompt]), do_sample=False, max_new_tokens=10, pad_token_id=END, eos_token_id=END
            )
            assert tokens == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("architecture", HALF)
def test_what_is_possible_does_not_depend_on_the_number_format(architecture: str, dtype: torch.dtype) -> None:
    """A tolerance that is no wider than the format's rounding needs turns nothing off and lets nothing wrong pass."""
    with torch_threads(1):
        network = adapted(architecture, dtype)
        assert network.shares_prompts == (architecture in SHARING)
        assert network.rounding > 1e-3


def test_many_layers_in_bfloat16_share_prompts() -> None:
    """Rounding adds up over the layers: by a fixed tolerance, deep models lost sharing."""
    with torch_threads(1):
        network = Network(random_model("llama", torch.bfloat16, num_hidden_layers=24), END)
        network.adapt([GROUPED_ATTENTION, "sdpa"])
        assert network.shares_prompts
        assert network.rounding > 0.03


def test_a_model_that_refuses_an_attention_takes_another() -> None:
    with torch_threads(1):
        network = adapted("gpt_oss")
    assert network.model.config._attn_implementation == "eager"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_capped_scores_are_not_left_to_an_attention_that_does_not_cap_them(dtype: torch.dtype) -> None:
    with torch_threads(1):
        network = adapted("gemma2", dtype)
    assert network.model.config._attn_implementation == "eager"
    # It caps the logits too, behind its output layer.
    assert network.head is None


def test_an_attention_that_was_asked_for_and_is_refused_is_an_error() -> None:
    with torch_threads(1), pytest.raises(ModelError, match="attention 'sdpa' cannot be used with this model"):
        Network(random_model("gpt_oss"), END).adapt(["sdpa"])


def test_a_model_that_reads_its_padding_is_refused() -> None:
    with torch_threads(1), pytest.raises(ModelError, match="this engine cannot batch it"):
        Network(random_model("mamba", state_size=8), END).adapt([GROUPED_ATTENTION, "sdpa"])
