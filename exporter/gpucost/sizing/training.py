"""How fast a model is trained, and what memory that takes. Pure.

A token costs arithmetic (6 FLOPs a parameter: forward 2, backward 4; frozen weights need no
gradients of their own, 4) and traffic (the narrow work between multiplications: norms,
activations, and for a mixture the routing of a token to each of its experts), one after the
other; what GPUs exchange of weights and gradients overlaps with both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from gpucost.sizing.gpus import GIB
from gpucost.sizing.inference import PCIE_GB_S, RESERVED_BYTES, USABLE_MEMORY
from gpucost.sizing.precision import HALF_BYTES, tera_per_second

if TYPE_CHECKING:
    from gpucost.sizing.gpus import GpuSpeed
    from gpucost.sizing.precision import Precision
    from gpucost.sizing.shapes import ModelShape

Method = Literal["full", "lora"]
TrainingLimit = Literal["compute", "bandwidth", "interconnect"]


class Trainer(Struct, frozen=True):
    """A training stack, and the part that it reaches of the tensor cores' rate.

    `gathers` says that weights are shared out and gathered layer by layer at every step; else
    GPUs keep theirs, and what they exchange is in the fit. `traffic_bytes` are what a token moves
    in each layer for each value of its width, times what the layer's kind adds (DENSE_TRAFFIC, and
    one for each expert that it goes to).
    """

    name: str
    also: tuple[str, ...]
    compute: float
    traffic_bytes: float
    gathers: bool = False


TRAINERS: dict[str, Trainer] = {
    it.name: it
    for it in (
        Trainer("fsdp", ("deepspeed", "pytorch", "llm-foundry"), 0.504, 154.0, gathers=True),
        Trainer("megatron", ("nemo", "megatron-bridge"), 0.508, 177.0),
    )
}
"""Fitted as engines are (scripts/fit_sizing.py)."""

TRAINING_MISSED = 0.14
TRAINING_FIGURES = 95
"""As engines have them: the median part off, of models that nothing was fitted to."""

DENSE_TRAFFIC = 3.5
"""What a dense layer moves, in units of what each expert that a token goes to adds."""

STATE_BYTES = 16.0
"""Of a trained parameter: 16-bit weight and gradient, and Adam's 32-bit weight, mean and variance
(mixed precision, Rajbhandari et al. 2020, ZeRO), shared by all GPUs."""

FABRIC_GB_S, NETWORK_GB_S = 25.0, 1.25
"""Of each GPU, where a job has more GPUs than a machine: 200 Gbit/s for those that are made for it,
eight GPUs on NVLink, and 10 Gbit/s for others. Price lists do not say."""

FABRIC_GPUS = 8

LINK_EFFICIENCY = 0.5

LORA_RANK = 16


class Job(Struct, frozen=True):
    """A training run. `micro_sequences` go through a GPU at a time."""

    model: ModelShape
    precision: Precision
    method: Method
    sequence_tokens: int
    micro_sequences: int = 1
    checkpointed: bool = True


class TrainingMemory(Struct, frozen=True):
    """Bytes of each GPU."""

    weights_and_states: float
    activations: float
    room: float

    @property
    def fits(self) -> bool:
        """Whether a step runs."""
        return self.weights_and_states + self.activations <= self.room


class Trained(Struct, frozen=True):
    """A GPU's speed in a job, and where the time of a token goes, in seconds."""

    compute: float
    bandwidth: float
    interconnect: float

    @property
    def tokens_per_second(self) -> float:
        """Of one GPU."""
        return 1.0 / max(self.compute + self.bandwidth, self.interconnect)

    @property
    def limit(self) -> TrainingLimit:
        """What takes longest."""
        parts: tuple[tuple[float, TrainingLimit], ...] = (
            (self.compute, "compute"),
            (self.bandwidth, "bandwidth"),
            (self.interconnect, "interconnect"),
        )
        return max(parts)[1]


def adapters(model: ModelShape) -> float:
    """Parameters of LoRA adapters on every matrix of the dense kind."""
    width = model.head_width * (model.heads + model.kv_heads)
    ffn = model.ffn or model.expert_ffn
    each = 2 * (2.0 * model.hidden + width) + model.matrices * (model.hidden + ffn)
    return LORA_RANK * model.layers * each


def training_memory(job: Job, gpu: GpuSpeed, gpus: int) -> TrainingMemory:
    """What each of so many GPUs holds when weights and states are shared out over all of them."""
    model = job.model
    if job.method == "lora":
        states = model.parameters * job.precision.weight_bytes + adapters(model) * STATE_BYTES
    else:
        states = model.parameters * STATE_BYTES
    # A layer at a time is gathered whole, and the next one while it is computed.
    gathered = 2 * (model.parameters / model.layers) * HALF_BYTES if gpus > 1 else 0.0
    tokens = float(job.sequence_tokens * job.micro_sequences)
    kept = tokens * model.hidden * HALF_BYTES * model.layers
    # 34 bytes a value of a layer's width (Korthikanti et al. 2022, without the attention matrix,
    # which fused kernels never write); recomputed for one layer, or kept for all.
    working = 34 * tokens * model.hidden * (1 if job.checkpointed else model.layers)
    logits = 2 * tokens * model.vocabulary * HALF_BYTES
    room = gpu.memory_gib * GIB * USABLE_MEMORY - RESERVED_BYTES
    return TrainingMemory(states / gpus + gathered, kept + working + logits, room)


def trained(
    job: Job, trainer: Trainer, gpu: GpuSpeed, gpus: int, per_node: int | None = None
) -> Trained | None:
    """The speed of a GPU among so many; None if a rate is not known.

    Without `per_node` the exchange between GPUs is left out.
    """
    tera = tera_per_second(gpu, job.precision)
    if tera is None or gpu.bandwidth_gb_s is None:
        return None
    model = job.model
    weights = model.active + (0.0 if model.tied else model.embedding)
    flops = (6 if job.method == "full" else 4) * weights
    # Causal attention: a token attends to half of the sequence; backward costs twice forward.
    attention = model.attention_width * model.attended(job.sequence_tokens / 2)
    flops += 3 * 4 * attention
    traffic = trainer.traffic_bytes * model.layers * model.hidden
    traffic *= DENSE_TRAFFIC + model.experts_active
    return Trained(
        flops / (tera * 1e12 * trainer.compute),
        traffic / (gpu.bandwidth_gb_s * 1e9),
        _exchange(job, gpu, gpus, per_node) if per_node and trainer.gathers else 0.0,
    )


def between_machines_gb_s(gpu: GpuSpeed, per_node: int) -> float:
    """What a GPU has of its machine's way to others."""
    return FABRIC_GB_S if gpu.nvlink_gb_s and per_node >= FABRIC_GPUS else NETWORK_GB_S


def _exchange(job: Job, gpu: GpuSpeed, gpus: int, per_node: int) -> float:
    """Seconds a token: weights gathered forward and backward, gradients scattered, 16 bit."""
    if gpus == 1:
        return 0.0
    link = (gpu.nvlink_gb_s or 0.0) / 2 or PCIE_GB_S
    if gpus > per_node:
        # What comes into a machine comes once, by the links of all its GPUs.
        link = min(link, between_machines_gb_s(gpu, per_node) * per_node)
    times = 3 if job.method == "full" else 2
    moved = times * job.model.parameters * HALF_BYTES * (gpus - 1) / gpus
    step = float(job.sequence_tokens * job.micro_sequences)
    return moved / (link * 1e9 * LINK_EFFICIENCY) / step
