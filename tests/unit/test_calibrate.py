"""One's own measured serving corrects estimates, or says why it does not."""

from __future__ import annotations

import re

import pytest
from msgspec.structs import replace

from gpucost.advice.calibrate import calibrated, precision_of
from gpucost.advice.flags import gpu_id
from gpucost.advice.histories import QUESTIONS, History, Hour, histories
from gpucost.advice.prometheus import Row
from gpucost.catalog import FAMILIES
from gpucost.facts_files import shipped_facts
from gpucost.prices import load_models
from gpucost.sizing.engines import ENGINES
from gpucost.sizing.gpus import gpu_speeds
from gpucost.sizing.inference import Request, Service, served
from gpucost.sizing.precision import PRECISIONS
from gpucost.sizing.recommend_serving import OTHERS
from gpucost.sizing.shapes import known_shapes, shape_of_parameters
from programs import ROOT
from promql_names import metrics_of

RULES = sorted((ROOT / "rules").glob("*.yaml"))
GPUS = gpu_speeds(shipped_facts(), load_models())
SHAPES = known_shapes(shipped_facts())
VLLM = ENGINES["vllm"]
MODEL = "meta-llama/Llama-3.1-8B-Instruct"


def ran(factor: float, *, gpu: str = "NVIDIA L4", hours: int = 24, in_flight: float = 4) -> History:
    """A workload of two replicas that is so many times as fast as estimated."""
    service = Service(SHAPES["Llama-3.1-8B"], PRECISIONS["bf16"], GPUS[gpu_id(gpu)], VLLM)
    done = served(service, Request(500, 100), in_flight)
    assert done is not None
    rate = 2 * done.requests_per_second * factor
    hour = Hour(
        0.0,
        requests_per_second=rate,
        input_per_second=500 * rate,
        output_per_second=100 * rate,
        running=2 * in_flight,
        replicas=2,
        gpus=2,
        usd_per_second=0.001,
    )
    many = tuple(replace(hour, end=3600.0 * n) for n in range(hours))
    return History(("", "ns", "chat"), MODEL, "vllm", gpu, many)


def says(*found: History) -> tuple[dict[str, float], list[str]]:
    outcome = calibrated(found, VLLM, SHAPES, GPUS, gpu_id)
    return outcome.factors, [it.reason for it in outcome.left_out]


def test_a_factor_is_found_again() -> None:
    factors, _ = says(ran(0.7))
    assert factors == {"L4": pytest.approx(0.7), OTHERS: pytest.approx(0.7)}


def test_each_gpu_model_has_its_own_and_the_others_the_middle() -> None:
    factors, _ = says(ran(0.7), ran(1.1, gpu="NVIDIA A100-SXM4-80GB"), ran(0.9))
    assert factors == {
        "L4": pytest.approx(0.8),
        "A100-80GB": pytest.approx(1.1),
        OTHERS: pytest.approx(0.95),
    }


def test_hours_that_are_not_known_change_nothing() -> None:
    whole = ran(0.7)
    holes = tuple(replace(it, running=None) if n % 2 else it for n, it in enumerate(whole.hours))
    assert says(replace(whole, hours=holes))[0] == {
        "L4": pytest.approx(0.7),
        OTHERS: pytest.approx(0.7),
    }


@pytest.mark.parametrize(
    ("history", "reason"),
    [
        (replace(ran(1.0), engine="tgi"), "its engine is tgi"),
        (replace(ran(1.0), engine="lmdeploy-x"), "its engine is lmdeploy-x"),
        (replace(ran(1.0), served_model="ours"), "ours is in no table of models"),
        (replace(ran(1.0), gpu_model="NVIDIA X1"), "the speed of NVIDIA X1 is not known"),
        (ran(1.0, hours=5), "only 5 hours have all figures"),
        (ran(1.0, in_flight=0.05), "only 0 hours have all figures"),
        (ran(6.0), "it is 6 times as fast as estimated, so hardly what its names say"),
    ],
)
def test_what_says_nothing_says_why(history: History, reason: str) -> None:
    trt = ENGINES["tensorrt-llm"]
    outcome = calibrated(
        [history], trt if "engine is tgi" in reason else VLLM, SHAPES, GPUS, gpu_id
    )
    assert outcome.factors == {}
    assert outcome.left_out[0].reason.startswith(reason)


def test_workloads_that_serve_nothing_are_not_listed() -> None:
    assert says(replace(ran(1.0), engine="", served_model="")) == ({}, [])


def test_a_shared_gpu_says_nothing_of_a_whole_one() -> None:
    whole = ran(1.0)
    half = replace(whole, hours=tuple(replace(it, gpus=1.0) for it in whole.hours))
    assert says(half)[0] == {}


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "bf16"),
        ("RedHatAI/Llama-3.1-8B-Instruct-FP8", "fp8"),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "int4"),
        ("nvidia/Llama-3.3-70B-Instruct-NVFP4", "fp4"),
        ("x-quantized.w8a8", "int8"),
    ],
)
def test_names_tell_how_weights_are_kept(name: str, precision: str) -> None:
    shape = shape_of_parameters(8e9)
    assert precision_of(name, shape).name == precision
    published = replace(shape, precision="fp4")
    assert precision_of(name, published).name == (precision if precision != "bf16" else "fp4")


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA H100 80GB HBM3", "H100-80GB"),
        ("NVIDIA-A100-SXM4-80GB", "A100-80GB"),
        ("L4", "L4"),
        ("Tesla T4", "T4"),
        ("NVIDIA X1", "NVIDIA X1"),
    ],
)
def test_a_gpu_is_known_by_the_drivers_name(name: str, known: str) -> None:
    assert gpu_id(name) == known


def test_what_is_asked_is_recorded_or_published() -> None:
    asked = {it for question in QUESTIONS.values() for it in metrics_of(question)}
    recorded = set(re.findall(r"record: (\S+)", "".join(it.read_text() for it in RULES)))
    assert asked <= recorded | set(FAMILIES)


def test_answers_are_put_together_by_hour_and_unknown_stays_unknown() -> None:
    name = {"cluster": "c", "namespace": "n", "workload": "w"}
    found = {
        "requests_per_second": [Row(name, [(3600.0, 2.0), (7200.0, float("nan"))])],
        "tokens_per_second": [
            Row({**name, "direction": "input"}, [(3600.0, 10.0)]),
            Row({**name, "direction": "cached_input"}, [(3600.0, 4.0)]),
        ],
        "usd_per_second": [],
        "gpus": [
            Row({**name, "gpu_model": "NVIDIA L4"}, [(3600.0, 1.0), (7200.0, 1.0)]),
            Row({**name, "gpu_model": "NVIDIA T4"}, [(3600.0, 0.5)]),
        ],
        "running": [],
        "replicas": [],
        "served": [Row({**name, "engine": "vllm", "served_model": "m"}, [(3600.0, 2.0)])],
    }
    (history,) = histories(found)
    assert (history.served_model, history.engine, history.gpu_model) == ("m", "vllm", "NVIDIA L4")
    assert history.hours == (
        Hour(3600.0, 2.0, 10.0, 4.0, None, None, None, 1.5, None),
        Hour(7200.0, gpus=1.0),
    )
