"""How fast a model is served: a roofline of one step of continuous batching. Pure.

Requests in flight share each step. A step reads the weights and every request's keys and values
(bandwidth), multiplies a token of each, and a share of the prompts that come in meanwhile
(compute), and adds up the parts of tensor-parallel GPUs twice a layer (interconnect). The times are
added: kernels of one kind follow those of the other, and published figures bear that out (fitted
with any overlap of the two, estimates miss by more).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from gpucost.sizing.gpus import GIB
from gpucost.sizing.precision import HALF_BYTES, tera_per_second

if TYPE_CHECKING:
    from gpucost.sizing.engines import Engine
    from gpucost.sizing.gpus import GpuSpeed
    from gpucost.sizing.precision import Precision
    from gpucost.sizing.shapes import ModelShape

USABLE_MEMORY = 0.93
"""Of the nominal size: GDDR with ECC gives up a sixteenth, drivers and fragments the rest."""

RESERVED_BYTES = 1.5 * GIB
"""Of each GPU, for the context, its libraries and a step's activations."""

PCIE_GB_S = 32.0
"""One direction of a PCIe 4.0 x16 slot, between GPUs without NVLink."""

FIRST_TOKEN_SECONDS = 3e-3
"""From a request's arrival to its first kernel, and from its last to the answer."""

Limit = Literal["memory", "bandwidth", "compute", "interconnect", "overhead", "latency", "batch"]


class Service(Struct, frozen=True):
    """What is served, on what: a replica."""

    model: ModelShape
    precision: Precision
    gpu: GpuSpeed
    engine: Engine
    tensor_parallel: int = 1


class Request(Struct, frozen=True):
    """A mean request. Tokens of the prompt that a prefix cache holds cost no arithmetic."""

    input_tokens: float
    output_tokens: float
    cached_tokens: float = 0.0

    @property
    def mean_context(self) -> float:
        """Tokens that a request in flight attends to: its prompt, and half of its answer."""
        return self.input_tokens + self.output_tokens / 2


class Memory(Struct, frozen=True):
    """Bytes of a replica, over all its GPUs. `room` is what is left for keys and values."""

    weights: float
    kv_per_request: float
    room: float

    @property
    def requests(self) -> float:
        """How many mean requests are in flight when it is full; under 1 it does not fit."""
        return self.room / self.kv_per_request if self.kv_per_request else float("inf")


class Step(Struct, frozen=True):
    """Where the time of a step goes, in seconds."""

    bandwidth: float
    compute: float
    interconnect: float
    overhead: float

    @property
    def seconds(self) -> float:
        """Of the step."""
        return self.bandwidth + self.compute + self.interconnect + self.overhead

    @property
    def limit(self) -> Limit:
        """The largest part."""
        parts: tuple[tuple[float, Limit], ...] = (
            (self.bandwidth, "bandwidth"),
            (self.compute, "compute"),
            (self.interconnect, "interconnect"),
            (self.overhead, "overhead"),
        )
        return max(parts)[1]


class Served(Struct, frozen=True):
    """A replica with this many requests in flight."""

    batch: float
    step: Step
    first_token_seconds: float
    requests_per_second: float
    output_tokens_per_second: float

    @property
    def between_tokens_seconds(self) -> float:
        """Between two tokens of a request."""
        return self.step.seconds


def kv_bytes(service: Service, context: float) -> float:
    """Of a request's keys and values, over all GPUs: heads that do not divide are kept again."""
    model = service.model
    small = service.engine.kv_follows and service.precision.rate == "fp8"
    each = model.kv_width * (1.0 if small and service.gpu.fp8_tflops else HALF_BYTES)
    copies = service.tensor_parallel if model.kv_rank else service.tensor_parallel / model.kv_heads
    return each * model.attended(context) * max(1.0, copies)


def memory(service: Service, request: Request) -> Memory:
    """What a replica has room for."""
    weights = service.model.parameters * service.precision.weight_bytes
    each = service.gpu.memory_gib * GIB * USABLE_MEMORY - RESERVED_BYTES
    kv = kv_bytes(service, request.mean_context)
    return Memory(weights, kv, each * service.tensor_parallel - weights)


