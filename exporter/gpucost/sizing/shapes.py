"""A model's shape: what decides its memory and its arithmetic. Pure.

Counts follow from the shape; they agree with the parameters in the models' names (test_sizing.py).
Attention is dense (all heads have keys of their own), grouped, or multi-head latent; feed-forward
layers are dense or mixtures of experts.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from gpucost.sizing.facts import typed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpucost.sizing.facts import Facts


class ShapeError(ValueError):
    """A model's shape is not known. The message says what is missing."""


class ModelShape(Struct, frozen=True, forbid_unknown_fields=True):
    """A decoder's shape. Widths are numbers of values; 0 experts is a dense model.

    `matrices` is 3 for a gated feed-forward layer, else 2. `dense_layers` of a mixture have no
    experts. `kv_rank` is the width of a latent that stands for all keys and values, beside
    `rope_width`; `q_rank` is that of queries. `windowed_layers` attend to the last `window`
    tokens only. `guessed` is a shape that was made up from the number of parameters.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_width: int
    ffn: int
    vocabulary: int
    matrices: int = 3
    tied: bool = False
    experts: int = 0
    experts_active: int = 0
    expert_ffn: int = 0
    experts_shared: int = 0
    dense_layers: int = 0
    q_rank: int = 0
    kv_rank: int = 0
    rope_width: int = 0
    window: int = 0
    windowed_layers: int = 0
    guessed: bool = False

    @property
    def embedding(self) -> float:
        """Parameters of the input embedding: looked up, never multiplied with."""
        return float(self.vocabulary) * self.hidden

    @property
    def _attention(self) -> float:
        """Parameters of one layer's attention."""
        width, heads, hidden = self.head_width, self.heads, float(self.hidden)
        if not self.kv_rank:
            return 2 * hidden * width * (heads + self.kv_heads)
        query_width = heads * (width + self.rope_width)
        queries = self.q_rank * (hidden + query_width) if self.q_rank else hidden * query_width
        latent = hidden * (self.kv_rank + self.rope_width)
        return queries + latent + self.kv_rank * heads * 2 * width + heads * width * hidden

    @property
    def _expert(self) -> float:
        return float(self.matrices) * self.hidden * self.expert_ffn

    @property
    def always(self) -> float:
        """Parameters that every token is multiplied with, the input embedding left out."""
        dense = self.dense_layers if self.experts else self.layers
        feed_forward = dense * float(self.matrices) * self.hidden * self.ffn
        shared = (self.layers - dense) * self.experts_shared * self._expert
        return self.layers * self._attention + feed_forward + shared + self.embedding

    @property
    def routed(self) -> float:
        """Parameters of all experts that tokens are routed to."""
        return (self.layers - self.dense_layers) * self.experts * self._expert

    @property
    def parameters(self) -> float:
        """All of them."""
        return self.always + self.routed + (0.0 if self.tied else self.embedding)

    @property
    def active(self) -> float:
        """Parameters that one token is multiplied with."""
        part = self.experts_active / self.experts if self.experts else 0.0
        return self.always + part * self.routed

    def touched(self, tokens: float) -> float:
        """Parameters that a step over this many tokens reads: each picks its own experts."""
        if not self.experts:
            return self.always
        missed: float = (1 - self.experts_active / self.experts) ** tokens
        return self.always + self.routed * (1 - missed)

    @property
    def kv_values(self) -> float:
        """Values that are kept of each token, over all layers that keep every token."""
        each = (
            self.kv_rank + self.rope_width if self.kv_rank else 2 * self.kv_heads * self.head_width
        )
        return float(self.layers - self.windowed_layers) * each

    @property
    def attention_width(self) -> float:
        """Width of a layer's attention: a token's arithmetic with one other is 4 times it."""
        if self.kv_rank:  # scores over width and position, sums over width
            return self.heads * (self.head_width + self.rope_width / 2)
        return float(self.heads) * self.head_width

    @property
    def attending_layers(self) -> float:
        """Layers whose attention grows with the context."""
        return float(self.layers - self.windowed_layers)


def known_shapes(facts: Facts) -> dict[str, ModelShape]:
    """The models of a table by name. Raises FactsError."""
    return {key[0]: shape for key, shape in typed(facts, "model", ModelShape, "name").items()}


def find_shape(name: str, known: Mapping[str, ModelShape]) -> ModelShape | None:
    """The model that a served name stands for: `meta-llama/Llama-3.1-8B-Instruct`, for one."""
    wanted = name.rpartition("/")[2].casefold().replace("_", "-").removeprefix("meta-")
    alike = [shape for key, shape in known.items() if _begins(wanted, key.casefold())]
    return max(alike, key=lambda shape: len(shape.name), default=None)


def _begins(wanted: str, name: str) -> bool:
    return wanted == name or wanted.startswith((f"{name}-", f"{name}."))


_LAYERS_PER_WIDTH = 105.0
"""Of dense decoders a layer for about this many values of width: Llama 8B has 128, 70B 102, 405B
130; parameters are about 12 x layers x width x width."""

_GUESSED_HEAD = 128
_GUESSED_KV_HEADS = 8
_GUESSED_VOCABULARY = 128_000
_GUESSED_ACTIVE = 8


