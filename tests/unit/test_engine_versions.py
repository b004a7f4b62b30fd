"""Pages of other versions of every engine, and what each of them says: names come and go."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec import Struct

from gpucost.engines import ENGINES, table_of
from gpucost.model import Count
from gpucost.sources.engine_page import parse_engine_page
from programs import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

PAGES = ROOT / "tests/samples/engines/versions"
TABLE = table_of()
C = Count


class Says(Struct, frozen=True):
    """What a page says of a model; a count that is not here must not be there."""

    engine: str
    model: str
    counts: Mapping[Count, float]
    running: float | None = None
    waiting: float | None = None
    batch: float | None = None


EXPECTED = {
    "vllm_0.3": [
        Says(
            "vllm",
            "mistralai/Mistral-7B-v0.1",
            {C.SUCCESS: 16, C.PROMPT: 5120, C.OUTPUT: 2048, C.BATCHED: 2048},
            running=4,
            waiting=2,
        )
    ],
    "vllm_0.8": [
        Says(
            "vllm",
            "Qwen/Qwen2.5-7B-Instruct",
            {
                C.SUCCESS: 94,
                C.ABORTED: 6,
                C.PROMPT: 61_503,
                C.CACHED: 20_480,
                C.OUTPUT: 18_211,
                C.PREFILL_SECONDS: 20.5,
                C.DECODE_SECONDS: 229.5,
                C.COMPUTE_SECONDS: 250,
                C.BATCHED: 18_211,
                C.BATCHES: 4553,
            },
            running=5,
            waiting=1,
        )
    ],
    # Two engine cores; what is rejected at the door was never a request of theirs.
    "vllm_0.33": [
        Says(
            "vllm",
            "openai/gpt-oss-120b",
            {
                C.SUCCESS: 741 + 630,
                C.FAILURE: 3,
                C.ABORTED: 10,
                C.PROMPT: 900_000,
                C.CACHED: 310_000,
                C.OUTPUT: 160_000,
                C.PREFILL_SECONDS: 180,
                C.DECODE_SECONDS: 2700,
                C.BATCHED: 160_000,
                C.BATCHES: 10_000,
            },
            running=23,
            waiting=2,
        )
    ],
    "vllm_in_ray_2.43": [
        Says(
            "vllm",
            "meta-llama/Llama-3.1-8B-Instruct",
            {C.SUCCESS: 30, C.ABORTED: 2, C.PROMPT: 4000, C.OUTPUT: 900, C.BATCHED: 900},
            running=2,
            waiting=0,
        )
    ],
    "sglang_0.4.0": [
        Says(
            "sglang",
            "meta-llama/Llama-3.1-8B-Instruct",
            {C.SUCCESS: 11_228, C.PROMPT: 8_128_902, C.OUTPUT: 7_557_572},
            running=162,
            waiting=2826,
        )
    ],
    # Two tensor ranks show the same queue, each as a process of its own; two data ranks do not.
    "sglang_0.5": [
        Says(
            "sglang",
            "qwen3-32b",
            {C.SUCCESS: 450, C.ABORTED: 4, C.PROMPT: 150_000, C.CACHED: 45_000, C.OUTPUT: 30_000},
            running=12,
            waiting=1,
        )
    ],
    "tgi_3.3": [
        Says(
            "tgi",
            "",
            {
                C.SUCCESS: 60,
                C.FAILURE: 3,
                C.ABORTED: 1,
                C.PROMPT: 31_000,
                C.OUTPUT: 6000,
                C.COMPUTE_SECONDS: 88.5,
            },
            running=3,
            waiting=0,
            batch=3,
        )
    ],
    "tei_1.8": [
        Says(
            "tei",
            "",
            {
                C.SUCCESS: 25,
                C.FAILURE: 1,
                C.PROMPT: 7200,
                C.COMPUTE_SECONDS: 3.6,
                C.BATCHED: 180,
                C.BATCHES: 45,
            },
            waiting=2,
        )
    ],
    "nim_1.3": [
        Says(
            "nim",
            "meta/llama-3.2-1b-instruct",
            {C.SUCCESS: 33, C.FAILURE: 2, C.ABORTED: 1, C.PROMPT: 603, C.OUTPUT: 997},
            running=0,
            waiting=1,
        )
    ],
    "nim_with_vllm": [
        Says(
            "vllm",
            "google/gemma-4-31b-it",
            {C.SUCCESS: 7, C.OUTPUT: 700, C.BATCHED: 700},
            running=3,
            waiting=2,
        )
    ],
    # Steps are not counted again, and what only they tell is the ensemble's: once, for the other
    # model that is made of them was asked nothing.
    "triton_tensorrt_llm_25": [
        Says(
            "triton",
            "ensemble",
            {
                C.SUCCESS: 120,
                C.FAILURE: 2,
                C.ABORTED: 3,
                C.PROMPT: 24_000,
                C.OUTPUT: 9600,
                C.COMPUTE_SECONDS: 12,
                C.BATCHED: 120,
                C.BATCHES: 120,
            },
            running=6,
            waiting=4,
        ),
        Says(
            "triton",
            "tensorrt_llm_bls",
            dict.fromkeys(
                (C.SUCCESS, C.FAILURE, C.ABORTED, C.COMPUTE_SECONDS, C.BATCHED, C.BATCHES), 0
            ),
        ),
    ],
    # Failures had no reason, and every series was of a GPU.
    "triton_2.20": [
        Says(
            "triton",
            "resnet50",
            {
                C.SUCCESS: 22,
                C.FAILURE: 1,
                C.COMPUTE_SECONDS: 0.2015,
                C.BATCHED: 176,
                C.BATCHES: 22,
            },
        )
    ],
    "tensorrt_llm_1.0": [
        Says("tensorrt_llm", "Qwen/Qwen3-0.6B", {C.SUCCESS: 155, C.FAILURE: 1, C.ABORTED: 3})
    ],
    "tensorrt_llm_1.2": [
        Says(
            "tensorrt_llm",
            "nemotron-nano-3",
            {
                C.SUCCESS: 100,
                C.FAILURE: 2,
                C.PROMPT: 50_000,
                C.CACHED: 12_000,
                C.OUTPUT: 20_000,
                C.PREFILL_SECONDS: 10,
                C.DECODE_SECONDS: 90,
                C.COMPUTE_SECONDS: 100,
            },
            running=8,
            waiting=1,
        )
    ],
    "lmdeploy_0.9": [
        Says(
            "lmdeploy",
            "internlm3-8b",
            {
                C.SUCCESS: 60,
                C.PROMPT: 9000,
                C.OUTPUT: 3000,
                C.PREFILL_SECONDS: 3,
                C.DECODE_SECONDS: 27,
                C.BATCHED: 3000,
            },
            running=4,
            waiting=0,
        )
    ],
    "lmdeploy_0.12": [
        Says(
            "lmdeploy",
            "Qwen3-8B",
            {
                C.SUCCESS: 87,
                C.FAILURE: 3,
                C.ABORTED: 5,
                C.PROMPT: 40_000,
                C.CACHED: 10_000,
                C.OUTPUT: 12_000,
                C.BATCHED: 12_000,
                C.BATCHES: 6000,
            },
            running=2,
            waiting=1,
        )
    ],
    "llama_cpp_b3500": [
        Says("llama_cpp", "", {C.PROMPT: 1200, C.OUTPUT: 39_080}, running=1, waiting=4)
    ],
    "torchserve_0.3": [
        Says("torchserve", "densenet161", {C.SUCCESS: 1, C.COMPUTE_SECONDS: 0.001990348}),
        Says("torchserve", "noop", {C.SUCCESS: 2, C.COMPUTE_SECONDS: 0.002032411}),
    ],
    "kserve_0.10": [
        Says("kserve", "custom-server-test", {C.SUCCESS: 3, C.COMPUTE_SECONDS: 6.006712835282087})
    ],
    "ray_serve_2.7": [
        Says(
            "ray_serve",
            "Translator",
            {C.SUCCESS: 40, C.FAILURE: 2, C.COMPUTE_SECONDS: 8.4},
            running=3,
            waiting=5,
        )
    ],
    "bentoml_1.1": [
        Says(
            "bentoml",
            "iris_classifier",
            {C.SUCCESS: 15, C.FAILURE: 1, C.COMPUTE_SECONDS: 3},
            running=2,
        )
    ],
    "dynamo_1.0": [
        Says(
            "dynamo",
            "qwen/qwen3-0.6b",
            {C.FINISHED: 42, C.FAILURE: 2, C.COMPUTE_SECONDS: 84},
            running=6,
        )
    ],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_page_of_another_version_says_what_its_engine_did(name: str) -> None:
    page = (PAGES / f"{name}.prom").read_bytes()
    found = {model.served_model: model for model in parse_engine_page(page, TABLE)}
    assert found.keys() == {says.model for says in EXPECTED[name]}
    for says in EXPECTED[name]:
        model = found[says.model]
        assert model.engine == says.engine
        assert model.totals() == pytest.approx(says.counts)
        assert (model.running, model.waiting, model.batch) == (
            says.running,
            says.waiting,
            says.batch,
        )


def test_every_page_and_every_engine_is_among_them() -> None:
    assert {path.stem for path in PAGES.glob("*.prom")} == EXPECTED.keys()
    told = {says.engine for every in EXPECTED.values() for says in every}
    assert told == {engine.name for engine in ENGINES}
