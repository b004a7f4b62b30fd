"""A model's shape out of its config.json, as transformers writes it. Pure.

Families name the same thing differently, and leave out what their class has by default: both are
tables here. tests/unit/test_config_json.py holds what is read to the sizes that models are known
by.
"""

from __future__ import annotations

import json
from collections import ChainMap
from math import ceil
from typing import TYPE_CHECKING, Literal, TypeGuard

from msgspec.structs import replace

from gpucost.sizing.shapes import ModelShape, ShapeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpucost.sizing.precision import PrecisionName

    Config = Mapping[str, object]

_NAMES: Mapping[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "hidden": ("hidden_size", "n_embd", "d_model", "n_embed"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "ffn": ("intermediate_size_mlp", "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"),
    "vocabulary": ("vocab_size", "padded_vocab_size"),
    "kv_heads": (
        *("num_key_value_heads", "num_kv_heads", "n_head_kv", "kv_n_heads"),
        *("multi_query_group_num", "num_key_value_heads_per_layer"),
    ),
    "head_width": ("head_dim", "kv_channels"),
    "latent_width": ("v_head_dim", "qk_nope_head_dim"),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"),
    "experts_active": (
        "num_experts_per_tok",
        "experts_per_token",
        "moe_top_k",
        "moe_k",
        "moe_topk",
    ),
    "expert_ffn": ("moe_intermediate_size", "expert_ffn_hidden_size"),
    "shared": ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"),
    "shared_ffn": ("shared_expert_intermediate_size", "shared_intermediate_size"),
    "dense_layers": ("first_k_dense_replace", "moe_layer_start_index"),
    "expert_period": (
        *("interleave_moe_layer_step", "decoder_sparse_step", "expert_layer_period"),
        *("moe_layer_freq", "moe_layer_interval"),
    ),
    "q_rank": ("q_lora_rank",),
    "kv_rank": ("kv_lora_rank",),
    "rope_width": ("qk_rope_head_dim",),
    "attention_period": ("attn_layer_period", "full_attention_interval"),
    "window": ("sliding_window", "attention_chunk_size"),
    "window_period": ("sliding_window_pattern",),
}
"""The names of transformers' families: Llama, Mistral, Qwen, Mixtral, DeepSeek, Gemma, GLM, ERNIE,
Falcon, DBRX, MPT, Jamba, gpt-oss, GPT-2, GPT-J and those that are like them."""

_TEXT = ("text_config", "llm_config", "language_config", "thinker_config")
"""Where a model that also sees or hears has its decoder."""

_PARTS = ("attn_config", "ffn_config")
"""Where MPT and DBRX have what others have beside the rest."""

_UNGATED = frozenset(
    {
        *("gpt2", "gptj", "gpt_neox", "gpt_neo", "gpt_bigcode", "opt", "bloom", "falcon", "mpt"),
        *("phi", "codegen", "starcoder2", "nemotron", "persimmon", "RefinedWeb", "RefinedWebModel"),
    }
)
"""Families whose feed-forward layers have two matrices."""

_TIED = frozenset(
    {
        *("gpt2", "gpt_neo", "gpt_bigcode", "opt", "bloom", "falcon", "mpt", "starcoder2"),
        *("gemma", "gemma2", "gemma3", "gemma3_text", "cohere", "cohere2"),
        *("RefinedWeb", "RefinedWebModel"),
    }
)
"""Families that use the embedding for the output too, unless their config.json says otherwise."""

_SHARED = frozenset({"llama4", "llama4_text"})
"""Families whose every mixture has one shared expert, which their config.json does not say."""

_ALTERNATING = frozenset({"gemma2"})
"""Families of which every other layer has a window, which their config.json does not say."""


def shape_of_config(name: str, text: str | bytes) -> ModelShape:
    """The shape in a model's config.json. Raises ShapeError."""
    try:
        read = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ShapeError(f"{name} is not JSON: {error}") from error
    if not isinstance(read, dict):
        raise ShapeError(f"{name} is not a model's config.json: it is not an object.")
    config = _decoder(read)
    if config.get("is_encoder_decoder") is True:
        raise ShapeError(f"{name} is an encoder with a decoder: only decoders are estimated.")
    found = {field: _first(name, config, names) for field, names in _NAMES.items()}
    family = str(config.get("model_type", ""))
    layers, hidden = _needed(name, found, "layers"), _needed(name, found, "hidden")
    heads, vocabulary = _needed(name, found, "heads"), _needed(name, found, "vocabulary")
    kv_rank = found["kv_rank"] or 0
    latent = found["latent_width"] if kv_rank else None
    window, windowed = _windows(config, found, family, layers)
    tied = config.get("tie_word_embeddings")
    shape = ModelShape(
        name,
        layers,
        hidden,
        heads,
        _kv_heads(config, found) or heads,
        latent or found["head_width"] or max(1, hidden // heads),
        found["ffn"] or 4 * hidden,
        vocabulary,
        matrices=2 if family in _UNGATED else 3,
        tied=family in _TIED if tied is None else tied is True,
        q_rank=found["q_rank"] or 0,
        kv_rank=kv_rank,
        rope_width=(found["rope_width"] or 0) if kv_rank else 0,
        window=window,
        windowed_layers=windowed,
        precision=_precision(config),
    )
    return _mixture(name, config, found, shape) if found["experts"] else shape


def _decoder(config: dict[str, object]) -> Config:
    """The part that writes text, over what stands beside it, with its own parts laid open."""
    layers: list[dict[str, object]] = [config]
    for key in _TEXT:
        if isinstance(inner := layers[0].get(key), dict):
            layers.insert(0, inner)
            # Of a model within a model: thinker_config has a text_config.
            if isinstance(deeper := inner.get("text_config"), dict):
                layers.insert(0, deeper)
            break
    parts = [part for key in _PARTS if isinstance(part := layers[0].get(key), dict)]
    return ChainMap(layers[0], *parts, *layers[1:])


def _kv_heads(config: Config, found: Mapping[str, int | None]) -> int | None:
    """How many heads have keys of their own; None is all of them."""
    # One for all (Shazeer 2019), but for Falcon's newer form, which keeps the word.
    if config.get("multi_query") is True and config.get("new_decoder_architecture") is not True:
        return 1
    if config.get("multi_query_attention") is False:
        return None
    return found["kv_heads"]


def _mixture(
    name: str, config: Config, found: Mapping[str, int | None], dense: ModelShape
) -> ModelShape:
    """The dense shape with experts."""
    expert = found["expert_ffn"]
    if expert is None:  # Llama 4 has its dense layers' width apart, and its experts' here
        expert = _first(name, config, ("intermediate_size",)) or dense.ffn
    shared = found["shared"] or int(str(config.get("model_type")) in _SHARED)
    if found["shared_ffn"] and expert:
        shared = max(1, round(found["shared_ffn"] / expert))
    first = min(dense.layers, found["dense_layers"] or 0)
    mixed = (dense.layers - first) // max(1, found["expert_period"] or 1)
    mixed = max(0, mixed - _length(config.get("mlp_only_layers")))
    return replace(
        dense,
        experts=found["experts"] or 0,
        experts_active=_needed(name, found, "experts_active"),
        expert_ffn=expert,
        experts_shared=shared,
        dense_layers=dense.layers - mixed,
    )


def _length(value: object) -> int:
    return len(value) if isinstance(value, list) else 0


_WHOLE = ("full_attention", "attention", 1)
"""How lists of layers call those that attend to everything."""


def _windows(
    config: Config, found: Mapping[str, int | None], family: str, layers: int
) -> tuple[int, int]:
    """The window, and how many layers have one; 0 is its width where they have no attention."""
    window = found["window"] or 0
    for key in ("layer_types", "layers_block_type", "attn_type_list"):
        if isinstance(kinds := config.get(key), list) and len(kinds) == layers:
            other = [kind for kind in kinds if kind not in _WHOLE]
            near = any("sliding" in str(kind) or "chunked" in str(kind) for kind in other)
            return (window if near else 0), len(other)
    if period := found["attention_period"]:
        return 0, layers - max(1, layers // period)
    if window and (period := found["window_period"] or 2 * (family in _ALTERNATING)):
        return window, layers - max(1, layers // period)
    return 0, 0


_METHODS: Mapping[str, PrecisionName] = {
    "fp8": "fp8",
    "fbgemm_fp8": "fp8",
    "mxfp4": "fp4",
    "awq": "int4",
    "gptq": "int4",
}
_BITS: Mapping[tuple[int, str], PrecisionName] = {
    (4, "int"): "int4",
    (8, "int"): "int8",
    (8, "float"): "fp8",
    (4, "float"): "fp4",
}
"""By bits of a weight, and its kind."""


def _precision(config: Config) -> PrecisionName | Literal[""]:
    """What `quantization_config` says of the weights; empty where it says nothing that is known."""
    said = config.get("quantization_config")
    if not isinstance(said, dict):
        return ""
    method = str(said.get("quant_method", "")).casefold()
    algorithm = str(said.get("quant_algo", "")).casefold()
    if algorithm in {"fp8", "nvfp4"}:  # modelopt
        return "fp8" if algorithm == "fp8" else "fp4"
    if isinstance(groups := said.get("config_groups"), dict):  # compressed-tensors
        for group in groups.values():
            weights = group.get("weights") if isinstance(group, dict) else None
            if isinstance(weights, dict):
                bits, kind = weights.get("num_bits"), str(weights.get("type", "int"))
                return _BITS.get((bits, kind), "") if _is_size(bits) else ""
    if method == "bitsandbytes":
        return "int4" if said.get("load_in_4bit") is True else "int8"
    if method in {"awq", "gptq"} and said.get("bits") == 8:  # noqa: PLR2004 - else four
        return "int8"
    return _METHODS.get(method, "")


_MOST = 10_000_000
"""No dimension of a model is larger."""


def _first(name: str, config: Config, names: tuple[str, ...]) -> int | None:
    """The first of these that is there; of a list with one for each layer, the mean."""
    for key in names:
        value = config.get(key)
        if value is None:
            continue
        if isinstance(value, list) and value and all(_is_size(it) for it in value):
            return ceil(sum(value) / len(value))
        if _is_size(value):
            return value
        raise ShapeError(f"{name}: {key} must be a whole number from 0 to {_MOST}.")
    return None


def _is_size(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST


def _needed(name: str, found: Mapping[str, int | None], field: str) -> int:
    value = found[field]
    if not value:
        raise ShapeError(
            f"{name}: none of {', '.join(_NAMES[field])} is there. Is it the config.json of a"
            " decoder? Else give --parameters."
        )
    return value