def shape_of_parameters(parameters: float, active: float | None = None) -> ModelShape:
    """A dense decoder of this size with grouped attention, as most of today's are.

    With fewer `active` parameters a mixture: shaped as a dense model of the active size, half of
    whose feed-forward work is routed to eight of as many experts as the rest makes.
    """
    size = active or parameters
    layers = max(1, round((size / (12 * _LAYERS_PER_WIDTH**2)) ** (1 / 3)))
    hidden = max(
        _GUESSED_HEAD, round((size / (12 * layers)) ** 0.5 / _GUESSED_HEAD) * _GUESSED_HEAD
    )
    heads = hidden // _GUESSED_HEAD
    kv_heads = min(heads, _GUESSED_KV_HEADS)
    vocabulary = round(min(_GUESSED_VOCABULARY, size / 20 / hidden))
    attention = layers * 2.0 * hidden * _GUESSED_HEAD * (heads + kv_heads)
    rest = max(0.0, size - attention - vocabulary * hidden)
    each = layers * 3.0 * hidden  # of feed-forward layers of width one
    dense = ModelShape(
        f"{parameters / 1e9:.3g}B",
        layers,
        hidden,
        heads,
        kv_heads,
        _GUESSED_HEAD,
        max(1, round((rest - vocabulary * hidden) / each)),
        vocabulary,
        guessed=True,
    )
    if active is None or active >= parameters:
        return dense
    routed = rest / 2 + parameters - size
    return replace(
        dense,
        name=f"{parameters / 1e9:.3g}B, {active / 1e9:.3g}B active",
        ffn=1,
        experts=max(_GUESSED_ACTIVE + 1, round(_GUESSED_ACTIVE * routed / (rest / 2))),
        experts_active=_GUESSED_ACTIVE,
        expert_ffn=max(1, round(rest / 2 / _GUESSED_ACTIVE / each)),
        experts_shared=_GUESSED_ACTIVE,
    )


_NAMES: Mapping[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "ffn": ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"),
    "vocabulary": ("vocab_size",),
    "kv_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv"),
    "head_width": ("head_dim", "v_head_dim"),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"),
    "experts_active": ("num_experts_per_tok", "experts_per_token", "moe_top_k"),
    "expert_ffn": ("moe_intermediate_size",),
    "experts_shared": ("n_shared_experts",),
    "dense_layers": ("first_k_dense_replace",),
    "q_rank": ("q_lora_rank",),
    "kv_rank": ("kv_lora_rank",),
    "rope_width": ("qk_rope_head_dim",),
}
"""The names in config.json of transformers' families: Llama, Mistral, Qwen, Mixtral, DeepSeek,
gpt-oss, GPT-2, GPT-J, Falcon, MPT."""

_UNGATED = ("gpt2", "gptj", "gpt_neox", "gpt_neo", "opt", "bloom", "falcon", "mpt", "phi")
"""Families whose feed-forward layers have two matrices."""


def shape_of_config(name: str, text: str | bytes) -> ModelShape:
    """The shape in a model's config.json. Raises ShapeError."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ShapeError(f"{name} is not JSON: {error}") from error
    if isinstance(config, dict) and isinstance(config.get("text_config"), dict):
        config = config["text_config"]  # of a model that also sees or hears
    if not isinstance(config, dict):
        raise ShapeError(f"{name} is not a model's config.json: it is not an object.")
    found = {field: _first(name, config, names) for field, names in _NAMES.items()}
    layers, hidden = _needed(name, found, "layers"), _needed(name, found, "hidden")
    heads, vocabulary = _needed(name, found, "heads"), _needed(name, found, "vocabulary")
    experts = found["experts"] or 0
    ffn = found["ffn"] or 4 * hidden
    return ModelShape(
        name,
        layers,
        hidden,
        heads,
        found["kv_heads"] or heads,
        found["head_width"] or max(1, hidden // heads),
        ffn,
        vocabulary,
        matrices=2 if str(config.get("model_type", "")) in _UNGATED else 3,
        tied=config.get("tie_word_embeddings") is True,
        experts=experts,
        experts_active=_needed(name, found, "experts_active") if experts else 0,
        expert_ffn=(found["expert_ffn"] or ffn) if experts else 0,
        experts_shared=(found["experts_shared"] or 0) if experts else 0,
        dense_layers=min(layers, found["dense_layers"] or 0) if experts else 0,
        q_rank=found["q_rank"] or 0,
        kv_rank=found["kv_rank"] or 0,
        rope_width=(found["rope_width"] or 0) if found["kv_rank"] else 0,
    )


_MOST = 10_000_000
"""No dimension of a model is larger."""


def _first(name: str, config: Mapping[str, object], names: tuple[str, ...]) -> int | None:
    for key in names:
        value = config.get(key)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST:
            raise ShapeError(f"{name}: {key} must be a whole number from 0 to {_MOST}.")
        return value
    return None


def _needed(name: str, found: Mapping[str, int | None], field: str) -> int:
    value = found[field]
    if not value:
        raise ShapeError(
            f"{name}: none of {', '.join(_NAMES[field])} is there. Is it the config.json of a"
            " decoder?"
        )
    return value
