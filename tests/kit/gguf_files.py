"""Tiny random Llama models as GGUF files, written as llama.cpp's converter writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType
from gguf.quants import quantize
from tokenizers import pre_tokenizers

HEADS, KEY_HEADS, SIZE, WIDTH, LAYERS = 4, 2, 16, 64, 2
TEMPLATE = "{% for message in messages %}{{ message['content'] }}</s>{% endfor %}"
QUANTISATIONS = {
    "F32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "Q4_1": (GGMLQuantizationType.Q4_1, LlamaFileType.MOSTLY_Q4_1),
    "Q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}


def write_gguf(file: Path, stored: str = "F32", seed: int = 0) -> dict[str, np.ndarray]:
    """Write a model with chat template; returns the file's weights, dequantised, under transformers' names."""
    kind, file_type = QUANTISATIONS[stored]
    random = np.random.default_rng(seed)
    tokens = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "an", "in"]
    writer = GGUFWriter(file, "llama")
    writer.add_file_type(file_type)
    writer.add_context_length(128)
    writer.add_embedding_length(HEADS * SIZE)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(SIZE)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * 2 + [TokenType.NORMAL] * (len(tokens) - 2))
    writer.add_token_merges(["a n", "i n"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(TEMPLATE)
    weights = {}

    def add(name: str, ours: str, *shape: int, heads: int = 0) -> None:
        values = random.normal(0, 0.3, shape).astype(np.float32)
        if len(shape) > 1 and stored != "F32":
            # Rounded to what the format can say, so that storing it once more changes nothing.
            values = dequantised(values)
        weights[ours] = values
        if heads:  # llama.cpp pairs neighbouring columns for rotary positions, transformers the two halves
            values = values.reshape(heads, 2, SIZE // 2, -1).swapaxes(1, 2).reshape(shape)
        plain = len(shape) == 1 or stored == "F32"
        writer.add_tensor(
            name, values if plain else quantize(values, kind), raw_dtype=None if plain else kind
        )

    def dequantised(values: np.ndarray) -> np.ndarray:
        from gguf.quants import dequantize

        return dequantize(quantize(values, kind), kind)

    hidden = HEADS * SIZE
    add("token_embd.weight", "model.embed_tokens.weight", len(tokens), hidden)
    add("output_norm.weight", "model.norm.weight", hidden)
    add("output.weight", "lm_head.weight", len(tokens), hidden)
    for layer in range(LAYERS):
        block, ours = f"blk.{layer}", f"model.layers.{layer}"
        add(f"{block}.attn_norm.weight", f"{ours}.input_layernorm.weight", hidden)
        add(f"{block}.ffn_norm.weight", f"{ours}.post_attention_layernorm.weight", hidden)
        add(f"{block}.attn_q.weight", f"{ours}.self_attn.q_proj.weight", hidden, hidden, heads=HEADS)
        add(
            f"{block}.attn_k.weight",
            f"{ours}.self_attn.k_proj.weight",
            KEY_HEADS * SIZE,
            hidden,
            heads=KEY_HEADS,
        )
        add(f"{block}.attn_v.weight", f"{ours}.self_attn.v_proj.weight", KEY_HEADS * SIZE, hidden)
        add(f"{block}.attn_output.weight", f"{ours}.self_attn.o_proj.weight", hidden, hidden)
        add(f"{block}.ffn_gate.weight", f"{ours}.mlp.gate_proj.weight", WIDTH, hidden)
        add(f"{block}.ffn_up.weight", f"{ours}.mlp.up_proj.weight", WIDTH, hidden)
        add(f"{block}.ffn_down.weight", f"{ours}.mlp.down_proj.weight", hidden, WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights
