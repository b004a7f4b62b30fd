"""A model's config.json: every family's own words give the size that the model is known by."""

from __future__ import annotations

import json

import pytest

from gpucost.facts_files import shipped_facts
from gpucost.sizing.config_json import shape_of_config
from gpucost.sizing.shapes import ShapeError, known_shapes
from model_configs import LLAMA_8B

SHAPES = known_shapes(shipped_facts())

KNOWN: dict[str, tuple[dict[str, object], float, float | None]] = {
    # One head of keys for all; the output is the embedding, which neither file says.
    "Falcon-7B": (
        {"model_type": "falcon", "hidden_size": 4544, "num_attention_heads": 71,
         "num_hidden_layers": 32, "vocab_size": 65024, "multi_query": True,
         "new_decoder_architecture": False}, 6.92, None),
    "Falcon-40B": (
        {"model_type": "falcon", "hidden_size": 8192, "num_attention_heads": 128,
         "num_hidden_layers": 60, "vocab_size": 65024, "multi_query": True, "num_kv_heads": 8,
         "new_decoder_architecture": True}, 41.3, None),
    "StarCoder": (
        {"model_type": "gpt_bigcode", "n_embd": 6144, "n_layer": 40, "n_head": 48,
         "n_inner": 24576, "multi_query": True, "vocab_size": 49152}, 15.5, None),
    "ChatGLM3-6B": (
        {"model_type": "chatglm", "num_layers": 28, "hidden_size": 4096,
         "num_attention_heads": 32, "kv_channels": 128, "multi_query_attention": True,
         "multi_query_group_num": 2, "ffn_hidden_size": 13696, "padded_vocab_size": 65024,
         "tie_word_embeddings": False}, 6.24, None),
    "Gemma-2-9B": (
        {"model_type": "gemma2", "hidden_size": 3584, "num_hidden_layers": 42,
         "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256,
         "intermediate_size": 14336, "vocab_size": 256000, "sliding_window": 4096}, 9.24, None),
    "Gemma-3-27B": (
        {"model_type": "gemma3", "text_config": {
            "model_type": "gemma3_text", "hidden_size": 5376, "num_hidden_layers": 62,
            "num_attention_heads": 32, "num_key_value_heads": 16, "head_dim": 128,
            "intermediate_size": 21504, "vocab_size": 262208, "sliding_window": 1024,
            "sliding_window_pattern": 6}}, 27.0, None),
    "Command-R": (
        {"model_type": "cohere", "hidden_size": 8192, "num_hidden_layers": 40,
         "num_attention_heads": 64, "num_key_value_heads": 64, "intermediate_size": 22528,
         "vocab_size": 256000}, 35.0, None),
    "Phi-2": (
        {"model_type": "phi", "hidden_size": 2560, "num_hidden_layers": 32,
         "num_attention_heads": 32, "num_key_value_heads": None, "intermediate_size": 10240,
         "vocab_size": 51200, "tie_word_embeddings": False}, 2.78, None),
    # No real one: keys of its own for each layer, as pruned models have.
    "pruned": (
        {"model_type": "llama", "hidden_size": 8192, "num_hidden_layers": 80,
         "num_attention_heads": 64, "num_key_value_heads_per_layer": [8] * 40 + [4] * 40,
         "intermediate_size": 16384, "vocab_size": 128256, "tie_word_embeddings": False},
        45.6, None),
    "Qwen2-57B-A14B": (
        {"model_type": "qwen2_moe", "hidden_size": 3584, "num_hidden_layers": 28,
         "num_attention_heads": 28, "num_key_value_heads": 4, "intermediate_size": 18944,
         "moe_intermediate_size": 2560, "shared_expert_intermediate_size": 20480,
         "num_experts": 64, "num_experts_per_tok": 8, "decoder_sparse_step": 1,
         "vocab_size": 151936, "tie_word_embeddings": False}, 57.4, 13.7),
    "Qwen3-Next-80B-A3B": (
        {"model_type": "qwen3_next", "hidden_size": 2048, "num_hidden_layers": 48,
         "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256,
         "full_attention_interval": 4, "intermediate_size": 5120, "moe_intermediate_size": 512,
         "shared_expert_intermediate_size": 512, "num_experts": 512, "num_experts_per_tok": 10,
         "vocab_size": 151936, "tie_word_embeddings": False}, 79.7, None),
    "DBRX": (
        {"model_type": "dbrx", "d_model": 6144, "n_heads": 48, "n_layers": 40,
         "vocab_size": 100352, "attn_config": {"kv_n_heads": 8},
         "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
         "tie_word_embeddings": False}, 131.6, 36.0),
    "DeepSeek-V2-Lite": (
        {"model_type": "deepseek_v2", "hidden_size": 2048, "num_hidden_layers": 27,
         "num_attention_heads": 16, "num_key_value_heads": 16, "kv_lora_rank": 512,
         "q_lora_rank": None, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
         "v_head_dim": 128, "head_dim": 64, "n_routed_experts": 64, "n_shared_experts": 2,
         "num_experts_per_tok": 6, "moe_intermediate_size": 1408, "intermediate_size": 10944,
         "first_k_dense_replace": 1, "vocab_size": 102400, "tie_word_embeddings": False},
        15.7, 2.45),
    "GLM-4.5-Air": (
        {"model_type": "glm4_moe", "hidden_size": 4096, "num_hidden_layers": 46,
         "num_attention_heads": 96, "num_key_value_heads": 8, "head_dim": 128,
         "intermediate_size": 10944, "moe_intermediate_size": 1408, "n_routed_experts": 128,
         "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 1,
         "vocab_size": 151552, "tie_word_embeddings": False}, 106.0, 12.0),
    "ERNIE-4.5-21B-A3B": (
        {"model_type": "ernie4_5_moe", "hidden_size": 2560, "num_hidden_layers": 28,
         "num_attention_heads": 20, "num_key_value_heads": 4, "intermediate_size": 12288,
         "moe_intermediate_size": 1536, "moe_num_experts": 64, "moe_k": 6,
         "moe_num_shared_experts": 2, "moe_layer_start_index": 1, "vocab_size": 103424,
         "tie_word_embeddings": True}, 21.8, 3.0),
    "GLM-5": (
        {"model_type": "glm_moe_dsa", "num_hidden_layers": 78, "hidden_size": 6144,
         "num_attention_heads": 64, "num_key_value_heads": 64, "head_dim": 64,
         "intermediate_size": 12288, "vocab_size": 154880, "n_routed_experts": 256,
         "n_shared_experts": 1, "num_experts_per_tok": 8, "moe_intermediate_size": 2048,
         "moe_layer_freq": 1, "first_k_dense_replace": 3, "kv_lora_rank": 512,
         "q_lora_rank": 2048, "qk_nope_head_dim": 192, "qk_rope_head_dim": 64,
         "v_head_dim": 256, "tie_word_embeddings": False}, 744.0, 40.0),
    "Qwen3.5-397B-A17B": (
        {"model_type": "qwen3_5_moe", "tie_word_embeddings": False, "text_config": {
            "model_type": "qwen3_5_moe_text", "full_attention_interval": 4, "head_dim": 256,
            "hidden_size": 4096, "mlp_only_layers": [], "moe_intermediate_size": 1024,
            "layer_types": [*["linear_attention"] * 3, "full_attention"] * 15,
            "num_attention_heads": 32, "num_experts": 512, "num_experts_per_tok": 10,
            "num_hidden_layers": 60, "num_key_value_heads": 2,
            "shared_expert_intermediate_size": 1024, "vocab_size": 248320}}, 397.0, None),
    "Llama-4-Scout": (
        {"model_type": "llama4", "tie_word_embeddings": False, "text_config": {
            "model_type": "llama4_text", "hidden_size": 5120, "num_hidden_layers": 48,
            "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128,
            "intermediate_size": 8192, "intermediate_size_mlp": 16384,
            "num_local_experts": 16, "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 1, "vocab_size": 202048}}, 108.0, 17.0),
    "Llama-4-Maverick": (
        {"model_type": "llama4", "tie_word_embeddings": False, "text_config": {
            "model_type": "llama4_text", "hidden_size": 5120, "num_hidden_layers": 48,
            "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128,
            "intermediate_size": 8192, "intermediate_size_mlp": 16384,
            "num_local_experts": 128, "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 2, "vocab_size": 202048}}, 400.0, 17.0),
    "Jamba-52B": (
        {"model_type": "jamba", "hidden_size": 4096, "num_hidden_layers": 32,
         "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
         "num_experts": 16, "num_experts_per_tok": 2, "attn_layer_period": 8,
         "expert_layer_period": 2, "vocab_size": 65536, "tie_word_embeddings": False}, 51.0, None),
}  # fmt: skip
"""What config.json has, and the parameters in 10^9, all and of a token, that their makers state."""


def test_a_config_json_gives_the_shape_of_the_table() -> None:
    read = shape_of_config("Llama-3.1-8B", json.dumps(LLAMA_8B))
    assert read == SHAPES["Llama-3.1-8B"]


def test_a_config_json_of_a_mixture_with_latent_attention() -> None:
    config = {
        "model_type": "deepseek_v3", "num_hidden_layers": 61, "hidden_size": 7168,
        "num_attention_heads": 128, "num_key_value_heads": 128, "intermediate_size": 18432,
        "vocab_size": 129280, "v_head_dim": 128, "n_routed_experts": 256, "n_shared_experts": 1,
        "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "first_k_dense_replace": 3,
        "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    }  # fmt: skip
    assert shape_of_config("DeepSeek-V3", json.dumps(config)) == SHAPES["DeepSeek-V3"]


def test_older_names_of_a_config_json_are_read_too() -> None:
    config = {
        "model_type": "gptj",
        "n_layer": 28,
        "n_embd": 4096,
        "n_head": 16,
        "vocab_size": 50400,
    }
    read = shape_of_config("GPT-J-6B", json.dumps(config))
    assert (read.kv_heads, read.head_width, read.ffn, read.matrices) == (16, 256, 16384, 2)


@pytest.mark.parametrize(("config", "billions", "active"), KNOWN.values(), ids=KNOWN)
def test_a_config_json_gives_the_size_that_the_model_is_known_by(
    config: dict[str, object], billions: float, active: float | None
) -> None:
    shape = shape_of_config("x", json.dumps(config))
    assert shape.parameters / 1e9 == pytest.approx(billions, rel=0.03)
    if active is not None:
        assert shape.active / 1e9 == pytest.approx(active, rel=0.12), "its name rounds"


@pytest.mark.parametrize(
    ("model", "kept"),
    [
        ("Falcon-7B", 2 * 64 * 32),
        ("Falcon-40B", 2 * 8 * 64 * 60),
        ("StarCoder", 2 * 128 * 40),
        ("ChatGLM3-6B", 2 * 2 * 128 * 28),
        ("DeepSeek-V2-Lite", 576 * 27),
        ("Jamba-52B", 2 * 8 * 128 * 4),
        ("Qwen3-Next-80B-A3B", 2 * 2 * 256 * 12),
        ("Qwen3.5-397B-A17B", 2 * 2 * 256 * 15),
        ("GLM-5", 576 * 78),
        ("pruned", 2 * 8 * 128 * 80 * 0.75),
    ],
)
def test_what_is_kept_of_a_token_is_that_of_heads_and_layers_that_keep_it(
    model: str, kept: float
) -> None:
    shape = shape_of_config("x", json.dumps(KNOWN[model][0]))
    assert shape.kv_width * shape.attended(1.0) == pytest.approx(kept)


@pytest.mark.parametrize(
    ("model", "whole", "window"), [("Gemma-3-27B", 10, 1024), ("Gemma-2-9B", 21, 4096)]
)
def test_a_window_keeps_its_last_tokens_and_all_while_it_is_not_full(
    model: str, whole: int, window: int
) -> None:
    shape = shape_of_config("x", json.dumps(KNOWN[model][0]))
    assert shape.attended(100.0) == 100.0 * shape.layers
    assert shape.attended(1e5) == whole * 1e5 + (shape.layers - whole) * window


@pytest.mark.parametrize(
    ("said", "precision"),
    [
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, "fp8"),
        ({"quant_method": "awq", "bits": 4}, "int4"),
        ({"quant_method": "gptq", "bits": 8}, "int8"),
        ({"quant_method": "mxfp4"}, "fp4"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "fp4"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}},
            },
            "fp8",
        ),
        ({"quant_method": "of tomorrow"}, ""),
        (None, ""),
    ],
)
def test_the_precision_of_published_weights_is_read(
    said: dict[str, object] | None, precision: str
) -> None:
    config = {**LLAMA_8B, "quantization_config": said}
    assert shape_of_config("x", json.dumps(config)).precision == precision


def test_the_text_part_of_a_model_that_sees_is_what_counts() -> None:
    text = json.dumps({"model_type": "mllama", "text_config": LLAMA_8B})
    assert shape_of_config("x", text).layers == 32


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[1]", "it is not an object"),
        ("{}", "none of num_hidden_layers"),
        (json.dumps({**LLAMA_8B, "is_encoder_decoder": True}), "only decoders"),
        (json.dumps({**LLAMA_8B, "hidden_size": -1}), "hidden_size must be a whole number"),
        (json.dumps({**LLAMA_8B, "num_local_experts": 8}), "none of num_experts_per_tok"),
    ],
)
def test_a_config_json_that_says_too_little_names_what_is_missing(text: str, said: str) -> None:
    with pytest.raises(ShapeError, match=said):
        shape_of_config("x", text)
