"""What hardware a model needs: laws of the estimates, and known fits and misfits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gpucost.facts_files import shipped_facts
from gpucost.prices import load_models
from gpucost.sizing.engines import ENGINES, engine_named
from gpucost.sizing.gpus import GIB, GpuSpeed, gpu_speeds, instances
from gpucost.sizing.inference import (
    Request,
    Service,
    divides,
    fits,
    kv_bytes,
    memory,
    served,
)
from gpucost.sizing.precision import PRECISIONS, tera_per_second
from gpucost.sizing.shapes import (
    find_shape,
    known_shapes,
    shape_of_parameters,
)
from gpucost.sizing.training import (
    TRAINERS,
    Job,
    between_machines_gb_s,
    trained,
    training_memory,
)

GPUS = gpu_speeds(shipped_facts(), load_models())
SHAPES = known_shapes(shipped_facts())
VLLM = ENGINES["vllm"]


def service(model: str, precision: str, gpu: str, parts: int = 1, engine: str = "vllm") -> Service:
    return Service(SHAPES[model], PRECISIONS[precision], GPUS[gpu], ENGINES[engine], parts)


# --- Shapes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("served_name", "model"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "Llama-3.1-8B"),
        ("meta-llama/Meta-Llama-3-70B", "Llama-3-70B"),
        ("Qwen/Qwen3-30B-A3B-FP8", "Qwen3-30B-A3B"),
        ("openai/gpt-oss-20b", "gpt-oss-20B"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "Mistral-7B"),
        ("deepseek-ai/DeepSeek-V3-0324", "DeepSeek-V3"),
    ],
)
def test_a_served_name_is_known(served_name: str, model: str) -> None:
    found = find_shape(served_name, SHAPES)
    assert found is not None
    assert found.name == model


@pytest.mark.parametrize("name", ["gpt-4o", "Llama-3.1-80B", "", "my-Llama-3-8B"])
def test_another_name_is_not(name: str) -> None:
    assert find_shape(name, SHAPES) is None


@given(st.floats(1e8, 2e12))
def test_a_shape_made_from_a_size_has_that_size(parameters: float) -> None:
    assert shape_of_parameters(parameters).parameters == pytest.approx(parameters, rel=0.1)


@given(st.floats(2e10, 2e12), st.floats(0.05, 0.5))
def test_a_mixture_made_from_two_sizes_has_both(parameters: float, part: float) -> None:
    shape = shape_of_parameters(parameters, parameters * part)
    assert shape.parameters == pytest.approx(parameters, rel=0.2)
    assert shape.active == pytest.approx(parameters * part, rel=0.3)


# --- Memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "precision", "gpu", "parts"),
    [
        ("Llama-3-8B", "fp16", "RTX-4000-ADA", 1),
        ("Llama-3-8B", "q4_k_m", "RTX-4000-ADA", 1),
        ("Llama-3-70B", "q4_k_m", "A40", 1),
        ("Llama-3.1-70B", "fp8", "H100-80GB", 1),
        ("Llama-3.1-70B", "fp16", "A100-80GB", 2),
        ("Llama-3.1-405B", "fp8", "H100-80GB", 8),
        ("Llama-3.1-405B", "fp4", "B200", 4),
        ("DeepSeek-R1", "fp8", "H200-141GB", 8),
        ("Qwen3-235B-A22B", "fp8", "H100-80GB", 8),
    ],
)
def test_known_fits(model: str, precision: str, gpu: str, parts: int) -> None:
    assert fits(service(model, precision, gpu, parts), 1024)


@pytest.mark.parametrize(
    ("model", "precision", "gpu", "parts"),
    [
        ("Llama-3-8B", "fp16", "T4", 1),  # 15 GiB of weights in 15
        ("Llama-2-13B", "fp16", "L4", 1),
        ("Llama-3-70B", "q4_k_m", "RTX-4090", 1),
        ("Llama-3.1-70B", "fp16", "H100-80GB", 1),
        ("Llama-3.1-70B", "fp8", "L40S", 1),
        ("Llama-3.1-405B", "bf16", "H100-80GB", 8),  # 756 GiB of weights in 640
        ("Llama-3.1-405B", "fp8", "A100-40GB", 8),
        ("DeepSeek-R1", "fp8", "H100-80GB", 8),
        ("Mixtral-8x7B", "fp16", "A100-80GB", 1),
    ],
)
def test_known_misfits(model: str, precision: str, gpu: str, parts: int) -> None:
    assert not fits(service(model, precision, gpu, parts), 1024)


@pytest.mark.parametrize(
    ("model", "bytes_per_token"),
    [
        ("Llama-2-7B", 524_288),  # every head has keys
        ("Llama-3.1-8B", 131_072),  # 8 heads of 32 have
        ("DeepSeek-V3", 70_272),  # one latent of 576 values
    ],
)
def test_keys_and_values_by_the_kind_of_attention(model: str, bytes_per_token: int) -> None:
    assert kv_bytes(service(model, "bf16", "H100-80GB"), 1.0) == bytes_per_token


def test_keys_are_kept_more_than_once_on_more_gpus_than_they_have_heads() -> None:
    eight = kv_bytes(service("Qwen3-30B-A3B", "bf16", "H100-80GB", 8), 100.0)
    four = kv_bytes(service("Qwen3-30B-A3B", "bf16", "H100-80GB", 4), 100.0)
    assert eight == 2 * four


def test_the_cache_that_fits_is_what_weights_leave() -> None:
    held = memory(service("Llama-3.1-8B", "bf16", "H100-80GB"), Request(1000, 0))
    assert held.weights / GIB == pytest.approx(14.96, abs=0.01)
    assert held.room + held.weights == pytest.approx((80 * 0.93 - 1.5) * GIB)


@pytest.mark.parametrize(
    ("model", "parts"),
    [("Llama-3.1-8B", 8), ("Llama-3.1-8B", 16), ("Qwen2.5-7B", 4), ("Qwen2.5-7B", 2)],
)
def test_tensor_parallel_sizes_that_divide(model: str, parts: int) -> None:
    assert divides(SHAPES[model], parts)


@pytest.mark.parametrize(("model", "parts"), [("Llama-3.1-8B", 3), ("Qwen2.5-7B", 8)])
def test_and_that_do_not(model: str, parts: int) -> None:
    assert not divides(SHAPES[model], parts)


# --- Speed ---------------------------------------------------------------------------------------

BATCHES = st.floats(1, 200)
REQUESTS = st.builds(Request, st.floats(1, 20_000), st.floats(1, 4000))


@given(BATCHES, REQUESTS, st.sampled_from(sorted(SHAPES)))
def test_more_in_flight_serve_more_and_each_waits_longer(
    batch: float, request: Request, model: str
) -> None:
    few = served(service(model, "bf16", "H100-80GB"), request, batch)
    many = served(service(model, "bf16", "H100-80GB"), request, batch * 2)
    assert few is not None
    assert many is not None
    assert many.requests_per_second > few.requests_per_second
    assert many.between_tokens_seconds > few.between_tokens_seconds


@given(BATCHES, REQUESTS)
def test_a_gpu_that_is_better_in_everything_is_faster(batch: float, request: Request) -> None:
    slow = served(service("Llama-3.1-8B", "bf16", "A100-80GB"), request, batch)
    fast = served(service("Llama-3.1-8B", "bf16", "H100-80GB"), request, batch)
    assert slow is not None
    assert fast is not None
    assert fast.requests_per_second > slow.requests_per_second
    assert fast.first_token_seconds < slow.first_token_seconds


def test_one_stream_is_bound_by_bandwidth_and_a_long_prompt_by_compute() -> None:
    alone = served(service("Llama-3.1-8B", "bf16", "A100-80GB"), Request(1, 500), 1)
    prompts = served(service("Llama-3.1-8B", "bf16", "A100-80GB"), Request(8000, 10), 8)
    assert alone is not None
    assert prompts is not None
    assert alone.step.limit == "bandwidth"
    assert prompts.step.limit == "compute"


def test_no_stream_is_faster_than_reading_the_weights() -> None:
    for gpu in GPUS.values():
        if gpu.half_tflops is None or gpu.bandwidth_gb_s is None:
            continue
        alone = served(
            Service(SHAPES["Llama-3.1-8B"], PRECISIONS["bf16"], gpu, VLLM), Request(1, 9), 1
        )
        assert alone is not None
        read = SHAPES["Llama-3.1-8B"].active * 2 / (gpu.bandwidth_gb_s * 1e9)
        assert alone.between_tokens_seconds > read


def test_cached_prompts_cost_no_arithmetic() -> None:
    cold = served(service("Llama-3.1-8B", "bf16", "L4"), Request(4000, 100), 4)
    warm = served(service("Llama-3.1-8B", "bf16", "L4"), Request(4000, 100, 3500), 4)
    assert cold is not None
    assert warm is not None
    assert warm.first_token_seconds < cold.first_token_seconds / 3
    assert warm.step.bandwidth == cold.step.bandwidth


def test_a_mixture_reads_its_active_part_alone_and_all_of_it_together() -> None:
    shape = SHAPES["Qwen3-30B-A3B"]
    assert shape.touched(1) == pytest.approx(shape.active)
    assert shape.touched(1000) == pytest.approx(shape.parameters - shape.embedding, rel=0.01)


def test_without_a_rate_there_is_no_estimate() -> None:
    assert served(service("Llama-3.1-8B", "bf16", "K80"), Request(1, 1), 1) is None


@pytest.mark.parametrize(
    ("gpu", "precision", "tera"),
    [
        ("H100-80GB", "fp8", 1979.0),
        ("A100-80GB", "fp8", 312.0),  # no FP8: computed in 16 bit
        ("A100-80GB", "int8", 624.0),
        ("B300", "int8", 2250.0),  # its integers are slower than 16 bit
        ("A100-80GB", "fp32", 156.0),
        ("H100-80GB", "int4", 989.0),
        ("K80", "bf16", None),
    ],
)
def test_the_rate_that_a_precision_is_computed_at(
    gpu: str, precision: str, tera: float | None
) -> None:
    assert tera_per_second(GPUS[gpu], PRECISIONS[precision]) == tera


def test_an_assumed_rate_is_said_to_be_one() -> None:
    assert GPUS["RTX-A5000"].is_assumed
    assert not GPUS["A100-80GB"].is_assumed
    assert GpuSpeed("new", 10.0, 500.0).half_tflops == 50.0


def test_a_mig_instance_is_slower_by_its_part() -> None:
    whole = GPUS["H100-80GB"]
    part = next(it for it in instances(whole) if it.profile == "3g.40gb")
    assert part.bandwidth_gb_s == pytest.approx(3350 / 2)
    assert part.bf16_tflops == pytest.approx(989 * 3 / 7)
    assert part.share == 0.5  # its memory: nobody else can have that half


def test_an_engine_is_known_by_what_is_like_it() -> None:
    assert engine_named("SGLang") is VLLM
    assert engine_named("nothing") is None


def test_measured_work_makes_an_engine_faster_throughout() -> None:
    plain = served(service("Llama-3.1-8B", "bf16", "L4"), Request(500, 100), 8)
    twice = replace(service("Llama-3.1-8B", "bf16", "L4"), engine=VLLM.times(2.0))
    faster = served(twice, Request(500, 100), 8)
    assert plain is not None
    assert faster is not None
    assert faster.requests_per_second == pytest.approx(2 * plain.requests_per_second)


# --- Training ------------------------------------------------------------------------------------


def job(model: str, method: str = "full", tokens: int = 2048) -> Job:
    return Job(SHAPES[model], PRECISIONS["bf16"], "lora" if method == "lora" else "full", tokens)


@pytest.mark.parametrize(
    ("model", "method", "gpu", "gpus", "fit"),
    [
        ("Llama-3-8B", "full", "A100-40GB", 8, True),
        ("Llama-3-8B", "full", "H100-80GB", 1, False),  # 16 bytes a parameter: 120 GiB
        ("Llama-3-70B", "full", "H100-80GB", 8, False),
        ("Llama-3-70B", "full", "H100-80GB", 32, True),
        ("Llama-3-70B", "lora", "H100-80GB", 8, True),
        ("Llama-3-8B", "lora", "L4", 1, True),
        ("Llama-2-13B", "lora", "L4", 1, False),
    ],
)
def test_training_memory(model: str, method: str, gpu: str, gpus: int, fit: bool) -> None:  # noqa: FBT001 - the expected outcome
    assert training_memory(job(model, method), GPUS[gpu], gpus).fits is fit


def test_checkpointing_is_what_lets_long_sequences_fit() -> None:
    long = job("Llama-3-8B", tokens=32_768)
    assert training_memory(long, GPUS["H100-80GB"], 8).fits
    assert not training_memory(replace(long, checkpointed=False), GPUS["H100-80GB"], 8).fits


def test_gpus_without_links_are_bound_by_what_they_exchange() -> None:
    work = trained(job("Llama-3-70B"), TRAINERS["fsdp"], GPUS["L40S"], 64, 8)
    near = trained(job("Llama-3-8B"), TRAINERS["fsdp"], GPUS["A100-80GB"], 8, 8)
    assert work is not None
    assert near is not None
    assert work.limit == "interconnect"
    assert near.limit == "compute"


def test_what_a_machine_takes_in_comes_by_the_links_of_all_its_gpus() -> None:
    together = trained(job("Llama-3-70B"), TRAINERS["fsdp"], GPUS["H100-80GB"], 64, 8)
    apart = trained(job("Llama-3-70B"), TRAINERS["fsdp"], GPUS["H100-80GB"], 64, 1)
    assert together is not None
    assert apart is not None
    fabric = between_machines_gb_s(GPUS["H100-80GB"], 8)
    network = between_machines_gb_s(GPUS["H100-80GB"], 1)
    assert apart.interconnect == pytest.approx(8 * fabric / network * together.interconnect)
    assert between_machines_gb_s(GPUS["L40S"], 8) == network < fabric, "it has no NVLink"


def test_adapters_are_cheaper_to_train_than_all_weights() -> None:
    whole = trained(job("Llama-3-8B"), TRAINERS["fsdp"], GPUS["A100-80GB"], 1)
    few = trained(job("Llama-3-8B", "lora"), TRAINERS["fsdp"], GPUS["A100-80GB"], 1)
    assert whole is not None
    assert few is not None
    assert few.tokens_per_second > whole.tokens_per_second