def divides(model: ModelShape, tensor_parallel: int) -> bool:
    """Whether engines split the model so: heads evenly, and keys' heads evenly or copied."""
    if model.heads % tensor_parallel:
        return False
    few, many = sorted((model.kv_heads, tensor_parallel))
    return bool(model.kv_rank) or many % few == 0


def fits(service: Service, context_tokens: float) -> bool:
    """Whether one request of this length fits beside the weights."""
    return memory(service, Request(context_tokens, 0.0)).requests >= 1.0


def most_in_flight(service: Service, request: Request) -> float:
    """By memory, or by what the engine takes."""
    return min(memory(service, request).requests, float(service.engine.max_batch))


def served(service: Service, request: Request, batch: float) -> Served | None:
    """What a replica does with this many requests in flight; None if a rate is not known."""
    tera = tera_per_second(service.gpu, service.precision)
    if tera is None or service.gpu.bandwidth_gb_s is None:
        return None
    step = _step(service, request, batch, tera)
    prompt = _prompt(service, request, tera)
    # A request that comes in while others run waits for half a step.
    waits = step.seconds / 2 if batch > 1 else 0.0
    first = prompt.seconds + waits + FIRST_TOKEN_SECONDS
    rate = batch / step.seconds
    return Served(batch, step, first, rate / request.output_tokens, rate)


def _step(service: Service, request: Request, batch: float, tera: float) -> Step:
    """One token of each request, and a step's share of the prompts."""
    model, gpu, engine, parts = service.model, service.gpu, service.engine, service.tensor_parallel
    fresh = max(0.0, request.input_tokens - request.cached_tokens)
    kept = kv_bytes(service, request.mean_context)
    read = model.touched(batch) * service.precision.weight_bytes + batch * kept
    answer = 2 * model.active + 4 * model.attention_width * model.attended(request.mean_context)
    prompts = _prompt_work(model, request.input_tokens, fresh) / request.output_tokens
    tokens = batch * (1 + fresh / request.output_tokens)
    return Step(
        bandwidth=read / parts / _bytes_per_second(gpu, engine),
        compute=batch * (answer + prompts) / parts / (tera * 1e12 * engine.compute),
        interconnect=_all_reduces(service, tokens),
        overhead=model.layers * engine.layer_seconds + batch * engine.request_seconds,
    )


def _prompt(service: Service, request: Request, tera: float) -> Step:
    """A prompt on its own."""
    model, gpu, engine, parts = service.model, service.gpu, service.engine, service.tensor_parallel
    fresh = max(1.0, request.input_tokens - request.cached_tokens)
    read = model.touched(fresh) * service.precision.weight_bytes
    work = _prompt_work(model, request.input_tokens, fresh)
    return Step(
        bandwidth=read / parts / _bytes_per_second(gpu, engine),
        compute=work / parts / (tera * 1e12 * engine.compute),
        interconnect=_all_reduces(service, fresh),
        overhead=model.layers * engine.layer_seconds,
    )


def _prompt_work(model: ModelShape, tokens: float, fresh: float) -> float:
    """FLOPs: each of the fresh tokens attends to what stands before it."""
    before = tokens - fresh / 2
    return fresh * (2 * model.active + 4 * model.attention_width * model.attended(before))


def _all_reduces(service: Service, tokens: float) -> float:
    """Seconds of two all-reduces a layer over the tokens' hidden state, 16 bit, as a ring."""
    parts = service.tensor_parallel
    if parts == 1:
        return 0.0
    link = (service.gpu.nvlink_gb_s or 0.0) / 2 or PCIE_GB_S
    moved = tokens * service.model.hidden * HALF_BYTES * 2 * (parts - 1) / parts
    engine = service.engine
    each = moved / (link * 1e9 * engine.link) + engine.link_seconds
    return 2 * service.model.layers * each


def _bytes_per_second(gpu: GpuSpeed, engine: Engine) -> float:
    reached = (gpu.bandwidth_gb_s or 0.0) * 1e9 * engine.bandwidth
    if engine.stream_gb_s is None:
        return reached
    # A soft minimum: near the bound, both count.
    return float((reached**-4 + (engine.stream_gb_s * 1e9) ** -4) ** -0.25)
