"""A model's shape: what decides its memory and its arithmetic. Pure.

Counts follow from the shape; they agree with the parameters in the models' names (test_sizing.py).
Attention is dense (all heads have keys of their own), grouped, or multi-head latent; feed-forward
layers are dense or mixtures of experts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct
from msgspec.structs import replace

from gpucost.sizing.facts import typed
from gpucost.sizing.precision import PrecisionName  # noqa: TC001 - msgspec reads it

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
    tokens only; with a window of 0 they have no attention, and keep nothing of a token.
    `precision` is what its weights are published in, where that is said. `guessed` is a shape that
    was made up from the number of parameters.
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
    precision: PrecisionName | Literal[""] = ""
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
    def kv_width(self) -> float:
        """Values that a layer keeps of a token."""
        if self.kv_rank:
            return float(self.kv_rank + self.rope_width)
        return 2.0 * self.kv_heads * self.head_width

    def attended(self, context: float) -> float:
        """Tokens that a token attends to after so many, over all layers; so many are kept."""
        near = self.windowed_layers * min(context, self.window)
        return (self.layers - self.windowed_layers) * context + near

    @property
    def attention_width(self) -> float:
        """Width of a layer's attention: a token's arithmetic with one other is 4 times it."""
        if self.kv_rank:  # scores over width and position, sums over width
            return self.heads * (self.head_width + self.rope_width / 2)
        return float(self.heads) * self.head_width


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
